"""The published figures as data: complete, as printed, and consistent with themselves as far as their documents are."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from fractions import Fraction
from importlib import resources

import pytest

from anomalyhub.benchmark import published
from anomalyhub.benchmark.counts import ImageCounts, image_counts, is_possible, products_of
from anomalyhub.benchmark.published import MEAN, SOURCES, dataset_name, find, load_published, lookup
from anomalyhub.errors import UnknownNameError

#: Rows of each table, as the documents print them.
TABLES = {
    "liu2024": "1: 75, 2: 54, 3: 60, 4: 5, 5: 30, 6: 30, 7: 75, 8: 60, 9: 60, 10: 75, 11: 75, 12: 54, 13: 75",
    "aprilgan2023": "1: 15, 2: 15, 3: 106, 4: 106, 5: 112, 6: 112, 7: 112, 8: 112, 9: 91, 10: 91, 11: 91, 12: 91",
    "ejaz2024": "5.5: 22, 5.6: 6, 5.7: 32, 5.8: 28, 5.9: 2, 5.10: 2, 5.11: 4",
    "anomalyncd2024": "I: 50, II: 56, III: 35, IV: 12, V: 30, VI: 48, VII: 18, VIII: 10, IX: 12, X: 12",
}
#: Printed means that their rows do not give: source, table, shots, and what the rows give in percent.
ODD_MEANS = {
    ("liu2024", "Table 2", 4, 38.987),
    ("liu2024", "Table 3", 2, 35.657),
    ("liu2024", "Table 5", 2, 35.854),
    ("liu2024", "Table 6", 2, 35.654),
    ("liu2024", "Table 6", 2, 27.270),
    ("liu2024", "Table 7", 2, 27.260),
    ("liu2024", "Table 7", 4, 25.326),
    ("liu2024", "Table 8", 2, 25.209),
    ("liu2024", "Table 8", 3, 26.644),
    ("liu2024", "Table 8", 4, 25.679),
    ("liu2024", "Table 8", 5, 24.972),
    ("liu2024", "Table 9", 5, 38.844),
    ("liu2024", "Table 13", 5, 40.809),
    ("ejaz2024", "Table 5.8", 2, 72.083),
}
#: Cells of liu2024 that no whole number of hits gives: table, product, shots.
IMPOSSIBLE = {
    *((1, product, 1) for product in ("hazelnut", "pill")),
    *((3, "bottle", 3), (3, "metal_nut", 4), (7, "metal_nut", 1), (7, "zipper", 2), (7, "capsule", 5)),
    *((8, product, 2) for product in ("bottle", "cable", "hazelnut", "leather")),
    *((8, "hazelnut", 3), (8, "hazelnut", 5), (8, "screw", 3), (8, "tile", 4), (8, "zipper", 4)),
    *((9, "cable", 3), (9, "cable", 5), (11, "capsule", 1), (13, "leather", 5), (13, "screw", 5)),
}


def test_every_table_is_there():
    found = Counter((one.source, one.table) for one in load_published())
    for source, text in TABLES.items():
        expected = {f"Table {name}": int(count) for name, count in (part.split(": ") for part in text.split(", "))}
        assert {table: count for (key, table), count in found.items() if key == source} == expected
    assert sum(found.values()) == 2161
    assert set(SOURCES) == set(TABLES)


def test_keys_are_unique_and_figures_are_shares():
    figures = load_published()
    assert len({one.key for one in figures}) == len(figures)
    for one in figures:
        assert 0 <= one.value and one.value <= (1e6 if one.metric in ("seconds", "kwh") else 1), one
        assert one.std is None or 0 <= one.std < 0.5
        assert one.dataset == dataset_name(one.dataset)


@pytest.mark.parametrize(
    ("key", "value", "std", "step"),
    [
        (
            ("liu2024", "Table 1", "Contrastive classifier", "", "mvtec_ad", "bottle", 2, "accuracy"),
            0.7193,
            0.0248,
            1e-4,
        ),
        (("liu2024", "1", "Contrastive classifier", None, "MVTec AD", MEAN, 5, "accuracy"), 0.4396, None, 1e-4),
        (("anomalyncd2024", "X", "AnomalyNCD", "GT masks", "MTD", MEAN, None, "ari"), 0.863, None, 1e-3),
        (("ejaz2024", "5.6", "Ejaz 2024", "", "MPDD", MEAN, 2, "seconds"), 9.5, None, 0.1),
        (("ejaz2024", "5.5", "PatchCore", "full data", "mpdd", MEAN, None, "image_auroc"), 0.821, None, 1e-3),
    ],
)
def test_lookup(key, value, std, step):
    found = lookup(*key)
    assert found.value == pytest.approx(value, abs=1e-12) and found.step == pytest.approx(step)
    if std is not None:
        assert found.std == pytest.approx(std, abs=1e-12)


def test_lookup_of_a_figure_that_is_not_printed_gives_none():
    row = ("liu2024", "2", "Contrastive classifier", "", "MVTec 3D-AD")
    assert lookup(*row, "tire", 5, "accuracy") is None
    assert lookup(*row, "tire", 4, "accuracy") is not None


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"source": "liu2023"}, "did you mean 'liu2024'"),
        ({"table": "Table 14"}, "unknown table of liu2024"),
        ({"method": "Contrastive"}, "did you mean 'Contrastive classifier'"),
        ({"variant": "maml"}, "'maml': choose one of \"\""),
    ],
)
def test_unknown_rows(changed, text):
    row = {"source": "liu2024", "table": "Table 1", "method": "Contrastive classifier", "variant": ""} | changed
    with pytest.raises(UnknownNameError, match=text):
        published.check_row(**row)


def test_find():
    means = find(source="liu2024", table="1", dataset="MVTec-AD", product=MEAN)
    assert [one.shots for one in means] == [2, 3, 4, 5, 1]
    assert not find(source="liu2024", shots=None)
    with pytest.raises(UnknownNameError, match="did you mean 'source'"):
        find(sources="liu2024")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("MVTec AD", "mvtec_ad"),
        ("mvtec", "mvtec_ad"),
        ("MVTec 3D-AD", "mvtec_3d_ad"),
        ("VisA", "visa"),
        (" MTD ", "mtd"),
        ("hf:acme/Ring-Data", "hf:acme/Ring-Data"),
    ],
)
def test_names_of_data_sets(written, name):
    assert dataset_name(written) == name


def test_tasks_by_metric():
    """A table of discovery that rates anomaly maps too, an ablation that is one of classification."""
    assert {one.task for one in find(source="anomalyncd2024", table="I", metric="aupro")} == {"detection"}
    assert {one.task for one in find(source="anomalyncd2024", table="I", metric="ari")} == {"discovery"}
    ablation = find(source="liu2024", table="5")
    assert {one.task for one in ablation} == {"classification"} and all(one.ablation for one in ablation)


def test_means_follow_from_their_rows():
    """The mean over a table's products, written out, against the printed one."""
    seen, odd = 0, set()
    for mean in (one for one in load_published() if one.product == MEAN):
        others = [
            one.value
            for one in load_published()
            if one.product != MEAN and (*one.key[:5], *one.key[6:]) == (*mean.key[:5], *mean.key[6:])
        ]
        if others:
            seen += 1
            if abs(statistics.fmean(others) - mean.value) > 1.05 * mean.step:
                odd.add((mean.source, mean.table, mean.shots, round(100 * statistics.fmean(others), 3)))
                assert any(note.startswith("the categories give") for note in mean.notes), mean
    assert seen == 111
    assert odd == ODD_MEANS


def test_totals_of_image_counts():
    """What the data sets' papers say of their test images."""
    totals = {}
    for (dataset, _), one in image_counts().items():
        good, defective = totals.get(dataset, (0, 0))
        totals[dataset] = good + one.good, defective + one.defective
    expected = {"mvtec_ad": (467, 1258), "mvtec_3d_ad": (249, 948), "visa": (962, 1200), "mpdd": (176, 282)}
    assert totals == {**expected, "mtd": (191, 392)}
    assert len(products_of("mvtec_ad")) == 15 and products_of("elsewhere") == ()
    printed = {one.product for one in find(dataset="visa")} - {MEAN}
    assert printed == set(products_of("visa"))


def test_published_accuracies_against_whole_numbers_of_hits():
    """Of 574 cells of liu2024 on MVTec AD all but 21 are possible with the counts and "combined" classes."""
    cells = [one for one in find(source="liu2024", dataset="mvtec_ad", metric="accuracy") if one.product != MEAN]
    impossible = set()
    for one in cells:
        counts = image_counts()[one.dataset, one.product]
        n, runs = counts.defective - one.shots * counts.classes, 5 if one.std is not None else 1
        low, high = ((one.value + sign * one.step * 1.000001) * n * runs for sign in (-1, 1))
        if math.floor(high) < math.ceil(low):
            impossible.add((int(one.table.removeprefix("Table ")), one.product, one.shots))
        elif one.std is not None:
            value, step = (Fraction(number).limit_denominator(10**5) for number in (one.value, one.step))
            assert is_possible(value, step, "accuracy", counts, one.shots, runs)
    assert len(cells) == 574
    assert impossible == IMPOSSIBLE


COUNTS = ImageCounts("made", "up", good=20, defective=63, classes=3, combined=0)


@pytest.mark.parametrize(
    ("value", "digits", "metric", "shots", "seeds", "possible"),
    [
        ("0.5", 1, "accuracy", 5, 1, True),
        ("0.7917", 4, "accuracy", 5, 1, True),  # 38 of 48
        ("0.7850", 4, "accuracy", 5, 1, False),  # between 37 and 38 of 48; with the good ones 49.46 of 63
        ("0.7873", 4, "accuracy", 5, 1, False),
        ("0.7873", 4, "accuracy", 5, 5, True),  # 248 of 315, good ones being a class
        ("0.7302", 4, "f1", 0, 1, True),  # 46 of 63
        ("0.7400", 4, "f1", 0, 1, False),
        ("0.99960", 5, "image_auroc", 0, 1, True),  # one half pair of 2520
        ("0.99980", 5, "image_auroc", 0, 1, False),
        ("0.8630", 4, "image_f1_max", 0, 1, True),  # 126 / 146 is calling everything defective
        ("0.8620", 4, "image_f1_max", 0, 1, False),
        ("0.123456", 6, "nmi", 0, 1, True),  # nothing is known of it
    ],
)
def test_possible_figures(value, digits, metric, shots, seeds, possible):
    assert is_possible(Fraction(value), Fraction(1, 10**digits), metric, COUNTS, shots, seeds) is possible


def test_files_are_in_the_package_and_small():
    folder = resources.files("anomalyhub.benchmark") / "published"
    assert {path.name for path in folder.iterdir()} == {f"{source}.csv" for source in SOURCES}
    assert all(len(path.read_bytes()) < 100_000 for path in folder.iterdir())

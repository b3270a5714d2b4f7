"""anomalyhub.report.inspection: tables, overlays and COCO regions of an inspection, and its HTML report."""

from __future__ import annotations

import csv
import gc
import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalyhub.regions import threshold_regions
from anomalyhub.report.gallery import LIMIT, Gallery
from anomalyhub.report.html import Bar, Lane, histogram, page, pareto, percent
from anomalyhub.report.identity import ModelIdentity
from anomalyhub.report.inspection import IMAGE_COLUMNS, REGION_COLUMNS, write_inspections
from anomalyhub.report.kinds import kind_color, kind_masks, kind_overlay
from anomalyhub.report.positions import PositionMaps
from anomalyhub.report.tables import read_predictions_csv
from anomalyhub.types import GOOD, UNKNOWN, AnomalyMap, Inspection, Sample

H, W = 48, 80
IDENTITY = ModelIdentity(
    name="ring_kinds",
    product="ring",
    detector="patchcore",
    threshold=1.0,
    method="normals",
    backbone="embedded",
    fingerprint="9aab46",
    false_alarm_rate=0.01,
    held_out=np.linspace(0.3, 0.9, 40).astype(np.float32),
    resolvable=False,
    kinds=("dent", "rust", "tear"),
    namer="prototype",
    examples={"dent": 3, "rust": 5, "tear": 1},
    checked={"accuracy": 0.75, "n": 8},
)
PLAIN = replace(IDENTITY, kinds=(), namer=None, examples={}, checked={})
#: What breaks out of HTML, of a spreadsheet's cell, of a line, or of UTF-8.
HOSTILE = '<script>alert("1")</script>', "=cmd()&'\"", "a\nb\u202ec", "naïve/圖片/ü\udcff"


@dataclass
class Evidence:
    """As `Inspector.explain` gives it."""

    crop: np.ndarray
    normal: np.ndarray | None = None
    normal_id: str | None = None
    example: np.ndarray | None = None
    example_id: str | None = None
    example_label: str | None = None


def picture(seed: int = 0, height: int = H, width: int = W) -> np.ndarray:
    return np.random.default_rng(seed).integers(90, 140, (height, width, 3), dtype=np.uint8)


def inspected(
    name: str,
    score: float = 0.5,
    kinds: Sequence[str] = (),
    boxes: Sequence[tuple[int, int, int, int]] = ((50, 4, 70, 16), (5, 30, 15, 38)),
    seed: int = 0,
) -> tuple[Sample, Inspection]:
    """An image with one region per kind; "anomalous" stands for a model that does not name them."""
    scores = np.full((H, W), 0.2, np.float32)
    for (x0, y0, x1, y1), _ in zip(boxes, kinds, strict=False):
        scores[y0:y1, x0:x1] = score
    found = AnomalyMap(scores, score)
    regions = tuple(threshold_regions(found, 1.0)[1])
    labels = () if "anomalous" in kinds else tuple((kind, 0.9 - 0.2 * i) for i, kind in enumerate(kinds))
    label = kinds[0] if kinds else GOOD
    result = Inspection(name, score, 0.02, bool(kinds), found, regions, labels, label, labels)
    return Sample(name, picture(seed), "never read", np.ones((H, W), bool)), result


def write(folder: Path, pairs, identity: ModelIdentity = IDENTITY, **options) -> tuple[dict, str]:
    """The summary and the page."""
    folder.mkdir()
    summary = write_inspections(folder, pairs, identity, **options)
    return summary, (folder / "report.html").read_text(encoding="utf-8")


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


class Checked(HTMLParser):
    """Raises where tags are not closed in order; collects tags with their attributes, and the texts."""

    VOID = {"meta", "img", "br", "wbr"}

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def read(html: str) -> Checked:
    """The page, after checking that it is whole, needs nothing else, and runs nothing."""
    made = Checked(html)
    names = {tag for tag, _ in made.tags}
    assert not names & {"script", "link", "iframe", "object", "form", "a", "base"}
    for tag, attributes in made.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert "href" not in attributes
    assert "url(" not in html and "@import" not in html
    assert all(image["alt"] for image in made.all("img"))
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in made.all("svg"))
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    policy = [meta["content"] for meta in made.all("meta") if "http-equiv" in meta]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    return made


# ------------------------------------------------------------------------------------------------------- files


def test_files_of_an_inspection(tmp_path):
    pairs = [
        inspected("test/a/1.png"),
        inspected("test/b/2.png", 2.0, ("rust", "dent")),
        inspected("test/b/3.png", 3.0, (UNKNOWN,)),
    ]
    summary, html = write(tmp_path / "out", pairs, data="rings", skipped=["x.png is no image"])
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    stems = ("test/a/1", "test/b/2", "test/b/3")
    assert names == {
        *(f"overlays/{stem}.png" for stem in stems),
        *(f"maps/{stem}.npy" for stem in stems),
        *("predictions.csv", "inspections.csv", "regions.csv", "regions.coco.json", "report.html", "summary.json"),
    }
    images, regions = rows(tmp_path / "out" / "inspections.csv"), rows(tmp_path / "out" / "regions.csv")
    assert [tuple(row.values()) for row in images] == [
        ("test/a/1.png", "0.5", "0.02", "false", "good", "", "0"),
        ("test/b/2.png", "2", "0.02", "true", "rust", "0.9", "2"),
        ("test/b/3.png", "3", "0.02", "true", UNKNOWN, "0.9", "1"),
    ]
    assert tuple(images[0]) == IMAGE_COLUMNS and tuple(regions[0]) == REGION_COLUMNS
    assert [tuple(row.values()) for row in regions] == [  # x0 y0 x1 y1
        ("test/b/2.png", "0", "50", "4", "70", "16", "240", "2", "rust", "0.9"),
        ("test/b/2.png", "1", "5", "30", "15", "38", "80", "2", "dent", "0.7"),
        ("test/b/3.png", "0", "50", "4", "70", "16", "240", "3", UNKNOWN, "0.9"),
    ]
    predictions = read_predictions_csv(tmp_path / "out" / "predictions.csv")
    assert [(row.path, row.is_anomalous, row.label) for row in predictions] == [
        ("test/a/1.png", False, "good"),
        ("test/b/2.png", True, "rust"),
        ("test/b/3.png", True, UNKNOWN),
    ]
    coco = json.loads((tmp_path / "out" / "regions.coco.json").read_text())
    categories = {one["id"]: one["name"] for one in coco["categories"]}
    assert list(categories.values()) == ["dent", "rust", "tear", UNKNOWN]  # those that were not found as well
    assert [categories[one["category_id"]] for one in coco["annotations"]] == ["rust", "dent", UNKNOWN]
    assert coco["annotations"][1]["bbox"] == [5, 30, 10, 8]
    maps = np.load(tmp_path / "out" / "maps" / "test" / "b" / "2.npy", allow_pickle=False)
    assert np.array_equal(maps, pairs[1][1].map.scores)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["n_images"], summary["n_defective"], summary["n_regions"]) == (3, 2, 3)
    assert summary["kinds"] == {
        "dent": {"images": 0, "regions": 1},
        "rust": {"images": 1, "regions": 1},
        "tear": {"images": 0, "regions": 0},
        UNKNOWN: {"images": 1, "regions": 1},
    }
    assert summary["threshold"]["value"] == 1.0 and summary["skipped"] == ["x.png is no image"]
    assert summary["seconds_per_image"] >= 0 and "anomalyhub" in summary["versions"]
    text = read(html).text
    for words in ("Inspection of ring", "inspected 3", "defective 2", "share 67 %", "skipped 1", "x.png is no image"):
        assert words in text


def test_overlays_show_where_and_what(tmp_path):
    sample, result = inspected("1.png", 2.0, ("rust", "dent"))
    write(tmp_path / "out", [(sample, result)])
    drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / "1.png")).astype(int)
    assert drawn.shape == (H, W, 3)
    changed = np.abs(drawn - sample.image).max(axis=2) > 40
    assert changed[3:5, 55:65].any() and changed[28:31, 5:15].any()  # both outlines
    assert not changed[7:13, 53:67].any() and not changed[32:36, 7:13].any()  # which hide no defect
    line = drawn[16:18, 52:58].reshape(-1, 3)
    wanted = np.array([int(kind_color("rust", IDENTITY.kinds)[i : i + 2], 16) for i in (1, 3, 5)])
    assert np.abs(line - wanted).max(axis=1).min() < 60  # in the kind's colour
    assert kind_overlay(sample.image, result, longest=40).shape == (24, 40, 3)


def test_maps_may_be_left_out_and_evidence_too(tmp_path):
    _, html = write(tmp_path / "out", [inspected("1.png", 2.0, ("rust",))], maps=False)
    assert not (tmp_path / "out" / "maps").exists()
    assert "most similar" not in read(html).text


def test_one_image_is_held_at_a_time(tmp_path):
    alive: list[weakref.ref] = []

    def stream():
        for index in range(8):
            gc.collect()
            assert sum(one() is not None for one in alive) <= 1  # the one before
            pair = inspected(f"{index}.png", 1.5 + index, ("rust",), seed=index)
            alive.append(weakref.ref(pair[0]))
            yield pair
            del pair

    summary, _ = write(tmp_path / "out", stream(), maps=False)
    assert summary["n_images"] == 8


def test_the_same_inspection_gives_the_same_files(tmp_path):
    contents = []
    for name in ("one", "two"):
        write(tmp_path / name, [inspected(f"{i}.png", 2.0 + i, ("rust",), seed=i) for i in range(4)])
        files = sorted(path for path in (tmp_path / name).rglob("*.*") if path.suffix != ".html")
        contents.append({path.name: path.read_bytes() for path in files if path.name != "summary.json"})
    assert contents[0] == contents[1] and len(contents[0]) == 12


# ------------------------------------------------------------------------------------------------------ report


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nothing_defective(tmp_path, count):
    summary, html = write(tmp_path / "out", [inspected(f"{i}.png", 0.5 - 0.1 * i) for i in range(count)])
    shown = read(html)
    assert summary["share_defective"] == (0.0 if count else None)
    assert "No image looks defective" in shown.text
    assert len(shown.all("img")) == count  # the closest calls
    assert ("Closest calls" in shown.text) == bool(count)


def test_a_model_that_names_no_kinds(tmp_path):
    summary, html = write(tmp_path / "out", [inspected("1.png", 2.0, ("anomalous", "anomalous"))], PLAIN)
    assert summary["kinds"] == {"anomalous": {"images": 1, "regions": 2}}
    assert rows(tmp_path / "out" / "regions.csv")[0]["probability"] == ""
    text = read(html).text
    assert "defective, kind not named" in text and "does not name them" in text
    assert "probability" not in text.lower()


def test_three_hundred_kinds(tmp_path):
    names = tuple(f"kind_{number}" for number in range(300))
    pairs = [inspected(f"{i}.png", 2.0 + i / 1000, (names[i],), seed=i % 3) for i in range(300)]
    summary, html = write(tmp_path / "out", pairs, replace(IDENTITY, kinds=names, examples={}), maps=False)
    shown = read(html)
    assert len(summary["kinds"]) == 300
    assert "288 other kinds" in shown.text and "and 276 more kinds" in shown.text
    assert "240 more kinds are in inspections.csv" in shown.text
    assert len(shown.all("article")) == LIMIT
    for name in ("kind_299", "kind_240"):  # the worst images' kinds
        assert f"{name} (1, highest scores first)" in shown.text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(tmp_path, name):
    identity = replace(IDENTITY, name=name, product=name, kinds=(name, "rust"), examples={name: 1}, backbone=name)
    one, result = inspected(name, 2.0, (name, "rust"))

    def explain(chosen):
        return [(one, result, [Evidence(picture(1), picture(2), name, picture(3), name, name)] * 2)]

    _, html = write(tmp_path / "out", [(one, result)], identity, data=name, skipped=[name], explain=explain)
    shown = read(html)
    assert "<script>alert" not in html and name.splitlines()[0][:7].replace("\u202e", "?") in shown.text
    assert read_predictions_csv(tmp_path / "out" / "predictions.csv")[0].path == name
    assert rows(tmp_path / "out" / "inspections.csv")[0]["label"].lstrip("'") == name
    assert len(shown.all("img")) == 3 + 1 + 6  # positions of all and of two kinds, the overlay, evidence of two regions


def test_evidence_beside_each_region(tmp_path):
    pairs = [inspected("good.png"), inspected("a.png", 2.0, ("rust", "dent")), inspected("b.png", 3.0, ("tear",))]
    asked = []

    def explain(chosen):
        asked.extend(chosen)
        for row in chosen:
            evidence = Evidence(picture(1), picture(2), "normal_7.png", picture(3), "example_3.png", "rust")
            only = Evidence(picture(1), example=picture(3), example_id="b.png", example_label="tear")
            yield (*pairs[row], [evidence, Evidence(picture(4))] if row == 1 else [only])

    _, html = write(tmp_path / "out", pairs, explain=explain)
    shown = read(html)
    assert asked == [1, 2]  # the defective ones
    assert "most similar normal patch, of normal_7.png" in shown.text
    assert "most similar example: rust , example_3.png" in shown.text
    assert "most similar example: tear , b.png (itself)" in shown.text
    sides = [tag for tag, attributes in shown.tags if attributes.get("class") == "evidence"]
    assert len(sides) == 2  # a crop alone shows nothing new


def test_evidence_of_other_regions_is_left_out(tmp_path):
    pair = inspected("a.png", 2.0, ("rust", "dent"))
    _, html = write(tmp_path / "out", [pair], explain=lambda chosen: [(*pair, [Evidence(picture(), picture(), "n")])])
    assert "most similar" not in read(html).text


def test_the_page_stays_small_with_many_noisy_images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    gallery, kinds = Gallery(), ("dent", "rust", "tear", "a", "b")
    scores = np.full((300, 400), 0.2, np.float32)
    scores[10:60, 10:90] = 2.0
    found = AnomalyMap(scores, 2.0)
    region = tuple(threshold_regions(found, 1.0)[1])
    for row in range(600):
        kind = kinds[row % 5]
        score = 2.0 + (row * 7919 % 600) / 600
        gallery.add(row, noise, Inspection(str(row), score, 0.1, True, found, region, ((kind, 1.0),), kind), 1.0, kinds)
    assert len(gallery.rows()) == 60
    evidence = [Evidence(noise[:96, :96], noise[:96, :96], "n", noise[:96, :96], "e", "rust")]
    gallery.explain((row, (None, None, evidence)) for row in gallery.rows())
    entries = [entry for kind in kinds for entry in gallery.worst(kind)]
    size = sum(
        len(entry.picture) + sum(len(one.crop + one.normal + one.example) for one in entry.evidence)
        for entry in entries
    )
    assert size < 9_000_000  # the page may have 10 MB
    for kind in kinds:
        expected = sorted(((row * 7919 % 600, -row) for row in range(600) if kinds[row % 5] == kind), reverse=True)
        assert [entry.row for entry in gallery.worst(kind)] == [-row for _, row in expected[:12]]


def test_numbers_of_the_page(tmp_path):
    pairs = [inspected(f"g{i}.png") for i in range(6)]
    pairs += [inspected(f"r{i}.png", 2.0 + i, ("rust",)) for i in range(3)] + [inspected("d.png", 9.0, ("dent",))]
    _, html = write(tmp_path / "out", pairs)
    text = read(html).text
    assert "rust 3 75 % 3" in text and "dent 1 25 % 1" in text  # images, share of the defective, regions
    assert "Known to the model and not found: tear." in text
    assert "about 0.1 of 10 images would be called defective if all were normal; 6 passed." in text
    assert "rust (5 examples)" in text and "1 of the rarest" in text
    assert "75 % of the 8 examples were named rightly" in text
    assert "above the threshold 0 4" in text  # of the held-out and of the inspected


# ------------------------------------------------------------------------------------------------------ pieces


def test_positions_are_shares_of_width_and_height():
    maps = PositionMaps()
    for index in range(4):
        mask = np.zeros((H, W), bool)
        mask[6:18, 60:80] = True  # right, above
        other = np.zeros((H, W), bool)
        other[36:48, :20] = index == 0  # left, below
        image = picture(index) // (1 if index else 2)
        maps.add(image, True, {"rust": mask, **({"dent": other} if index == 0 else {})})
    maps.add(np.full((H, W, 3), 200, np.uint8), False, {})
    rust, dent, everything = maps.of("rust"), maps.of("dent"), maps.of()
    assert (rust.images, dent.images, everything.images) == (4, 1, 4)
    assert rust.peak == pytest.approx((0.875, 0.25, 1.0), abs=0.02)
    assert dent.peak == pytest.approx((0.125, 0.875, 1.0), abs=0.02)
    assert rust.covered == pytest.approx(12 * 20 / (H * W), abs=1e-4)
    assert everything.share.max() == pytest.approx(1.0) and everything.share[-1, 0] == pytest.approx(0.25)
    assert maps.of("tear") is None and not maps.sizes_differ
    shown = rust.picture.astype(int)
    assert shown.shape == (H, W, 3)
    assert (shown[24:, :50] == 200).all()  # the mean picture is of normal images alone
    assert shown[12, 70, 0] - shown[12, 70, 2] > 100  # heat where the region is
    maps.add(np.zeros((30, 30, 3), np.uint8), True, {"tear": np.ones((30, 30), bool)})
    assert maps.sizes_differ and maps.of("tear").picture.shape == (H, W, 3)


def test_the_most_frequent_place_is_one_of_the_places():
    maps = PositionMaps()
    for x in (0, 60):  # as often at the left as at the right, where the region is larger
        mask = np.zeros((H, W), bool)
        mask[:12, x : x + 10 + x // 6] = True
        maps.add(picture(), True, {"rust": mask})
    assert maps.of("rust").peak == pytest.approx((0.875, 0.125, 0.5), abs=0.02)


def test_kind_masks_join_regions_of_a_kind():
    _, result = inspected("a.png", 2.0, ("rust", "rust"))
    mask = kind_masks(result)["rust"]
    assert mask.sum() == 240 + 80 and mask[4:16, 50:70].all() and mask[30:38, 5:15].all()


def test_colours_are_stable():
    kinds = tuple(f"kind_{i}" for i in range(20))
    colors = [kind_color(kind, kinds) for kind in kinds]
    assert len(set(colors[:9])) == 9 and colors[9] == colors[0]
    assert kind_color(UNKNOWN, kinds) not in colors
    assert kind_color("new", ()) == kind_color("new", ())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "Chosen so that about 1 % of normal images lie above it, from 40 normal images that the detector was not "
            "fitted on. They measure rates down to 2.4 %; beyond that it is extrapolated.",
        ),
        (
            {"false_alarm_rate": 0.1, "resolvable": True, "method": "unlabelled", "estimated": True},
            "Chosen so that about 10 % of normal images lie above it, from what most of 40 unlabelled images score, "
            "taken to be normal.",
        ),
        (
            {"method": "manual", "false_alarm_rate": None, "threshold": 0.89},
            "Given by a person. Of 40 normal images that the detector was not fitted on, 2.5 % lie above it.",
        ),
        ({"method": "f1_max", "held_out": np.zeros(0)}, "Chosen on labelled images, where it gave the best F1."),
        ({"method": "cost", "held_out": np.zeros(0)}, "Chosen on labelled images, where it cost least."),
        (
            {"method": "natural", "held_out": np.zeros(0)},
            "The detector's own: its scores have a natural scale, and no image of this product set it.",
        ),
    ],
)
def test_how_the_threshold_was_chosen(changes, expected):
    assert replace(IDENTITY, **changes).threshold_words() == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0, "0 %"),
        (0.0004, "under 0.1 %"),
        (0.0123, "1.2 %"),
        (0.05, "5 %"),
        (0.0999, "10 %"),
        (0.5, "50 %"),
        (1, "100 %"),
    ],
)
def test_percent(share, expected):
    assert percent(share) == expected


def test_pareto_adds_up():
    chart = Checked(
        page("x", pareto([Bar("a", 6, "#000000"), Bar("<b>", 3, "#ffffff"), Bar("c", 1, "red")], 10, "images"))
    )
    points = chart.all("polyline")[0]["points"].split()
    assert [float(point.split(",")[0]) for point in points] == [264.0, 396.0, 440.0]  # 60, 90 and 100 % of 440
    bars = [one for one in chart.all("rect") if "fill" in one]
    assert [float(bar["width"]) for bar in bars] == [264.0, 132.0, 44.0]
    assert "6 (60 %)" in chart.text and "<b>" in chart.text


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-5.0, 1e6], [1e-9, 2e-9], []])
def test_histograms_of_any_range(values):
    chart = Checked(page("x", histogram([Lane("some", np.array(values), "below", "above")], 0.5)))
    bars = [one for one in chart.all("rect")]
    assert bool(bars) == bool(values)
    for bar in bars:
        assert 0 <= float(bar["x"]) <= 480 and 0 < float(bar["height"]) < 80
    assert {bar["class"] for bar in bars} == {"above" if value > 0.5 else "below" for value in values}
    line = chart.all("path")[-1]["d"]
    assert line.startswith("M") and 0 <= float(line[1:].split()[0]) <= 480


@pytest.mark.browser
def test_the_page_in_a_browser(tmp_path, chromium_path):
    """Nothing is fetched or refused, and nothing sticks out of a narrow screen."""
    from playwright.sync_api import sync_playwright

    pairs = [inspected(f"{'long_name' * 9}{i}.png", 2.0 + i, ("rust", "dent"), seed=i) for i in range(5)]
    explain = lambda chosen: [  # noqa: E731
        (*pairs[row], [Evidence(picture(), picture(), "n", picture(), "e", "rust")] * 2) for row in chosen
    ]
    write(tmp_path / "out", [*pairs, inspected("good.png")], explain=explain)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        for width, scheme in ((360, "light"), (1280, "dark")):
            view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            said, asked = [], []
            view.on("console", lambda message, said=said: said.append(message.text))
            view.on("request", lambda request, asked=asked: asked.append(request.url))
            view.goto((tmp_path / "out" / "report.html").as_uri())
            assert said == [] and all(url.startswith(("file:", "data:")) for url in asked)
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            assert view.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            background = view.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (background == "rgb(14, 14, 16)") == (scheme == "dark")
        browser.close()

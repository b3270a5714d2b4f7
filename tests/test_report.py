"""anomalyhub.report: overlays, tables, COCO files and figures."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidImageError, OutputError
from anomalyhub.regions import threshold_regions
from anomalyhub.report.coco import coco_json, rle_counts, write_coco
from anomalyhub.report.overlay import fit_within, heat_colors, outline, overlay, scale_legend, side_by_side
from anomalyhub.report.plots import contact_sheet, roc_curve_plot, score_histogram
from anomalyhub.report.tables import Prediction, read_predictions_csv, write_predictions_csv
from anomalyhub.types import AnomalyMap, Inspection

H, W = 48, 80


def image(seed: int = 0, height: int = H, width: int = W) -> np.ndarray:
    return np.random.default_rng(seed).integers(90, 140, (height, width, 3), dtype=np.uint8)


def blob_scores(peak: float = 3.0, height: int = H, width: int = W) -> np.ndarray:
    """0.3 everywhere, `peak` at row 1/4 and column 3/4."""
    y, x = np.mgrid[:height, :width]
    distance = (x - 0.75 * width) ** 2 + (y - 0.25 * height) ** 2
    return (0.3 + (peak - 0.3) * np.exp(-distance / (0.02 * height * width))).astype(np.float32)


def inspection(name: str = "a.png", threshold: float = 1.0, labels=(), **changes) -> Inspection:
    anomaly_map = AnomalyMap(blob_scores(), 3.0)
    regions = tuple(threshold_regions(anomaly_map, threshold)[1])
    fields = {"id": name, "score": 3.0, "p_value": 0.01, "is_anomalous": True, "label": "anomalous"} | changes
    return Inspection(map=anomaly_map, regions=regions, labels=labels, **fields)


# colours

COLOR_BLIND = {  # Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
    "nobody": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(rgb: np.ndarray) -> np.ndarray:
    rgb = rgb / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("threshold", [1.0, 0.037, 4200.0])
def test_the_colour_scale_is_fixed_at_the_threshold(threshold):
    v = np.array([-1, 0, 0.3, 0.49, 0.75, 0.99, 1.0, 1.01, 1.5, 2, 50], np.float32)
    colors, opacity = heat_colors(v * np.float32(threshold), threshold)
    assert colors.dtype == np.uint8 and colors.shape == (11, 3)
    assert np.all(opacity[:4] == 0)  # far below: the image as it is
    assert np.all(np.diff(opacity) >= 0) and opacity[-1] == 1
    red, _, blue = colors.astype(int).T
    assert np.all(blue[4:6] > red[4:6]) and np.all(opacity[4:6] <= 0.5)  # below: calm blue, faint
    assert np.all(red[7:] > 150 + blue[7:]) and np.all(opacity[7:] >= 0.85)  # above: warm, strong
    assert np.array_equal(colors[-1], colors[-2])  # saturated


def test_the_jump_is_exactly_at_the_threshold():
    threshold = np.float32(0.3)
    around = np.array([np.nextafter(threshold, np.float32(0)), threshold, np.nextafter(threshold, np.float32(1))])
    _, opacity = heat_colors(around, float(threshold))
    assert opacity[0] == opacity[1] < 0.5 and opacity[2] > 0.8  # at the threshold is not yet above it


@pytest.mark.parametrize("kind", COLOR_BLIND)
def test_the_jump_is_seen_by_colour_blind_people(kind):
    below, above = heat_colors(np.array([0.999, 1.001], np.float32), 1.0)[0]
    seen = [np.asarray(COLOR_BLIND[kind]) @ linear(rgb) for rgb in (below, above)]
    assert np.abs(seen[0] - seen[1]).max() > 0.4  # of the full range of a channel


@pytest.mark.parametrize("threshold", [0.0, -2.0])
def test_thresholds_without_a_ratio_have_colours_too(threshold):
    _, opacity = heat_colors(np.array([[-3.0, threshold, 0.5]], np.float32), threshold)
    assert opacity.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("threshold", [1e-38, 1e38, float("inf")])
def test_extreme_thresholds_have_colours(threshold):
    _, opacity = heat_colors(np.array([0, 1, 1e30], np.float32), threshold)
    assert np.array_equal(opacity > 0.5, np.array([0, 1, 1e30], np.float32) > threshold)


# overlays


def test_a_good_image_stays_calm():
    good = overlay(image(), blob_scores(peak=0.49), 1.0)
    assert good.shape == (H, W, 3) and good.dtype == np.uint8
    assert np.abs(good.astype(int) - image()).max() <= 25  # greyed a little, no heat, no line
    red_cast = overlay(image(), blob_scores(peak=0.99), 1.0).astype(int) - image()
    assert red_cast[..., 0].max() <= 25


def test_a_defect_is_red_and_outlined_in_place():
    scores = blob_scores()
    shown = overlay(image(), scores, 1.0)
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    red, green, blue = shown[row, column].astype(int)
    assert red > green + 50 and red > blue + 50
    line = (shown > 225).all(axis=2)
    assert line.any() and not (line & (scores > 1)).any()  # the line runs outside, it hides no defect
    rows, columns = np.nonzero(line)
    inside = np.nonzero(scores > 1)
    assert rows.min() >= inside[0].min() - 5 and columns.min() >= inside[1].min() - 5  # and close by


def test_without_heat_only_the_outline_is_left():
    mask = np.zeros((H, W), bool)
    mask[10:20, 30:60] = True
    shown = overlay(image(), blob_scores(), 1.0, mask=mask, alpha=0)
    assert np.abs(shown[12:18, 33:57].astype(int) - image()[12:18, 33:57]).max() <= 25
    assert (shown[8:10, 35:55] > 200).any()


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_the_outline_is_seen_on_any_ground(ground):
    plain = np.full((H, W, 3), ground, np.uint8)
    mask = np.zeros((H, W), bool)
    mask[20, 40] = True  # one pixel
    drawn = outline(plain, mask)
    assert np.abs(drawn.astype(int) - ground).max() > 100
    assert np.array_equal(plain, np.full_like(plain, ground))  # a copy was drawn on
    assert len(np.unique(drawn)) > 4  # smooth edges


def test_the_outline_grows_with_the_image():
    def white(scale: int) -> float:
        mask = np.zeros((100 * scale, 160 * scale), bool)
        mask[40 * scale : 60 * scale, 40 * scale : 120 * scale] = True
        drawn = outline(np.zeros((*mask.shape, 3), np.uint8), mask)
        return (drawn[50 * scale, : 40 * scale, 0] / 255).sum()  # width of the line left of the box

    assert 1 < white(1) < 2.5
    assert white(8) == pytest.approx(8 * 160 / 260, rel=0.25)


@pytest.mark.parametrize("filled", [False, True])
def test_a_mask_without_boundary_draws_nothing(filled):
    assert np.array_equal(outline(image(), np.full((H, W), filled)), image())


def test_reducing_keeps_a_single_anomalous_pixel():
    scores = np.full((300, 500), 0.2, np.float32)
    scores[100, 200] = 5
    shown = overlay(np.full((300, 500, 3), 60, np.uint8), scores, 1.0, longest=100)
    assert shown.shape == (60, 100, 3)
    assert (shown.max(axis=2) > 150).any()


@pytest.mark.parametrize(
    ("shape", "longest", "expected"),
    [
        ((100, 200, 3), 50, (25, 50, 3)),
        ((200, 100, 3), 50, (50, 25, 3)),
        ((20, 30, 3), 50, (20, 30, 3)),  # never enlarged
        ((2, 900, 3), 90, (1, 90, 3)),  # no side falls to 0
        ((100, 200), 50, (25, 50)),
    ],
)
def test_fit_within(shape, longest, expected):
    assert fit_within(np.zeros(shape, np.uint8), longest).shape == expected


def test_side_by_side_outlines_the_truth_on_the_left_only():
    truth = np.zeros((H, W), bool)
    truth[10:30, 20:50] = True
    shown = overlay(image(), blob_scores(), 1.0)
    plain, both = side_by_side(image(), shown), side_by_side(image(), shown, truth, gap=4)
    assert plain.shape == (H, 2 * W + 8, 3) and both.shape == (H, 2 * W + 4, 3)
    assert np.array_equal(plain[:, :W], image()) and np.array_equal(both[:, -W:], shown)
    red, green, _ = np.moveaxis(both[:, :W].astype(int), 2, 0)
    assert (green - red > 100).any()


def test_legend_shows_the_colours_in_order():
    for dark in (False, True):
        legend = scale_legend(1.25, 480, dark=dark).astype(int)
        assert legend.shape[1] == 480 and legend.dtype == int
        assert (legend[0, 0].mean() < 60) == dark
        bar = legend[35]
        left, below, above, right = bar[20], bar[16 + 448 * 95 // 225], bar[16 + 448 * 105 // 225], bar[460]
        assert np.ptp(left) <= 1 and below[2] > below[0] and above[0] > above[2] + 100 and right[0] > right[1] + 100
    assert scale_legend(1.25, 900).shape[1] == 900


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: overlay(image()[..., 0], blob_scores(), 1), InvalidImageError, r"\(H, W, 3\) uint8 RGB, got uint8"),
        (lambda: overlay(image() / 255, blob_scores(), 1), InvalidImageError, "got float64"),
        (lambda: overlay(image(), blob_scores().T, 1), InvalidImageError, r"shape \(48, 80\), got \(80, 48\)"),
        (lambda: overlay(image(), blob_scores(), float("nan")), InvalidArgumentError, "threshold is NaN"),
        (lambda: overlay(image(), blob_scores(), 1, alpha=1.5), InvalidArgumentError, "alpha must be in"),
        (lambda: overlay(image(), blob_scores(), 1, longest=0), InvalidArgumentError, "longest must be at least 1"),
        (lambda: outline(image(), np.ones((W, H), bool)), InvalidImageError, "mask must have the image's shape"),
        (lambda: side_by_side(image(), image()[:-1]), InvalidImageError, "overlay must have the image's shape"),
        (lambda: contact_sheet([image()], []), InvalidArgumentError, "one title per image"),
        (lambda: roc_curve_plot([True], [1, 2]), InvalidArgumentError, r"one entry per score \(2\), got 1"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


# predictions.csv

NAMES = [
    "test/crack/001.png",
    'a, b "c".png',
    "line\nbreak.png",
    "größe/裂纹.png",
    "=1+1.png",
    "-2.png",
    "+3.png",
    "@sum.png",
    "\tx.png",
    "./plain.png",
    "bytes\udcff.png",  # a file name that is not UTF-8
]


def test_predictions_survive_the_round_trip(tmp_path):
    labels = ["good", "=cmd()", "'quoted", "anomalous"]
    sent = [
        inspection(name, score=-1.23456789 * i, p_value=None if i % 2 else 1 / (i + 3), is_anomalous=i % 3 == 0,
                   label=labels[i % 4])
        for i, name in enumerate(NAMES)
    ]  # fmt: skip
    write_predictions_csv(tmp_path / "out" / "predictions.csv", iter(sent))
    back = read_predictions_csv(tmp_path / "out" / "predictions.csv")
    assert [row.path for row in back] == NAMES
    for row, one in zip(back, sent, strict=True):
        assert (row.is_anomalous, row.label) == (one.is_anomalous, one.label)
        assert row.score == pytest.approx(one.score, rel=1e-5)
        assert row.p_value == (None if one.p_value is None else pytest.approx(one.p_value, rel=1e-5))


def test_predictions_as_text(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions_csv(path, [inspection("b.png", score=12.3456789), inspection("=x.png", p_value=None, label="+y")])
    assert path.read_bytes().decode() == (
        "path,score,p_value,is_anomalous,label\nb.png,12.3457,0.01,true,anomalous\n./=x.png,3,,true,'+y\n"
    )


def test_no_cell_is_a_formula(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions_csv(path, [inspection(name, label=name) for name in NAMES])
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(NAMES)
    assert not [row for row in rows if row["path"][0] in "=+-@\t\r" or row["label"][0] in "=+-@\t\r"]


def test_no_predictions_is_a_table_too(tmp_path):
    write_predictions_csv(tmp_path / "p.csv", [])
    assert read_predictions_csv(tmp_path / "p.csv") == []


HEADER = "path,score,p_value,is_anomalous,label\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 'path' is missing"),
        ("path,score\na,1\n", "column 'p_value' is missing"),
        (HEADER + "a,1,,true,good\nb,high,,true,good\n", "line 3 is not a prediction"),
        (HEADER + "a,nan,,true,good\n", "line 2 is not a prediction"),
        (HEADER + "a,1,,yes,good\n", "line 2 is not a prediction"),
        (HEADER + "a,1\n", "line 2 is not a prediction"),
        (HEADER + '"a,1,,true,good\n', "cannot be read as a table"),  # a quote that never closes
        (None, "No such file"),
    ],
)
def test_wrong_tables(tmp_path, text, message):
    path = tmp_path / "p.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidDatasetError, match=message) as caught:
        read_predictions_csv(path)
    assert "p.csv" in str(caught.value)


def test_columns_of_others_and_a_byte_order_mark_are_fine(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("\ufeff" + HEADER.replace("path", "note,path") + "x,a.png,1,,false,good\n", encoding="utf-8")
    assert read_predictions_csv(path) == [Prediction("a.png", 1.0, None, False, "good")]


# COCO


def decode(segmentation: dict) -> np.ndarray:
    """The mask of uncompressed run lengths, written from COCO's description alone."""
    height, width = segmentation["size"]
    flat, value = [], False
    for count in segmentation["counts"]:
        flat += [value] * count
        value = not value
    assert len(flat) == height * width
    return np.array([[flat[column * height + row] for column in range(width)] for row in range(height)])


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        (["....", "...."], [8]),
        (["####", "####"], [0, 8]),
        (["#...", "...."], [0, 1, 7]),
        (["....", "...#"], [7, 1]),
        ([".#..", ".##."], [2, 2, 1, 1, 2]),  # down the columns first
    ],
)
def test_run_lengths(rows, counts):
    mask = np.array([[c == "#" for c in row] for row in rows])
    assert rle_counts(mask) == counts
    assert np.array_equal(decode({"size": [2, 4], "counts": counts}), mask)


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_of_random_masks(seed):
    mask = np.random.default_rng(seed).random((7, 11)) < 0.2 * (seed + 1)
    assert np.array_equal(decode({"size": [7, 11], "counts": rle_counts(mask)}), mask)


def test_coco_file(tmp_path):
    found, good = inspection("test/a.png"), inspection("test/b.png", threshold=9, is_anomalous=False, label="good")
    write_coco(tmp_path / "regions.coco.json", iter([good, found]))
    data = json.loads((tmp_path / "regions.coco.json").read_text())
    assert data["images"] == [
        {"id": 1, "file_name": "test/b.png", "width": W, "height": H},
        {"id": 2, "file_name": "test/a.png", "width": W, "height": H},
    ]
    assert data["categories"] == [{"id": 1, "name": "anomalous", "supercategory": "defect"}]
    (one,), (region,) = data["annotations"], found.regions
    x, y, width, height = one["bbox"]
    assert (x, y, x + width, y + height) == region.box
    assert (one["id"], one["image_id"], one["category_id"], one["iscrowd"]) == (1, 2, 1, 0)
    assert one["area"] == region.area_px and one["score"] == pytest.approx(region.peak)
    assert np.array_equal(decode(one["segmentation"]), region.mask)
    assert "probability" not in one


def test_coco_categories_come_from_the_regions_labels():
    scratched, dented = inspection("a", labels=(("scratch", 0.75),)), inspection("b", labels=(("dent", 0.5),))
    data = coco_json([scratched, dented])
    assert [c["name"] for c in data["categories"]] == ["dent", "scratch"]
    assert [(a["category_id"], a["probability"]) for a in data["annotations"]] == [(2, 0.75), (1, 0.5)]
    fixed = coco_json([scratched], categories=["scratch", "dent", "hole"])
    assert [c["id"] for c in fixed["categories"]] == [1, 2, 3] and fixed["annotations"][0]["category_id"] == 1


def test_coco_of_nothing():
    data = coco_json([])
    assert data["images"] == data["annotations"] == data["categories"] == []


def test_unwritable_outputs(tmp_path):
    (tmp_path / "file").write_text("x")
    for write in (write_coco, write_predictions_csv):
        with pytest.raises(OutputError, match="file is a file, not a folder"):
            write(tmp_path / "file" / "out", [])


# figures


def pixels(figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    return np.array(Image.open(buffer).convert("RGBA"))


def texts(figure) -> str:
    axes = figure.axes[0]
    legend = axes.get_legend()
    return " | ".join(t.get_text() for t in [*axes.texts, axes.title, *(legend.get_texts() if legend else [])])


@pytest.mark.parametrize("labelled", [False, True])
def test_score_histogram(rng_scores, labelled):
    labels, scores = rng_scores
    figure = score_histogram(scores[~labels], scores, labels if labelled else None, 1.5)
    groups = ["good (40)", "defective (30)"] if labelled else ["inspected (70)"]
    for text in ("held-out normal (40)", "threshold 1.5", *groups):
        assert text in texts(figure)
    steps = figure.axes[0].patches
    assert len(steps) == 1 + len(groups)
    assert all(step.get_data().values.sum() == pytest.approx(1) for step in steps)  # nothing falls outside the bins
    assert figure.axes[0].lines[0].get_xdata() == [1.5, 1.5]
    assert np.ptp(pixels(figure)[..., :3]) > 100


@pytest.fixture
def rng_scores():
    rng = np.random.default_rng(0)
    return np.arange(70) < 30, np.r_[rng.normal(2, 0.5, 30), rng.normal(1, 0.5, 40)].round(1)  # rounded: many ties


@pytest.mark.parametrize(
    ("held_out", "scores", "threshold"),
    [([], [], 1.0), ([1.0], [], 1.0), ([0.0, 0.0], [0.0], 0.0), ([], [5.0], -2.0)],
)
def test_histograms_of_little(held_out, scores, threshold):
    figure = score_histogram(np.array(held_out), np.array(scores), None, threshold)
    low, high = figure.axes[0].get_xlim()
    assert low < min([*held_out, *scores, threshold]) <= max([*held_out, *scores, threshold]) < high
    pixels(figure)


def test_roc_curve(rng_scores):
    labels, scores = rng_scores
    figure = roc_curve_plot(labels, scores)
    shown = float(texts(figure).split("AUROC ")[1].split()[0])
    assert shown == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    x, y = figure.axes[0].lines[1].get_data()
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    pixels(figure)


@pytest.mark.parametrize(
    ("labels", "text"),
    [([False, False], "n/a: only one class"), ([True], "n/a: only one class"), ([], "n/a: no images")],
)
def test_undefined_roc_curve_says_so(labels, text):
    assert text in texts(roc_curve_plot(np.array(labels), np.arange(len(labels), dtype=float)))


@pytest.mark.parametrize("dark", [False, True])
def test_figures_have_the_given_ground(rng_scores, dark):
    for make in (lambda **k: roc_curve_plot(*rng_scores, **k), lambda **k: contact_sheet([image()], ["a"], **k)):
        assert pixels(make(dark=dark))[0, 0, 3] == 0  # transparent unless a colour is given
        assert pixels(make(dark=dark, facecolor="#102030"))[0, 0].tolist() == [16, 32, 48, 255]


def test_contact_sheet(recwarn):
    images = [image(0), image(1, 60, 30), image(2, 30, 90)]
    figure = contact_sheet(images, ["$a^{$.png", "x" * 40 + ".png", "bytes\udcff"], columns=2)
    assert [axes.get_title() for axes in figure.axes] == ["$a^{$.png", "x" * 14 + "…" + "x" * 13 + ".png", "bytes?", ""]
    assert pixels(figure).shape[2] == 4  # drawn without an error from the mathematics parser
    assert pixels(contact_sheet([], [])).shape[2] == 4
    assert not recwarn.list


def test_plots_leave_pyplot_alone(rng_scores):
    import subprocess
    import sys

    code = (
        "import sys; import anomalyhub.report.plots as p; assert 'matplotlib' not in sys.modules; "
        "p.roc_curve_plot([True, False], [1.0, 0.0]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

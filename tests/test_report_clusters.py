"""Pictures of a discovery: crops, sheets, t-SNE and confusion figures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from scipy.optimize import linear_sum_assignment

from anomalyhub.errors import InvalidArgumentError, InvalidImageError
from anomalyhub.regions import sub_images
from anomalyhub.report.clusters import cluster_sheet, crop_picture
from anomalyhub.report.plots import confusion_plot, shortened, tsne_plot
from anomalyhub.types import SubImage

NAMES = ["_hidden", "$\\bad{$", "a<b>&c", "größe", "line\nbreak", "bytes\udcff", "x" * 300, ""]


def sub_image(height: int, width: int, region=(slice(0), slice(0)), ground: int = 120) -> SubImage:
    """The crop of a region in an image of one grey."""
    mask = np.zeros((height, width), bool)
    mask[region] = True
    (sub,) = sub_images(np.full((height, width, 3), ground, np.uint8), mask)
    return sub


def changed(picture: np.ndarray, ground: int = 120) -> np.ndarray:
    return (np.abs(picture.astype(int) - ground) > 3).any(axis=2)


def pixels(figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    return np.array(Image.open(buffer))


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda part: hasattr(part, "get_text"))]


# crops


@pytest.mark.parametrize(
    ("shape", "region", "side", "expected"),
    [
        ((300, 500), (slice(0), slice(0)), 192, (115, 192)),  # no region: the whole image, in proportion
        ((500, 300), (slice(0), slice(0)), 192, (192, 115)),
        ((32, 48), (slice(0), slice(0)), 192, (64, 96)),  # enlarged to 96
        ((32, 48), (slice(0), slice(0)), 40, (27, 40)),  # but not beyond the side
        ((32, 48), (slice(4, 28), slice(2, 46)), 192, (64, 96)),  # a box that is higher than the image
        ((32, 480), (slice(8, 24), slice(40, 460)), 192, (13, 192)),
        ((100, 150), (slice(40, 60), slice(40, 60)), 192, (96, 96)),  # 30 x 30
        ((700, 1000), (slice(40, 160), slice(40, 160)), 192, (192, 192)),  # 200 x 200
        ((700, 1000), (slice(40, 110), slice(40, 140)), 250, (200, 200)),  # between both: as it is
    ],
)
def test_crops_keep_their_proportions_without_padding(shape, region, side, expected):
    sub = sub_image(*shape, region)
    picture = crop_picture(sub, (*shape, 3), side)
    assert picture.shape == (*expected, 3) and picture.dtype == np.uint8
    corners = picture[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.abs(corners.astype(int) - 120).max() <= 3  # no black padding
    assert changed(picture).any() == bool(sub.area_px)


def test_only_the_outline_is_drawn_and_where_the_region_ends():
    picture = crop_picture(sub_image(400, 600, (slice(100, 150), slice(200, 310))), (400, 600))
    # the crop is 121 pixels: (194, 64) is its corner
    drawn = changed(picture)
    inside = np.zeros_like(drawn)
    inside[100 - 64 : 150 - 64, 200 - 194 : 310 - 194] = True
    near = np.zeros_like(drawn)
    near[100 - 64 - 4 : 150 - 64 + 4, 200 - 194 - 4 : 310 - 194 + 4] = True
    core = np.zeros_like(drawn)
    core[100 - 64 + 3 : 150 - 64 - 3, 200 - 194 + 3 : 310 - 194 - 3] = True
    assert picture.shape == (121, 121, 3)
    assert not drawn[~near].any() and not drawn[core].any()
    rows, columns = np.nonzero(picture.min(axis=2) > 200)  # the white of the line
    assert not inside[rows, columns].any()
    assert len(rows) > 2 * (50 + 110)  # all the way round
    assert (rows.min(), rows.max() + 1) == pytest.approx((100 - 64, 150 - 64), abs=3)
    assert (columns.min(), columns.max() + 1) == pytest.approx((200 - 194, 310 - 194), abs=3)


@pytest.mark.parametrize("ground", [0, 128, 255])
@pytest.mark.parametrize("shape", [(40, 60), (1500, 2400)])  # enlarged, reduced
def test_a_single_pixel_is_seen_on_any_ground(ground, shape):
    sub = sub_image(*shape, (slice(20, 21), slice(30, 31)), ground)
    picture = crop_picture(sub, shape)
    assert np.abs(picture.astype(int) - ground).max() > 100


def test_a_crop_that_begins_outside_loses_its_padding_there_too():
    image = np.full((20, 20, 3), 120, np.uint8)
    image[:8] = 0
    image[:, :3] = 0
    sub = SubImage(image, np.zeros((20, 20), bool), 0, (-3, -8, 17, 12), 0, 0.0)
    picture = crop_picture(sub, (50, 15))
    assert picture.shape == (77, 96, 3)  # 12 x 15 pixels of it are inside
    assert (picture[:, : 96 * 15 // 17] == 120).all()


# sheets


def tiles(n: int) -> tuple[list[np.ndarray], list[str]]:
    """Pictures in red that differ in shape, and captions."""
    shapes = [(96, 192), (192, 100), (120, 120), (500, 30)]
    return [np.full((*shapes[i % 4], 3), (255, 0, 0), np.uint8) for i in range(n)], [f"{i:03}.png" for i in range(n)]


def red(sheet: np.ndarray) -> np.ndarray:
    return (sheet == (255, 0, 0)).all(axis=2)


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 8, 1), (8, 8, 1), (9, 8, 2), (5, 2, 3), (3, 1, 3), (0, 8, 0)])
def test_sheets_have_rows_of_columns(n, columns, rows):
    from scipy.ndimage import label

    sheet = cluster_sheet(*tiles(n), "kind_2: 57 regions in 43 images", columns=columns)
    found, count = label(red(sheet))
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3 and count == n
    tops = {np.nonzero(found == i + 1)[0].mean() // 60 for i in range(n)}
    assert len(tops) == rows
    assert (sheet[:45] != sheet[0, 0]).any()  # the title
    assert sheet.shape[0] == cluster_sheet(*tiles(n), "", columns=columns).shape[0]


def test_a_sheet_is_cut_at_the_limit_and_says_so():
    whole, cut, partial = (
        cluster_sheet(*tiles(n), "t", columns=4, limit=limit, total=total)
        for n, limit, total in ((8, 8, None), (17, 8, None), (8, 8, 17))
    )
    assert np.array_equal(cut[: len(whole) - 16], whole[:-16])
    extra = cut[len(whole) - 16 :]
    assert len(extra) > 16 and (extra < 128).any()  # a line in dark ink
    assert np.array_equal(cut, partial)
    assert not np.array_equal(cut, cluster_sheet(*tiles(8), "t", columns=4, total=18))


def test_sheets_on_both_grounds_with_any_text():
    pictures, _ = tiles(len(NAMES))
    for dark in (False, True):
        sheet = cluster_sheet(pictures, NAMES, NAMES[-2] * 3, dark=dark)
        assert (sheet[0, 0].mean() < 60) == dark
        assert (sheet[:, -16:] == sheet[0, 0]).all() and (sheet[:, :16] == sheet[0, 0]).all()  # no text runs out
        assert np.array_equal(sheet, cluster_sheet(pictures, NAMES, NAMES[-2] * 3, dark=dark))
    assert not np.array_equal(cluster_sheet(pictures[:1], ["ü"], ""), cluster_sheet(pictures[:1], ["ж"], ""))


@pytest.mark.parametrize(
    ("text", "longest", "expected"),
    [
        ("short", 5, "short"),
        ("x" * 20 + "y" * 20, 32, "x" * 14 + "…" + "y" * 17),
        ("abcdef", 3, "…ef"),
        ("abcdef", 0, "…ef"),
        ("a\nb\udcff", 32, "a?b?"),
        ("", 32, ""),
    ],
)
def test_shortened(text, longest, expected):
    assert shortened(text, longest) == expected


# t-SNE


def blobs(n: int, kinds: int = 3, d: int = 5, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    which = np.arange(n) % kinds
    centres = 20 * rng.normal(size=(kinds, d))
    return centres[which] + rng.normal(size=(n, d)), [f"kind_{i}" for i in which]


def drawn_points(axes) -> tuple[np.ndarray, list[str]]:
    """Positions and colours, cluster by cluster."""
    points = [np.asarray(dots.get_offsets()) for dots in axes.collections]
    colors = [to_hex(dots.get_facecolor()[0]) for dots in axes.collections for _ in dots.get_offsets()]
    return np.concatenate(points), colors


def test_tsne_keeps_clusters_together_and_is_deterministic():
    embeddings, clusters = blobs(45)
    figure = tsne_plot(embeddings, clusters)
    points, colors = drawn_points(figure.axes[0])
    assert points.shape == (45, 2) and len(set(colors)) == 3 and len(figure.axes) == 1
    distance = np.linalg.norm(points[:, None] - points, axis=2) + np.where(np.eye(45), np.inf, 0)
    nearest = distance.argmin(axis=1)
    assert np.mean([colors[i] == colors[j] for i, j in enumerate(nearest)]) == 1
    again, _ = drawn_points(tsne_plot(embeddings, clusters).axes[0])
    assert np.array_equal(points, again)
    assert {"by cluster", "kind_0 (15)", "kind_2 (15)"} <= set(texts(figure))
    assert np.ptp(pixels(figure)[..., :3]) > 100


def test_true_classes_have_their_clusters_colours():
    embeddings, clusters = blobs(30)
    names = {"kind_0": "thread", "kind_1": "cut", "kind_2": "hole"}
    labels = [names[name] for name in clusters]
    labels[0] = "rare"  # one of kind_0
    left, right = tsne_plot(embeddings, clusters, labels).axes
    at = {tuple(point): color for point, color in zip(*drawn_points(left), strict=True)}
    differ = [at[tuple(point)] != color for point, color in zip(*drawn_points(right), strict=True)]
    assert sum(differ) == 1
    assert [text.get_text() for text in right.get_legend().get_texts()] == [
        "cut (10)", "hole (10)", "rare (1)", "thread (9)"]  # fmt: skip


@pytest.mark.parametrize("kind", ["random", "equal", "pairs"])
@pytest.mark.parametrize(("n", "d"), [(3, 1), (4, 7), (6, 2), (13, 60)])
def test_tsne_of_little_or_equal_points(n, d, kind, recwarn):
    embeddings = np.random.default_rng(0).normal(size=(n, d))
    if kind == "equal":
        embeddings[:] = 3.3
    elif kind == "pairs":
        embeddings[1::2] = embeddings[: n // 2 * 2 : 2]
    points, _ = drawn_points(tsne_plot(embeddings, ["one"] * n).axes[0])
    assert points.shape == (n, 2) and np.isfinite(points).all()
    assert not recwarn.list


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("labelled", [False, True])
def test_tsne_of_too_few_points_says_so(n, labelled):
    figure = tsne_plot(np.ones((n, 4)), ["a"] * n, ["b"] * n if labelled else None)
    assert texts(figure).count(f"t-SNE needs at least 3 regions, got {n}") == 1 + labelled
    pixels(figure)


def test_tsne_draws_a_part_of_many():
    embeddings, clusters = blobs(60)
    figures = [tsne_plot(embeddings, clusters, seed=seed, limit=20) for seed in (0, 0, 1)]
    first, again, other = (drawn_points(figure.axes[0])[0] for figure in figures)
    assert len(first) == 20 and np.array_equal(first, again) and not np.array_equal(first, other)
    assert "20 of 60 regions, by cluster" in texts(figures[0])


def test_many_names_in_reading_order_with_unknown_last_and_grey():
    clusters = ["unknown", *(f"kind_{i}" for i in range(14))] * 2
    figure = tsne_plot(blobs(30)[0], clusters)
    (axes,) = figure.axes
    legend = [text.get_text().split()[0] for text in axes.get_legend().get_texts()]
    assert legend == [*(f"kind_{i}" for i in range(14)), "unknown"]
    looks = {(to_hex(dots.get_facecolor()[0]), len(dots.get_paths()[0])) for dots in axes.collections}
    assert len(looks) == 15  # beyond twelve colours the marker tells
    red, green, blue, _ = axes.collections[-1].get_facecolor()[0]
    assert max(red, green, blue) - min(red, green, blue) < 0.1


@pytest.mark.parametrize("dark", [False, True])
def test_figures_with_any_names_draw_on_the_given_ground(dark, recwarn):
    names = NAMES * 5
    figures = [
        tsne_plot(blobs(40)[0], names, names[::-1], dark=dark, facecolor="#102030"),
        tsne_plot(
            blobs(40)[0], [str(i) for i in range(40)], dark=dark, facecolor="#102030"
        ),  # more than a legend holds
        confusion_plot(np.eye(8), NAMES, NAMES, title=NAMES[1], dark=dark, facecolor="#102030"),
        confusion_plot(np.ones((3, 90)), "abc", [str(i) for i in range(90)], dark=dark, facecolor="#102030"),
    ]
    for figure in figures:
        assert pixels(figure)[0, 0].tolist() == [16, 32, 48, 255]
    assert "_hidden (5)" in texts(figures[0]) and "and 16 more" in texts(figures[1])
    assert "_hidden (1)" in texts(figures[2])
    assert not recwarn.list


# confusion


def test_confusion_columns_follow_the_assignment():
    matrix = np.array([[0, 2, 30, 0], [9, 1, 0, 5], [0, 8, 3, 0]])
    figure = confusion_plot(matrix, ["crack", "glue", "poke"], ["kind_0", "kind_1", "kind_2", "unknown"], title="$t_")
    (axes,) = figure.axes
    pixels(figure)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["crack (32)", "glue (15)", "poke (11)"]
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert ticks == ["kind_2 (33)", "kind_0 (9)", "kind_1 (11)", "unknown (5)"]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {
        (0, 0): "30", (2, 0): "2", (1, 1): "9", (2, 1): "1", (3, 1): "5", (0, 2): "3", (2, 2): "8"}  # fmt: skip
    framed = {(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in axes.patches}
    assert framed == {(0, 0), (1, 1), (2, 2)}
    assert sum(int(cells[at]) for at in framed) == matrix[linear_sum_assignment(matrix, maximize=True)].sum()
    opacity = axes.images[0].get_array()[..., 3]
    assert np.allclose(opacity / opacity[0, 0], matrix[:, [2, 0, 1, 3]] / matrix.sum(axis=1)[:, None] * 32 / 30)
    assert axes.get_title() == "$t_"


def test_a_class_without_a_match_has_no_frame():
    (axes,) = confusion_plot(np.array([[4, 0], [6, 0], [0, 0]]), "abc", ["kind_0", "kind_1"]).axes
    assert [(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in axes.patches] == [(0, 1)]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
def test_an_empty_confusion_says_so(shape):
    figure = confusion_plot(np.zeros(shape, int), ["a"] * shape[0], ["b"] * shape[1])
    assert "no labelled regions" in texts(figure)
    pixels(figure)


# errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: crop_picture(sub_image(300, 300, (slice(250, 260),) * 2), (200, 200)),
            InvalidArgumentError,
            "outside",
        ),
        (lambda: crop_picture(sub_image(30, 50), (30, 50), 0), InvalidArgumentError, "longest must be at least 1"),
        (lambda: cluster_sheet(tiles(2)[0], ["a"], ""), InvalidArgumentError, "2 pictures, 1 captions"),
        (lambda: cluster_sheet([], [], "", columns=0), InvalidArgumentError, "0 columns"),
        (lambda: cluster_sheet([], [], "", limit=0), InvalidArgumentError, "limit of 0"),
        (
            lambda: cluster_sheet([np.zeros((4, 6), np.uint8)], [""], ""),
            InvalidImageError,
            r"got uint8 of shape \(4, 6\)",
        ),
        (lambda: tsne_plot(np.zeros(4), ["a"] * 4), InvalidArgumentError, r"shape \(N, D\).*got \(4,\)"),
        (lambda: tsne_plot(np.zeros((4, 2)), ["a"] * 3), InvalidArgumentError, r"got \(4, 2\), \(3,\) and 2000"),
        (lambda: tsne_plot(np.zeros((4, 2)), ["a"] * 4, ["b"]), InvalidArgumentError, r"\(4,\) and \(1,\)"),
        (lambda: tsne_plot(np.zeros((4, 2)), ["a"] * 4, limit=2), InvalidArgumentError, "limit must be at least 3"),
        (lambda: tsne_plot(np.full((4, 2), np.nan), ["a"] * 4), InvalidArgumentError, "NaN or infinity"),
        (lambda: confusion_plot(np.eye(2), ["a"], ["b", "c"]), InvalidArgumentError, r"\(1, 2\).*shape \(2, 2\)"),
        (lambda: confusion_plot(-np.eye(2), "ab", "cd"), InvalidArgumentError, "0 or more"),
        (lambda: confusion_plot(np.full((1, 1), np.nan), "a", "c"), InvalidArgumentError, "0 or more"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()

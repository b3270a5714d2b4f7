"""anomalyhub.search: coreset selection against plain greedy, streaming within a budget, nearest neighbours."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from core_helpers import assert_greedy, plain_greedy, rows_in
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, NotFittedError
from anomalyhub.search import NearestNeighbours, StreamingCoreset, covering_radius, k_center_greedy

MIB = 2**20


def uniform(rng, n, d):
    return rng.random((n, d))


def clustered(rng, n, d):
    centres = rng.normal(size=(7, d))
    return centres[rng.integers(0, 7, n)] + 0.02 * rng.normal(size=(n, d))


def duplicated(rng, n, d):
    return uniform(rng, max(1, n // 5), d)[rng.integers(0, max(1, n // 5), n)]


def lattice(rng, n, d):
    return rng.integers(0, 3, (n, d))


def constant(rng, n, d):
    return np.full((n, d), 0.3)


def far_out(rng, n, d):
    return uniform(rng, n, d) + 1000


def features_of(kind, n, d, seed):
    return kind(np.random.default_rng(seed), n, d).astype(np.float32)


@settings(max_examples=200)
@given(
    kind=st.sampled_from((uniform, clustered, duplicated, lattice, constant, far_out)),
    n=st.integers(1, 90),
    d=st.integers(1, 5),
    share=st.floats(0, 1),
    pool_size=st.sampled_from((1, 2, 7, 1024)),
    with_initial=st.booleans(),
    with_allowed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_pick_is_the_farthest_point_left(kind, n, d, share, pool_size, with_initial, with_allowed, seed):
    points = features_of(kind, n, d, seed)
    rng = np.random.default_rng(seed + 1)
    initial = features_of(kind, 3, d, seed + 2) if with_initial else None
    allowed = rng.random(n) < 0.7 if with_allowed else None
    usable = n if allowed is None else int(allowed.sum())
    if usable == 0:
        return
    count = max(1, round(share * usable))
    before = points.copy()
    picks = k_center_greedy(points, count, seed=seed, initial=initial, allowed=allowed, pool_size=pool_size)
    assert picks.shape == (count,) and picks.dtype == np.int64
    assert_greedy(points, picks, initial, allowed)
    assert np.array_equal(points, before)


@settings(max_examples=60)
@given(
    kind=st.sampled_from((uniform, clustered, far_out)),  # no ties: the picks themselves must agree
    n=st.integers(40, 500),
    pool_size=st.sampled_from((1, 3, 16, 100, 1024)),
    seed=st.integers(0, 1000),
)
def test_picks_are_those_of_plain_greedy(kind, n, pool_size, seed):
    points = features_of(kind, n, 8, seed)
    picks = k_center_greedy(points, n // 5 + 1, seed=seed, pool_size=pool_size)
    expected, radii = plain_greedy(points, n // 5 + 1, first=picks[0])
    differ = np.flatnonzero(picks != expected)
    if len(differ):  # only a tie within rounding may tell them apart
        assert_greedy(points, picks)
        gaps = np.abs(np.diff(radii[1:])) / radii[2:]
        assert gaps.min() < 1e-3, f"pick {differ[0]} of {n // 5 + 1} differs without a tie"


@pytest.mark.parametrize("pool_size", [64, 1024, 10**6])
def test_many_points_and_picks(pool_size):
    """More rows, and more picks, than one block of the matrix products holds."""
    points = features_of(uniform, 6000, 3, 0)
    picks = k_center_greedy(points, 1500, pool_size=pool_size)
    expected, radii = plain_greedy(points, 1500, first=picks[0])
    assert_greedy(points, picks)
    assert np.array_equal(picks[:100], expected[:100])  # later ones meet ties within rounding
    assert covering_radius(points, points[picks]) == pytest.approx(radii[-1], rel=0.01)


def test_first_pick_is_farthest_on_average():
    points = features_of(uniform, 9, 4, 3)  # at most ten points: all of them are the random ones
    mean = np.linalg.norm(points[:, None] - points[None], axis=2).mean(1)
    assert k_center_greedy(points, 1, seed=5)[0] == mean.argmax()
    allowed = np.arange(9) != mean.argmax()
    mean = np.linalg.norm(points[:, None] - points[allowed][None], axis=2).mean(1)
    assert k_center_greedy(points, 1, seed=5, allowed=allowed)[0] == np.where(allowed, mean, 0).argmax()


def test_the_seed_fixes_the_picks():
    points = features_of(uniform, 400, 4, 0)
    runs = [k_center_greedy(points, 40, seed=seed) for seed in (1, 1, 2, 3, 4)]
    assert np.array_equal(runs[0], runs[1])
    assert len({run[0] for run in runs}) > 1  # another seed may begin elsewhere


def test_all_points_can_be_picked():
    for kind in (uniform, duplicated, constant):
        points = features_of(kind, 50, 3, 0)
        for pool_size in (1, 8, 1024):
            assert sorted(k_center_greedy(points, 50, pool_size=pool_size)) == list(range(50))


def test_initial_centres_count_as_covered():
    points = features_of(uniform, 300, 2, 0)
    initial = points[points[:, 0] < 0.5]
    picks = k_center_greedy(points, 20, initial=initial)
    assert points[picks[0], 0] > 0.9  # the far side first
    assert np.array_equal(picks, plain_greedy(points, 20, initial=initial)[0])
    none = np.empty((0, 2), np.float32)
    assert np.array_equal(k_center_greedy(points, 20, initial=none), k_center_greedy(points, 20))


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_points_that_are_not_allowed_play_no_part(scale):
    points = features_of(uniform, 400, 5, 0)
    allowed = np.arange(400) % 4 != 0
    picks = k_center_greedy(points, 60, allowed=allowed)
    changed = points.copy()
    changed[~allowed] = scale * (1 - points[~allowed][::-1])
    assert np.array_equal(k_center_greedy(changed, 60, allowed=allowed), picks)


def test_read_only_other_types_and_other_orders_of_memory():
    points = features_of(uniform, 60, 4, 0)
    expected = k_center_greedy(points, 9)
    frozen = points.copy()
    frozen.setflags(write=False)
    for same in (frozen, points.astype(np.float64), np.asfortranarray(points), points[:, ::-1][:, ::-1]):
        assert np.array_equal(k_center_greedy(same, 9), expected)


def test_progress_rises_to_one_and_may_stop_the_call():
    points, seen = features_of(uniform, 500, 4, 0), []
    k_center_greedy(points, 100, pool_size=20, progress=lambda share, text: seen.append((share, text)))
    shares = [share for share, _ in seen]
    assert len(seen) > 2 and shares == sorted(shares) and seen[-1] == (1.0, "coreset 100/100")

    def stop(share, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        k_center_greedy(points, 100, progress=stop)


SQUARE = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    ("features", "n_select", "options", "message"),
    [
        (SQUARE, 0, {}, r"n_select must be between 1 and the number of points \(4\), got 0"),
        (SQUARE, 5, {}, r"number of points \(4\), got 5"),
        (SQUARE, -1, {}, "got -1"),
        (SQUARE, 3, {"allowed": np.array([True, False, True, False])}, r"number of points \(2\), got 3"),
        (SQUARE, 1, {"allowed": np.zeros(4, bool)}, r"number of points \(0\), got 1"),
        (SQUARE, 1, {"allowed": np.ones(3, bool)}, r"allowed must have shape \(4,\), got \(3,\)"),
        (SQUARE[0], 1, {}, r"features must have shape \(N, D\).*got \(3,\)"),
        (SQUARE[None], 1, {}, r"got \(1, 4, 3\)"),
        (SQUARE[:0], 1, {}, r"got \(0, 3\)"),
        (SQUARE[:, :0], 1, {}, r"got \(4, 0\)"),
        (np.where(SQUARE == 5, np.nan, SQUARE), 2, {}, "features must be finite, got NaN"),
        (np.where(SQUARE == 5, np.inf, SQUARE), 2, {}, "finite"),
        (np.where(SQUARE == 5, np.inf, np.where(SQUARE == 6, -np.inf, 0)), 2, {}, "finite"),  # their sum is NaN
        (SQUARE * 1e20, 2, {}, "must not exceed"),  # squares would overflow
        (SQUARE, 2, {"initial": SQUARE[:, :2]}, r"initial must have shape \(N, 3\).*got \(4, 2\)"),
        (SQUARE, 2, {"initial": np.full((1, 3), np.nan)}, "initial must be finite"),
    ],
)
def test_wrong_arguments_of_k_center(features, n_select, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        k_center_greedy(features, n_select, **options)


def test_covering_radius_against_all_pairs():
    for kind in (uniform, clustered, far_out):
        points, centres = features_of(kind, 3000, 4, 0), features_of(kind, 40, 4, 1)
        pairs = np.linalg.norm(points[:, None].astype(np.float64) - centres[None], axis=2)
        assert covering_radius(points, centres) == pytest.approx(pairs.min(1).max(), rel=1e-4)
    assert covering_radius(points, points) == pytest.approx(0, abs=2e-3)
    with pytest.raises(InvalidArgumentError, match=r"centres must have shape \(N, 4\)"):
        covering_radius(points, centres[:, :3])


def stream(rows, groups=-1, *, capacity=None, chunk=97, **options):
    """A coreset that was fed in chunks, with room for `capacity` rows."""
    options = {"fraction": 0.1, "projection": None, **options}
    per_row = StreamingCoreset(rows.shape[1], byte_budget=2**40, **options)._bytes_per_row()
    budget = 2**30 if capacity is None else int(capacity * per_row) + 1
    coreset = StreamingCoreset(rows.shape[1], byte_budget=budget, **options)
    groups = np.broadcast_to(groups, len(rows))
    for start in range(0, len(rows), chunk):
        coreset.add(rows[start : start + chunk], groups[start : start + chunk])
    return coreset


@pytest.mark.parametrize("reserve", [0, 300, 10**9])
def test_what_fits_is_selected_exactly(reserve):
    rows = features_of(clustered, 900, 6, 0)
    coreset = StreamingCoreset(6, fraction=0.1, projection=None, seed=4)
    if reserve < 10**9:
        coreset.reserve(reserve)
    for start in range(0, 900, 130):
        coreset.add(rows[start : start + 130])
    assert not coreset.blockwise and coreset.n_seen == 900
    expected = rows[k_center_greedy(rows, 90, seed=4)]
    assert np.array_equal(coreset.select(), expected)
    assert np.array_equal(coreset.select(), expected)  # selecting changes nothing
    initial = rows[:50]
    assert np.array_equal(coreset.select(initial=initial), rows[k_center_greedy(rows, 90, initial=initial)])


def test_projection_measures_distances_but_full_rows_are_kept():
    rows = features_of(clustered, 1200, 96, 0)
    coreset = stream(rows, projection=24, fraction=0.05)
    bank = coreset.select()
    assert bank.shape == (60, 96) and rows_in(bank, rows).all()
    exact = covering_radius(rows, rows[k_center_greedy(rows, 60)])
    assert covering_radius(rows, bank) < 1.3 * exact
    assert np.array_equal(stream(rows, projection=24, fraction=0.05).select(), bank)
    assert not np.array_equal(stream(rows, projection=24, fraction=0.05, seed=1).select(), bank)
    assert StreamingCoreset(24, fraction=0.1, projection=24).projection is None  # nothing to gain


@pytest.mark.parametrize("kind", [uniform, clustered, duplicated])
@pytest.mark.parametrize(
    ("capacity", "fraction"),
    [
        (12_000, 0.02),
        (12_000, 0.1),  # six times the bank
        (6000, 0.1),  # three times the bank: hardly a choice is left
        (6000, 0.25),  # the bank is cut to half the capacity
    ],
)
def test_blockwise_covers_nearly_as_well(kind, capacity, fraction):
    rows = features_of(kind, 20_000, 6, 0)
    coreset = stream(rows, capacity=capacity, fraction=fraction, chunk=784)
    bank = coreset.select()
    assert coreset.blockwise and coreset.n_seen == len(rows)
    wanted = min(round(fraction * 20_000), capacity // 2)
    assert len(bank) == wanted and rows_in(bank, rows).all()
    exact = covering_radius(rows, rows[k_center_greedy(rows, wanted)])
    assert covering_radius(rows, bank) <= 1.25 * exact + 1e-3


def test_blockwise_is_better_than_dropping_rows_at_random():
    rows = features_of(clustered, 20_000, 6, 0)
    bank = stream(rows, capacity=10_000, fraction=0.1).select()
    half = rows[np.random.default_rng(0).permutation(20_000)[:10_000]]
    random = half[k_center_greedy(half, 2000)]
    assert covering_radius(rows, bank) < 0.85 * covering_radius(rows, random)


def test_rare_rows_survive_wherever_they_come_in_the_stream():
    for at in (0, 7000, 19_999):
        rows = features_of(uniform, 20_000, 5, 1)
        rows[at] = 9.0
        assert (stream(rows, capacity=3000, fraction=0.01).select() == 9.0).all(1).any()


@pytest.mark.parametrize("capacity", [None, 500], ids=["in one piece", "blockwise"])
@pytest.mark.parametrize("projection", [None, 4])
def test_selection_without_a_group_is_independent_of_its_rows(capacity, projection):
    rows = features_of(clustered, 2000, 6, 0)
    groups = np.arange(2000) // 20 % 4 - 1  # images of 20 patches, in folds -1 to 2
    options = {"capacity": capacity, "projection": projection}
    expected = stream(rows, groups, **options).select(without=1)
    assert len(expected) == 150 and not rows_in(expected, rows[groups == 1]).any()
    for wild in (1e5 * rows[::-1], np.zeros_like(rows), np.roll(rows, 20, axis=0)):
        changed = np.where((groups == 1)[:, None], wild, rows)
        assert np.array_equal(stream(changed, groups, **options).select(without=1), expected)


def test_without_a_group_that_fits_equals_a_selection_that_never_saw_it():
    rows = features_of(uniform, 600, 5, 0)
    groups = np.arange(600) % 3
    apart = stream(rows[groups != 2], fraction=0.2).select()
    assert np.array_equal(stream(rows, groups, fraction=0.2).select(without=2), apart)


def traced_peak(n_rows, budget, reserved):
    """Bytes held at the end, and the most that were allocated on the way, for rows that come 500 at a time."""
    rng = np.random.default_rng(0)
    coreset = StreamingCoreset(128, fraction=0.1, byte_budget=budget, projection=8)
    tracemalloc.start()
    try:
        if reserved:
            coreset.reserve(n_rows)
        for _ in range(0, n_rows, 500):
            coreset.add(rng.random((500, 128), dtype=np.float32))
        coreset.select()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert coreset.n_seen == n_rows and coreset.blockwise
    return sum(value.nbytes for value in vars(coreset).values() if isinstance(value, np.ndarray)), peak


@pytest.mark.parametrize("reserved", [True, False])
def test_memory_does_not_grow_with_the_stream(reserved):
    budget = 3 * MIB  # room for 4750 rows
    held, peak = traced_peak(8000, budget, reserved)
    held_later, peak_later = traced_peak(40_000, budget, reserved)  # 20 MiB
    assert held_later == held < budget
    assert peak < budget + 20 * MIB  # thinning takes the pairwise distances of one cell, whatever the budget
    assert peak_later < peak + 4 * MIB


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"byte_budget": 10_000}, r"a byte budget of 10000 holds \d+ patches of 100 values: give at least \d+ bytes"),
        ({"byte_budget": 0}, "holds 0 patches"),
        ({"fraction": 0}, r"fraction must be in \(0, 1\], got 0"),
        ({"fraction": 1.01}, "got 1.01"),
        ({"fraction": float("nan")}, "got nan"),
    ],
)
def test_wrong_arguments_of_a_coreset(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        StreamingCoreset(100, **{"fraction": 0.1, **options})


def test_the_least_budget_named_in_the_error_is_enough():
    with pytest.raises(InvalidArgumentError) as caught:
        StreamingCoreset(100, fraction=0.1, byte_budget=1)
    need = int(str(caught.value).split("at least ")[1].split()[0])
    rows = features_of(uniform, 1000, 100, 0)
    coreset = StreamingCoreset(100, fraction=0.1, byte_budget=need)
    coreset.add(rows)
    assert 16 <= len(coreset.select()) <= 64


def test_an_empty_or_wrong_addition():
    coreset = StreamingCoreset(3, fraction=0.5)
    with pytest.raises(InvalidArgumentError, match="at least one patch"):
        coreset.select()
    coreset.add(np.empty((0, 3), np.float32))
    with pytest.raises(InvalidArgumentError, match=r"rows must have shape \(n, 3\), got \(4, 1\)"):
        coreset.add(np.ones((4, 1), np.float32))  # numpy would stretch it
    coreset.add(SQUARE, 7)
    with pytest.raises(InvalidArgumentError, match="at least one patch"):
        coreset.select(without=7)
    assert coreset.select(without=0).shape == (2, 3) and coreset.n_seen == 4


def test_merged_coresets_stand_for_all_they_have_seen():
    rows = features_of(clustered, 8000, 6, 0)
    groups = np.arange(8000) // 50 % 3 - 1
    united = stream(rows[:0], fraction=0.05)
    for half in (slice(0, 5000), slice(5000, 8000)):
        kept, of, seen = stream(rows[half], groups[half], fraction=0.05, capacity=4000).compact()
        assert len(kept) == len(of) < 4000 and sum(seen.values()) == len(rows[half])
        united.merge(kept, of, seen)
    assert united.n_seen == 8000 and united.blockwise
    bank = united.select()
    assert len(bank) == 400 and rows_in(bank, rows).all()
    assert covering_radius(rows, bank) < 1.15 * covering_radius(rows, rows[k_center_greedy(rows, 400)])
    apart = united.select(without=1)
    assert len(apart) == round(0.05 * (groups != 1).sum()) and not rows_in(apart, rows[groups == 1]).any()


def test_plan_tells_what_happens():
    coreset = StreamingCoreset(32, fraction=0.1, byte_budget=MIB, projection=None)
    fits, exceeds = coreset.plan(1000), coreset.plan(10**6)
    assert (fits.n_patches, fits.n_bank, fits.bank_bytes, fits.blockwise) == (1000, 100, 100 * 32 * 4, False)
    assert exceeds.blockwise and exceeds.buffer_bytes <= MIB and exceeds.n_bank <= coreset.capacity / 2
    assert exceeds.seconds > fits.seconds > 0
    assert str(fits).startswith("1,000 patches x 32 -> bank of 100 (0 MiB), buffer 0 MiB, selected in one piece, about")
    assert "selected blockwise" in str(exceeds) and "1,000,000 patches" in str(exceeds)


def brute_force(bank, patches, k):
    pairs = np.linalg.norm(patches[:, None].astype(np.float64) - bank[None].astype(np.float64), axis=2)
    rows = np.argsort(pairs, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(pairs, rows, 1), rows


@pytest.mark.parametrize("n_patches", [1, 5, 300])  # faiss takes another way for many
@pytest.mark.parametrize("k", [1, 4])
def test_flat_search_against_all_pairs(n_patches, k):
    bank, patches = features_of(uniform, 700, 9, 0), features_of(uniform, n_patches, 9, 1)
    distances, rows = NearestNeighbours("flat").fit(bank).query(patches, k)
    expected, expected_rows = brute_force(bank, patches, k)
    assert distances.shape == rows.shape == (n_patches, k)
    assert distances.dtype == np.float32 and rows.dtype == np.int64
    np.testing.assert_allclose(distances, expected, rtol=1e-4)
    assert np.array_equal(rows, expected_rows)


@pytest.mark.parametrize("kind", [uniform, clustered, duplicated])
@pytest.mark.parametrize("n_probe", [1, 4, None])
def test_an_inverted_file_never_understates(kind, n_probe):
    bank, patches = features_of(kind, 3000, 6, 0), features_of(kind, 400, 6, 1)
    search = NearestNeighbours("ivf", n_probe=n_probe).fit(bank)
    distances, rows = search.query(patches, 3)
    exact, _ = brute_force(bank, patches, 3)
    assert (distances >= exact - 1e-5).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    own = np.linalg.norm(patches[:, None] - bank[rows], axis=2)  # a distance belongs to the row beside it
    np.testing.assert_allclose(distances, own, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(search.query_exact(patches, 3)[0], exact, rtol=1e-3, atol=1e-4)
    if n_probe == 1 and kind is uniform:
        assert (distances > exact + 1e-3).any()  # or this test would show nothing


@settings(max_examples=60)
@given(
    kind=st.sampled_from((uniform, clustered, duplicated)),
    n_bank=st.integers(30, 600),
    n_patches=st.integers(1, 150),
    n_probe=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_farthest_patch_is_that_of_exact_search(kind, n_bank, n_patches, n_probe, seed):
    bank, patches = features_of(kind, n_bank, 4, seed), features_of(uniform, n_patches, 4, seed + 1)
    search = NearestNeighbours("ivf", n_probe=n_probe).fit(bank)
    distances = search.query(patches)[0][:, 0]
    before = distances.copy()
    best, score = search.farthest(patches, distances)
    exact = brute_force(bank, patches, 1)[0][:, 0]
    assert score == pytest.approx(exact.max(), rel=1e-4, abs=1e-5)
    assert exact[best] == pytest.approx(score, rel=1e-4, abs=1e-5)
    assert (distances <= before + 1e-6).all() and (distances >= exact - 1e-5).all()
    flat = NearestNeighbours("flat").fit(bank)
    assert flat.farthest(patches, flat.query(patches)[0][:, 0])[1] == pytest.approx(score, rel=1e-4, abs=1e-3)


def test_auto_is_exact_for_small_banks():
    small, large = features_of(uniform, 4096, 3, 0), features_of(uniform, 4097, 3, 0)
    assert NearestNeighbours("auto").fit(small).centroids_ is None
    assert NearestNeighbours("auto").fit(large).centroids_ is not None
    assert NearestNeighbours("flat").fit(large).centroids_ is None


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_float16_storage_halves_the_bank_and_rounds_it(kind):
    bank, patches = features_of(uniform, 900, 8, 0), features_of(uniform, 200, 8, 1)
    full = NearestNeighbours(kind).fit(bank)
    half = NearestNeighbours(kind, storage="float16").fit(bank)
    assert half.bank_.dtype == np.float16 and half.bank_.nbytes * 2 == full.bank_.nbytes
    assert half.nbytes() < 0.6 * full.nbytes()
    rounded = bank.astype(np.float16).astype(np.float32)
    exact, rows = brute_force(rounded, patches, 1)
    found, found_rows = half.query_exact(patches)
    np.testing.assert_allclose(found, exact, rtol=1e-4)
    assert np.array_equal(found_rows, rows)
    np.testing.assert_allclose(found, full.query_exact(patches)[0], atol=2e-3)


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_refitting_a_bank_with_its_centroids_gives_the_same_answers(storage):
    bank, patches = features_of(clustered, 2500, 6, 0), features_of(uniform, 300, 6, 1)
    first = NearestNeighbours("ivf", n_probe=2, storage=storage).fit(bank)
    again = NearestNeighbours("ivf", n_probe=2, storage=storage, seed=9)
    again.fit(first.bank_.astype(np.float32), first.centroids_)
    for one, other in zip(first.query(patches, 5), again.query(patches, 5), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(again.bank_, first.bank_) and np.array_equal(again.centroids_, first.centroids_)


@pytest.mark.parametrize("kind", ["auto", "flat", "ivf"])
@pytest.mark.parametrize("n_bank", [1, 2, 3, 40])
def test_more_neighbours_than_the_bank_has(kind, n_bank):
    bank, patches = features_of(uniform, n_bank, 3, 0), features_of(uniform, 4, 3, 1)
    distances, rows = NearestNeighbours(kind).fit(bank).query(patches, 50)
    assert distances.shape == (4, n_bank) and all(sorted(row) == list(range(n_bank)) for row in rows)
    np.testing.assert_allclose(distances, brute_force(bank, patches, 50)[0], rtol=1e-4)


def test_a_bank_of_one_point_many_times():
    bank = np.full((500, 4), 0.25, np.float32)
    for kind in ("flat", "ivf"):
        distances, _ = NearestNeighbours(kind).fit(bank).query(bank[:3] + np.float32(1), 2)
        np.testing.assert_allclose(distances, 2.0, rtol=1e-5)


def test_no_patch_is_no_answer():
    search = NearestNeighbours().fit(SQUARE)
    distances, rows = search.query(SQUARE[:0], 2)
    assert distances.shape == rows.shape == (0, 2)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: NearestNeighbours("tree"), InvalidArgumentError, "index must be auto, flat or ivf, got 'tree'"),
        (lambda: NearestNeighbours(storage="int8"), InvalidArgumentError, "storage must be float32 or float16"),
        (lambda: NearestNeighbours(n_probe=0), InvalidArgumentError, "n_probe must be at least 1, got 0"),
        (lambda: NearestNeighbours().fit(SQUARE[0]), InvalidArgumentError, r"bank must have shape \(M, D\)"),
        (lambda: NearestNeighbours().fit(SQUARE[:0]), InvalidArgumentError, r"got \(0, 3\)"),
        (lambda: NearestNeighbours("ivf").fit(SQUARE, SQUARE[:, :2]), InvalidArgumentError, r"shape \(cells, 3\)"),
        (lambda: NearestNeighbours().query(SQUARE), NotFittedError, r"not fitted: call fit\(\) first"),
        (lambda: NearestNeighbours().query_exact(SQUARE), NotFittedError, "not fitted"),
        (lambda: NearestNeighbours().nbytes(), NotFittedError, "not fitted"),
        (
            lambda: NearestNeighbours().fit(SQUARE).query(SQUARE[:, :2]),
            InvalidArgumentError,
            r"shape \(P, 3\), got \(4, 2\)",
        ),
        (lambda: NearestNeighbours().fit(SQUARE).query_exact(SQUARE[0]), InvalidArgumentError, r"got \(3,\)"),
    ],
)
def test_wrong_use_of_nearest_neighbours(act, error, message):
    with pytest.raises(error, match=message) as caught:
        act()
    assert isinstance(caught.value, AnomalyHubError)

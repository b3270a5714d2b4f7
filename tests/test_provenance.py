"""Support sets, and what weights know of the images that they were trained on."""

from __future__ import annotations

import numpy as np
import pytest
from core_helpers import normals, photo

from anomalyhub.data import support_sets
from anomalyhub.detection.provenance import Provenance, digest
from anomalyhub.errors import InvalidArgumentError


def test_support_sets_are_fixed_distinct_and_nested():
    two, eight = support_sets(761, 2), support_sets(761, 8)
    assert len(two) == len(eight) == 10 and two == support_sets(761, 2)
    assert support_sets(5, 2, 3) == ((0, 3), (2, 3), (0, 2))  # these very ones, for whoever compares figures
    for few, more in zip(two, eight, strict=True):
        assert len(set(more)) == 8 and set(few) < set(more) and max(more) < 761 and list(more) == sorted(more)
    assert len(set(eight)) == 10 and support_sets(3, 3, 2) == ((0, 1, 2), (0, 1, 2))


@pytest.mark.parametrize(
    ("n_images", "shots", "reason"), [(3, 4, "4 support images .* there are 3"), (3, 0, "0 shots")]
)
def test_impossible_support_sets(n_images, shots, reason):
    with pytest.raises(InvalidArgumentError, match=reason):
        support_sets(n_images, shots)


def test_it_knows_its_images_whatever_their_file():
    seen = Provenance.of({"tile": normals(3), "cloth": normals(2, start=3)})
    assert seen.products == ("cloth", "tile") and len(seen.digests) == 5
    assert seen.knows(photo(0, (60, 40)).image) and not seen.knows(photo(9).image)
    changed = photo(0, (60, 40)).image.copy()
    changed[0, 0, 0] ^= 1
    assert not seen.knows(changed)
    assert digest(np.zeros((2, 3, 3), np.uint8)) != digest(np.zeros((3, 2, 3), np.uint8))


def test_it_is_saved_and_restored():
    seen = Provenance.of({"tile": normals(3)})
    config, arrays = seen.state()
    again = Provenance.restore(config, arrays)
    assert again.products == ("tile",) and again.knows(photo(1).image) and np.array_equal(again.digests, seen.digests)
    assert Provenance.restore({}, {}) is None


@pytest.mark.parametrize(
    ("product", "known", "warning"),
    [("tile", 0, "a product named tile"), ("cloth", 2, "2 of the 9 images"), ("cloth", 0, None), (None, 0, None)],
)
def test_the_warning(product, known, warning):
    said = Provenance.of({"tile": normals(1)}).overlap(product, known, 9)
    assert said is None if warning is None else warning in said

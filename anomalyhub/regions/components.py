"""How many connected components every threshold leaves, from one pass over the pixels instead of one per threshold."""

from __future__ import annotations

import functools

import cv2
import numpy as np

# Neighbours (row, column) clockwise from the east; those in the first half come later in reading order.
_RING = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])
_STRIDE = 8  # of the smoothed copy that orders equal pixels
_LONG_WALK = 512  # steps


def component_counts(image: np.ndarray, lowest: int = 0) -> np.ndarray:
    """The number of 8-connected components of ``image > t`` for t = 0 ... 255, (256,) int64.

    image   (H, W) uint8
    lowest  thresholds below it are not asked for; their counts are those of a part of the image

    This is the merge tree of the component tree (Najman & Couprie, 2006; Carr, Snoeyink & Axen, 2003), reduced to what
    counting needs. Pixels are put into a strict order, by value and then by a smoothed copy of the image, and added
    from the highest down: one without a higher neighbour starts a component; one whose higher neighbours fall into
    several arcs of its ring may join components. All others change nothing, and there are few of these on a smooth map.
    From each arc an ascending path leads to the start of its component, and union-find over the starts tells which
    joins are real.
    """
    lowest = max(0, int(lowest))
    x, y, width, height = cv2.boundingRect((image > lowest).view(np.uint8))
    if not width:
        return np.zeros(256, np.int64)
    values = cv2.copyMakeBorder(image[y : y + height, x : x + width], 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    code, width = _higher_neighbours(values), width + 2
    is_special, arcs, ascent = _link_tables()
    special = np.flatnonzero(cv2.LUT(code.reshape(values.shape), is_special).ravel().view(bool))
    values = values.ravel()
    special = special[values[special] > lowest]
    codes, levels = code[special], values[special]
    starts, joins = special[codes == 0], special[codes != 0]
    births = np.bincount(levels[codes == 0], minlength=256)

    offsets = _RING @ (width, 1)
    members = arcs[code[joins]]
    row, arc = np.nonzero(members >= 0)
    tops = _climb(joins[row] + offsets[members[row, arc]], code, np.where(ascent < 0, 0, offsets[ascent]), values)
    ends = np.searchsorted(starts, tops)
    first = ends[arc == 0][row]
    real = first != ends
    deaths = _merges(first[real], ends[real], values[joins][row][real], len(starts))
    alive = np.cumsum((births - deaths)[::-1])[::-1]  # components of image >= t
    return np.append(alive[1:], 0)


def _higher_neighbours(values: np.ndarray) -> np.ndarray:
    """One bit per neighbour of `_RING` that is higher, (H * W,) uint8; meaningless where `values` is 0.

    Equal pixels, which quantising and eroding make many of, are ordered by a smoothed copy, so that plateaus rise
    evenly towards their higher side, and last by their place. It is a fraction below 1 added to the value.
    """
    height, width = values.shape
    size = (max(1, width // _STRIDE), max(1, height // _STRIDE))
    coarse = cv2.resize(values, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    order = cv2.resize(coarse / np.float32(256.5), (width, height), interpolation=cv2.INTER_LINEAR)
    order = cv2.accumulate(values, order).ravel()
    # each pair is compared once: `code` gets the bit of the later pixel, `below` that of the earlier one if it is lower
    code, below = np.zeros((2, order.size), np.uint8)
    higher = np.empty(order.size, bool)
    for bit, offset in enumerate((_RING[:4] @ (width, 1)).tolist()):
        inside = order.size - offset
        np.greater_equal(order[offset:], order[:inside], out=higher[:inside])
        flags = higher[:inside].view(np.uint8)
        if bit:
            flags *= np.uint8(1 << bit)
        code[:inside] += flags
        below[offset:] += flags
    below *= np.uint8(16)
    code -= below
    code += np.uint8(0xF0)  # an earlier pixel that is not lower is higher
    return code


@functools.cache
def _link_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each code: (256,) uint8, 1 unless the higher neighbours form one arc; (256, 4) a neighbour of each arc, or
    -1; (256,) the neighbour to climb to, or -1.

    Neighbours of one arc touch each other, so that they are connected without the pixel. Its member farthest from the
    lower ones is taken: across the contour lines, which makes the way up short.
    """
    arcs = np.full((256, 4), -1, np.int64)
    for code in range(256):
        for index, arc in enumerate(_arcs([i for i in range(8) if code >> i & 1])):
            lower = [i for i in range(8) if i not in arc]
            depth = {i: min((min((i - j) % 8, (j - i) % 8) for j in lower), default=0) for i in arc}
            arcs[code, index] = max(arc, key=depth.__getitem__)
    is_special = ((arcs >= 0).sum(axis=1) != 1).astype(np.uint8)
    return is_special, arcs, arcs[:, 0].copy()


def _arcs(ring: list[int]) -> list[list[int]]:
    """Ring positions in groups that are 8-connected among themselves."""
    groups: list[list[int]] = []
    for i in ring:
        touching = [group for group in groups if any(np.abs(_RING[i] - _RING[j]).max() == 1 for j in group)]
        groups = [group for group in groups if group not in touching] + [[i, *sum(touching, [])]]
    return groups


def _climb(at: np.ndarray, code: np.ndarray, steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where the ascending paths from `at` end. steps: (256,) what to add to the place, by code; 0 at a top."""
    for _ in range(_LONG_WALK // 8):
        moved = steps.take(code.take(at))
        if not moved.any():
            return at
        at = at + moved
        for _ in range(7):  # looking whether all have arrived costs as much as a step
            at += steps.take(code.take(at))
    here = np.arange(code.size)  # a maze: let every pixel look ahead 1, 2, 4, 8 ... steps
    ahead = np.where(values > 0, here + steps[code], here)
    while not np.array_equal(further := ahead[ahead], ahead):
        ahead = further
    return ahead[at]


def _merges(a: np.ndarray, b: np.ndarray, levels: np.ndarray, n: int) -> np.ndarray:
    """How many of the edges a - b, from the highest level down, join two components; (256,) counts by level."""
    merged = [0] * 256
    parent = list(range(n))
    order = np.argsort(-levels.astype(np.int64), kind="stable")
    for i, j, level in zip(a[order].tolist(), b[order].tolist(), levels[order].tolist(), strict=True):
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        while parent[j] != j:
            parent[j] = j = parent[parent[j]]
        if i != j:
            parent[i] = j
            merged[level] += 1
    return np.array(merged)

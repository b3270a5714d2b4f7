"""How many connected components every threshold leaves, from one pass over the pixels instead of one per threshold."""

from __future__ import annotations

import functools

import cv2
import numpy as np

# Neighbours (row, column) clockwise from the east; those in the first half come later in reading order, even ones are
# sides, odd ones corners.
_RING = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])
_STRIDE = 4  # of the smoothed copy that orders equal values
_ROUGH = 8  # blocks per listed link below which pixels are taken
_LONG_WALK = 512  # steps


def component_counts(image: np.ndarray, lowest: int = 0) -> np.ndarray:
    """The number of 8-connected components of ``image > t`` for t = 0 ... 255, (256,) int64.

    image   (H, W) uint8
    lowest  thresholds below it are not asked for; their counts are not to be used

    This is the merge tree of the component tree (Najman & Couprie, 2006; Carr, Snoeyink & Axen, 2003), reduced to what
    counting needs, and on blocks of 2 x 2 pixels (`_blocks`). Blocks are put into a strict order, by value and then by
    a smoothed copy of the image, and added from the highest down: one without a higher neighbour starts a component;
    one whose higher neighbours fall into several arcs of its ring may join components. All others change nothing, so
    that these, few on a smooth map, are the nodes: from each arc an ascending path leads to another one, and union-find
    over these and the listed links tells what is joined. Noise that was not eroded has too many listed links: there the
    pixels themselves are taken, and corners touch as sides do.
    """
    lowest = max(0, int(lowest))
    values, code, width, links = _blocks(image)
    is_rough = links.shape[1] > len(values) // _ROUGH
    if is_rough:
        values, code, width, links = _single_pixels(image)
    arcs, ascent = _link_tables(corners=is_rough)
    offsets = np.append(_RING @ (width, 1), 0)  # -1 is no neighbour
    moves = cv2.LUT(code, offsets[ascent].astype(np.min_scalar_type(-2 * width))).ravel()
    nodes = np.flatnonzero(moves == 0)
    nodes = nodes[values[nodes] > lowest]
    levels, members = values[nodes], arcs[code[nodes]]
    row, arc = np.nonzero(members >= 0)
    links = links[:, links[2] > lowest]
    at = np.concatenate([links[0], links[1], nodes[row] + offsets[members[row, arc]]])
    ends, n = np.searchsorted(nodes, _climb(at, moves)), links.shape[1]
    merged = _merges(np.append(ends[:n], row), ends[n:], np.append(links[2], levels[row]), len(nodes))
    alive = np.cumsum((np.bincount(levels, minlength=256) - merged)[::-1])[::-1]  # components of image >= t
    return np.append(alive[1:], 0)


def _blocks(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """A graph of blocks, whose components above every level are those of the image's pixels.

    The four pixels of a 2 x 2 block touch each other, so that blocks can stand for pixels, each with the highest value
    of its four. The level down to which neighbours are linked follows from the pixels along their border. Between sides
    it is the lower of the two values, and a diagonal link is needed only where both ends are higher than the two other
    blocks there: an eroded map is without gaps that are narrower than the square, so that exceptions are few.

    Returns the values of the blocks, (h * w,) uint8, with a frame that is 0; their codes as `_higher_neighbours` gives
    them, without the exceptions; w; and the links that those call for, (3, n): places of two blocks, and the level.
    """
    pixels = _pixels(image)
    width = pixels.shape[2]
    pixels = pixels.reshape(4, -1)
    nw, ne, sw, se = pixels
    (west, east), (north, south) = np.maximum(pixels[:2], pixels[2:]), np.maximum(pixels[::2], pixels[1::2])
    values = np.maximum(west, east)
    code = _higher_neighbours(values.reshape(-1, width))

    # of 2 x 2 blocks p q above r s
    n = len(values) - width - 1
    p, q, r, s = values[:n], values[1 : n + 1], values[width:-1], values[width + 1 :]
    across = np.minimum(east[:-1], west[1:])
    down = np.minimum(south[:-width], north[width:])
    odd = across[:n] != np.minimum(p, q)
    odd |= down[:n] != np.minimum(p, r)
    odd |= np.minimum(p, s) > np.maximum(q, r)
    odd |= np.minimum(q, r) > np.maximum(p, s)
    at = np.flatnonzero(odd)
    near = np.concatenate([at, at - 1, at - width])  # both sides of a weak link: it may not replace a diagonal one
    falling, rising = np.minimum(se[near], nw[near + width + 1]), np.minimum(sw[near + 1], ne[near + width])
    links = [(at, at + 1, across[at]), (at, at + width, down[at])]
    links += [(near, near + width + 1, falling), (near + 1, near + width, rising)]
    code[at] &= np.uint8(0xFA)  # no links to the east and south
    code[at + 1] &= np.uint8(0xEF)  # to the west
    code[at + width] &= np.uint8(0xBF)  # to the north
    beside = np.array([-width, 1 - width, -1, 1, width - 1, width, width + 1])
    code[at[:, None] + beside] &= np.uint8(0x55)  # a corner counts through the sides, which may no longer lead to it
    return values, code, width, np.concatenate(links, axis=1)


def _single_pixels(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """As `_blocks`, of pixels."""
    values = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return values.ravel(), _higher_neighbours(values), values.shape[1], np.zeros((3, 0), np.int64)


def _pixels(image: np.ndarray) -> np.ndarray:
    """The image as 2 x 2 blocks with a frame of those that are 0: (4, h, w) uint8, upper left pixel of each first."""
    height, width = image.shape
    if height % 2 or width % 2:
        image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT, value=0)
    pairs = np.ascontiguousarray(image).view("<u2")  # taking every second byte would be several times slower
    pixels = np.zeros((4, pairs.shape[0] // 2 + 2, pairs.shape[1] + 2), np.uint8)
    inside = pixels[:, 1:-1, 1:-1]
    inside[0], inside[2] = pairs[0::2], pairs[1::2]  # the lower bytes
    inside[1], inside[3] = pairs[0::2] >> 8, pairs[1::2] >> 8
    return pixels


def _higher_neighbours(values: np.ndarray) -> np.ndarray:
    """One bit per neighbour of `_RING` that is higher, (H * W,) uint8; meaningless where `values` is 0.

    Equal values, which quantising and eroding make many of, are ordered by a smoothed copy, so that plateaus rise
    evenly towards their higher side, and last by their place. It is a fraction below 1 added to the value.
    """
    height, width = values.shape
    size = (max(1, width // _STRIDE), max(1, height // _STRIDE))
    coarse = cv2.resize(values, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    coarse = cv2.blur(coarse, (3, 3)) / np.float32(256.5)
    order = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    order = cv2.accumulate(values, order).ravel()
    code = np.full(order.size, 0xF0, np.uint8)  # an earlier one that is not lower is higher
    for bit, offset in enumerate((_RING[:4] @ (width, 1)).tolist()):
        flags = (order[offset:] >= order[:-offset]).view(np.uint8)
        flags *= np.uint8(1 << bit)
        code[:-offset] += flags
        flags *= np.uint8(16)
        code[offset:] -= flags
    return code


@functools.cache
def _link_tables(corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each code: (256, 4) a neighbour of each arc of higher ones, or -1; (256,) that of the only arc, or -1.

    Neighbours of one arc touch each other (`corners` too, or else sides only), so that they are connected without the
    one in the middle. The arc's member farthest from the lower ones is taken: across the contour lines, which makes the
    way up short.
    """
    arcs = np.full((256, 4), -1, np.int64)
    for code in range(256):
        for index, arc in enumerate(_arcs([i for i in range(8) if code >> i & 1], corners)):
            lower = [i for i in range(8) if i not in arc]
            depth = {i: min((min((i - j) % 8, (j - i) % 8) for j in lower), default=0) for i in arc}
            arcs[code, index] = max(arc, key=depth.__getitem__)
    return arcs, np.where(arcs[:, 1] < 0, arcs[:, 0], -1)


def _arcs(ring: list[int], corners: bool) -> list[list[int]]:
    """Ring positions in groups that are 8-connected among themselves; or 4-connected, and then with a side each."""
    reach, groups = 2 if corners else 1, []
    for i in ring:
        touching = [group for group in groups if any(np.square(_RING[i] - _RING[j]).sum() <= reach for j in group)]
        groups = [group for group in groups if group not in touching] + [[i, *sum(touching, [])]]
    return [group for group in groups if corners or any(i % 2 == 0 for i in group)]


def _climb(at: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Where the ascending paths from `at` end. moves: by place, what to add to it; 0 at a node."""
    for _ in range(_LONG_WALK // 8):
        step = moves[at]
        if not step.any():
            return at
        at = at + step
        for _ in range(7):  # looking whether all have arrived costs as much as a step
            at += moves[at]
    ahead = np.clip(np.arange(moves.size) + moves, 0, moves.size - 1)  # a maze: look ahead 1, 2, 4, 8 ... steps
    while (moves[at := ahead[at]]).any():
        ahead = ahead[ahead]
    return at


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

"""A printed paper label on a cardboard box; lot number and date differ from box to box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anomalyhub.data.sample.studio import (
    Shot,
    blob,
    clouds,
    colour,
    mix,
    rough,
    slopes,
    smoothstep,
    speckle,
    stroke,
    wander,
)

ASPECT = 1.25
#: Largest shift (units), rotation (radians) and relative zoom of a normal photograph.
POSE = (5.0, 0.035, 0.02)

WIDTH, HEIGHT = 258.0, 204.0
_OVER = 2
_TEAL, _AMBER, _BLACK, _GREY = (12, 96, 112), (236, 160, 36), (26, 26, 30), (110, 112, 116)
_PAPER = colour(0.80, 0.79, 0.76)
_BOARD = colour(0.330, 0.205, 0.110)
_PULP = colour(0.66, 0.60, 0.50)


@dataclass
class Surface:
    """What the light falls on.

    ink    (H, W, 3) transmittance of the print, 1 where blank      relief  (H, W) in units
    cover  (H, W) share of the pixel covered by the label           pulp    (H, W) torn fibres laid bare
    board, paper (H, W, 3) linear colours below and of the label    gloss   (H, W) shine of the paper
    """

    ink: np.ndarray
    cover: np.ndarray
    pulp: np.ndarray
    board: np.ndarray
    paper: np.ndarray
    relief: np.ndarray
    gloss: np.ndarray


def build(shot: Shot, rng: np.random.Generator) -> Surface:
    x, y = shot.xy
    art = _artwork(shot.scale).copy()
    _stamp(art, shot.scale, rng)
    printed = _place_art(art, shot, rng.normal(0, 0.35, 2))
    strength = rng.uniform(0.9, 1.08) * (1.0 + 0.03 * clouds(rng, shot, 30)) + 0.035 * speckle(rng, shot, 0.7, 0.7)
    density = -np.log(np.maximum(printed, 0.02)) * strength[..., None]
    corner = 5.0
    qx, qy = np.abs(x) - WIDTH / 2 + corner, np.abs(y) - HEIGHT / 2 + corner
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - corner
    cover = smoothstep(-outside / shot.pixel, -0.6, 0.6)
    fibres = speckle(rng, shot, 5.0, 0.7, rng.uniform(-0.1, 0.1))
    flutes = np.cos(x * (2 * math.pi / 8.5) + 0.5 * clouds(rng, shot, 60))
    board = _BOARD * (1.0 + 0.07 * fibres + 0.05 * rough(rng, shot, 40))[..., None]
    paper = _PAPER * (1.0 + 0.012 * speckle(rng, shot, 1.1, 0.6) + 0.012 * clouds(rng, shot, 50))[..., None]
    curl = 0.9 * smoothstep(outside, -16.0, 0.0) ** 2 * (1.0 + 0.5 * clouds(rng, shot, 60))
    relief = (0.5 + curl) * cover + 0.22 * flutes * (1.0 - 0.55 * cover) + 0.5 * clouds(rng, shot, 60)
    gloss = np.full(shot.shape, rng.uniform(0.05, 0.09), np.float32)
    return Surface(np.exp(-density), cover, np.zeros(shot.shape, np.float32), board, paper, relief, gloss)


def shade(surface: Surface, shot: Shot) -> np.ndarray:
    """Linear radiance (H, W, 3): diffuse light, the label's soft shine, its shadow on the board."""
    x, y = shot.xy
    lx, ly, lz = shot.light
    dx, dy = slopes(surface.relief, shot)
    facing = np.maximum(lz - 0.6 * (dx * lx + dy * ly), 0.0)
    soft = cv2.GaussianBlur(surface.cover, (0, 0), 2.2 * shot.scale)
    move = np.array([[1, 0, -2.6 * lx * shot.scale], [0, 1, -2.6 * ly * shot.scale]], np.float32)
    h, w = shot.shape
    shadow = cv2.warpAffine(soft, move, (w, h), borderMode=cv2.BORDER_REPLICATE)
    below = surface.board * (1.0 - 0.55 * shadow)[..., None]
    paper = mix(surface.paper * surface.ink, _PULP, surface.pulp)
    radiance = mix(below, paper, surface.cover) * (1.60 * facing + 0.45)[..., None]
    across = x * lx + y * ly - 70.0
    shine = surface.gloss * surface.cover * (1.0 - surface.pulp) * np.exp(-((across / 62.0) ** 2)) * facing**4
    return radiance + shine[..., None]


def smear(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """Wet ink was dragged along: the print is doubled and streaked in one direction."""
    spot = _printed_spot(surface, shot, rng)
    heading = rng.normal(0.0, 0.5) + (math.pi if rng.random() < 0.5 else 0.0)
    radii = rng.uniform(14, 36), rng.uniform(8, 18)
    zone = smoothstep(blob(shot, rng, spot, radii, heading, 0.12), 0.0, 0.35)
    reach = rng.uniform(5, 16) * shot.scale
    n = int(2 * math.ceil(reach) + 1)
    kernel = np.zeros((n, n), np.float32)
    tip = n // 2 + reach * np.array([math.cos(heading + shot.angle), math.sin(heading + shot.angle)])
    cv2.line(kernel, (n // 2, n // 2), tuple(int(round(t)) for t in tip), 1.0, 1, cv2.LINE_AA)
    kernel = cv2.flip(kernel / kernel.sum(), -1)
    density = -np.log(np.maximum(surface.ink, 1e-3))
    dragged = cv2.filter2D(density, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    streaks = 1.0 + 0.3 * speckle(rng, shot, 6.0, 0.7, heading + shot.angle)
    amount = rng.uniform(0.45, 1.0)
    dragged = (1.0 - 0.45 * amount) * density + amount * dragged * np.maximum(streaks, 0.1)[..., None]
    surface.ink = np.exp(-mix(density, dragged, zone))


def missing_print(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """The print is faint or absent: a spot without contact, or a band of clogged nozzles."""
    spot = _printed_spot(surface, shot, rng)
    if rng.random() < 0.5:
        radii = rng.uniform(10, 28), rng.uniform(7, 17)
        inside = blob(shot, rng, spot, radii, rng.normal(0, 0.3), 0.22)
        lost = smoothstep(inside + 0.10 * speckle(rng, shot, 1.2, 1.2), 0.05, 0.4)
    else:
        x, y = shot.xy
        half, run = rng.uniform(1.6, 5.0), rng.uniform(22, 65)
        lost = smoothstep(half - np.abs(y - spot[1]), -0.3, 0.3) * smoothstep(run - np.abs(x - spot[0]), 0.0, 6.0)
        lost = lost * np.clip(1.0 + 0.2 * speckle(rng, shot, 5.0, 0.5), 0.0, 1.0)
    surface.ink = surface.ink ** (1.0 - rng.uniform(0.6, 1.0) * lost)[..., None]


def tear(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """A piece of the label's border is torn away: cardboard below, a pale rim of fibres around."""
    side = rng.integers(4)
    depth, width = rng.uniform(5, 20), rng.uniform(9, 30)
    along = rng.uniform(-0.36, 0.36)
    spot = [
        (along * WIDTH, -HEIGHT / 2),
        (WIDTH / 2, along * HEIGHT),
        (along * WIDTH, HEIGHT / 2),
        (-WIDTH / 2, along * HEIGHT),
    ][side]
    radii = (width, depth) if side % 2 == 0 else (depth, width)
    inside = blob(shot, rng, spot, radii, rng.normal(0, 0.15), 0.15)
    inside += 0.05 * speckle(rng, shot, 0.9, 0.9)
    rim = rng.uniform(0.10, 0.24)
    gone = smoothstep(inside, rim, rim + 0.06)
    bare = smoothstep(inside, 0.0, 0.06)
    surface.pulp = np.maximum(surface.pulp, bare * np.clip(0.95 + 0.1 * speckle(rng, shot, 1.6, 0.5), 0, 1))
    surface.cover = surface.cover * (1.0 - gone)
    surface.relief = surface.relief - 0.7 * gone - 0.25 * bare


def scratch(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """Something sharp took the print, and some paper, off along one or a few lines."""
    spot = _printed_spot(surface, shot, rng)
    heading, length = rng.uniform(0, math.pi), rng.uniform(26, 90)
    path = wander(rng, (0.0, 0.0), heading, length, 0.35)
    path += spot - path.mean(axis=0)
    press = np.sin(np.linspace(0.12, math.pi - 0.12, len(path))) ** 0.6
    depth = rng.uniform(0.7, 1.0)
    for k in range(int(rng.integers(1, 4))):
        aside = k * rng.uniform(1.6, 3.2) * np.array([-math.sin(heading), math.cos(heading)])
        part = path[int(rng.integers(0, 6)) : len(path) - int(rng.integers(0, 6))] + aside
        width = rng.uniform(0.8, 2.1) * press[: len(part)] * (1.0 if k == 0 else 0.7)
        alpha = depth * stroke(shot, part, width)
        alpha *= np.clip(1.0 + 0.25 * speckle(rng, shot, 1.5, 1.5), 0.2, 1.0)
        surface.pulp = np.maximum(surface.pulp, alpha * surface.cover)
        surface.relief = surface.relief - 0.9 * cv2.GaussianBlur(alpha, (0, 0), 0.6 * shot.scale)


def _printed_spot(surface: Surface, shot: Shot, rng: np.random.Generator) -> tuple[float, float]:
    """A point on the label, in units, with both ink and blank paper around it."""
    for _ in range(20):
        spot = rng.uniform(16 - WIDTH / 2, WIDTH / 2 - 16), rng.uniform(12 - HEIGHT / 2, HEIGHT / 2 - 12)
        col, row = np.rint(shot.to_pixels(np.array([spot]))[0]).astype(int)
        reach = max(2, round(7 * shot.scale))
        near = surface.ink[max(row - reach, 0) : row + reach + 1, max(col - reach, 0) : col + reach + 1]
        if 0.12 < (near.min(axis=2) < 0.5).mean() < 0.9:
            break
    return spot


def _place_art(art: np.ndarray, shot: Shot, slip) -> np.ndarray:
    """Warp the artwork (h, w, 3) uint8 into the photograph: linear transmittance (H, W, 3), 1 beyond its border."""
    per = _OVER * shot.scale
    centre = np.array(
        [[1 / per, 0, (0.5 / per) - WIDTH / 2 + slip[0]], [0, 1 / per, (0.5 / per) - HEIGHT / 2 + slip[1]]]
    )
    whole = shot.matrix @ np.vstack([centre, [0, 0, 1]])
    h, w = shot.shape
    warped = cv2.warpAffine(art, whole, (w, h), flags=cv2.INTER_LINEAR, borderValue=(255, 255, 255))
    return (warped.astype(np.float32) / 255.0) ** 2


@lru_cache(maxsize=4)
def _artwork(scale: float) -> np.ndarray:
    """What is the same on every label: (h, w, 3) uint8 with `_OVER` times the photograph's resolution."""
    s = 3 * _OVER * scale
    sheet = Image.new("RGB", (round(WIDTH * s), round(HEIGHT * s)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    pen.rectangle(_box(0, 0, WIDTH, 44, s), fill=_TEAL)
    pen.polygon([(p * s, q * s) for p, q in ((176, 0), (196, 0), (174, 44), (154, 44))], fill=_AMBER)
    _text(pen, (12, 8), "VARELLO", 28, (250, 250, 248), s, bold=0.5)
    _text(pen, (205, 8), "RING", 11, (250, 250, 248), s, bold=0.2)
    _text(pen, (205, 23), "SYSTEMS", 8.5, (250, 250, 248), s)
    _text(pen, (12, 52), "Thrust ring 47-92", 17.5, _BLACK, s, bold=0.35)
    _text(pen, (12, 75), "steel, turned, oiled   d 47 mm   D 92 mm   h 6 mm", 7.6, _GREY, s)
    pen.line([12 * s, 90 * s, 246 * s, 90 * s], fill=_BLACK, width=max(1, round(0.9 * s)))
    for row, name in enumerate(("LOT", "DATE", "QTY")):
        _text(pen, (12, 96 + 14 * row), name, 8.5, _GREY, s)
    _text(pen, (44, 96 + 28), "24 pcs", 9.5, _BLACK, s, bold=0.2)
    _barcode(pen, (118, 98), "204792000615", 1.32, 44, s)
    pen.line([12 * s, 156 * s, 246 * s, 156 * s], fill=_BLACK, width=max(1, round(0.9 * s)))
    _pictograms(pen, s)
    for row, line in enumerate(
        ("Keep dry. Stack six boxes at most.", "Remove the oil before use.", "Inspect on receipt.")
    ):
        _text(pen, (118, 163 + 11.5 * row), line, 7.0, _BLACK, s)
    size = round(WIDTH * _OVER * scale), round(HEIGHT * _OVER * scale)
    return cv2.resize(np.asarray(sheet), size, interpolation=cv2.INTER_AREA)


def _stamp(art: np.ndarray, scale: float, rng: np.random.Generator) -> None:
    """Print the lot number and the date, by ink jet and not quite in place, into `art`."""
    s = _OVER * scale
    x0, y0, x1, y1 = (round(v * s) for v in (42, 92, 110, 123))
    patch = Image.fromarray(art[y0:y1, x0:x1])
    pen = ImageDraw.Draw(patch)
    dx, dy = rng.uniform(0.5, 3.5), rng.uniform(2.2, 4.2)
    lot = f"{rng.integers(10, 100)}-{rng.integers(1000, 10000)} {'ABCDEFHK'[rng.integers(8)]}"
    date = f"2025-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}"
    for row, text in enumerate((lot, date)):
        _text(pen, (dx, dy + 14 * row), text, 9.5, _BLACK, s, bold=0.2)
    art[y0:y1, x0:x1] = np.asarray(patch)


def _box(x0: float, y0: float, x1: float, y1: float, s: float) -> list[int]:
    return [round(v * s) for v in (x0, y0, x1, y1)]


@lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def _text(pen, at, text: str, size: float, fill, s: float, bold: float = 0.0) -> None:
    """Write at (x, y) units; `bold` thickens the strokes by that many units."""
    thick = round(bold * s)
    pen.text((at[0] * s, at[1] * s), text, fill=fill, font=_font(size * s), stroke_width=thick, stroke_fill=fill)


def _barcode(pen, at, digits: str, module: float, height: float, s: float) -> None:
    """An EAN-13 with its check digit; `digits` are the first twelve, `module` and `height` are in units."""
    check = -sum(int(d) * (3 if k % 2 else 1) for k, d in enumerate(digits)) % 10
    digits += str(check)
    left = "0001101 0011001 0010011 0111101 0100011 0110001 0101111 0111011 0110111 0001011".split()
    right = ["".join("10"[int(b)] for b in code) for code in left]
    even = [code[::-1] for code in right]
    parity = "LLLLLL LLGLGG LLGGLG LLGGGL LGLLGG LGGLLG LGGGLL LGLGLG LGLGGL LGGLGL".split()[int(digits[0])]
    first = "".join((left if p == "L" else even)[int(d)] for p, d in zip(parity, digits[1:7], strict=True))
    bars = f"101{first}01010{''.join(right[int(d)] for d in digits[7:])}101"
    for k, bar in enumerate(bars):
        if bar == "1":
            guard = 4 if k < 3 or k > 91 or 45 <= k <= 49 else 0
            x = (at[0] + k * module) * s
            pen.rectangle([round(x), at[1] * s, round(x + module * s) - 1, (at[1] + height + guard) * s], fill=_BLACK)
    for k, digit in enumerate(digits):
        x = at[0] - 8 if k == 0 else at[0] + ((k - 1) * 7 + (4 if k < 7 else 9)) * module
        _text(pen, (x, at[1] + height + 1), digit, 8.5, _BLACK, s)


def _pictograms(pen, s: float) -> None:
    """This side up, keep dry and a glass, as thin framed symbols."""
    thin = max(1, round(1.1 * s))

    def lines(points, fill=_BLACK):
        pen.line([(x * s, y * s) for x, y in points], fill=fill, width=thin, joint="curve")

    for left in (12, 46, 80):
        pen.rectangle(_box(left, 162, left + 28, 194, s), outline=_BLACK, width=thin)
    for x in (20, 32):
        lines([(x, 186), (x, 170)])
        pen.polygon([((x + dx) * s, y * s) for dx, y in ((-4.5, 173), (4.5, 173), (0, 166))], fill=_BLACK)
    lines([(16, 189.5), (36, 189.5)])
    pen.pieslice(_box(51, 168, 69, 186, s), 180, 360, fill=_BLACK)
    lines([(60, 177), (60, 187), (62, 189), (64, 187)])
    pen.polygon([(x * s, y * s) for x, y in ((87, 166), (101, 166), (98, 178), (90, 178))], fill=_BLACK)
    lines([(94, 178), (94, 188)])
    lines([(88, 189), (100, 189)])


DEFECTS = {"smear": smear, "missing_print": missing_print, "tear": tear, "scratch": scratch}

"""A turned steel ring with three countersunk holes, on a dark mat under two lamps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

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

ASPECT = 1.0
#: Largest shift (units), rotation (radians) and relative zoom of a normal photograph.
POSE = (7.0, 0.12, 0.025)

OUTER, INNER, STEP = 104.0, 47.0, 86.0
_HOLES = tuple(
    (66.0 * math.cos(a), 66.0 * math.sin(a)) for a in (-1.45, -1.45 + 2 * math.pi / 3, -1.45 + 4 * math.pi / 3)
)
_HOLE, _SINK = 5.2, 8.2
_STEEL = colour(0.60, 0.595, 0.58)
_MAT = colour(0.030, 0.034, 0.040)


@dataclass
class Surface:
    """What the light falls on.

    body    (H, W) share of the pixel covered by steel          relief  (H, W) bumps in units, on top of the turned form
    slope   (H, W) outward slope of the turned form             tx, ty  (H, W) direction of the tool's marks
    extra   two (H, W) slopes of the countersinks               mat     (H, W, 3) linear colour of the support
    dull    (H, W) share that scatters instead of mirroring     tone    (H, W, 3) linear colour of what scatters
    """

    body: np.ndarray
    relief: np.ndarray
    slope: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    extra: tuple[np.ndarray, np.ndarray]
    mat: np.ndarray
    dull: np.ndarray
    tone: np.ndarray


def build(shot: Shot, rng: np.random.Generator) -> Surface:
    x, y = shot.xy
    radius = np.sqrt(x * x + y * y) + 1e-3
    wobble = 0.35 * clouds(rng, shot, 120)
    slope = _lookup(_turned(rng), radius + wobble)
    body = smoothstep((OUTER - radius) / shot.pixel, -0.6, 0.6) * smoothstep((radius - INNER) / shot.pixel, -0.6, 0.6)
    extra_x, extra_y = np.zeros(shot.shape, np.float32), np.zeros(shot.shape, np.float32)
    for hx, hy in _HOLES:
        dx, dy = x - hx, y - hy
        far = np.sqrt(dx * dx + dy * dy) + 1e-3
        body = body * smoothstep((far - _HOLE) / shot.pixel, -0.6, 0.6)
        sink = 0.9 * smoothstep(_SINK - far, -0.3, 0.3) / far
        extra_x += dx * sink
        extra_y += dy * sink
    mat = _MAT * (1.0 + 0.22 * speckle(rng, shot, 0.7, 0.7) + 0.12 * rough(rng, shot, 30))[..., None]
    film = np.clip(0.10 + 0.025 * rough(rng, shot, 60), 0.0, 0.2)
    tone = np.broadcast_to(_STEEL * 0.55, (*shot.shape, 3)).astype(np.float32)
    relief = 0.10 * clouds(rng, shot, 50)
    c, s = math.cos(shot.angle), math.sin(shot.angle)
    tx, ty = -(x * s + y * c) / radius, (x * c - y * s) / radius
    return Surface(body, relief, slope, tx, ty, (extra_x * c - extra_y * s, extra_x * s + extra_y * c), mat, film, tone)


def _turned(rng: np.random.Generator) -> np.ndarray:
    """Outward slope by radius in steps of 1/8 unit: chamfers, the step, and the marks of the tool."""
    r = np.arange(1024, dtype=np.float32) / 8.0
    form = -0.75 * smoothstep(r, OUTER - 4.6, OUTER - 4.0) + 0.75 * smoothstep(-r, -INNER - 4.6, -INNER - 4.0)
    form += 0.9 * np.exp(-(((r - STEP) / 0.9) ** 2)) - 0.5 * np.exp(-(((r - STEP + 2.4) / 0.9) ** 2))
    fine = cv2.GaussianBlur(rng.standard_normal((1, 1024), dtype=np.float32), (0, 0), 2.6)[0]
    coarse = cv2.GaussianBlur(rng.standard_normal((1, 1024), dtype=np.float32), (0, 0), 9.0)[0]
    feed = np.sin(r * (2 * math.pi / rng.uniform(2.3, 2.9)) + rng.uniform(0, 6.3))
    marks = 0.055 * fine / fine.std() + 0.022 * coarse / coarse.std() + 0.035 * feed
    return form + marks * rng.uniform(0.85, 1.15)


def _lookup(table: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Linear interpolation of a table with steps of 1/8 unit at (H, W) radii."""
    return cv2.remap(table[None].astype(np.float32), radius * 8.0, np.zeros_like(radius), cv2.INTER_LINEAR)


def shade(surface: Surface, shot: Shot) -> np.ndarray:
    """Linear radiance (H, W, 3): two lamps mirrored by the tool's marks (Ward's anisotropic lobes), a bright tent."""
    dx, dy = slopes(surface.relief, shot)
    radial = surface.ty, -surface.tx
    gx = surface.slope * radial[0] + surface.extra[0] + dx
    gy = surface.slope * radial[1] + surface.extra[1] + dy
    norm = 1.0 / np.sqrt(1.0 + gx * gx + gy * gy)
    mirrored = 0.10 + 0.10 * norm - 0.14 * (gx * shot.light[0] + gy * shot.light[1]) * norm
    lx, ly, lz = shot.light
    lamps = (((lx, ly, lz), 0.17, 0.46, 2.3), ((-0.8 * ly - 0.3 * lx, 0.8 * lx - 0.3 * ly, 0.75), 0.22, 0.55, 0.75))
    for lamp, along, across, power in lamps:
        hx, hy, hz = (np.array(lamp) / np.linalg.norm(lamp) + (0.0, 0.0, 1.0)).tolist()
        upright = np.maximum((hz - gx * hx - gy * hy) * norm, 0.05)
        tangent = (surface.tx * hx + surface.ty * hy) + (gx * surface.tx + gy * surface.ty) * hz
        radially = (radial[0] * hx + radial[1] * hy) + (gx * radial[0] + gy * radial[1]) * hz
        lobe = np.exp(-((tangent / along) ** 2 + (radially * norm / across) ** 2) / upright**2)
        mirrored = mirrored + power * lobe
    facing = np.maximum(lz - gx * lx - gy * ly, 0.0) * norm
    steel = mix(_STEEL * mirrored[..., None], surface.tone * (1.2 * facing + 0.35)[..., None], surface.dull)
    h, w = shot.shape
    soft = cv2.GaussianBlur(surface.body, (0, 0), 4.5 * shot.scale)
    move = np.array([[1, 0, -5.0 * lx * shot.scale], [0, 1, -5.0 * ly * shot.scale]], np.float32)
    shadow = cv2.warpAffine(soft, move, (w, h), borderMode=cv2.BORDER_REPLICATE)
    below = surface.mat * ((1.3 * lz + 0.4) * (1.0 - 0.75 * shadow))[..., None]
    return mix(below, steel, surface.body)


def scratch(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """One line, or two, across the tool's marks: a burnished groove."""
    centre = _on_face(rng, 8)
    heading = math.atan2(centre[1], centre[0]) + rng.uniform(-1.1, 1.1)
    path = wander(rng, (0.0, 0.0), heading, rng.uniform(18, 64), rng.uniform(0.1, 0.6), 32)
    path += centre - path.mean(axis=0)
    press = np.sin(np.linspace(0.1, math.pi - 0.1, 32)) ** 0.7
    width, depth = rng.uniform(0.8, 1.9), rng.uniform(0.45, 1.0)
    for k in range(int(rng.integers(1, 3))):
        aside = path + k * rng.uniform(1.5, 4.0) * np.array([-math.sin(heading), math.cos(heading)])
        alpha = stroke(shot, aside, width * press * (1.0 - 0.3 * k))
        surface.relief = surface.relief - 0.8 * depth * cv2.GaussianBlur(alpha, (0, 0), 0.7 * shot.scale)
        surface.dull = np.maximum(surface.dull, 0.75 * depth * alpha)
        surface.tone = mix(surface.tone, _STEEL * 1.1, alpha)


def dent(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """A blow pressed a hollow into the face and raised a low rim around it."""
    x, y = shot.xy
    (cx, cy), turn = _on_face(rng, 9), rng.uniform(0, math.pi)
    long = rng.uniform(3.0, 9.0)
    short = long * rng.uniform(0.5, 1.0)
    c, s = math.cos(turn), math.sin(turn)
    far = (((x - cx) * c + (y - cy) * s) / long) ** 2 + (((y - cy) * c - (x - cx) * s) / short) ** 2
    form = (1.0 - 1.4 * far) * np.exp(-1.6 * far) * (1.0 + 0.06 * clouds(rng, shot, 4.0))
    surface.relief = surface.relief - rng.uniform(0.22, 0.55) * short * form
    worn = np.exp(-1.6 * far)
    surface.slope = surface.slope * (1.0 - 0.5 * worn)
    surface.dull = surface.dull + rng.uniform(0.0, 0.3) * worn


def chip(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """A bite out of the inner or the outer edge, with a faceted, dull fracture."""
    outer = rng.random() < 0.6
    around, size = rng.uniform(0, 2 * math.pi), rng.uniform(4.5, 13.0)
    at = (OUTER + 1.0) if outer else (INNER - 1.0)
    centre = at * math.cos(around), at * math.sin(around)
    inside = blob(shot, rng, centre, (size * rng.uniform(0.5, 0.9), size), around, 0.20)
    gone = smoothstep(inside, 0.38, 0.46)
    broken = smoothstep(inside, 0.0, 0.08)
    facets = rough(rng, shot, 3.0)
    surface.relief = surface.relief + broken * (0.9 * facets - 1.5 * np.clip(inside, 0, 1))
    surface.dull = np.maximum(surface.dull, 0.85 * broken)
    surface.tone = mix(surface.tone, _STEEL * np.clip(0.42 + 0.10 * facets, 0.1, 0.8)[..., None], broken)
    surface.slope = surface.slope * (1.0 - broken)
    surface.body = surface.body * (1.0 - gone)


def rust(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """Mottled brown corrosion, in one patch with pits, or as freckles around it."""
    radius = rng.uniform(5.0, 20.0)
    radii = radius, radius * rng.uniform(0.5, 1.0)
    inside = blob(shot, rng, _on_face(rng, 5), radii, rng.uniform(0, math.pi), 0.25)
    grain = rough(rng, shot, 3.2)
    cover = smoothstep(inside + 0.20 * grain, 0.05, 0.45)
    strength = rng.uniform(0.45, 0.97)
    warm = np.clip(0.5 + 0.35 * rough(rng, shot, 5.0), 0.0, 1.0)
    brown = mix(colour(0.060, 0.018, 0.007), colour(0.30, 0.085, 0.018), warm)
    surface.tone = mix(surface.tone, brown, np.minimum(1.0, cover * 1.6))
    surface.dull = np.maximum(surface.dull, strength * cover)
    surface.relief = surface.relief + 0.2 * strength * cover * grain


def _on_face(rng: np.random.Generator, margin: float) -> tuple[float, float]:
    """A point on the ring's face, clear of the holes, at least `margin` units from the edges."""
    while True:
        far, around = rng.uniform(INNER + margin, OUTER - margin), rng.uniform(0, 2 * math.pi)
        spot = far * math.cos(around), far * math.sin(around)
        if all(math.dist(spot, hole) > _SINK + margin / 2 for hole in _HOLES):
            return spot


DEFECTS = {"scratch": scratch, "dent": dent, "chip": chip, "rust": rust}

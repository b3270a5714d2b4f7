"""A woven fabric: 2/2 twill of two yarns, every thread with its own thickness, tone and fibres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from anomalyhub.data.sample.studio import Shot, blob, clouds, colour, mix, rough, slopes, smoothstep, stroke, wander

ASPECT = 1.0
#: Largest shift (units), rotation (radians) and relative zoom of a normal photograph.
POSE = (9.0, 0.07, 0.035)

PITCH = 8.0
_WARP = colour(0.105, 0.150, 0.225)
_WEFT = colour(0.430, 0.385, 0.300)
_GAP = colour(0.020, 0.019, 0.018)
_THREADS = 96


@dataclass
class Yarn:
    """What is drawn at random for each thread; tables are indexed by thread, or by thread and place along it."""

    offset: np.ndarray
    tone: np.ndarray
    width: np.ndarray
    fibre: np.ndarray

    @classmethod
    def spin(cls, rng: np.random.Generator, fibre: np.ndarray) -> Yarn:
        slub = cv2.GaussianBlur(rng.standard_normal((_THREADS, 256), dtype=np.float32), (0, 0), 7, sigmaY=0.01)
        return cls(
            offset=rng.normal(0, 0.03, _THREADS).astype(np.float32),
            tone=rng.normal(0, 0.045, _THREADS).astype(np.float32),
            width=0.47 + 0.022 * slub / slub.std(),
            fibre=np.roll(fibre, rng.integers(256, size=2), (0, 1)),
        )

    def lay(self, across: np.ndarray, along: np.ndarray, index: np.ndarray):
        """Height of the thread's section (H, W), and its brightness (H, W), at thread coordinates."""
        thread = index.astype(np.int32) % _THREADS
        d = across - index - 0.5 + self.offset[thread]
        place = (along * 6.0).astype(np.int32) & 255
        section = np.sqrt(np.maximum(1.0 - (d / self.width[thread, place]) ** 2, 0.0))
        turns = thread.astype(np.float32) * 37.0
        ahead, around = along * 26.0 + d * 22.0 + turns, d * 26.0 + along * 6.0 + turns
        fibre = cv2.remap(self.fibre, ahead % 255.0, around % 255.0, cv2.INTER_LINEAR)
        return section, 1.0 + self.tone[thread] + 0.11 * fibre


@dataclass
class Surface:
    """What the light falls on: relief in units, linear colour, and the cloth's own coordinates for the defects."""

    relief: np.ndarray
    albedo: np.ndarray
    yarns: tuple[Yarn, Yarn]
    u: np.ndarray
    v: np.ndarray
    loose: np.ndarray


def build(shot: Shot, rng: np.random.Generator) -> Surface:
    x, y = shot.xy
    fibre = cv2.GaussianBlur(rng.standard_normal((256, 256), dtype=np.float32), (0, 0), 5.0, sigmaY=1.1)
    fibre /= fibre.std()
    yarns = Yarn.spin(rng, fibre), Yarn.spin(rng, fibre)
    start = rng.uniform(20, 24), rng.uniform(20, 24)
    u = x / PITCH + start[0] + 0.09 * clouds(rng, shot, 80) + 0.015 * clouds(rng, shot, 25)
    v = y / PITCH + start[1] + 0.09 * clouds(rng, shot, 80) + 0.015 * clouds(rng, shot, 25)
    loose = 0.05 * clouds(rng, shot, 45)
    relief, albedo = _weave(yarns, u, v, loose)
    return Surface(relief, albedo, yarns, u, v, loose)


def _weave(yarns, u, v, loose, no_warp: np.ndarray | None = None, no_weft: np.ndarray | None = None):
    """Relief and colour of the cloth; `no_warp` and `no_weft` are (H, W) in [0, 1], 1 where that thread is missing."""
    i, j = np.floor(u), np.floor(v)
    warp, warp_light = yarns[0].lay(u, v, i)
    weft, weft_light = yarns[1].lay(v, u, j)
    warp_z = 0.62 * warp + 0.5 * np.cos((v - 0.5 - i) * (math.pi / 2) - math.pi / 4) + loose
    weft_z = 0.62 * weft - 0.5 * np.cos((j - u + 0.5) * (math.pi / 2) - math.pi / 4)
    warp_z -= 3.0 * (warp < 0.05)
    weft_z -= 3.0 * (weft < 0.05)
    if no_warp is not None:
        warp_z = warp_z - 4.0 * no_warp
    if no_weft is not None:
        weft_z = weft_z - 4.0 * no_weft
    over = smoothstep(warp_z - weft_z, -0.10, 0.10)
    top = np.maximum(np.maximum(warp_z, weft_z), -0.75)
    albedo = mix(_WEFT * weft_light[..., None], _WARP * warp_light[..., None], over)
    return top * 3.6, mix(albedo, _GAP, smoothstep(-top, 0.35, 0.75))


def shade(surface: Surface, shot: Shot) -> np.ndarray:
    """Linear radiance (H, W, 3): soft daylight, darker between the threads."""
    dx, dy = slopes(surface.relief, shot)
    lx, ly, lz = shot.light
    facing = (lz - 0.55 * (dx * lx + dy * ly)) / np.sqrt(1.0 + 0.3 * (dx * dx + dy * dy))
    hollow = cv2.GaussianBlur(surface.relief, (0, 0), 5.0 * shot.scale) - surface.relief
    open_sky = 1.0 / (1.0 + 0.34 * np.maximum(hollow, 0.0))
    light = 1.75 * np.maximum(facing, 0.0) * open_sky + 0.42 * open_sky
    sheen = 0.030 * np.maximum(facing, 0.0) ** 6
    return surface.albedo * light[..., None] + sheen[..., None]


def cut(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """A slit that gapes, with frayed ends of thread along it."""
    centre, angle = _place(shot, rng, 34), rng.uniform(0, math.pi)
    length, gape = rng.uniform(22, 76), rng.uniform(1.2, 4.0)
    path = wander(rng, (0.0, 0.0), angle, length, 0.25)
    path += centre - path.mean(axis=0)
    along = np.linspace(-1, 1, len(path))
    jagged = 1.0 + 0.35 * rng.standard_normal(len(path))
    lens = np.sqrt(1.0 - 0.97 * along**2) * np.clip(jagged, 0.4, 1.8)
    lip = cv2.GaussianBlur(stroke(shot, path, 2 * gape * lens + 3.0), (0, 0), 1.0 * shot.scale)
    surface.relief += 1.0 * lip
    surface.albedo = mix(surface.albedo, surface.albedo * 1.18, lip)
    gap = stroke(shot, path, 2 * gape * lens)
    surface.relief -= 5.0 * gap
    surface.albedo = mix(surface.albedo, _GAP, gap)
    for _ in range(int(length * rng.uniform(0.25, 0.5))):
        k = int(rng.integers(2, len(path) - 2))
        side = angle + math.pi / 2 * rng.choice([-1, 1]) + rng.normal(0, 0.5)
        root = path[k] + gape * lens[k] * np.array([math.cos(side), math.sin(side)])
        hair = wander(rng, root, side + math.pi, rng.uniform(0.8, 2.2) * gape + 1.0, 0.9, 6)
        tone = (_WEFT if rng.random() < 0.6 else _WARP) * rng.uniform(0.9, 1.4)
        alpha = stroke(shot, hair, rng.uniform(0.5, 1.0))
        surface.albedo = mix(surface.albedo, tone, 0.85 * alpha)
        surface.relief += 2.0 * alpha


def stain(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """A dried liquid: darker and tinted, with a tide mark at its edge."""
    radius = rng.uniform(11, 34)
    radii = radius, radius * rng.uniform(0.6, 1.0)
    inside = blob(shot, rng, _place(shot, rng, 34), radii, rng.uniform(0, math.pi), 0.16)
    body = smoothstep(inside, 0.0, 0.22)
    tide = np.exp(-(((inside - 0.09) / 0.07) ** 2))
    dye = [colour(0.52, 0.40, 0.24), colour(0.40, 0.38, 0.36), colour(0.62, 0.34, 0.30)][rng.integers(3)]
    strength = rng.uniform(0.5, 1.3)
    amount = strength * body * (0.75 + 0.12 * rough(rng, shot, 14)) + 0.5 * strength * tide
    surface.albedo *= np.exp(np.log(dye) * np.clip(amount, 0, 1.8)[..., None])


def missing_thread(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """One warp or weft thread is absent over part of its length, or all of it."""
    centre = _place(shot, rng, 30)
    col, row = np.rint(shot.to_pixels(centre[None])[0]).astype(int)
    warp = bool(rng.random() < 0.5)
    across, along = (surface.u, surface.v) if warp else (surface.v, surface.u)
    half = rng.uniform(2.2, 9.0) if rng.random() < 0.75 else 40.0
    same = np.floor(across) == np.floor(across[row, col])
    gone = (same * smoothstep(half - np.abs(along - along[row, col]), 0.0, 0.5)).astype(np.float32)
    lost = {"no_warp" if warp else "no_weft": gone}
    relief, albedo = _weave(surface.yarns, surface.u, surface.v, surface.loose, **lost)
    sag = cv2.GaussianBlur(gone, (0, 0), 1.2 * shot.scale)
    surface.relief = relief - 2.2 * sag
    surface.albedo = mix(albedo, 0.8 * albedo, sag)


def foreign_fibre(surface: Surface, shot: Shot, rng: np.random.Generator) -> None:
    """A stray yarn or hair lies on the cloth and throws a small shadow."""
    length, width = rng.uniform(28, 90), rng.uniform(1.2, 3.4)
    path = wander(rng, (0.0, 0.0), rng.uniform(0, 2 * math.pi), length, rng.uniform(0.6, 2.6), 40)
    path += _place(shot, rng, 34) - path.mean(axis=0)
    tones = [(0.80, 0.78, 0.74), (0.42, 0.05, 0.04), (0.025, 0.022, 0.02), (0.62, 0.47, 0.12), (0.20, 0.30, 0.10)]
    tone = colour(*tones[rng.integers(len(tones))])
    lx, ly, _ = shot.light
    fall = np.linalg.solve(shot.matrix[:, :2], np.array([lx, ly]) * shot.scale * -1.5)
    shadow = cv2.GaussianBlur(stroke(shot, path + fall, width), (0, 0), 0.9 * shot.scale)
    surface.albedo = mix(surface.albedo, surface.albedo * 0.55, shadow)
    alpha = stroke(shot, path, width * np.clip(1 + 0.12 * rng.standard_normal(40), 0.7, 1.3))
    fuzz = 1.0 + 0.12 * rng.standard_normal(shot.shape, dtype=np.float32)
    surface.albedo = mix(surface.albedo, tone * fuzz[..., None], alpha)
    level = cv2.GaussianBlur(surface.relief, (0, 0), 3.0 * shot.scale) + 1.2
    body = cv2.GaussianBlur(alpha, (0, 0), 0.35 * width * shot.scale)
    surface.relief += (level + width * body - surface.relief) * alpha


def _place(shot: Shot, rng: np.random.Generator, margin: float) -> np.ndarray:
    """A point (2,) of the picture at least `margin` units from its border, in the cloth's units."""
    h, w = shot.shape
    at = rng.uniform(margin, w / shot.scale - margin), rng.uniform(margin, h / shot.scale - margin)
    return cv2.invertAffineTransform(shot.matrix) @ np.array([at[0] * shot.scale, at[1] * shot.scale, 1.0])


DEFECTS = {"cut": cut, "stain": stain, "missing_thread": missing_thread, "foreign_fibre": foreign_fibre}

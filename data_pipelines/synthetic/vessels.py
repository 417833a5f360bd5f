"""Retinal vessels: arcades that arch round the macula, recursive branches, tufts of new vessels."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.synthetic import raster

# Radius round the fovea that no retinal vessel enters (about 500 micrometres).
AVASCULAR_RADIUS = 0.10
_MAIN_POINTS = 24
# Width in supersampled pixels below which a whole level of branches is not worth drawing.
_INVISIBLE = 0.3
_BRANCH_POINTS = 12


@dataclasses.dataclass(frozen=True)
class VesselTree:
    """Vessels of one kind as polylines, paths float32[N, P, 2] and widths float32[N, P].

    ``lengths`` int[N] counts the points of each path that are used: a path stops at the edge of
    the avascular zone.
    """

    paths: tuple[np.ndarray, ...]
    widths: tuple[np.ndarray, ...]
    lengths: tuple[np.ndarray, ...]


def grow(
    rng: np.random.Generator,
    disc: tuple[float, float],
    width: float,
    tortuosity: float,
    beading: float = 0.0,
) -> VesselTree:
    """Grow the arteries or the veins of an eye.

    Args:
        rng: source of randomness.
        disc: centre of the optic disc, where every vessel starts.
        width: calibre at the disc in unit lengths (a vein is about a tenth of a disc: 0.024).
        tortuosity: random bending, 0 straight to 1 very winding.
        beading: relative ripple of the calibre, as in severe diabetic retinopathy.
    """
    paths = _arcades(rng, disc, tortuosity)
    taper = np.linspace(1.0, 0.55, _MAIN_POINTS, dtype=np.float32)
    taper[:3] = (0.7, 0.8, 0.9)
    calibre = rng.uniform(0.8, 1.1, len(paths)).astype(np.float32)
    # The four large arcades come first; the nasal and macular twigs are thinner.
    calibre[4:6] *= 0.75
    calibre[6:] *= 0.42
    widths = width * calibre[:, None] * taper
    levels = [(paths, widths)]
    levels.append(_branches(rng, *levels[0], children=5, length=0.46, tortuosity=tortuosity))
    levels.append(_branches(rng, *levels[1], children=2, length=0.22, tortuosity=tortuosity))
    out_paths, out_widths, out_lengths = [], [], []
    for points, calibres in levels:
        if beading:
            ripple = np.sin(np.arange(points.shape[1]) * 2.4 + rng.uniform(0, 6, (len(points), 1)))
            calibres = calibres * (1.0 + beading * ripple.astype(np.float32))
        out_paths.append(points)
        out_widths.append(calibres)
        out_lengths.append(_used(points))
    return VesselTree(tuple(out_paths), tuple(out_widths), tuple(out_lengths))


def _arcades(rng: np.random.Generator, disc: tuple[float, float], tortuosity: float) -> np.ndarray:
    """The main trunks as cubic Bezier curves, float32[8, P, 2]."""
    x, y = disc
    trunks = []
    for sign in (-1.0, 1.0):
        height = rng.uniform(0.60, 0.76)
        trunks.append(
            [
                (x, y),
                (x - 0.02, y + sign * 0.40),
                (0.12, sign * height),
                (-0.95, sign * rng.uniform(0.22, 0.55)),
            ]
        )
        trunks.append(
            [
                (x, y),
                (x + 0.02, y + sign * 0.35),
                (x - 0.25, sign * 0.85),
                (rng.uniform(-0.5, 0.1), sign * 1.15),
            ]
        )
    for sign in (-1.0, 1.0):
        trunks.append(
            [
                (x, y),
                (x + 0.12, y + sign * 0.18),
                (x + 0.35, y + sign * 0.45),
                (x + 0.7, y + sign * rng.uniform(0.5, 0.9)),
            ]
        )
    for sign in (-1.0, 1.0):
        trunks.append(
            [
                (x, y),
                (x - 0.15, y + sign * 0.05),
                (0.30, sign * 0.20),
                (rng.uniform(0.0, 0.15), sign * 0.13),
            ]
        )
    control = np.asarray(trunks, np.float32)
    control[:, 1:] += rng.normal(0.0, 0.035, control[:, 1:].shape).astype(np.float32)
    t = np.linspace(0.0, 1.0, _MAIN_POINTS, dtype=np.float32)
    basis = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3])
    points = np.einsum("kp,nkc->npc", basis, control)
    wander = np.cumsum(rng.normal(0.0, 0.004 + 0.012 * tortuosity, points.shape), axis=1)
    wander -= np.linspace(0.0, 1.0, _MAIN_POINTS)[None, :, None] * wander[:, -1:]
    return (points + wander - wander[:, :1]).astype(np.float32)


def _branches(
    rng: np.random.Generator,
    parents: np.ndarray,
    widths: np.ndarray,
    children: int,
    length: float,
    tortuosity: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Side branches of every parent: paths float32[N * children, P, 2] and their widths."""
    count, points = parents.shape[:2]
    first = max(2, points // 4)
    where = np.sort(rng.integers(first, points - 1, (count, children)), axis=1)
    rows = np.arange(count)[:, None]
    start = parents[rows, where].reshape(-1, 2)
    tangent = (parents[rows, where + 1] - parents[rows, where - 1]).reshape(-1, 2)
    heading = np.arctan2(tangent[:, 1], tangent[:, 0])
    side = np.where((np.arange(children) + rng.integers(0, 2, (count, 1))) % 2, 1.0, -1.0).ravel()
    heading = heading + side * rng.uniform(0.5, 1.1, heading.shape)
    calibre = widths[rows, where].ravel()
    # Thin parents have short branches: the twigs to the macula stay sparse.
    reach = length * rng.uniform(0.5, 1.3, heading.shape) * np.sqrt(calibre / widths.max())
    reach *= np.clip(1.6 * calibre / widths.max(), 0.3, 1.0)
    bend = np.cumsum(rng.normal(0.0, 0.10 + 0.30 * tortuosity, (len(heading), _BRANCH_POINTS)), 1)
    bend -= side[:, None] * np.linspace(0.0, rng.uniform(0.4, 1.0), _BRANCH_POINTS)
    angle = heading[:, None] + bend
    step = (reach / (_BRANCH_POINTS - 1))[:, None]
    moves = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * step[..., None]
    moves[:, 0] = 0.0
    paths = start[:, None] + np.cumsum(moves, axis=1)
    root = calibre * rng.uniform(0.4, 0.62, heading.shape)
    taper = np.linspace(1.0, 0.5, _BRANCH_POINTS)
    return paths.astype(np.float32), (root[:, None] * taper).astype(np.float32)


def _used(paths: np.ndarray) -> np.ndarray:
    """Points of each path before it would enter the avascular zone, int[N]."""
    inside = (paths**2).sum(axis=-1) < AVASCULAR_RADIUS**2
    return np.where(inside.any(axis=1), inside.argmax(axis=1), paths.shape[1])


def tufts(rng: np.random.Generator, lesions: np.ndarray) -> np.ndarray:
    """Curly fine new vessels at each lesion row (x, y, radius, ...): float32[M, P, 2]."""
    if len(lesions) == 0:
        return np.zeros((0, _BRANCH_POINTS, 2), np.float32)
    sprouts = 12
    centre = np.repeat(np.asarray(lesions, np.float32), sprouts, axis=0)
    heading = rng.uniform(0.0, 2 * np.pi, (len(centre), 1))
    curl = np.cumsum(rng.normal(0.0, 0.60, (len(centre), _BRANCH_POINTS)), axis=1)
    step = centre[:, 2:3] * rng.uniform(0.8, 1.8, (len(centre), 1)) / _BRANCH_POINTS
    moves = np.stack([np.cos(heading + curl), np.sin(heading + curl)], axis=-1) * step[..., None]
    return (centre[:, None, :2] + np.cumsum(moves, axis=1)).astype(np.float32)


def choroidal(rng: np.random.Generator) -> np.ndarray:
    """Large choroidal vessels, winding outwards from the posterior pole: float32[N, P, 2]."""
    count = 320
    start = rng.uniform(-1.05, 1.05, (count, 2))
    heading = np.arctan2(start[:, 1], start[:, 0] - 0.2) + rng.normal(0.0, 0.5, count)
    bend = np.cumsum(rng.normal(0.0, 0.25, (count, _BRANCH_POINTS)), axis=1)
    angle = heading[:, None] + bend
    moves = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * 0.04
    return (start[:, None] + np.cumsum(moves, axis=1)).astype(np.float32)


def draw(tree: VesselTree, view: raster.View, size: int) -> np.ndarray:
    """Coverage of the vessels, float32[size, size] in [0, 1]; thin ones are faint, not absent."""
    factor = _supersampling(size)
    big = size * factor
    canvas = Image.new("L", (big, big))
    pen = ImageDraw.Draw(canvas)
    scale = view.zoom * big / 2.0
    for paths, widths, lengths in zip(
        tree.paths[::-1], tree.widths[::-1], tree.lengths[::-1], strict=True
    ):
        if widths.mean() * scale < _INVISIBLE:
            continue
        pieces = 6 if paths.shape[1] == _MAIN_POINTS else 1 + (widths.mean() > 1.5 / scale)
        _draw_level(pen, raster.to_pixels(paths, view, big), widths * scale, lengths, pieces)
    return np.asarray(canvas.reduce(factor), np.float32) * (1 / 255.0)


def draw_even(paths: np.ndarray, width: float, view: raster.View, size: int) -> np.ndarray:
    """Coverage of vessels of one ``width`` (unit length), float32[size, size] in [0, 1]."""
    factor = _supersampling(size)
    big = size * factor
    canvas = Image.new("L", (big, big))
    widths = np.full(paths.shape[:2], width * view.zoom * big / 2.0)
    lengths = np.full(len(paths), paths.shape[1])
    pixels = raster.to_pixels(paths, view, big)
    _draw_level(ImageDraw.Draw(canvas), pixels, widths, lengths, 1)
    return np.asarray(canvas.reduce(factor), np.float32) * (1 / 255.0)


def _supersampling(size: int) -> int:
    return max(2, -(-128 // size))


def _draw_level(
    pen: ImageDraw.ImageDraw,
    pixels: np.ndarray,
    widths: np.ndarray,
    lengths: np.ndarray,
    pieces: int,
) -> None:
    """Draw each path as ``pieces`` runs of constant width, so that it tapers."""
    count, points = pixels.shape[:2]
    span = -(-(points - 1) // pieces)
    limit = pen.im.size[0] + 8
    visible = ((pixels > -8) & (pixels < limit)).all(axis=-1)
    flat = pixels.reshape(count, -1).tolist()
    for begin in range(0, points - 1, span):
        end = min(begin + span + 1, points)
        calibre = widths[:, begin]
        shades = (255 * np.clip(calibre, 0.25, 1.0)).astype(int).tolist()
        strokes = np.maximum(1, (calibre + 0.5).astype(int)).tolist()
        stops = np.minimum(lengths, end)
        drawn = visible[:, begin:end].any(axis=1) & (stops - begin >= 2)
        for row in np.flatnonzero(drawn).tolist():
            pen.line(flat[row][2 * begin : 2 * int(stops[row])], shades[row], strokes[row])

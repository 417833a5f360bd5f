"""Drawing helpers in unit coordinates: pixel grids, soft spots, noise fields, blending."""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageFilter

# Spots are cut off where exp(-d^2) falls below about 1e-3.
_REACH = 2.6


@functools.lru_cache(maxsize=16)
def axis(size: int) -> np.ndarray:
    """Pixel centres along one side of the image, float32[size] in (-1, 1)."""
    return ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)


def to_pixels(points: np.ndarray, view: View, size: int) -> np.ndarray:
    """Anatomical points [..., 2] to continuous pixel coordinates (x, y) of a ``size`` image."""
    return (points * view.zoom + view.offset + 1.0) * (size / 2.0) - 0.5


class View:
    """Where the camera looks: image position = zoom * anatomical position + offset."""

    def __init__(self, zoom: float, offset: tuple[float, float]) -> None:
        self.zoom = zoom
        self.offset = np.asarray(offset, np.float32)

    def grid(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Anatomical coordinates of the pixel centres: x float32[1, size], y float32[size, 1]."""
        line = axis(size)
        x = (line - self.offset[0]) / self.zoom
        y = (line - self.offset[1]) / self.zoom
        return x[None, :].astype(np.float32), y[:, None].astype(np.float32)


def smoothstep(value: np.ndarray, edge: float, softness: float) -> np.ndarray:
    """1 well below ``edge``, 0 well above, a cubic ramp of width 2 * ``softness`` between."""
    t = np.clip((edge - value) / (2.0 * softness) + 0.5, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def ellipse(
    x: np.ndarray,
    y: np.ndarray,
    centre: tuple[float, float],
    radii: tuple[float, float],
    angle: float = 0.0,
) -> np.ndarray:
    """Distance from ``centre`` in units of the ellipse: 1.0 on its outline."""
    dx, dy = x - centre[0], y - centre[1]
    if angle:
        cos, sin = math.cos(angle), math.sin(angle)
        dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
    return np.sqrt((dx / radii[0]) ** 2 + (dy / radii[1]) ** 2)


def noise_field(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise of about unit variance with ``cells`` features a side, float32[size, size].

    The random grid does not depend on ``size``: the same eye has the same texture at every size.
    """
    grid = rng.standard_normal((cells, cells), dtype=np.float32)
    image = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)


def soften(cover: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of ``cover`` [H, W] in [0, 1] by ``radius`` pixels, to 8 bits of precision."""
    image = Image.fromarray((cover * 255.0).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) * (1 / 255.0)


def spots(
    lesions: np.ndarray, view: View, size: int, hardness: float = 1.0, additive: bool = False
) -> np.ndarray:
    """Draw soft ellipses; float32[size, size] coverage in [0, 1] (unbounded if ``additive``).

    Args:
        lesions: float[N, 6] rows of x, y, radius along, radius across, angle (radians), strength.
        view: camera position.
        size: side of the image in pixels.
        hardness: exponent of exp(-d^(2 * hardness)): 1 is a Gaussian, 3 has a crisp edge.
        additive: sum the spots instead of taking the largest.
    """
    canvas = np.zeros((size, size), np.float32)
    if len(lesions) == 0:
        return canvas
    lesions = np.asarray(lesions, np.float32)
    centres = to_pixels(lesions[:, :2], view, size)
    radii = lesions[:, 2:4] * (view.zoom * size / 2.0)
    # A spot below half a pixel would fall between pixel centres: widen it and dim it instead.
    drawn = np.maximum(radii, 0.6)
    strength = lesions[:, 5] * np.sqrt((radii / drawn).prod(axis=1))
    reach = np.ceil(drawn.max(axis=1) * (_REACH if hardness < 2 else 1.6)).astype(int)
    half = 2 ** np.ceil(np.log2(np.maximum(reach, 1))).astype(int)
    combine = np.add if additive else np.maximum
    for extent in np.unique(half):
        group = half == extent
        chosen = (centres[group], drawn[group], lesions[group, 4], strength[group])
        _stamp(canvas, *chosen, int(extent), hardness, combine)
    return canvas


def _stamp(
    canvas: np.ndarray,
    centres: np.ndarray,
    radii: np.ndarray,
    angles: np.ndarray,
    strength: np.ndarray,
    half: int,
    hardness: float,
    combine: np.ufunc,
) -> None:
    """Combine N spots of similar extent into ``canvas``, one array operation for all of them."""
    size = canvas.shape[0]
    offsets = np.arange(-half, half + 1)
    base = np.round(centres).astype(int)
    columns = base[:, 0, None] + offsets
    rows = base[:, 1, None] + offsets
    dx = (columns - centres[:, 0, None]).astype(np.float32)[:, None, :]
    dy = (rows - centres[:, 1, None]).astype(np.float32)[:, :, None]
    cos = np.cos(angles)[:, None, None]
    sin = np.sin(angles)[:, None, None]
    along = (dx * cos + dy * sin) / radii[:, 0, None, None]
    across = (dy * cos - dx * sin) / radii[:, 1, None, None]
    distance = along * along + across * across
    if hardness != 1.0:
        distance = distance**hardness
    value = np.exp(-distance) * strength[:, None, None]
    inside = ((columns >= 0) & (columns < size))[:, None, :]
    inside = inside & ((rows >= 0) & (rows < size))[:, :, None]
    value = np.where(inside, value, 0.0).astype(np.float32)
    index = np.clip(rows, 0, size - 1)[:, :, None] * size + np.clip(columns, 0, size - 1)[:, None]
    combine.at(canvas.reshape(-1), index.ravel(), value.ravel())


def blend(image: np.ndarray, alpha: np.ndarray, colour: tuple[float, float, float]) -> None:
    """Cover ``image`` [3, H, W] in place by ``colour`` where ``alpha`` [H, W] says so."""
    for plane, value in zip(image, colour, strict=True):
        plane += alpha * (float(value) - plane)


def darken(image: np.ndarray, alpha: np.ndarray, keep: tuple[float, float, float]) -> None:
    """Multiply ``image`` [3, H, W] in place by ``keep``, what passes where ``alpha`` is 1."""
    for plane, value in zip(image, keep, strict=True):
        plane *= 1.0 - alpha * (1.0 - float(value))

"""How a picture is cut, resized and put on a canvas, and the way of a map back to its pixels.

All of these move rows and columns apart from each other, so a way is one for each axis. Places
along an axis are counted from the edge: the middle of the first pixel is at 0.5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels: rows top .. top + height - 1, and likewise the columns."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Returns this part of an array [H W ...], without a copy."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclasses.dataclass(frozen=True)
class Placement:
    """How one picture becomes another; `functional.place` makes the pixels.

    Attributes:
        before: (height, width) of the picture.
        box: what is cut out of it.
        size: (height, width) to which that is resized.
        corner: (top, left) of it on the canvas, negative where the canvas leaves some of it out.
        canvas: (height, width) of what comes out.
        mirrored: whether left and right then change places.
    """

    before: tuple[int, int]
    box: Box
    size: tuple[int, int]
    corner: tuple[int, int]
    canvas: tuple[int, int]
    mirrored: bool = False

    def ends(self, axis: int, places: np.ndarray) -> np.ndarray:
        """Where places f[N] of the picture lie on the canvas, NaN for what is left out."""
        start, length = ((self.box.top, self.box.height), (self.box.left, self.box.width))[axis]
        found = (places - start) * self.size[axis] / length + self.corner[axis]
        kept = (places >= start) & (places < start + length)
        kept &= (found >= 0) & (found < self.canvas[axis])
        if self.mirrored and axis == 1:
            found = self.canvas[1] - found
        return np.where(kept, found, np.nan)


def mirror(image: np.ndarray, mirrored: bool) -> Placement:
    """That of uint8 [H W 3] whose left and right change places, or do not."""
    size = (image.shape[0], image.shape[1])
    return Placement(size, Box(0, 0, *size), size, (0, 0), size, mirrored)


def fitted(
    image: np.ndarray, size: int, fit: str, short_side: int | None = None, box: Box | None = None
) -> Placement:  # fmt: skip
    """That of uint8 [H W 3] in a square, or not a square by 'short'; options as in `Decode`.

    Args:
        image: the picture.
        size, fit, short_side: the same as in `Decode`.
        box: the part of the picture that is fitted; None for all of it.
    """
    before, square = (image.shape[0], image.shape[1]), (size, size)
    box = box or Box(0, 0, *before)
    sides, short = (box.height, box.width), min(box.height, box.width)
    if fit == "canvas":
        # Integer division, not a float scale: the long side must come out as exactly `size`.
        tall, wide = (max(side * size // max(sides), 1) for side in sides)
        return Placement(before, box, (tall, wide), (0, 0), square)
    if fit == "squash":
        return Placement(before, box, square, (0, 0), square)
    if fit == "crop" and short_side is None:
        top, left = (box.height - short) // 2, (box.width - short) // 2
        box = Box(box.top + top, box.left + left, short, short)
        return Placement(before, box, square, (0, 0), square)
    # Sides are rounded down, and the middle is rounded, as by torchvision.
    tall, wide = (side * (short_side or size) // short for side in sides)
    if fit == "short":
        return Placement(before, box, (tall, wide), (0, 0), (tall, wide))
    corner = (-round((tall - size) / 2), -round((wide - size) / 2))
    return Placement(before, box, (tall, wide), corner, square)


def back(values: np.ndarray, way: Sequence[Placement]) -> np.ndarray:
    """Brings values of a canvas back to the pixels of the picture that it was made of.

    Args:
        values: f[h w], of the canvas of the last placement.
        way: the placements from the picture to the canvas, at least one.

    Returns:
        f32[H W] of the picture, linear between the pixels of the canvas; 0 for what is left out.
    """
    down, across = (_weights(way, axis) for axis in (0, 1))
    return down @ np.asarray(values, np.float32) @ across.T


def seen(way: Sequence[Placement]) -> Box:
    """The part of a picture that is on the canvas, of no pixels where nothing is."""
    rows, columns = (np.flatnonzero(~np.isnan(_ends(way, axis))) for axis in (0, 1))
    top, left = (int(kept[0]) if len(kept) else 0 for kept in (rows, columns))
    return Box(top, left, len(rows), len(columns))


def _ends(way: Sequence[Placement], axis: int) -> np.ndarray:
    """Where the middles of pixels end."""
    places = np.arange(way[0].before[axis]) + 0.5
    for one in way:
        places = one.ends(axis, places)
    return places


def _weights(way: Sequence[Placement], axis: int) -> np.ndarray:
    """f32[N n]: how much of each pixel of the canvas is in each of the picture."""
    places, count = _ends(way, axis), way[-1].canvas[axis]
    kept = np.flatnonzero(~np.isnan(places))
    place = np.clip(places[kept] - 0.5, 0, count - 1)
    low = np.minimum(place.astype(int), max(count - 2, 0))
    weights = np.zeros((len(places), count), np.float32)
    weights[kept, low] = 1 - (place - low)
    weights[kept, np.minimum(low + 1, count - 1)] += place - low
    return weights

"""What FLAIR's released code does to photographs where this library does otherwise.

Options choose these for comparisons: `decode(antialias=False)` and `foreground_crop(border='li')`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from data_pipelines.images.preparation import Box


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 [H W 3] to [height width 3] without a filter, rounded to whole grey levels.

    Each pixel is made of the four around its place in the original, as PyTorch's bilinear
    interpolation without antialiasing (`align_corners=False`) makes it; where pictures shrink, most
    pixels of the original are not looked at. Old versions of torchvision, 0.16 and before, resize
    tensors so.
    """
    values = image.astype(np.float64)
    for axis, size in enumerate((height, width)):
        before = values.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * before / size - 0.5, 0, before - 1)
        low = np.floor(place).astype(int)
        share = np.expand_dims(place - low, tuple(i for i in range(3) if i != axis))
        first = np.take(values, low, axis)
        second = np.take(values, np.minimum(low + 1, before - 1), axis)
        values = first + share * (second - first)
    return np.rint(values).astype(np.uint8)


def li_threshold(grey: np.ndarray) -> float:
    """The threshold with the least cross-entropy to a picture, by iteration from its mean.

    Li and Tam, Pattern Recognition Letters 19 (1998). With the means b below and f above a
    threshold, both above the darkest value, the next one is (f - b) / (ln f - ln b).

    Args:
        grey: uint8 [H W].
    """
    counts = np.bincount(grey.ravel(), minlength=256).astype(np.float64)
    levels = np.arange(256.0) - grey.min()
    if np.count_nonzero(counts) < 2:
        return float(grey.min())
    tolerance = np.diff(np.flatnonzero(counts)).min() / 2
    current, following = -np.inf, (counts * levels).sum() / counts.sum()
    while abs(following - current) > tolerance:
        current = following
        above = levels > current
        low, high = (np.average(levels[part], weights=counts[part]) for part in (~above, above))
        if low == 0:
            break
        following = (high - low) / (np.log(high) - np.log(low))
    return float(following + grey.min())


def li_field(image: np.ndarray) -> Box:
    """The box of the largest connected part of uint8 [H W 3] whose red is above Li's threshold.

    Pixels are connected by their corners too. The whole picture where no pixel is above.
    """
    above = image[..., 0] > li_threshold(image[..., 0])
    found: Any = ndimage.label(above, np.ones((3, 3)))  # SciPy has no types
    parts: np.ndarray = found[0]
    if not parts.any():
        return Box(0, 0, *image.shape[:2])
    largest = 1 + int(np.bincount(parts.ravel())[1:].argmax())
    rows, columns = ndimage.find_objects(parts)[largest - 1]
    return Box(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)

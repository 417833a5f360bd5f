"""Values of more than 8 bits as 8 bits: by the range that is used, not by that of their type.

Twelve bits in a file of sixteen, or floats in 0..1, are black where the range of the type is taken
for that of the values. A photograph is scaled by its own range. What is compared within an
OCT volume, and between those of a data set, is scaled by one range for all: `common`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# What becomes 0 and what becomes 255.
Range = tuple[float, float]
UNIT: Range = (0.0, 1.0)
# Values of 8 bits below this are hardly to be told from black.
DARK = 16


def used(*arrays: np.ndarray) -> Range:
    """Returns the one range of arrays of more than 8 bits, by what their values are.

    That is 0..1 of floats within it, or a thousandth beyond, as interpolation leaves them; the
    least and the greatest value where there are negative ones; else 0 to the least power of two,
    less 1, that no value exceeds, 255 or more: a picture of 8 bits in a file of 16 keeps its
    values, and a dark one of 12 bits is not brightened to its brightest pixel.

    Args:
        arrays: integers or floats of any shapes; what is not finite counts as 0.
    """
    floats = any(values.dtype.kind == "f" for values in arrays)
    arrays = tuple(_finite(values) for values in arrays)
    low = min(float(values.min()) for values in arrays)
    high = max(float(values.max()) for values in arrays)
    if low < 0:
        return low, high
    if floats and high <= 1.001:
        return UNIT
    return 0.0, 2.0 ** max(int(np.ceil(high)).bit_length(), 8) - 1


def common(ranges: Iterable[Range]) -> Range | None:
    """Returns the range that holds all of them, but for 0..1, which is another unit; None of none.

    Where all are 0..1, that is it.
    """
    found = set(ranges)
    others = found - {UNIT}
    if not others:
        return UNIT if found else None
    return min(low for low, _ in others), max(high for _, high in others)


def eight_bits(values: np.ndarray, scale: Range) -> np.ndarray:
    """Scales values of any shape to uint8: `scale` becomes 0..255, what is beyond is clipped.

    Whole numbers from 0 keep the upper 8 of the bits that the range has.
    """
    low, high = scale
    if values.dtype.kind in "iu" and low == 0:
        shift = max(int(high).bit_length() - 8, 0)
        return np.clip(values >> shift, 0, 255).astype(np.uint8)
    share = (_finite(values) - low) / max(high - low, 1e-12)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def _finite(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f":
        return values
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)

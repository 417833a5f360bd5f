"""Pure functions of OCT volumes: choosing B-scans, resizing them, and the range of their values.

A volume is [T H W 1]: T B-scans in the order in which they lie in the eye (of horizontal ones the
superior one first), H samples of depth, W A-scans along the fast axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.errors import InputError
from data_pipelines.images import decoding, functional, greys


def decode(scans: Sequence[bytes], min_size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """Decodes encoded B-scans to uint8 [H W 1] each; colours become grey.

    Args:
        scans: the bytes of one picture a B-scan. Those of more than 8 bits are scaled by one range,
            that of all of them.
        min_size: the same as in `functional.decode_image`.

    Raises:
        InputError: one of them is no readable picture.
    """
    return [grey(scan) for scan in scaled([decoding.pixels(data, min_size) for data in scans])]


def scaled(scans: Sequence[np.ndarray], scale: greys.Range | None = None) -> list[np.ndarray]:
    """Scales B-scans of more than 8 bits by one range; those of uint8 are returned as they are.

    Args:
        scans: [H W] or [H W 3] each, as `decoding.pixels` gives them.
        scale: the range, where it is that of more than this volume; None for its own.
    """
    deep = [scan for scan in scans if scan.dtype != np.uint8]
    if not deep:
        return list(scans)
    scale = scale or greys.used(*deep)
    return [scan if scan.dtype == np.uint8 else greys.eight_bits(scan, scale) for scan in scans]


def choose(stored: int, wanted: int, select: str) -> np.ndarray:
    """Returns the int indices [wanted] of the B-scans to keep, in their order.

    Args:
        stored: B-scans of the scan.
        wanted: B-scans to keep, at least 1.
        select: 'uniform' spreads them from the first to the last, the nearest one each: nothing is
            interpolated between sparse B-scans, and where too few are stored some repeat. 'centre'
            takes the middle ones, which lie next to each other.

    Raises:
        InputError: 'centre' of a scan with fewer B-scans than wanted.
    """
    if select == "centre":
        if stored < wanted:
            raise InputError(
                f"The scan has {stored} B-scans, fewer than the {wanted} that are wanted from its "
                "centre; select the records, or spread them ('uniform')."
            )
        return np.arange(wanted) + (stored - wanted) // 2
    if wanted == 1:
        return np.array([(stored - 1) // 2])
    return np.rint(np.linspace(0, stored - 1, wanted)).astype(int)


def split(picture: np.ndarray, slices: int) -> np.ndarray:
    """Cuts B-scans that lie below each other, uint8 [slices*H W C], into uint8 [slices H W C]."""
    if slices < 1 or len(picture) % slices:
        raise InputError(
            f"A picture of {len(picture)} rows does not hold {slices} B-scans of equal height "
            "below each other."
        )
    return picture.reshape(slices, -1, *picture.shape[1:])


def resize(volume: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 [T H W 1] in the plane of its B-scans to [T height width 1], antialiased."""
    if volume.shape[1:3] == (height, width):
        return volume
    bicubic = functional.FILTERS["bicubic"]
    scans = [Image.fromarray(scan[..., 0]).resize((width, height), bicubic) for scan in volume]
    return np.stack([np.asarray(scan) for scan in scans])[..., None]


def grey(picture: np.ndarray) -> np.ndarray:
    """Returns uint8 [H W 1] of uint8 [H W 3] or [H W]: the luma, which is the value of greys."""
    return np.asarray(Image.fromarray(picture).convert("L"))[..., None]


def stretch(volume: np.ndarray) -> np.ndarray:
    """Clips uint8 [T H W 1] to its 0.5th and 99.5th percentile and spreads the rest over 0..255.

    Where the two percentiles are equal, all becomes 0.
    """
    low, high = np.percentile(volume, (0.5, 99.5))
    # There are only 256 values: a table of them is quicker than arithmetic on all voxels.
    table = (np.arange(256) - low) / max(high - low, 1e-9)
    return np.rint(255 * np.clip(table, 0, 1)).astype(np.uint8)[volume]


def standardize(volume: np.ndarray) -> np.ndarray:
    """Shifts and scales [T H W 1] to mean 0 and deviation 1, float32; a constant one becomes 0."""
    values = volume.astype(np.float32)
    deviation = values.std(dtype=np.float64)
    return ((values - values.mean(dtype=np.float64)) / max(deviation, 1e-6)).astype(np.float32)

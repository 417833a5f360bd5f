"""Values of DICOM pixels to greys: inverted, windowed, scaled."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_pipelines.clinical.dicom_frames import group
from data_pipelines.images import greys

_HIDDEN = "Its display window leaves nothing to be seen: the range of its values is taken."


def stored(frame: np.ndarray, dataset: Any) -> np.ndarray:
    """Returns a decoded frame as int64 from 0 to 2^BitsStored - 1, the greatest the brightest.

    Signed values are shifted; bits beyond those stored, in which old devices keep overlays, are
    dropped; MONOCHROME1 and a falling rescale line invert.
    """
    top = 2 ** int(dataset.BitsStored) - 1
    plain = frame.astype(np.int64) & top
    if dataset.PixelRepresentation == 1:
        plain ^= 1 << (int(dataset.BitsStored) - 1)
    falling = _rescale(dataset)[0] < 0
    if falling != (dataset.PhotometricInterpretation == "MONOCHROME1"):
        plain = top - plain
    return plain


def full_range(frame: np.ndarray, dataset: Any) -> np.ndarray:
    """Returns a B-scan as uint8 where 8 bits or fewer are stored, else as uint16 over 0..65535."""
    plain, bits = stored(frame, dataset), int(dataset.BitsStored)
    most = 255 if bits <= 8 else 65535
    return (plain * most // (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def picture(frame: np.ndarray, dataset: Any, number: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns a photograph or map as uint8, and remarks.

    More than 8 bits are scaled by the display window that the file states for them, else by the
    range that the values use (`greys.used`). Of 8 bits or fewer the whole range is taken.

    Args:
        frame: the decoded frame, [H W] or [H W 3].
        dataset: the object that it is of.
        number: its place among the frames.
    """
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return _as_used(frame), ()
    if dataset.BitsStored <= 8:
        return full_range(frame, dataset), ()
    window = _window(dataset, number)
    if window is None or frame.ndim == 3:
        return _as_used(stored(frame, dataset)), ()
    shown = _windowed(frame, dataset, *window)
    if shown.max() < greys.DARK or shown.min() == 255:
        return _as_used(stored(frame, dataset)), (_HIDDEN,)
    return shown, ()


def _as_used(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else greys.eight_bits(values, greys.used(values))


def _windowed(frame: np.ndarray, dataset: Any, centre: float, width: float) -> np.ndarray:
    """Returns uint8 by the formulas of PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    bits = int(dataset.BitsStored)
    values = frame.astype(np.int64) & (2**bits - 1)
    if dataset.PixelRepresentation == 1:
        values -= (values >> (bits - 1)) << bits
    slope, intercept = _rescale(dataset)
    values = values * slope + intercept
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    elif function == "LINEAR_EXACT":
        share = (values - centre) / width + 0.5
    else:
        share = (values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        share = 1 - share
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def _window(dataset: Any, number: int) -> tuple[float, float] | None:
    """Returns centre and width of the first window of a frame, its own before the shared one."""
    holder = group(dataset, number, "FrameVOILUTSequence") or dataset
    found = [holder.get(name) for name in ("WindowCenter", "WindowWidth")]
    values = [v[0] if hasattr(v, "__len__") and not isinstance(v, str) else v for v in found]
    if any(value in (None, "") for value in values):
        return None
    centre, width = (float(value) for value in values)
    return (centre, width) if np.isfinite(centre) and width > 0 else None


def _rescale(dataset: Any) -> tuple[float, float]:
    holder = group(dataset, 0, "PixelValueTransformationSequence") or dataset
    slope, intercept = holder.get("RescaleSlope"), holder.get("RescaleIntercept")
    return float(slope if slope is not None else 1), float(intercept or 0)

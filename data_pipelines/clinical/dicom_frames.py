"""The frames of a DICOM object: decoded, in grey or RGB, and the order of B-scans in space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.clinical import dicom_streams
from data_pipelines.clinical.scan import lacking
from data_pipelines.errors import InputError

# B-scans count as parallel or evenly spaced up to the rounding of decimal strings.
_PARALLEL, _EVEN = 1e-3, 0.04


class NoPicture(InputError):
    """The object holds no picture that can be decoded: none at all, or damaged or scrambled."""


def group(dataset: Any, frame: int, name: str) -> Any | None:
    """Returns the functional group `name` of a frame, its own before the shared one, or None."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for holder in (*own[frame : frame + 1], *shared[:1]):
        sequence = holder.get(name)
        if sequence:
            return sequence[0]
    return None


def decode(dataset: Any) -> tuple[dict[int, np.ndarray], tuple[str, ...]]:
    """Decodes every frame that can be, to the stored values; colours become RGB.

    Colours are taken for what the compressed streams say, not the header. Streams are checked for
    the size of the header before anything is decoded.

    Returns:
        ({place: [H W] or [H W 3]; palettes become RGB of their own depth}, remarks).

    Raises:
        NoPicture: no frame can be decoded, or there are more than the header says.
    """
    from pydicom.pixels.processing import apply_color_lut

    number = int(dataset.get("NumberOfFrames") or 1)
    streams = dicom_streams.compressed(dataset)
    if len(streams) > number:
        raise NoPicture(f"It has not the {number} pictures that its header claims.")
    size = (dataset.Rows, dataset.Columns)
    whole = [i for i, stream in enumerate(streams) if dicom_streams.size(stream) == size]
    if streams and not whole:
        raise NoPicture("Its compressed pictures are not of the size in its header: it is damaged.")
    remarks = dicom_streams.conform_colours(dataset, [streams[i] for i in whole])
    places = whole if streams else range(_shorten(dataset, number))
    frames = _decoded(dataset, places, number, streams)
    remarks += lacking(frames, number, "pictures")
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        frames = {i: apply_color_lut(frame, dataset)[..., :3] for i, frame in frames.items()}
    return frames, remarks


def _shorten(dataset: Any, number: int) -> int:
    """Returns how many of the frames are whole that are not compressed; the dataset claims those.

    pydicom refuses an object that has fewer than it claims.
    """
    one = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    one *= int(dataset.BitsAllocated) // 8
    there = len(dataset.PixelData) // one
    plain = not dataset.file_meta.TransferSyntaxUID.is_encapsulated
    # Of YBR_FULL_422 every second colour is left out.
    if not plain or not 0 < there < number or "422" in dataset.PhotometricInterpretation:
        return number
    dataset.NumberOfFrames = there
    dataset.PixelData = dataset.PixelData[: there * one]
    return there


def _decoded(
    dataset: Any, places: Sequence[int], number: int, streams: Sequence[bytes]
) -> dict[int, np.ndarray]:
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    if not decoder.is_available:
        # Its decoders are under the GPL, or no part of the extra for another reason.
        raise NoPicture(
            f"Its compression, {decoder.UID.name}, needs another decoder: pip "
            "install pylibjpeg-libjpeg reads JPEG of every kind."
        )

    def one(i: int) -> np.ndarray:
        image = dicom_streams.decode_jpeg(dataset, streams[i]) if streams else None
        if image is None:
            image, _ = decoder.as_array(dataset, index=i, validate=True, raw=False)
        return image

    failed = ""
    frames: dict[int, np.ndarray] = {}
    for i in places:
        try:
            frames[i] = one(i)
        except Exception as error:  # noqa: BLE001 (the other frames may be whole)
            failed = type(error).__name__
    if not frames:
        raise NoPicture(
            f"Its pictures cannot be decoded ({failed}): it is truncated, damaged or compressed "
            "in another way."
        )
    return frames


def order(dataset: Any, frames: Sequence[int]) -> tuple[list[int], float | None, tuple[str, ...]]:
    """Returns the order of B-scans in space, their distance in mm, and remarks.

    Parallel B-scans are sorted along the normal of their plane (row direction x column
    direction), which is upwards for horizontal ones; without positions in space by their places
    on the localizer, upwards too; without either, or where several lie at one place, by the number
    in the stack. The distance is None where no positions tell it, and NaN where they tell that
    there is no one distance. Only what states nothing stays in stored order.
    """
    stored = list(frames)
    if len(stored) == 1:
        return stored, None, ()
    contents = [group(dataset, i, "FrameContentSequence") for i in stored]
    places = [c.get("InStackPositionNumber") for c in contents if c is not None]
    numbered = None not in places and len(places) == len(set(places)) == len(stored)
    remarks = _gaps([int(place) for place in places]) if numbered else ()
    for depths, in_mm in ((_depths(dataset, stored), True), (_rows(dataset, stored), False)):
        if depths is None or len(np.unique(depths)) < len(stored):
            continue
        steps = np.diff(np.sort(depths))
        even = np.allclose(steps, steps.mean(), rtol=_EVEN)
        if in_mm and not even:
            remarks += ("Its B-scans are not evenly spaced.",)
        between = (float(steps.mean()) if in_mm else None) if even else math.nan
        return [stored[i] for i in np.argsort(depths)], between, remarks
    if numbered:
        return [stored[i] for i in np.argsort(places)], math.nan if remarks else None, remarks
    return stored, None, ("Its B-scans are in stored order: no positions are stated.",)


def _gaps(places: list[int]) -> tuple[str, ...]:
    """Returns a remark on numbers of a stack that no frame has, between the first and the last."""
    first, most = min(places), 10 * len(places)
    span = max(places) - first + 1
    return lacking((place - first for place in places), span) if span <= most else ()


def _depths(dataset: Any, frames: Sequence[int]) -> np.ndarray | None:
    """Returns the place of each frame along their common normal in mm, or None."""
    directions = _each(dataset, frames, "PlaneOrientationSequence", "ImageOrientationPatient")
    points = _each(dataset, frames, "PlanePositionSequence", "ImagePositionPatient")
    if directions.shape != (len(frames), 6) or points.shape != (len(frames), 3):
        return None
    directions, points = directions.astype(np.float64), points.astype(np.float64)
    if np.abs(directions - directions[0]).max() > _PARALLEL:
        return None
    return points @ np.cross(directions[0, :3], directions[0, 3:])


def _each(dataset: Any, frames: Sequence[int], sequence: str, name: str) -> np.ndarray:
    """Returns an element of a sequence that each frame has, object [frames ...], else of another
    shape."""
    found = [group(dataset, i, sequence) for i in frames]
    return np.array([place.get(name) for place in found if place is not None], object)


def _rows(dataset: Any, frames: Sequence[int]) -> np.ndarray | None:
    """Returns how far up the localizer each parallel B-scan lies, in its pixels, or None."""
    # Row and column of the start, then of the end, of a straight scan (PS3.3, C.8.17.10.1).
    lines = _each(dataset, frames, "OphthalmicFrameLocationSequence", "ReferenceCoordinates")
    if lines.shape != (len(frames), 4):
        return None
    lines = lines.astype(np.float64)
    directions = lines[:, 2:] - lines[:, :2]
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    if not lengths.min() > 0:
        return None
    directions /= lengths
    if np.abs(directions - directions[0]).max() > 10 * _PARALLEL:
        return None
    return lines[:, :2] @ np.array([-directions[0, 1], directions[0, 0]])

"""The frames of a DICOM object: decoded, in grey or RGB, and the order of B-scans in space."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import numpy as np

from data_pipelines.errors import InputError

# B-scans count as parallel or evenly spaced up to the rounding of decimal strings.
_PARALLEL, _EVEN = 1e-3, 0.04
_SIZES = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream, followed by its sizes


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


def check_streams(dataset: Any) -> None:
    """Checks that compressed frames have the size of the header, before they are decoded.

    Raises:
        NoPicture: another size, or no such stream at all.
    """
    from pydicom import encaps

    syntax = dataset.file_meta.TransferSyntaxUID
    # Run lengths are decoded into the size of the header.
    if not syntax.is_encapsulated or "RLE" in syntax.name:
        return
    frames = int(dataset.get("NumberOfFrames") or 1)
    for stream in encaps.generate_frames(dataset.PixelData, number_of_frames=frames):
        if _stream_size(stream) != (dataset.Rows, dataset.Columns):
            raise NoPicture(
                "Its compressed pictures are not of the size in its header: it is damaged."
            )


def _stream_size(data: bytes) -> tuple[int, int] | None:
    """Returns (height, width) of a JPEG, JPEG-LS or JPEG 2000 stream from its header, or None."""
    start = data[:200].find(_SIZES)
    if start >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
        return bottom - top, right - left
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker, (length,) = data[position + 1], struct.unpack_from(">H", data, position + 2)
        # Start of a frame: C0 to CF but for tables (C4, C8, CC), and F7 of JPEG-LS.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return struct.unpack_from(">2H", data, position + 5)
        position += 2 + length
    return None


def decode(dataset: Any) -> list[np.ndarray]:
    """Decodes every frame to [H W] or [H W 3], uint8 where 8 bits or fewer are stored, else
    uint16 over the full range; palettes become RGB of their own depth.

    Raises:
        NoPicture: the decoders fail, or yield another number of frames.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.processing import apply_color_lut

    number = int(dataset.get("NumberOfFrames") or 1)
    try:
        decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
        if not decoder.is_available:
            # Its decoders are under the GPL, or no part of the extra for another reason.
            raise NoPicture(
                f"Its compression, {decoder.UID.name}, needs another decoder: pip "
                "install pylibjpeg-libjpeg reads JPEG of every kind."
            )
        pairs = decoder.iter_array(dataset, validate=True, raw=False)
        frames = [frame for frame, _ in itertools.islice(pairs, number + 1)]
    except NoPicture:
        raise
    except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
        raise NoPicture(
            f"Its pictures cannot be decoded ({type(error).__name__}): it is "
            "truncated, damaged or compressed in another way."
        ) from None
    if len(frames) != number:
        raise NoPicture(f"It has not the {number} pictures that its header claims.")
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        coloured = [apply_color_lut(frame, dataset) for frame in frames]
        return [frame[..., :3] for frame in coloured]
    return [_full_range(frame, dataset) for frame in frames]


def _full_range(values: np.ndarray, dataset: Any) -> np.ndarray:
    """Scales stored values to 0..255 or 0..65535; bits beyond those stored are dropped."""
    bits = int(dataset.BitsStored)
    top = 2**bits - 1
    # Pictures of old devices keep overlays in the unused bits: they are no part of the value.
    plain = values.astype(np.int64) & top
    if dataset.PixelRepresentation == 1:
        plain ^= 1 << (bits - 1)  # two's complement to an offset from the least value
    slope = group(dataset, 0, "PixelValueTransformationSequence")
    slope = (dataset if slope is None else slope).get("RescaleSlope")
    falling = slope is not None and float(slope) < 0
    if falling != (dataset.PhotometricInterpretation == "MONOCHROME1"):
        plain = top - plain
    if bits <= 8:
        return (plain * 255 // top).astype(np.uint8)
    return (plain * 65535 // top).astype(np.uint16)


def order(dataset: Any, number: int) -> tuple[list[int], float | None, tuple[str, ...]]:
    """Returns the order of B-scans in space, their distance in mm, and remarks.

    Parallel B-scans are sorted along the normal of their plane (row direction x column
    direction), which is upwards for horizontal ones; without positions in space by their places
    on the localizer, upwards too; without either, or where several lie at one place, by the number
    in the stack. The distance is None unless it is even. Only what states nothing stays in stored
    order.
    """
    stored = list(range(number))
    if number == 1:
        return stored, None, ()
    for depths, in_mm in ((_depths(dataset, number), True), (_rows(dataset, number), False)):
        if depths is None or len(np.unique(depths)) < number:
            continue
        steps = np.diff(np.sort(depths))
        even = in_mm and np.allclose(steps, steps.mean(), rtol=_EVEN)
        return list(np.argsort(depths)), float(steps.mean()) if even else None, ()
    contents = [group(dataset, i, "FrameContentSequence") for i in stored]
    places = [c.get("InStackPositionNumber") for c in contents if c is not None]
    if None not in places and len(places) == len(set(places)) == number:
        return [int(i) for i in np.argsort(places)], None, ()
    return stored, None, ("Its B-scans are in stored order: no positions are stated.",)


def _depths(dataset: Any, number: int) -> np.ndarray | None:
    """Returns the place of each frame along their common normal in mm, or None."""
    directions = _each(dataset, number, "PlaneOrientationSequence", "ImageOrientationPatient")
    points = _each(dataset, number, "PlanePositionSequence", "ImagePositionPatient")
    if directions.shape != (number, 6) or points.shape != (number, 3):
        return None
    directions, points = directions.astype(np.float64), points.astype(np.float64)
    if np.abs(directions - directions[0]).max() > _PARALLEL:
        return None
    return points @ np.cross(directions[0, :3], directions[0, 3:])


def _each(dataset: Any, number: int, sequence: str, name: str) -> np.ndarray:
    """Returns an element of a sequence that each frame has, object [number ...], else of another
    shape."""
    found = [group(dataset, i, sequence) for i in range(number)]
    return np.array([place.get(name) for place in found if place is not None], object)


def _rows(dataset: Any, number: int) -> np.ndarray | None:
    """Returns how far up the localizer each parallel B-scan lies, in its pixels, or None."""
    # Row and column of the start, then of the end, of a straight scan (PS3.3, C.8.17.10.1).
    lines = _each(dataset, number, "OphthalmicFrameLocationSequence", "ReferenceCoordinates")
    if lines.shape != (number, 4):
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

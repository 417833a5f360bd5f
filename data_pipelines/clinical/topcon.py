"""Topcon's .fda and .fds files: a list of named chunks after a short header.

Read here, by the layout that oct-converter 0.7.0 (readers/binary_structs) and the uocte project
document: oct-converter itself fails on NumPy 2.3 and later, whose `fromstring` it needs, and stops
at a file that states no eye or date.
"""

from __future__ import annotations

import dataclasses
import pathlib
import struct

import numpy as np

from data_pipelines.clinical.scan import (
    Pseudonym,
    Scan,
    Spacing,
    day,
    lacking,
    millimetres,
    parsing,
    part,
    refuse_huge,
    told,
    words,
)
from data_pipelines.errors import InputError
from data_pipelines.images import decoding, volumes

PATTERNS = {2: "volume", 3: "radial", 4: "cross"}
EYES = {0: "OD", 1: "OS"}
_HEADER = 15
# mode, width, height, bits, B-scans, format, bytes; and the same of compressed B-scans.
_RAW, _COMPRESSED = struct.Struct("<B4IBI"), struct.Struct("<B6I")


def read_topcon(path: pathlib.Path, pseudonym: Pseudonym) -> list[Scan]:
    """Reads an .fda or .fds file: its B-scans [T H W], then the photograph or the camera's view.

    B-scans are in stored order, uint16 (.fds, and raw ones of .fda) or uint8 (compressed).
    Photographs are stored blue first and returned as RGB. Layers are not read: their order
    against the B-scans is not documented. What is damaged, a B-scan, the volume or the photograph,
    is left out and told by remarks of the rest. A file that is cut off is refused: the patient may
    have stood there.

    Raises:
        InputError: truncated, damaged, or without any picture.
    """
    with parsing("a Topcon file"):
        chunks = _chunks(path.read_bytes())
        capture = chunks.get("@CAPTURE_INFO_02") or chunks.get("@CAPTURE_INFO") or b""
        dated = 106 if "@CAPTURE_INFO_02" in chunks else 1
        hardware = next(
            (chunks[f"@HW_INFO_0{i}"] for i in (3, 2, 1) if f"@HW_INFO_0{i}" in chunks), b""
        )
        shared = {
            "laterality": EYES.get(capture[0]) if capture else None,
            "date": _date(capture[dated : dated + 6]),
            "patient": pseudonym(_text(chunks.get("@PATIENT_INFO_02", b"")[:32])),
            "device": words("Topcon", _text(hardware[:16])),
        }
        scans: list[Scan] = []
        lost: list[str] = []
        for what, read in (("Its volume", _volume), ("Its photograph", _photographs)):
            with part(what, lost):
                scans += read(chunks, shared)
        if any("ANGIOGRAPHY" in name for name in chunks):
            lost.append("It holds angiography too, which is not read.")
        return told(scans, lost, "It holds no B-scans and no photograph that can be read.")


def _chunks(data: bytes) -> dict[str, bytes]:
    found, position = {}, _HEADER
    while position < len(data) and data[position]:
        start = position + 1 + data[position] + 4
        (size,) = struct.unpack_from("<I", data, start - 4)
        if start + size > len(data):
            raise InputError("Its last part is cut off: it is truncated; copy it again.")
        found.setdefault(data[position + 1 : start - 4].decode("ascii"), data[start : start + size])
        position = start + size
    return found


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("latin-1")


def _date(data: bytes) -> str | None:
    return day("{:04d}{:02d}{:02d}".format(*struct.unpack("<3H", data))) if len(data) == 6 else None


def _volume(chunks: dict[str, bytes], shared: dict) -> list[Scan]:
    if "@IMG_JPEG" in chunks:
        data = chunks["@IMG_JPEG"]
        mode, _, _, width, height, number, _ = _COMPRESSED.unpack_from(data)
        refuse_huge("volume", number, height, width)
        bscans = _compressed(data[_COMPRESSED.size :], number, height, width)
        remarks = lacking(bscans, number)
        if not bscans:
            raise InputError("None of its B-scans can be decoded.")
        array = np.stack(volumes.scaled(list(bscans.values())))
    else:
        data = chunks.get("@IMG_MOT_COMP_03") or chunks.get("@IMG_SCAN_03")
        if data is None:
            return []
        mode, width, height, bits, number, _, _ = _RAW.unpack_from(data)
        refuse_huge("volume", number, height, width)
        if bits != 16:
            raise InputError(f"Its B-scans have {bits} bits a pixel, where 16 can be read.")
        there = min(number, (len(data) - _RAW.size) // (2 * height * width))
        if there < 1:
            raise InputError("Its B-scans are truncated: copy the file again.")
        remarks = lacking(range(there), number)
        values = np.frombuffer(data, "<u2", there * height * width, _RAW.size)
        array = values.reshape(there, height, width).astype(np.uint16)
    spacing = _spacing(chunks, mode, number, width)
    if remarks:  # neighbours may have lost what lay between them
        spacing = dataclasses.replace(spacing, between=None)
    return [
        Scan(
            "volume",
            array,
            spacing=spacing,
            scan_pattern=PATTERNS.get(mode),
            modality="oct",
            remarks=remarks,
            **shared,
        )
    ]


def _compressed(data: bytes, number: int, height: int, width: int) -> dict[int, np.ndarray]:
    """Returns {place: B-scan [H W]} of those that can be decoded."""
    found: dict[int, np.ndarray] = {}
    position = 0
    for i in range(number):
        if position + 4 > len(data):
            break
        (size,) = struct.unpack_from("<I", data, position)
        with part("", []):
            scan = _decoded(data[position + 4 : position + 4 + size], height, width)
            found[i] = scan if scan.ndim == 2 else volumes.grey(scan)[..., 0]
        position += 4 + size
    return found


def _decoded(data: bytes, height: int, width: int) -> np.ndarray:
    """Decodes a picture as `decoding.pixels`, of the size that the header of its part states."""
    picture = decoding.pixels(data, formats=("JPEG", "JPEG2000"))
    if picture.shape[:2] != (height, width):
        raise InputError("A picture in it has another size than its header: it is damaged.")
    return picture


def _spacing(chunks: dict[str, bytes], mode: int, number: int, width: int) -> Spacing:
    """Scanned mm over the number of samples, as oct-converter; only a raster has a distance."""
    if "@PARAM_SCAN_04" in chunks:
        scanned = struct.unpack_from("<3d", chunks["@PARAM_SCAN_04"], 12)
    elif "@PARAM_SCAN_02" in chunks:
        scanned = struct.unpack_from("<3d", chunks["@PARAM_SCAN_02"], 21)
    else:
        return Spacing()
    across, between, microns = (millimetres(value) for value in scanned)
    raster = PATTERNS.get(mode) == "volume" and number > 1
    return Spacing(
        between / number if between and raster else None,
        microns / 1000 if microns else None,
        across / width if across else None,
    )


def _photographs(chunks: dict[str, bytes], shared: dict) -> list[Scan]:
    scans = []
    if "@IMG_FUNDUS" in chunks:
        data = chunks["@IMG_FUNDUS"]
        width, height, _, _, _, size = struct.unpack_from("<4I4sI", data)
        refuse_huge("picture", height, width)
        (picture,) = volumes.scaled([_decoded(data[24 : 24 + size], height, width)])
        scans.append(picture if picture.ndim == 3 else np.dstack([picture] * 3))
    if "@IMG_OBS" in chunks:
        data = chunks["@IMG_OBS"]
        width, height, _, _, _, _ = struct.unpack_from("<4IBI", data)
        refuse_huge("picture", height, width)
        values = np.frombuffer(data, np.uint8, height * width * 3, 21)
        scans.append(values.reshape(height, width, 3))
    return [Scan("photograph", np.ascontiguousarray(image[..., ::-1]), **shared) for image in scans]

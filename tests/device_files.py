"""Files of ophthalmic devices, written here: no real patient is in them."""

import pathlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom
from picture_files import encode
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from data_pipelines import clinical
from data_pipelines.errors import InputError

# Everything that must not come out of a reader, once in each place that a device writes it to.
SECRETS = {
    "PatientID": "SECRETID77", "PatientName": "Secretname^Given", "InstitutionName": "Secretclinic",
    "PatientBirthDate": "19331122", "DeviceSerialNumber": "SECRETSERIAL", "StationName": "SECRETST",
    "ReferringPhysicianName": "Secretdoctor", "StudyDescription": "Secretstudy",
    "OperatorsName": "Secretoperator", "ImageComments": "Secretcomment",
    "AccessionNumber": "SECRETACC",
}  # fmt: skip
PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.77.1.5.1"


def check_damage(
    path: pathlib.Path, times: int, first: int, end: int | None = None, places: int = 3
) -> None:
    """Reads a file again and again with random bytes: it has scans, or an error without a name."""
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(times):
        data = bytearray(whole)
        for at in rng.integers(first, end or len(whole), places):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            assert clinical.read(path)
        except InputError as error:
            assert "secret" not in str(error).lower()


def write_dicom(
    path: pathlib.Path,
    array: np.ndarray,
    sop: str = PHOTOGRAPH,
    *,
    syntax: str = ExplicitVRLittleEndian,
    encoded: bytes | None = None,
    compress: str | None = None,
    **tags: Any,
) -> pathlib.Path:
    """Writes a DICOM file of an array [H W], [H W 3] or [T H W]; tags as keyword arguments."""
    colour = array.shape[-1] == 3 and array.ndim > 2
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    for tag, value in SECRETS.items():
        setattr(data, tag, value)
    block = data.private_block(0x0009, "SECRETVENDOR", create=True)
    block.add_new(1, "LO", "Secretprivate")
    data.Manufacturer, data.ManufacturerModelName = "Maker", "Model 3"
    data.Rows, data.Columns = array.shape[-3:-1] if colour else array.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    if array.ndim - colour == 3:
        data.NumberOfFrames = len(array)
    data.BitsAllocated = data.BitsStored = array.dtype.itemsize * 8
    data.PixelRepresentation = 0
    data.BurnedInAnnotation = "NO"
    for tag, value in tags.items():
        setattr(data, tag, value)
    if data.BitsStored:
        data.HighBit = data.BitsStored - 1
    data.PixelData = array.tobytes() if encoded is None else encoded
    data["PixelData"].VR = "OB" if data.BitsAllocated == 8 or encoded is not None else "OW"
    if encoded is not None:
        data["PixelData"].is_undefined_length = True
    if compress is not None:
        data.compress(compress, generate_instance_uid=False)
    path.parent.mkdir(exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def write_vol(path: pathlib.Path, bscans: np.ndarray, slo: np.ndarray) -> pathlib.Path:
    """Writes a .vol file of a raster of the left eye, with one layer at row 3."""
    number, height, width = bscans.shape
    size = 256 + 4 * width
    ticks = (
        int(
            (np.datetime64("2015-02-03T10:00") - np.datetime64("1601-01-01T00:00"))
            / np.timedelta64(1, "s")
        )
        * 10**7
    )
    header = struct.pack("<12s3I3d2I2dId4sQiI16s16sI24sdI24sd", b"HSF-OCT-103", width, number,
                         height, 0.0117, 0.25, 0.0039, slo.shape[1], slo.shape[0], 0.012, 0.012, 30,
                         0.0, b"OS", ticks, 3, size, b"1", b"1", 7, b"SECRETID77", 12345.0, 8, b"",
                         42000.0)  # fmt: skip
    data = header.ljust(2048, b"\0") + slo.tobytes()
    for bscan in bscans:
        start = struct.pack("<12sI4d2IfI", b"HSF-BS-103", size, 0, 1, 2, 1, 1, 256, 30.0, 0)
        data += start.ljust(256, b"\0") + np.full(width, 3, "<f4").tobytes() + bscan.tobytes()
    path.write_bytes(data)
    return path


def write_topcon(path: pathlib.Path, chunks: dict[str, bytes]) -> pathlib.Path:
    """Writes an .fda or .fds file of {chunk name: bytes}."""
    data = b"FOCTFDA" + struct.pack("<2I", 1, 0)
    for chunk, content in chunks.items():
        data += struct.pack("<B", len(chunk)) + chunk.encode() + struct.pack("<I", len(content))
        data += content
    path.write_bytes(data + b"\0")
    return path


def compressed(array: np.ndarray) -> bytes:
    return encode(array, "JPEG2000", irreversible=False)


def raw(volume: np.ndarray, mode: int = 2) -> bytes:
    number, height, width = volume.shape
    header = struct.pack("<B4IBI", mode, width, height, 16, number, 0, volume.nbytes)
    return header + volume.tobytes()


def stack(volume: np.ndarray, mode: int = 2) -> bytes:
    number, height, width = volume.shape
    data = struct.pack("<B6I", mode, 0, 0, width, height, number, 0)
    for bscan in volume:
        encoded = compressed(bscan)
        data += struct.pack("<I", len(encoded)) + encoded
    return data


def facts(eye: int = 1) -> dict[str, bytes]:
    """What a file tells beside its pictures."""
    label = b"Secretlabel".ljust(100, b"\0")
    date = struct.pack("<6H", 2014, 7, 8, 9, 10, 11)
    return {
        "@CAPTURE_INFO_02": struct.pack("<2BI", eye, 2, 5) + label + date,
        "@PATIENT_INFO_02": b"SECRETID77".ljust(32, b"\0") + b"Secretname".ljust(64, b"\0"),
        "@HW_INFO_03": b"3DOCT-1 Maestro".ljust(16, b"\0") + b"SECRETSERIAL".ljust(84, b"\0"),
        "@PARAM_SCAN_04": struct.pack("<3I5d2B", 0, 0, 0, 6.0, 5.0, 2.6, 0, 0, 0, 0),
    }


def write_e2e(path: pathlib.Path, parts: Sequence[tuple]) -> pathlib.Path:
    """Writes an .e2e file of parts (patient, study, series, slice, type, bytes)."""

    def head(magic: bytes, *rest: int) -> bytes:
        return struct.pack("<12sI20x", magic, 100) + struct.pack(f"<{len(rest)}I", *rest)

    folders, containers = b"", b""
    first = 88 + 52 + 44 * len(parts)
    for patient, study, series, number, kind, content in parts:
        start = first + len(containers)
        ids = struct.pack("<4i2HI", patient, study, series, number, 0, 0, kind)
        folders += struct.pack("<4I", 88, start, len(content), 0) + ids + struct.pack("<I", 0)
        containers += struct.pack("<12s5I", b"MDbData", 0, 0, start, len(content), 0)
        containers += ids + struct.pack("<I", 0) + content
    path.write_bytes(
        head(b"CMDb")
        + head(b"MDbMDir", len(parts), 88, 88, 0)
        + head(b"MDbDir", len(parts), 88, 0, 0)
        + folders
        + containers
    )
    return path


def text(*strings: str) -> bytes:
    return struct.pack("<2I", len(strings), 64) + b"".join(
        s.encode("utf-16-le").ljust(64, b"\0") for s in strings
    )


def picture(array: np.ndarray, kind: int) -> bytes:
    return struct.pack("<5I", array.nbytes, kind, array.size, *array.shape) + array.tobytes()


def e2e_parts(eye: bytes = b"R", order: tuple[int, ...] = (2, 0, 1)) -> list[tuple]:
    """A patient with one series of three B-scans, stored in another order than their numbers."""
    patient = struct.pack("<31s66sI1s25s4x", b"Secretgiven", b"Secretname", 0, b"F", b"SECRETID77")
    since = np.datetime64("2018-05-06T12:00") - np.datetime64("1601-01-01T00:00")
    when = int(since / np.timedelta64(1, "s")) * 10**7
    parts = [
        (1, -1, -1, -1, 9, patient),
        (1, 1, -1, -1, 9001, text("Heidelberg Retina Angiograph", "HRA", "")),
        (1, 1, 1, -1, 11, b"\0" * 14 + eye + b"\0" * 12),
        (1, 1, 1, -1, 9006, text("OCT ART Volume", "")),
        (1, 1, 1, -1, 9007, text("Infra-Red", "IR")),
        (1, 1, 1, -1, 10005, b"\0" * 16 + struct.pack("<Q", when)),
        (1, 1, 1, -1, 1073741824, picture(np.full((5, 5), 9, np.uint8), 33620481)),
    ]
    for place, number in enumerate(order):
        numbers = (1, 4, 6, -5, number, 5, number, 0, 0, 0.0039, *[0] * 5, 6, 3, number, 3, 0)
        meta = struct.pack("<3I4fI3fI2fI4I2fIQI2f", *numbers, number, 0, when, 1, 1, 0) + b"\0" * 60
        values = np.full((4, 6), (59 + number) << 10, np.uint16)  # 2^(59 + number - 63)
        values[0, 0] = 0xFFFF
        layer = struct.pack("<5I", 0, 0, 0, 6, 0) + np.full(6, number, "<f4").tobytes()
        parts += [(1, 1, 1, 2 * place, 10004, meta), (1, 1, 1, 2 * place, 10019, layer),
                  (1, 1, 1, 2 * place, 1073741824, picture(values, 35652097))]  # fmt: skip
    return parts

"""Ophthalmic DICOM objects, read by pydicom with the decoders of pylibjpeg."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_pipelines.clinical import dicom_frames, dicom_values
from data_pipelines.clinical.scan import (
    Pseudonym,
    Scan,
    Spacing,
    day,
    millimetres,
    parsing,
    refuse_huge,
    words,
)
from data_pipelines.errors import InputError
from data_pipelines.text.texts import named_eye

# SOP class (PS3.4, B.5): kind of scan.
KINDS = {
    "1.2.840.10008.5.1.4.1.1.77.1.5.1": "photograph",  # Ophthalmic Photography 8 Bit
    "1.2.840.10008.5.1.4.1.1.77.1.5.2": "photograph",  # Ophthalmic Photography 16 Bit
    "1.2.840.10008.5.1.4.1.1.77.1.5.4": "volume",  # Ophthalmic Tomography
    "1.2.840.10008.5.1.4.1.1.77.1.5.5": "photograph",  # Wide Field, Stereographic Projection
    "1.2.840.10008.5.1.4.1.1.77.1.5.6": "photograph",  # Wide Field, 3D Coordinates
    "1.2.840.10008.5.1.4.1.1.77.1.5.7": "en_face",  # Tomography En Face
    "1.2.840.10008.5.1.4.1.1.77.1.5.8": "volume",  # Tomography B-scan Volume Analysis: flow
}
_FLOW = "1.2.840.10008.5.1.4.1.1.77.1.5.8"
# Value 4 of Image Type of ophthalmic photographs (PS3.3, C.8.17.2.1.4).
PHOTOGRAPHS = {"COLOR": "cfp", "FA": "ffa", "ICG": "icga", "REDFREE": "redfree"}
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
ZEISS = (
    "It is a Zeiss file whose pictures are scrambled or kept in private tags: ask the vendor for "
    "the unobfuscated research export."
)
_DEFLATED = "1.2.840.10008.1.2.1.99"


def read_dicom(path: pathlib.Path, pseudonym: Pseudonym, burned_in: bool) -> list[Scan]:
    """Reads a DICOM file: one scan of a volume or en-face map, one of each frame of photographs.

    Photographs come as uint8 [H W 3] or [H W]: MONOCHROME1 is inverted, palettes and YBR become
    RGB, and more than 8 bits are scaled by the display window of the file, else by the range that
    they use. Volumes are uint8, or uint16 scaled up from the bits stored to 0..65535, without a
    window, which would be another one for each. Overlays and ICC profiles are left out. Frames
    that are missing or damaged are left out and told by remarks of the others.

    Raises:
        InputError: damaged, deflated, no ophthalmic image, patient data burnt into the picture
            (unless `burned_in`), or larger than `MAX_VOXELS`.
    """
    with parsing("DICOM"):
        import pydicom.filereader

        # A deflated file of a few bytes may unpack to any size, before anything can be checked.
        if pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID == _DEFLATED:
            raise InputError("It is a deflated DICOM file: store it undeflated.")
        dataset = pydicom.dcmread(path)
        zeiss = "zeiss" in str(dataset.get("Manufacturer", "")).lower()
    try:
        with parsing("DICOM"):
            kind = _kind(dataset)
            _check(dataset, burned_in)
            return list(_scans(dataset, kind, pseudonym))
    except dicom_frames.NoPicture as error:
        raise InputError(ZEISS if zeiss else str(error)) from None


def _kind(dataset: Any) -> str:
    kind = KINDS.get(str(dataset.get("SOPClassUID", "")))
    if kind is None:
        name = getattr(dataset.get("SOPClassUID"), "name", "nothing")
        raise dicom_frames.NoPicture(
            f"It is DICOM but no ophthalmic photograph or tomogram ({words(name)})."
        )
    if "PixelData" not in dataset:
        raise dicom_frames.NoPicture("It is a DICOM object without pictures.")
    return kind


def _check(dataset: Any, burned_in: bool) -> None:
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES" and not burned_in:
        raise InputError(
            "It says that patient data is burnt into its picture: export it without, or allow it "
            "by burned_in."
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    sizes = (frames, int(dataset.Rows), int(dataset.Columns))
    refuse_huge("picture", *sizes[1:])
    refuse_huge("volume", *sizes, int(dataset.SamplesPerPixel))
    photometric = dataset.PhotometricInterpretation
    if photometric not in (*GREY, *COLOUR, "PALETTE COLOR"):
        raise InputError(f"Its pixels are {words(photometric)}, which is not supported.")
    if dataset.BitsAllocated not in (8, 16) or not 0 < dataset.BitsStored <= dataset.BitsAllocated:
        raise InputError(
            f"Its pixels have {dataset.BitsStored} of {dataset.BitsAllocated} bits, "
            "which is not supported."
        )


def _scans(dataset: Any, kind: str, pseudonym: Pseudonym) -> Iterator[Scan]:
    frames, lost = dicom_frames.decode(dataset)
    acquired = dataset.get("AcquisitionDateTime") or dataset.get("AcquisitionDate") or ""
    shared: dict[str, Any] = {
        "device": words(dataset.get("Manufacturer"), dataset.get("ManufacturerModelName")),
        "date": day(str(acquired)),
        "patient": pseudonym(str(dataset.get("PatientID") or "")),
    }
    if kind == "volume":
        order, between, remarks = dicom_frames.order(dataset, sorted(frames))
        eye, notes = _eye(dataset, order)
        array = np.stack([dicom_values.full_range(frames[i], dataset) for i in order])
        if array.ndim == 4:
            if (array != array[..., :1]).any():
                raise InputError("Its B-scans are in colour, which is not supported.")
            array = array[..., 0]
        pattern = dataset.get("ScanPatternTypeCodeSequence")
        yield Scan(
            "volume",
            array,
            eye,
            _spacing(dataset, order, between),
            words(pattern[0].get("CodeMeaning")) if pattern else None,
            modality="octa" if dataset.SOPClassUID == _FLOW else "oct",
            remarks=(*remarks, *notes, *lost),
            **shared,
        )
        return
    types = [str(value).upper() for value in dataset.get("ImageType", None) or []]
    modality = PHOTOGRAPHS.get(types[3]) if kind == "photograph" and len(types) > 3 else None
    for i, frame in frames.items():
        eye, notes = _eye(dataset, [i])
        picture, said = dicom_values.picture(frame, dataset, i)
        yield Scan(
            kind,
            picture,
            eye,
            _spacing(dataset, [i], None),
            modality=modality,
            remarks=(*notes, *lost, *said),
            **shared,
        )


def _eye(dataset: Any, frames: Sequence[int]) -> tuple[str | None, tuple[str, ...]]:
    """Returns the eye that every tag for it names: ImageLaterality, Laterality, FrameLaterality."""
    stated = {dataset.get("ImageLaterality"), dataset.get("Laterality")}
    for i in frames:
        anatomy = dicom_frames.group(dataset, i, "FrameAnatomySequence")
        stated.add(anatomy.get("FrameLaterality") if anatomy is not None else None)
    stated = {str(value).strip().upper() for value in stated if value}
    if len(stated) > 1:
        return None, ("Its tags for the eye disagree.",)
    # 'B' (both) and 'U' (unpaired) name no eye.
    return named_eye(next(iter(stated), "")) or None, ()


def _spacing(dataset: Any, frames: Sequence[int], between: float | None) -> Spacing:
    found = set()
    for i in frames:
        measures = dicom_frames.group(dataset, i, "PixelMeasuresSequence")
        measures = dataset if measures is None else measures
        pixel = measures.get("PixelSpacing") or (None, None)
        lengths = (*pixel[:2], measures.get("SpacingBetweenSlices"))
        found.add(tuple(map(millimetres, lengths)))
    down, across, slices = found.pop() if len(found) == 1 else (None, None, None)
    between = slices if between is None else None if math.isnan(between) else between
    return Spacing(between if len(frames) > 1 else None, down, across)

"""Heidelberg Engineering's .vol and .e2e files, parsed by eyepy.

eyepy's own volume objects are not used: they refuse circle and radial scans, and take 1 for every
spacing of an .e2e file. Its parsers give what the file holds; eyepy does not check sizes before it
allocates them, nor that an .e2e file's chunks lead forwards, so both are checked here first.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import struct
from typing import Any

import numpy as np

from data_pipelines.clinical.scan import (
    EYES,
    Pseudonym,
    Scan,
    Spacing,
    day,
    grey,
    layer_rows,
    millimetres,
    parsing,
    refuse_huge,
    words,
)
from data_pipelines.errors import InputError

# Section "scan pattern" of the .vol header; 0 is "unknown".
PATTERNS = {1: "line", 2: "circle", 3: "volume", 4: "fast volume", 5: "radial"}
ENFACE = {"IR": "ir", "FA": "ffa", "ICGA": "icga"}
_HEADER, _BSCAN_HEADER = 2048, 256
_CHUNKS, _CHUNK_HEADER, _FOLDER, _CONTAINER = 88, 52, 44, 60


def read_vol(path: pathlib.Path, pseudonym: Pseudonym) -> list[Scan]:
    """Reads a .vol file: the volume, a line or a circle as [T H W], then its localizer.

    B-scans come in the order of the file, which is that of acquisition (a raster from below
    upwards). Layers are named as by HEYEX: ILM, BM, RNFL, ...

    Raises:
        InputError: truncated, damaged, or larger than `MAX_VOXELS`.
    """
    with parsing("a Heidelberg .vol file"):
        _check_vol(path)
        from eyepy.io.he.vol_reader import SEG_MAPPING, HeVolReader

        reader = HeVolReader(path)
        header = reader.parsed_file
        bscans = header.bscans
        stored = [scan.layer_segmentations for scan in bscans]
        shared: dict[str, Any] = {
            "laterality": EYES.get(header.scan_position.strip("\0 ")),
            "date": day(header.exam_time),
            "patient": pseudonym(header.patient_id),
        }
        spacing = Spacing(
            millimetres(header.distance), millimetres(header.scale_y), millimetres(header.scale_x)
        )
        volume = Scan(
            "volume",
            grey(np.stack([scan.data for scan in bscans])),
            spacing=spacing,
            scan_pattern=PATTERNS.get(header.scan_pattern),
            modality="oct",
            layers=_named_layers(stored, list(SEG_MAPPING)),
            **shared,
        )
        spacing = Spacing(None, millimetres(header.scale_y_slo), millimetres(header.scale_x_slo))
        localizer = Scan(
            "scanning_laser", np.array(header.localizer), spacing=spacing, modality="ir", **shared
        )
        return [volume, localizer]


def _check_vol(path: pathlib.Path) -> None:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        header = file.read(_HEADER)
        width, number, height = struct.unpack_from("<3I", header, 12)
        slo_width, slo_height = struct.unpack_from("<2I", header, 48)
        (bscan_header,) = struct.unpack_from("<I", header, 100)
        refuse_huge("volume", number, height, width)
        refuse_huge("picture", slo_height, slo_width)
        start = _HEADER + slo_width * slo_height
        step = bscan_header + 4 * width * height
        if start + number * step > size:
            raise InputError(
                f"It has {size:,} bytes where its header asks for {start + number * step:,}: it is "
                "truncated; export it again."
            )
        for i in range(number):
            file.seek(start + i * step + 48)
            (layers,) = struct.unpack("<I", file.read(4))
            if _BSCAN_HEADER + 4 * layers * width > bscan_header:
                raise InputError(
                    f"Its B-scan {i} claims {layers} layers, more than fit: it is "
                    "damaged; export it again."
                )


def _named_layers(stored: list[np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """Returns {name: [T W]} of arrays [layers W], one a B-scan, that may differ in their number."""
    most = max(len(rows) for rows in stored)
    names = names + [f"layer {i}" for i in range(len(names), most)]
    curves = (
        (t, names[i], rows[i])
        for i in range(most)
        for t, rows in enumerate(stored)
        if i < len(rows)
    )
    return layer_rows(curves, len(stored), stored[0].shape[-1])


def read_e2e(path: pathlib.Path, pseudonym: Pseudonym) -> list[Scan]:
    """Reads an .e2e file, which may hold several patients and eyes: each series and its localizer.

    Only the axial spacing is in the file; transversal ones depend on the length of the eye and
    are None. B-scans are put in the order of their stated numbers.

    Raises:
        InputError: truncated, damaged, or without any picture.
    """
    with parsing("a Heidelberg .e2e file"):
        _check_e2e(path)
        from eyepy.io.he.e2e_reader import HeE2eReader

        with HeE2eReader(path) as reader:
            scans = [
                dataclasses.replace(scan, series=number)
                for number, series in enumerate(reader.series)
                for scan in _series(series, pseudonym)
            ]
        if not scans:
            raise InputError("It holds no B-scan and no localizer that can be read.")
        return scans


def _check_e2e(path: pathlib.Path) -> None:
    size, position = os.path.getsize(path), _CHUNKS
    with open(path, "rb") as file:
        while position + _CHUNK_HEADER <= size:
            file.seek(position)
            (entries,) = struct.unpack_from("<I", file.read(_CHUNK_HEADER), 36)
            last = position + _CHUNK_HEADER + (entries - 1) * _FOLDER
            if entries < 1 or last + _FOLDER > size:
                raise InputError("Its list of parts is cut off: it is truncated; export it again.")
            file.seek(last)
            start, length = struct.unpack_from("<2I", file.read(_FOLDER), 4)
            if start + length + _CONTAINER <= position:
                raise InputError("Its parts lead in a circle: it is damaged; export it again.")
            position = start + length + _CONTAINER


def _series(series: Any, pseudonym: Pseudonym) -> list[Scan]:
    from eyepy.io.he.e2e_format import TypesEnum
    from eyepy.io.he.vol_reader import SEG_MAPPING

    def first(holder: Any, kind: Any) -> Any:
        folders = holder.folders.get(kind, []) if holder is not None else []
        return folders[0].data if folders else None

    def text(holder: Any, kind: Any, index: int) -> str | None:
        found = first(holder, kind)
        return words(found.text[index]) if found and index < len(found.text) else None

    patient = first(series.patient, TypesEnum.patient)
    slices = [
        s for s in series.slices.values() if TypesEnum.bscanmeta in s.folders and _images(s, _BSCAN)
    ]
    slices.sort(key=lambda s: (s.get_meta()["aktImage"], s.id))
    exam = first(series, TypesEnum.examination_time)
    eye, remarks = _stated_eye(series.folders.get(TypesEnum.laterality, []))
    shared = {
        "laterality": eye,
        "device": text(series.study, TypesEnum.device, 0),
        "date": day(
            exam.examination_time
            if exam
            else slices[0].get_meta()["acquisitionTime"]
            if slices
            else None
        ),
        "patient": pseudonym(patient.patient_id if patient else None),
        "remarks": remarks,
    }
    localizers = _images(series, _LOCALIZER) or [
        image for s in series.slices.values() for image in _images(s, _LOCALIZER)
    ]
    modality = ENFACE.get(text(series, TypesEnum.enface_modality, 1) or "")
    scans = [
        Scan("scanning_laser", np.array(image), modality=modality, **shared) for image in localizers
    ]
    if slices:
        bscans = [_images(s, _BSCAN)[0] for s in slices]
        refuse_huge("volume", len(bscans), *bscans[0].shape)
        names = {number: name for name, number in SEG_MAPPING.items()}
        spacing = Spacing(down=millimetres(slices[0].get_meta()["scale_y"]))
        scans.insert(0, Scan(
            "volume", grey(np.stack(bscans)), spacing=spacing, modality="oct",
            scan_pattern=text(series, TypesEnum.scanpattern, 0),
            layers=_e2e_layers(slices, bscans[0].shape[1], names), **shared,
        ))  # fmt: skip
    return scans


# Types of picture in an .e2e file (eyepy, e2e_format.Type1073741824).
_LOCALIZER, _BSCAN = 33620481, 35652097


def _images(holder: Any, kind: int) -> list[np.ndarray]:
    from eyepy.io.he.e2e_format import TypesEnum

    found = [folder.data for folder in holder.folders.get(TypesEnum.image, [])]
    return [image.data for image in found if image.type == kind]


def _stated_eye(folders: list[Any]) -> tuple[str | None, tuple[str, ...]]:
    """Returns the eye that all laterality entries name, read from their 15th byte (R or L).

    The byte itself is read, as eyepy's field fails on a value that is neither.
    """
    stated = {folder.get_bytes()[14:15].decode("latin-1") for folder in folders}
    if len(stated) > 1:
        return None, ("Its entries for the eye disagree.",)
    return EYES.get(next(iter(stated), "")), ()


def _e2e_layers(slices: list[Any], width: int, names: dict[int, str]) -> dict[str, np.ndarray]:
    from eyepy.io.he.e2e_format import TypesEnum

    curves = (
        (
            t,
            names.get(folder.data.id, f"layer {folder.data.id}"),
            np.asarray(folder.data.data, np.float32),
        )
        for t, one in enumerate(slices)
        for folder in one.folders.get(TypesEnum.layer_annotation, [])
    )
    return layer_rows(curves, len(slices), width)

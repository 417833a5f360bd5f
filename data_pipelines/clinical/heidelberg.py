"""Heidelberg Engineering's .vol and .e2e files, parsed by eyepy.

eyepy's own volume objects are not used: they refuse circle and radial scans, and take 1 for every
spacing of an .e2e file. Its parsers give what the file holds; eyepy does not check sizes before it
allocates them, nor that an .e2e file's chunks lead forwards, so both are checked here first.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import struct
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.clinical.scan import (
    Pseudonym,
    Scan,
    Spacing,
    day,
    grey,
    is_angiography,
    lacking,
    layer_rows,
    linear,
    millimetres,
    parsing,
    part,
    refuse_huge,
    told,
    words,
)
from data_pipelines.errors import InputError
from data_pipelines.text.texts import named_eye

# Section "scan pattern" of the .vol header; 0 is "unknown".
PATTERNS = {1: "line", 2: "circle", 3: "volume", 4: "fast volume", 5: "radial"}
ENFACE = {"IR": "ir", "FA": "ffa", "ICGA": "icga"}
_HEADER, _BSCAN_HEADER = 2048, 256
_CHUNKS, _CHUNK_HEADER, _FOLDER, _CONTAINER = 88, 52, 44, 60


def read_vol(path: pathlib.Path, pseudonym: Pseudonym) -> list[Scan]:
    """Reads a .vol file: the volume, a line or a circle as [T H W], then its localizer.

    B-scans come in the order of the file, which is that of acquisition (a raster from below
    upwards); a file that is cut off gives those before the cut. Layers are named as by HEYEX: ILM,
    BM, RNFL, ... An export of angiography has the same layout and says so by its name alone,
    'NAME_Angio.vol': its modality is 'octa', its values are those of the file.

    Raises:
        InputError: damaged, larger than `MAX_VOXELS`, or truncated before the first B-scan.
    """
    with parsing("a Heidelberg .vol file"):
        from eyepy.io.he.vol_reader import SEG_MAPPING, vol_format

        data, remarks = _repaired_vol(path)
        header = vol_format.parse(data)
        bscans = header.bscans
        stored = [scan.layer_segmentations for scan in bscans]
        shared: dict[str, Any] = {
            "laterality": named_eye(header.scan_position.strip("\0 ")) or None,
            "date": day(header.exam_time),
            "patient": pseudonym(header.patient_id.split("\0")[0]),
            "remarks": remarks,
        }
        spacing = Spacing(
            millimetres(header.distance), millimetres(header.scale_y), millimetres(header.scale_x)
        )
        values = np.stack([scan.data for scan in bscans])
        flow = is_angiography(path)
        volume = Scan(
            "volume",
            linear(values) if flow else grey(values),
            spacing=spacing,
            scan_pattern=PATTERNS.get(header.scan_pattern),
            modality="octa" if flow else "oct",
            layers=_named_layers(stored, list(SEG_MAPPING)),
            **shared,
        )
        spacing = Spacing(None, millimetres(header.scale_y_slo), millimetres(header.scale_x_slo))
        localizer = Scan(
            "scanning_laser", np.array(header.localizer), spacing=spacing, modality="ir", **shared
        )
        return [volume, localizer]


def _repaired_vol(path: pathlib.Path) -> tuple[bytes, tuple[str, ...]]:
    """Returns the bytes of a file that claim no more than there is, and what had to go."""
    data = bytearray(path.read_bytes())
    width, number, height = struct.unpack_from("<3I", data, 12)
    slo_width, slo_height = struct.unpack_from("<2I", data, 48)
    (bscan_header,) = struct.unpack_from("<I", data, 100)
    refuse_huge("volume", number, height, width)
    refuse_huge("picture", slo_height, slo_width)
    start = _HEADER + slo_width * slo_height
    step = bscan_header + 4 * width * height
    there = min(number, max(len(data) - start, 0) // step)
    if bscan_header < _BSCAN_HEADER or not there:
        raise InputError(
            f"It has {len(data):,} bytes where its header asks for {start + number * step:,}: it "
            "is truncated; export it again."
        )
    remarks = [*lacking(range(there), number)]
    struct.pack_into("<I", data, 16, there)
    for i in range(there):
        struct.pack_into("<I", data, start + i * step + 12, bscan_header)
        (layers,) = struct.unpack_from("<I", data, start + i * step + 48)
        if _BSCAN_HEADER + 4 * layers * width > bscan_header:
            struct.pack_into("<I", data, start + i * step + 48, 0)
            remarks.append(f"The layers of its B-scan {i + 1} are damaged, and left out.")
    return bytes(data), tuple(remarks)


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
    are None. B-scans are put in the order of their stated numbers. What cannot be read of a file,
    a B-scan or a series, is left out and told by remarks of what can.

    Raises:
        InputError: truncated, damaged, or without any picture.
    """
    with parsing("a Heidelberg .e2e file"):
        _check_e2e(path)
        from eyepy.io.he.e2e_reader import HeE2eReader

        scans: list[Scan] = []
        lost: list[str] = []
        with HeE2eReader(path) as reader:
            for number, series in enumerate(reader.series):
                with part(f"Series {number + 1} of {len(reader.series)}", lost):
                    found = _series(series, pseudonym)
                    scans += [dataclasses.replace(scan, series=number) for scan in found]
        return told(scans, lost, "It holds no B-scan and no localizer that can be read.")


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

    def first(holder: Any, kind: Any) -> Any:
        folders = holder.folders.get(kind, []) if holder is not None else []
        return folders[0].data if folders else None

    def text(holder: Any, kind: Any, index: int) -> str | None:
        found = first(holder, kind)
        return words(found.text[index]) if found and index < len(found.text) else None

    lost: list[str] = []
    patient = first(series.patient, TypesEnum.patient)
    slices = _bscans(series, lost)
    exam = first(series, TypesEnum.examination_time)
    eye, remarks = _stated_eye(series.folders.get(TypesEnum.laterality, []))
    if any(_FLOW in holder.folders for holder in (series, *series.slices.values())):
        lost.append("It holds angiography too, which is not read.")
    dated = slices[0].meta["acquisitionTime"] if slices else None
    shared: dict[str, Any] = {
        "laterality": eye,
        "device": text(series.study, TypesEnum.device, 0),
        "date": day(exam.examination_time if exam else dated),
        "patient": pseudonym(patient.patient_id if patient else None),
        "remarks": remarks,
    }
    localizers: list[np.ndarray] = []
    with part("Its localizer", lost):
        localizers = _images(series, _LOCALIZER) or [
            image for s in series.slices.values() for image in _images(s, _LOCALIZER)
        ]
    modality = ENFACE.get(text(series, TypesEnum.enface_modality, 1) or "")
    scans = [
        Scan("scanning_laser", np.array(image), modality=modality, **shared) for image in localizers
    ]
    if slices:
        flow = "angio" in (text(series, TypesEnum.oct_modality, 1) or "").lower()
        values = np.stack([one.image for one in slices])
        scans.insert(0, Scan(
            "volume", linear(values) if flow else grey(values),
            spacing=Spacing(down=millimetres(slices[0].meta["scale_y"])),
            modality="octa" if flow else "oct", scan_pattern=text(series, TypesEnum.scanpattern, 0),
            layers=_e2e_layers(slices, values.shape[2], lost), **shared,
        ))  # fmt: skip
    return told(scans, lost, "") if scans or lost else []


class _Bscan(NamedTuple):
    """A B-scan of an .e2e file: its entry, its description, and its intensities [H W]."""

    entry: Any
    meta: Any
    image: np.ndarray


def _bscans(series: Any, lost: list[str]) -> list[_Bscan]:
    """Returns the B-scans of a series in the order of their numbers, and notes those it lacks."""
    from eyepy.io.he.e2e_format import TypesEnum

    found: list[_Bscan] = []
    damaged: list[str] = []
    for entry in series.slices.values():
        with part("A B-scan", damaged):
            images = _images(entry, _BSCAN) if TypesEnum.bscanmeta in entry.folders else []
            found += [_Bscan(entry, entry.get_meta(), image) for image in images[:1]]
    found.sort(key=lambda one: (one.meta["aktImage"], one.entry.id))
    shapes = collections.Counter(one.image.shape for one in found)
    if not shapes:
        lost += damaged[:1]
        return []
    size = shapes.most_common(1)[0][0]
    refuse_huge("volume", len(found), *size)
    whole = [one for one in found if one.image.shape == size]
    total = max(one.meta["n_bscans"] for one in whole)
    numbers = [one.meta["aktImage"] for one in whole]
    first = 1 if numbers[-1] == total else 0
    if len(set(numbers)) == len(numbers) < total <= _MOST_BSCANS:
        lost += lacking((number - first for number in numbers), total)
    elif len(whole) < len(found) or damaged:
        gone = len(found) - len(whole) + len(damaged)
        lost.append(f"{gone} of its B-scans are damaged, and left out.")
    return whole


# Types of picture in an .e2e file (eyepy, e2e_format.Type1073741824).
_LOCALIZER, _BSCAN = 33620481, 35652097
# Entries of angiography, whose layout is not known.
_FLOW = 1073751901
_MOST_BSCANS = 10_000
# Five numbers before the values of a picture or a layer.
_ENTRY_HEADER = 20


def _images(holder: Any, kind: int) -> list[np.ndarray]:
    from eyepy.io.he.e2e_format import TypesEnum

    found = []
    for folder in holder.folders.get(TypesEnum.image, []):
        if (image := folder.data).type == kind:
            _check_entry(folder, image.height * image.width * (2 if kind == _BSCAN else 1))
            found.append(image.data)
    return found


def _check_entry(folder: Any, values: int) -> None:
    """Raises `InputError` if values need more bytes than an entry has: eyepy reads the next one."""
    if folder.size < _ENTRY_HEADER + values:
        raise InputError("An entry is shorter than it claims.")


def _stated_eye(folders: list[Any]) -> tuple[str | None, tuple[str, ...]]:
    """Returns the eye that all laterality entries name, read from their 15th byte (R or L).

    The byte itself is read, as eyepy's field fails on a value that is neither.
    """
    stated = {folder.get_bytes()[14:15].decode("latin-1") for folder in folders}
    if len(stated) > 1:
        return None, ("Its entries for the eye disagree.",)
    return named_eye(next(iter(stated), "").strip("\0")) or None, ()


def _e2e_layers(slices: list[_Bscan], width: int, lost: list[str]) -> dict[str, np.ndarray]:
    from eyepy.io.he.e2e_format import TypesEnum
    from eyepy.io.he.vol_reader import SEG_MAPPING

    names = {number: name for name, number in SEG_MAPPING.items()}
    curves: list[tuple[int, str, np.ndarray]] = []
    for t, one in enumerate(slices):
        with part(f"A layer of its B-scan {t + 1}", lost):
            for folder in one.entry.folders.get(TypesEnum.layer_annotation, []):
                name = names.get(folder.data.id, f"layer {folder.data.id}")
                curve = np.asarray(folder.data.data, np.float32)
                _check_entry(folder, curve.nbytes)
                curves.append((t, name, curve))
    return layer_rows(curves, len(slices), width)

"""Heidelberg Engineering's XML export: one .xml file and the pictures beside it.

Read with the standard library, by the element names of eyepy's table. eyepy's reader calls every
eye that is not 'R' a left one, fails without that entry, and opens whatever path the file names.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.clinical.scan import (
    Pseudonym,
    Scan,
    Spacing,
    day,
    is_angiography,
    lacking,
    layer_rows,
    millimetres,
    parsing,
    part,
    refuse_huge,
    told,
)
from data_pipelines.errors import InputError
from data_pipelines.images import decoding, volumes
from data_pipelines.text.texts import named_eye

_LAYER = re.compile(r"(?!(?:file|allow_pickle)$)[A-Za-z0-9][A-Za-z0-9_ -]{0,31}")
_CONTEXT = "OphthalmicAcquisitionContext/"
# Distances of B-scans vary by the rounding of their positions.
_EVEN = 0.04


def read_xml(path: pathlib.Path, pseudonym: Pseudonym) -> list[Scan]:
    """Reads an XML export: of each series its B-scans [T H W], in the order of the file, and its
    localizer.

    A picture that is missing, damaged or elsewhere, and a series without any, is left out and told
    by remarks of the others.

    Raises:
        InputError: no such export, or none of its pictures can be read.
    """
    with parsing("a Heidelberg XML export"):
        data = path.read_bytes()
        if b"<!DOCTYPE" in data.replace(b"\0", b""):
            raise InputError("It declares entities of its own, which no Heidelberg export does.")
        try:
            root = ElementTree.fromstring(data)
        except ElementTree.ParseError:  # an export may have names in Latin-1 without saying so
            root = ElementTree.fromstring(data.decode("latin-1"))
        found = [
            (pseudonym(patient.findtext("PatientID")), series)
            for patient in root.iter("Patient")
            for series in patient.iter("Series")
        ]
        scans: list[Scan] = []
        lost: list[str] = []
        for number, (patient, series) in enumerate(found):
            with part(f"Series {number + 1} of {len(found)}", lost):
                read = _series(series, path, patient)
                scans += [dataclasses.replace(scan, series=number) for scan in read]
        return told(
            scans, lost, "It names no OCT picture and no localizer: it is no export of scans."
        )


def _series(series: ElementTree.Element, path: pathlib.Path, patient: str | None) -> Sequence[Scan]:
    images = [e for e in series.iter() if e.find("ImageType/Type") is not None]
    lost: list[str] = []
    pictures = {}
    for kind, what in (("OCT", "B-scans"), ("LOCALIZER", "localizers")):
        of_kind = [e for e in images if (e.findtext("ImageType/Type") or "").strip() == kind]
        pictures[kind] = _pictures(of_kind, path.parent, what, lost)
    shared: dict[str, Any] = {
        "laterality": named_eye(series.findtext("Laterality") or "") or None,
        "date": _day(series),
        "patient": patient,
    }
    scans = []
    if pictures["OCT"]:
        elements, stored = zip(*pictures["OCT"], strict=True)
        bscans = volumes.scaled(stored)
        if len({scan.shape[:2] for scan in bscans}) > 1:
            raise InputError("Its B-scans are of several sizes: export one volume at a time.")
        refuse_huge("volume", len(bscans), *bscans[0].shape[:2])
        between, remarks = _between(elements)
        scans.append(
            Scan(
                "volume",
                np.concatenate([volumes.grey(scan) for scan in bscans], 2).transpose(2, 0, 1),
                spacing=_spacing(elements, between),
                modality="octa" if is_angiography(path) else "oct",
                layers=_layers(elements, bscans[0].shape[1]),
                remarks=remarks,
                **shared,
            )
        )
    for element, stored in pictures["LOCALIZER"]:
        picture = volumes.grey(volumes.scaled([stored])[0])[..., 0]
        scans.append(Scan("scanning_laser", picture, spacing=_spacing([element], None), **shared))
    return told(scans, lost, "") if scans or lost else []


def _pictures(
    elements: list[ElementTree.Element], folder: pathlib.Path, what: str, lost: list[str]
) -> list[tuple[ElementTree.Element, np.ndarray]]:
    """Returns the entries whose picture can be read, each with it, and notes the others."""
    found: dict[int, np.ndarray] = {}
    reasons: list[str] = []
    for i, element in enumerate(elements):
        with part(f"Number {i + 1}", reasons):
            found[i] = _picture(element, folder)
    if reasons:
        lost.append(" ".join((*lacking(found, len(elements), what), reasons[0])))
    return [(elements[i], picture) for i, picture in found.items()]


def _day(series: ElementTree.Element) -> str | None:
    date = series.find("ExamDate/Date")
    if date is None:
        return None
    parts = [(date.findtext(name) or "").strip() for name in ("Year", "Month", "Day")]
    return day(f"{parts[0]:0>4}{parts[1]:0>2}{parts[2]:0>2}")


def _picture(image: ElementTree.Element, folder: pathlib.Path) -> np.ndarray:
    """Decodes the picture of an entry as `decoding.pixels`; it must lie beside the .xml file."""
    address = (image.findtext("ImageData/ExamURL") or "").strip()
    # Addresses are paths of the exporting machine; the pictures lie beside the .xml file.
    name = address.replace("\\", "/").rsplit("/", 1)[-1]
    path = (folder / name).resolve()
    if not name or path.parent != folder.resolve() or not path.is_file():
        raise InputError(
            "A picture that it names is not beside it: keep the exported folder whole."
        )
    return decoding.pixels(path.read_bytes())


def _spacing(images: Sequence[ElementTree.Element], between: float | None) -> Spacing:
    def same(name: str) -> float | None:
        found = {millimetres(e.findtext(_CONTEXT + name)) for e in images}
        return found.pop() if len(found) == 1 else None

    return Spacing(between, same("ScaleY"), same("ScaleX"))


def _between(images: Sequence[ElementTree.Element]) -> tuple[float | None, tuple[str, ...]]:
    """Returns the distance of parallel, evenly spaced B-scans from their stated ends, in mm."""
    places = [f"{_CONTEXT}{end}/Coord/{axis}" for end in ("Start", "End") for axis in ("X", "Y")]
    ends = [[e.findtext(place) for place in places] for e in images]
    if len(images) < 2 or any(value is None for row in ends for value in row):
        return None, ()
    points = np.array(ends, np.float64).reshape(-1, 2, 2)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=-1)
    if not steps.mean() > 0 or not np.allclose(steps, steps.mean(), rtol=_EVEN):
        return None, ("Its B-scans are not evenly spaced.",)
    return float(steps.mean()), ()


def _layers(images: Sequence[ElementTree.Element], width: int) -> dict[str, np.ndarray]:
    curves = (
        (
            t,
            (line.findtext("Name") or "").strip(),
            np.array((line.findtext("Array") or "").split(), np.float32),
        )
        for t, image in enumerate(images)
        for line in image.iter("SegLine")
    )
    found = layer_rows(curves, len(images), width)
    # Of others nobody knows which boundary they are, and they are to be names of arrays in a file.
    return {name: rows for name, rows in found.items() if _LAYER.fullmatch(name)}

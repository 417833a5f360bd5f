"""Files of ophthalmic devices, written by the tests: no real patient is in them."""

import pathlib
import types
from collections.abc import Callable, Sequence
from typing import Any

import device_files
import numpy as np
import pytest
from picture_files import encode
from pydicom.dataset import Dataset

KEY = b"a key of the tests, 16+ bytes"


@pytest.fixture
def key() -> bytes:
    """A key long enough for the hash of patients."""
    return KEY


@pytest.fixture
def dicom_file(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes a DICOM file, `device_files.write_dicom`, into the folder of the test."""

    def write(array: np.ndarray, name: str = "a.dcm", *rest: Any, **tags: Any) -> pathlib.Path:
        return device_files.write_dicom(tmp_path / name, array, *rest, **tags)

    return write


@pytest.fixture
def groups() -> types.SimpleNamespace:
    """Functional groups of B-scans: what each frame has of its own, and what all share."""

    def sequence(**values: Any) -> list[Dataset]:
        item = Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        return [item]

    def frame(
        position: Sequence[float] | None = None,
        place: Sequence[float] | None = None,
        number: int | None = None,
        eye: str | None = None,
    ) -> Dataset:
        (item,) = sequence()
        if position is not None:
            item.PlanePositionSequence = sequence(ImagePositionPatient=list(position))
        if place is not None:
            item.OphthalmicFrameLocationSequence = sequence(ReferenceCoordinates=list(place))
        if number is not None:
            item.FrameContentSequence = sequence(StackID="1", InStackPositionNumber=number)
        if eye is not None:
            item.FrameAnatomySequence = sequence(FrameLaterality=eye)
        return item

    def shared(spacing: Sequence[float] = (0.004, 0.011), eye: str | None = None) -> list[Dataset]:
        result = sequence(
            PixelMeasuresSequence=sequence(PixelSpacing=list(spacing), SliceThickness=9.0),
            PlaneOrientationSequence=sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        )
        if eye is not None:
            result[0].FrameAnatomySequence = sequence(FrameLaterality=eye)
        return result

    return types.SimpleNamespace(frame=frame, shared=shared)


@pytest.fixture
def topcon_file(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes an .fda or .fds file of {chunk name: bytes}."""

    def write(chunks: dict[str, bytes], name: str = "a.fda") -> pathlib.Path:
        return device_files.write_topcon(tmp_path / name, chunks)

    return write


@pytest.fixture
def e2e_file(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes an .e2e file of parts (patient, study, series, slice, type, bytes)."""

    def write(parts: Sequence[tuple], name: str = "a.e2e") -> pathlib.Path:
        return device_files.write_e2e(tmp_path / name, parts)

    return write


@pytest.fixture
def xml_folder(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes a Heidelberg XML export: B-scans, their localizer, and the text of the .xml file."""

    def write(
        bscans: np.ndarray,
        slo: np.ndarray,
        eye: str = "<Laterality>L</Laterality>",
        step: float = 0.25,
        address: str = "C:\\export\\{name}",
        name: str = "export",
        starts: Sequence[float] | None = None,
    ) -> pathlib.Path:
        folder = tmp_path / name
        folder.mkdir()
        images = [("LOCALIZER", "slo.png", slo, 0.0)]
        images += [("OCT", f"b{i}.png", b, i * step) for i, b in enumerate(bscans)]
        if starts is not None:
            images[1:] = [(*image[:3], y) for image, y in zip(images[1:], starts, strict=True)]
        text = ""
        for kind, file, array, y in images:
            (folder / file).write_bytes(encode(array))
            ends = "".join(
                f"<{end}><Coord><X>{x}</X><Y>{y}</Y></Coord></{end}>"
                for end, x in (("Start", 0.5), ("End", 5.5))
            )
            curve = " ".join(["3e+38"] + ["2.5"] * (array.shape[1] - 1))
            lines = (
                "<Segmentation><NumSegmentations>1</NumSegmentations><SegLine>"
                f"<Name>ILM</Name><Array>{curve}</Array></SegLine></Segmentation>"
            )
            lines = lines if kind == "OCT" else ""
            text += (
                f"<Image><ImageType><Type>{kind}</Type></ImageType>"
                f"<OphthalmicAcquisitionContext><Width>{array.shape[1]}</Width>"
                f"<Height>{array.shape[0]}</Height><ScaleX>0.0117</ScaleX>"
                f"<ScaleY>0.0039</ScaleY><Angle>30</Angle><Focus>1</Focus>"
                f"<ImageQuality>30</ImageQuality>{ends}</OphthalmicAcquisitionContext>"
                f"<ImageData><ExamURL>{address.format(name=file)}</ExamURL></ImageData>{lines}"
                "</Image>"
            )
        date = "<Date><Year>2016</Year><Month>3</Month><Day>9</Day></Date>"
        path = folder / "export.xml"
        path.write_text(
            f'<?xml version="1.0"?><HEDX><BODY><SWVersion><Version>1</Version></SWVersion><Patient>'
            f"<ID>7</ID><PatientID>SECRETID77</PatientID><LastName>Secretname</LastName>"
            f"<FirstNames>Secretgiven</FirstNames><Birthdate>{date}</Birthdate><Study><StudyDate>"
            f"{date}</StudyDate><Series><ID>1</ID>{eye}<ExamDate>{date}</ExamDate>"
            f"<ReferenceSeries><ID>1</ID><ExamDate>{date}</ExamDate></ReferenceSeries>"
            f"<ProgID>x</ProgID><ThicknessGrid><Type>0</Type></ThicknessGrid>{text}</Series>"
            "</Study></Patient></BODY></HEDX>"
        )
        return path

    return write

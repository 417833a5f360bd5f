"""DICOM objects written with pydicom: pixels, eye, spacing, order of frames, refusals."""

import dataclasses
import io
import struct

import numpy as np
import pydicom
import pytest
from device_files import check_damage
from picture_files import encode
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels.common import CoderBase
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from data_pipelines import clinical
from data_pipelines.clinical import scan
from data_pipelines.errors import InputError

pytestmark = pytest.mark.fast

PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
TOMOGRAM = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
SIXTEEN = "1.2.840.10008.5.1.4.1.1.77.1.5.2"


@pytest.fixture
def colour() -> np.ndarray:
    """A uint8 [64 80 3] picture, different in each channel and corner."""
    y, x = np.mgrid[:64, :80]
    return np.stack([3 * x, 4 * y, 255 - 2 * x - y], -1).astype(np.uint8)


@pytest.fixture
def grey() -> np.ndarray:
    """A uint8 [20 25] picture of all values from 0 up."""
    return (np.arange(500) % 256).astype(np.uint8).reshape(20, 25)


def test_a_colour_photograph(dicom_file, colour, key):
    path = dicom_file(colour, ImageLaterality="R", AcquisitionDateTime="20210304101112",
                      PixelSpacing=[0.006, 0.007],
                      ImageType=["ORIGINAL", "PRIMARY", "", "COLOR"])  # fmt: skip
    (one,) = clinical.read(path, key)
    assert np.array_equal(one.array, colour) and one.array.dtype == np.uint8
    assert (one.kind, one.laterality, one.date) == ("photograph", "OD", "2021-03-04")
    assert (one.device, one.modality) == ("Maker Model 3", "cfp")
    assert one.spacing == clinical.Spacing(None, 0.006, 0.007)
    assert len(one.patient) == 32 and one.patient != clinical.read(path, key + b"x")[0].patient


def test_what_is_not_stated_is_none(dicom_file, colour):
    # Neither the file's name nor free text states an eye, nor do other dates the day.
    path = dicom_file(colour, "patient_OD_right.dcm", SeriesDescription="Right eye, OD",
                      StudyDate="20210304", ContentDate="20210304",
                      ImagerPixelSpacing=[1, 1])  # fmt: skip
    (one,) = clinical.read(path)
    unknown = dataclasses.replace(one, device=None)
    assert [
        getattr(unknown, f)
        for f in ("laterality", "scan_pattern", "device", "date", "patient", "modality")
    ] == [None] * 6
    assert one.spacing == clinical.Spacing() and one.layers == {}


@pytest.mark.parametrize(("tags", "eye"),
                         [({"ImageLaterality": "L"}, "OS"), ({"Laterality": "R"}, "OD"),
                          ({"Laterality": "R", "ImageLaterality": "R"}, "OD"),
                          ({"Laterality": "L", "ImageLaterality": "R"}, None),
                          ({"ImageLaterality": "B"}, None), ({"ImageLaterality": ""}, None),
                          ({}, None)])  # fmt: skip
def test_the_eye_is_what_all_tags_say(dicom_file, colour, tags, eye):
    (one,) = clinical.read(dicom_file(colour, **tags))
    assert one.laterality == eye
    assert bool(one.remarks) == (len(set(tags.values())) > 1)


def test_the_eye_of_frames(dicom_file, groups, colour):
    shared = groups.shared(eye="L")
    volume = np.zeros((2, 6, 7), np.uint8)
    path = dicom_file(volume, sop=TOMOGRAM, SharedFunctionalGroupsSequence=shared)
    assert clinical.read(path)[0].laterality == "OS"
    path = dicom_file(volume, sop=TOMOGRAM, SharedFunctionalGroupsSequence=shared,
                      PerFrameFunctionalGroupsSequence=[groups.frame(),
                                                        groups.frame(eye="R")])  # fmt: skip
    (one,) = clinical.read(path)
    assert one.laterality is None and "disagree" in " ".join(one.remarks)
    pair = dicom_file(
        np.stack([colour, 255 - colour]),
        PerFrameFunctionalGroupsSequence=[groups.frame(eye="R"), groups.frame(eye="L")],
    )
    first, second = clinical.read(pair)
    assert (first.laterality, second.laterality) == ("OD", "OS")
    assert np.array_equal(second.array, 255 - colour)


def test_monochrome1_and_falling_rescale_invert(dicom_file, grey):
    read = {
        name: clinical.read(dicom_file(grey, f"{name}.dcm", **tags))[0].array
        for name, tags in {
            "plain": {},
            "inverted": {"PhotometricInterpretation": "MONOCHROME1"},
            "rising": {"RescaleSlope": "0.5", "RescaleIntercept": "100"},
            "falling": {"RescaleSlope": "-1", "RescaleIntercept": "255"},
            "twice": {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": "-1"},
        }.items()
    }
    for name, array in read.items():
        expected = 255 - grey if name in ("inverted", "falling") else grey
        assert array.dtype == np.uint8 and np.array_equal(array, expected), name


def test_sixteen_bits(dicom_file):
    stored = np.linspace(0, 4095, 300).astype(np.uint16).reshape(10, 30)
    (one,) = clinical.read(dicom_file(stored, sop=SIXTEEN, BitsStored=12))
    assert one.array.dtype == np.uint8 and np.array_equal(one.array, stored >> 4)
    # What the header calls 16 bits may be 12: that is seen by the values.
    (more,) = clinical.read(dicom_file(stored, "e.dcm", sop=SIXTEEN))
    assert np.array_equal(more.array, one.array)
    # An old overlay in the unused bits is no part of the picture.
    (overlaid,) = clinical.read(dicom_file(stored | 0x8000, "b.dcm", sop=SIXTEEN, BitsStored=12))
    assert np.array_equal(overlaid.array, one.array)
    volume = np.stack([stored, stored[::-1]])
    (many,) = clinical.read(dicom_file(volume, "c.dcm", sop=TOMOGRAM, BitsStored=12))
    assert many.array.dtype == np.uint16
    assert np.array_equal(many.array, volume.astype(int) * 65535 // 4095)
    signed = (stored.astype(int) - 2048).astype(np.int16)
    (one,) = clinical.read(
        dicom_file(signed, "d.dcm", sop=SIXTEEN, BitsStored=12, PixelRepresentation=1)
    )
    assert np.array_equal(one.array, stored >> 4)


@pytest.mark.parametrize("signed", [False, True])
def test_a_display_window_scales_photographs_of_more_than_8_bits(dicom_file, signed):
    stored = np.arange(400, 800).astype(np.int16 if signed else np.uint16).reshape(20, 20)
    window = {"sop": SIXTEEN, "BitsStored": 12, "PixelRepresentation": int(signed),
              "WindowCenter": 600.5, "WindowWidth": 256}  # fmt: skip

    def read(array=stored, **tags) -> clinical.Scan:
        return clinical.read(dicom_file(array, **{**window, **tags}))[0]

    # PS3.3, C.11.2.1.2.1, with y from 0 to 255: x = centre - 0.5 is the middle.
    expected = np.clip((stored.astype(int) - 600) / 255 + 0.5, 0, 1) * 255
    assert np.array_equal(read().array, np.rint(expected))
    inverted = read(PhotometricInterpretation="MONOCHROME1").array
    assert np.abs(inverted.astype(int) - 255 + read().array).max() <= 1
    moved = read(RescaleSlope="2", RescaleIntercept="-100", WindowCenter=1100.5, WindowWidth=511)
    assert np.abs(moved.array.astype(int) - read().array).max() <= 1
    exact = read(VOILUTFunction="LINEAR_EXACT", WindowCenter=600, WindowWidth=255)
    assert np.array_equal(exact.array, read().array)
    sigmoid = read(VOILUTFunction="SIGMOID").array
    assert abs(int(sigmoid[10, 0]) - 127) < 2 and (np.diff(sigmoid.ravel().astype(int)) >= 0).all()
    # A window beside the values would make all of it black.
    beside = read(WindowCenter=3000, WindowWidth=10)
    assert beside.array.max() > 50 and "window leaves nothing" in beside.remarks[0]
    # One for each B-scan would tear a volume apart.
    volume = read(np.stack([stored, stored]), sop=TOMOGRAM, PixelRepresentation=0)
    assert np.array_equal(volume.array[0], stored.astype(int) * 65535 // 4095)


def test_palette_planes_and_ybr(dicom_file, colour, grey):
    lut = {
        f"{name}PaletteColorLookupTable{part}": value
        for name, values in (
            ("Red", range(256)),
            ("Green", range(255, -1, -1)),
            ("Blue", [7] * 256),
        )
        for part, value in (("Descriptor", [256, 0, 8]), ("Data", bytes(values)))
    }
    (one,) = clinical.read(dicom_file(grey, PhotometricInterpretation="PALETTE COLOR", **lut))
    expected = np.stack([grey, 255 - grey, np.full_like(grey, 7)], -1)
    assert np.array_equal(one.array, expected) and one.array.dtype == np.uint8

    planes = np.ascontiguousarray(colour.transpose(2, 0, 1)).reshape(colour.shape)
    (one,) = clinical.read(dicom_file(planes, PlanarConfiguration=1))
    assert np.array_equal(one.array, colour)

    ybr = np.asarray(Image.fromarray(colour).convert("YCbCr"))
    (one,) = clinical.read(dicom_file(ybr, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(one.array.astype(int) - colour).max() <= 3


def test_compressed_pixels(dicom_file, colour):
    for i, syntax in enumerate((JPEG2000Lossless, RLELossless)):
        (one,) = clinical.read(dicom_file(colour, f"{i}.dcm", compress=syntax))
        assert np.array_equal(one.array, colour)
    data = encode(colour, "JPEG", quality=95, subsampling=0)
    (one,) = clinical.read(dicom_file(colour, encoded=encapsulate([data]), syntax=JPEGBaseline8Bit,
                                      PhotometricInterpretation="YBR_FULL_422"))  # fmt: skip
    decoded = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(one.array.astype(int) - decoded).max() <= 3


RED = (200, 60, 30)


def marked(data: bytes, transform: int) -> bytes:
    """A JPEG with Adobe's marker instead of JFIF's."""
    after = 4 + int.from_bytes(data[4:6], "big")
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    return data[:2] + marker + data[after:]


@pytest.mark.parametrize(
    ("form", "stated", "said"),
    [("jfif", "YBR_FULL_422", False), ("jfif", "RGB", True), ("coarse", "RGB", True),
     ("numbered", "YBR_FULL", False), ("numbered", "RGB", True), ("adobe", "YBR_FULL", False),
     ("adobe", "RGB", True), ("adobe rgb", "RGB", False), ("adobe rgb", "YBR_FULL", True),
     ("wavelet", "YBR_RCT", False), ("wavelet", "YBR_FULL", True), ("wavelet", "RGB", False)],
)  # fmt: skip
@pytest.mark.parametrize("plugin", ["pillow", "pylibjpeg"])
def test_colours_are_what_the_stream_says(dicom_file, form, stated, said, plugin, monkeypatch):
    picture = np.zeros((32, 48, 3), np.uint8) + np.array(RED, np.uint8)
    data = encode(picture, "JPEG", quality=95, subsampling=1 if form == "coarse" else 0)
    if form in ("coarse", "numbered"):  # without any marker
        data = data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]
    elif form == "adobe":
        data = marked(data, 1)
    elif form == "adobe rgb":
        data = marked(encode(picture, "JPEG", quality=95, subsampling=0, keep_rgb=True), 0)
    elif form == "wavelet":
        data = encode(picture, "JPEG2000", no_jp2=True, mct=1)
    syntax = JPEG2000Lossless if form == "wavelet" else JPEGBaseline8Bit
    decoder = get_decoder(syntax)
    monkeypatch.setattr(decoder, "_available", {plugin: decoder._available[plugin]})
    path = dicom_file(picture, encoded=encapsulate([data]), syntax=syntax,
                      PhotometricInterpretation=stated)  # fmt: skip
    (one,) = clinical.read(path)
    assert np.abs(one.array.astype(int) - RED).max() < 8
    assert [stated in remark for remark in one.remarks] == [True] * said


@pytest.mark.parametrize(("name", "syntax"),
                         [("SC_rgb_jpeg_gdcm.dcm", "JPEG Lossless"),
                          ("SC_rgb_jls_lossy_line.dcm", "JPEG-LS"),
                          ("SC_rgb_gdcm_KY.dcm", "JPEG 2000"),
                          ("SC_rgb_dcmtk_+eb+cr.dcm", "JPEG Baseline"),
                          ("SC_rgb_dcmtk_+eb+cy+np.dcm", "JPEG Baseline"),
                          ("SC_rgb_rle.dcm", "RLE")])  # fmt: skip
def test_colours_of_other_encoders(tmp_path, name, syntax):
    # Colour bars that pydicom brings, of several toolkits, told to be photographs.
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    assert dataset.file_meta.TransferSyntaxUID.name.startswith(syntax)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = PHOTOGRAPH
    dataset.save_as(tmp_path / "a.dcm")
    (one,) = clinical.read(tmp_path / "a.dcm")
    bars = [(255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255),
            (128, 128, 255), (0, 0, 0), (64, 64, 64), (192, 192, 192),
            (255, 255, 255)]  # fmt: skip
    assert one.array.dtype == np.uint8
    assert np.abs(one.array[5::10, 50].astype(int) - bars).max() <= 5


def test_burnt_in_names_are_refused_unless_allowed(dicom_file, colour):
    path = dicom_file(colour, BurnedInAnnotation="YES")
    with pytest.raises(InputError, match="burnt into"):
        clinical.read(path)
    assert np.array_equal(clinical.read(path, burned_in=True)[0].array, colour)


def test_overlays_are_not_drawn(dicom_file, colour):
    path = dicom_file(colour)
    dataset = pydicom.dcmread(path)
    dataset.add_new(0x60003000, "OW", b"\xff" * 640)
    dataset.add_new(0x60000010, "US", 64)
    dataset.add_new(0x60000011, "US", 80)
    dataset.save_as(path)
    assert np.array_equal(clinical.read(path)[0].array, colour)


def refused(path, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        clinical.read(path)
    text = str(caught.value)
    assert path.name in text and "\n" not in text and "secret" not in text.lower()
    assert caught.value.__cause__ is None or not isinstance(caught.value.__cause__, ValueError)


def test_claims_are_checked_before_anything_is_decoded(dicom_file, colour, monkeypatch):
    refused(dicom_file(colour, Rows=60000, Columns=60000), "60000 x 60000")
    refused(dicom_file(colour, Rows=0), "claims a picture of 0")
    monkeypatch.setattr(scan, "MAX_VOXELS", 2000)
    refused(dicom_file(colour), "more than the 2,000")
    monkeypatch.undo()
    # A stream that claims more than the header: 60000 x 60000 in a file of some hundred bytes.
    data = bytearray(encode(colour, "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">2H", 60000, 60000)
    refused(dicom_file(colour, encoded=encapsulate([bytes(data)]), syntax=JPEGBaseline8Bit),
            "not of the size")  # fmt: skip
    data = bytearray(encode(colour, "JPEG2000", irreversible=False))
    at = data.index(b"\xff\x4f\xff\x51")
    data[at + 8 : at + 16] = struct.pack(">2I", 60000, 60000)
    refused(dicom_file(colour, encoded=encapsulate([bytes(data)]), syntax=JPEG2000Lossless),
            "not of the size")  # fmt: skip


def test_what_is_no_readable_picture_is_one_sentence(dicom_file, colour, tmp_path):
    whole = dicom_file(colour).read_bytes()
    for length in (140, 300, len(whole) - 500):
        path = tmp_path / f"cut{length}.dcm"
        path.write_bytes(whole[:length])
        refused(path, "truncated|without pictures|no ophthalmic")
    refused(dicom_file(colour, sop="1.2.840.10008.5.1.4.1.1.2"), "CT Image Storage")
    refused(dicom_file(colour, PhotometricInterpretation="HSV"), "HSV")
    refused(dicom_file(colour, syntax=DeflatedExplicitVRLittleEndian), "deflated")
    streams = encapsulate([encode(colour, "JPEG")] * 3)
    refused(dicom_file(colour, NumberOfFrames=2, encoded=streams, syntax=JPEGBaseline8Bit),
            "pictures that its header claims")  # fmt: skip
    noise = np.random.default_rng(0).bytes(500)
    scrambled = {"encoded": encapsulate([noise]), "syntax": JPEG2000Lossless}
    refused(dicom_file(colour, **scrambled), "not of the size")
    refused(dicom_file(colour, Manufacturer="Carl Zeiss Meditec", **scrambled), "research export")
    refused(dicom_file(colour, Manufacturer="ZEISS", sop="1.2.840.10008.5.1.4.1.1.66"),
            "research export")  # fmt: skip


def test_frames_that_are_missing_or_damaged_are_said(dicom_file, groups, colour):
    # Four are claimed, the second is cut, the fourth is missing.
    streams = [encode(picture, "JPEG") for picture in (colour, colour[:, ::-1], colour[::-1])]
    streams[1] = streams[1][: len(streams[1]) // 2]
    photographs = clinical.read(
        dicom_file(colour, NumberOfFrames=4, encoded=encapsulate(streams), syntax=JPEGBaseline8Bit,
                   PhotometricInterpretation="YBR_FULL_422")
    )  # fmt: skip
    assert len(photographs) == 2
    for one, stream in zip(photographs, streams[::2], strict=True):
        expected = np.asarray(Image.open(io.BytesIO(stream)))
        assert np.abs(one.array.astype(int) - expected).max() <= 3
        assert one.remarks == ("Of its 4 pictures 2 are missing or damaged: 2, 4.",)
    # B-scans keep their places; between neighbours of a gap there is no one distance.
    volume = np.arange(1, 6, dtype=np.uint8)[:, None, None] * np.ones((8, 9), np.uint8)
    scans = [encode(scan, "JPEG2000", no_jp2=True) for scan in volume]
    scans[2] = scans[2][:-9]
    frames = [groups.frame(position=(0, 0, -t / 10)) for t in range(5)]
    tags = {"sop": TOMOGRAM, "PerFrameFunctionalGroupsSequence": frames,
            "SharedFunctionalGroupsSequence": groups.shared()}  # fmt: skip
    (one,) = clinical.read(
        dicom_file(volume, encoded=encapsulate(scans), syntax=JPEG2000Lossless, **tags)
    )
    assert one.array[:, 0, 0].tolist() == [5, 4, 2, 1] and one.spacing.between is None
    assert "not evenly spaced" in one.remarks[0] and "1 are missing or damaged: 3" in one.remarks[1]
    # Not compressed, and cut after two and a half.
    cut = dicom_file(volume[:3], NumberOfFrames=5, **tags)
    dataset = pydicom.dcmread(cut)
    dataset.PixelData = dataset.PixelData[:180]
    dataset.save_as(cut)
    (one,) = clinical.read(cut)
    assert one.array[:, 0, 0].tolist() == [2, 1] and one.spacing.between == pytest.approx(0.1)
    assert "3 are missing or damaged: 3, 4, 5" in one.remarks[0]


def test_flow_is_no_structure(dicom_file):
    flow = "1.2.840.10008.5.1.4.1.1.77.1.5.8"
    (one,) = clinical.read(dicom_file(np.zeros((2, 6, 7), np.uint8), sop=flow))
    assert (one.kind, one.modality) == ("volume", "octa")


def test_random_damage_is_an_error_or_a_scan(dicom_file, colour):
    path = dicom_file(colour, ImageLaterality="R")
    check_damage(path, 200, 128, path.stat().st_size - colour.size)


def test_a_decoder_that_is_missing_is_named(dicom_file, colour, monkeypatch):
    monkeypatch.setattr(CoderBase, "is_available", property(lambda self: False))
    streams = encapsulate([encode(colour, "JPEG")])
    refused(dicom_file(colour, encoded=streams, syntax=JPEGBaseline8Bit,
                       PhotometricInterpretation="YBR_FULL_422"),
            "pip install pylibjpeg-libjpeg")  # fmt: skip

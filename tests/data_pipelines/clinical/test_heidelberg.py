"""Heidelberg's files: real .vol ones, and .e2e files and XML exports that the tests write."""

import csv
import pathlib
import struct
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from device_files import check_damage, e2e_parts, text, write_vol
from PIL import Image

from data_pipelines import clinical
from data_pipelines.errors import InputError

NAMES = ("Willis_B_716_0", "Willis_B_716_2", "valid")


@pytest.fixture
def pairs(retina_data: pathlib.Path) -> pathlib.Path:
    """The folder of real pairs."""
    return retina_data / "spectralis_pairs"


@pytest.mark.parametrize("name", NAMES)
def test_real_vol_files_agree_with_their_csv_pictures_and_layers(pairs, name, key):
    with open(pairs / "manifest.csv", encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["pair"] == name]
    volume, localizer = clinical.read(pairs / "vol" / f"{name}.vol", key)
    for row in rows:
        assert volume.laterality == localizer.laterality == row["eye"]
        # The scales of the CSV are those of the B-scan.
        assert volume.spacing.across == float(row["scale_x_mm"])
        assert volume.spacing.down == float(row["scale_z_mm"])
        assert volume.spacing.between is None
        assert row["caption"].endswith(f", {volume.scan_pattern} scan")
    assert (volume.kind, volume.modality) == ("volume", "oct")
    assert (localizer.kind, localizer.modality) == ("scanning_laser", "ir")
    assert volume.date == localizer.date and volume.date.startswith("20")

    picture = np.asarray(Image.open(pairs / "images" / f"{name}_bscan.png"))
    assert volume.array.shape == (1, *picture.shape) and volume.array.dtype == np.float32
    # Those pictures are floor(255 x^(1/4)) of the intensities.
    assert np.array_equal(np.floor(volume.array[0] * np.float32(255)), picture)
    slo = np.asarray(Image.open(pairs / "images" / f"{name}_slo.png"))
    assert np.array_equal(localizer.array, slo)

    curves = np.load(pairs / "images" / f"{name}_layers.npy")
    assert list(volume.layers) == ["ILM", "BM", "RNFL"]
    read = np.stack([layer[0] for layer in volume.layers.values()])
    assert read.dtype == np.float32 and np.array_equal(read, curves, equal_nan=True)
    # The vitreous is on the side of row 0: its border lies above that of the choroid.
    assert np.nanmean(volume.layers["ILM"]) < np.nanmean(volume.layers["BM"])


def test_patients_of_real_vol_files(pairs, key):
    first, second, third = (
        clinical.read(pairs / "vol" / f"{name}.vol", key)[0].patient for name in NAMES
    )
    assert first == second and len(first) == 32
    assert third is None  # its field is empty
    assert clinical.read(pairs / "vol" / f"{NAMES[0]}.vol")[0].patient is None


@pytest.fixture
def small(tmp_path: pathlib.Path) -> pathlib.Path:
    """A .vol volume of three B-scans, [3 4 6], with one value where nothing was measured."""
    bscans = np.full((3, 4, 6), 0.0625, np.float32) * np.arange(3, dtype=np.float32)[:, None, None]
    bscans[0, 0, 0] = np.finfo(np.float32).max
    return write_vol(tmp_path / "a.vol", bscans, np.arange(20, dtype=np.uint8).reshape(4, 5))


def test_a_raster_of_a_write_vol(small, key):
    volume, localizer = clinical.read(small, key)
    assert volume.spacing == clinical.Spacing(0.25, 0.0039, 0.0117)
    assert (volume.scan_pattern, volume.laterality, volume.date) == ("volume", "OS", "2015-02-03")
    assert np.isnan(volume.array[0, 0, 0]) and np.isnan(volume.array).sum() == 1
    assert np.allclose(volume.array[1:, 2, 3], [0.5, 0.125**0.25])
    assert np.array_equal(localizer.array, np.arange(20).reshape(4, 5))


@pytest.mark.parametrize(("offset", "value"), [(12, 60000), (16, 2**31), (48, 2**31), (100, 2**31)])
def test_claims_of_a_vol_file_are_checked_first(small, offset, value):
    data = bytearray(small.read_bytes())
    struct.pack_into("<I", data, offset, value)
    small.write_bytes(data)
    with pytest.raises(InputError, match="claims|truncated"):
        clinical.read(small)


def test_damaged_vol_files(small):
    whole = small.read_bytes()
    size = 256 + 4 * 6 + 4 * 4 * 6  # of a B-scan
    for length in (12, 60, 1000, 2050, len(whole) - 2 * size - 1):
        small.write_bytes(whole[:length])
        with pytest.raises(InputError, match="truncated"):
            clinical.read(small)
    expected = clinical.read(put(small, whole))[0]
    # What lies before the cut can be read.
    volume, localizer = clinical.read(put(small, whole[:-1]))
    assert np.array_equal(volume.array, expected.array[:2], equal_nan=True)
    assert volume.remarks == localizer.remarks == ("Of its 3 B-scans 1 are missing or damaged: 3.",)
    # Layers that do not fit go, and so does another claim of a B-scan's own header.
    data = bytearray(whole)
    struct.pack_into("<I", data, 2048 + 20 + size + 48, 2**32 - 1)
    struct.pack_into("<I", data, 2048 + 20 + size + 12, 10)
    volume, _ = clinical.read(put(small, data))
    assert np.array_equal(volume.array, expected.array, equal_nan=True)
    assert np.isnan(volume.layers["ILM"]).any(1).tolist() == [False, True, False]
    assert volume.remarks == ("The layers of its B-scan 2 are damaged, and left out.",)
    data = bytearray(whole)
    data[84:88] = b"XX\0\0"
    struct.pack_into("<Q", data, 88, 0)
    small.write_bytes(data)
    assert [clinical.read(small)[0].laterality, clinical.read(small)[0].date] == [None, None]


def put(path: pathlib.Path, data: bytes) -> pathlib.Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a_Angio.vol", "ANGIO.vol", "a-angio.VOL"])
def test_a_vol_file_of_angiography_is_no_structure(small, name):
    volume, localizer = clinical.read(small.rename(small.with_name(name)))
    assert (volume.modality, localizer.modality) == ("octa", "ir")
    # Flow is stored as it is, and what is no share was not measured.
    assert np.isnan(volume.array[0, 0, 0]) and np.allclose(volume.array[1:, 2, 3], [0.0625, 0.125])
    other = clinical.read(small.with_name(name).rename(small.with_name("angiology.vol")))
    assert other[0].modality == "oct"


def test_an_e2e_file(e2e_file, key):
    volume, localizer = clinical.read(e2e_file(e2e_parts()), key)
    assert volume.array.shape == (3, 4, 6) and volume.array.dtype == np.float32
    # In the order of their numbers, which is not that of the file.
    assert np.allclose(volume.array[:, 1, 1], [2.0 ** (i / 4 - 1) for i in range(3)])
    assert np.isnan(volume.array[:, 0, 0]).all()
    assert np.array_equal(volume.layers["ILM"], np.repeat([[0.0], [1.0], [2.0]], 6, 1))
    # Only the axial scale is in such a file; readers that give others make them up.
    assert volume.spacing == clinical.Spacing(None, pytest.approx(0.0039), None)
    for scan in (volume, localizer):
        assert (scan.laterality, scan.date) == ("OD", "2018-05-06")
        assert scan.device == "Heidelberg Retina Angiograph" and len(scan.patient) == 32
    assert (volume.scan_pattern, volume.modality) == ("OCT ART Volume", "oct")
    assert (localizer.kind, localizer.modality) == ("scanning_laser", "ir")
    assert np.array_equal(localizer.array, np.full((5, 5), 9))


def test_the_eye_of_an_e2e_file_is_never_guessed(e2e_file):
    assert clinical.read(e2e_file(e2e_parts(b"L")))[0].laterality == "OS"
    assert clinical.read(e2e_file(e2e_parts(b"\xff")))[0].laterality is None
    without = [part for part in e2e_parts() if part[4] != 11]
    assert clinical.read(e2e_file(without))[0].laterality is None
    both = [*e2e_parts(b"L"), (1, 1, 1, -1, 11, b"\0" * 14 + b"R" + b"\0" * 12)]
    (volume, _) = clinical.read(e2e_file(both))
    assert volume.laterality is None and "disagree" in volume.remarks[0]


def test_several_eyes_in_an_e2e_file(e2e_file):
    right = e2e_parts(b"R")
    left = [(p, s, 2 if n == 1 else n, *rest) for p, s, n, *rest in e2e_parts(b"L")]
    scans = clinical.read(e2e_file(right + left[2:]))
    assert [(scan.kind, scan.laterality) for scan in scans] == [
        ("volume", "OD"),
        ("scanning_laser", "OD"),
        ("volume", "OS"),
        ("scanning_laser", "OS"),
    ]
    assert [scan.series for scan in scans] == [0, 0, 1, 1]


def test_what_an_e2e_file_lacks_is_said(e2e_file):
    def read(parts: list[tuple]) -> tuple[clinical.Scan, ...]:
        return clinical.read(e2e_file(parts))

    def spoiled(parts: list[tuple], number: int, kind: int = 1073741824) -> list[tuple]:
        """The same, with the entry of a slice (-1: of the series) cut off after its header."""
        return [(*p[:5], p[5][:20] if (p[3], p[4]) == (number, kind) else p[5]) for p in parts]

    whole = read(e2e_parts())
    assert not whole[0].remarks
    without = [part for part in e2e_parts() if part[3] != 2]  # the B-scan of number 0
    for parts in (without, spoiled(e2e_parts(), 2), spoiled(e2e_parts(), 2, 10004)):
        volume, localizer = read(parts)
        assert np.array_equal(volume.array, whole[0].array[1:], equal_nan=True)
        assert volume.remarks == localizer.remarks
        assert volume.remarks == ("Of its 3 B-scans 1 are missing or damaged: 1.",)
    (volume,) = read(spoiled(e2e_parts(), -1))
    assert volume.array.shape == (3, 4, 6) and "localizer cannot be read" in volume.remarks[0]
    volume, _ = read(spoiled(e2e_parts(), 2, 10019))
    assert "A layer of its B-scan 1" in volume.remarks[0]
    assert np.isnan(volume.layers["ILM"]).all(1).tolist() == [True, False, False]
    # One series of two without any picture: the other says so.
    left = [(p, s, 2 if n == 1 else n, *rest) for p, s, n, *rest in e2e_parts(b"L")][2:]
    for place in (0, 2, 4, -1):
        left = spoiled(left, place)
    scans = read([*e2e_parts(), *left])
    assert [(scan.kind, scan.series) for scan in scans] == [("volume", 0), ("scanning_laser", 0)]
    assert all("Series 2 of 2 cannot be read" in scan.remarks[0] for scan in scans)
    with pytest.raises(InputError, match="Series 1 of 1 cannot be read"):
        read(left)


def test_angiography_in_e2e_files(e2e_file):
    named = [*e2e_parts(), (1, 1, 1, -1, 9008, text("OCT", "OCT-Angio"))]
    volume, _ = clinical.read(e2e_file(named))
    assert volume.modality == "octa"
    assert np.allclose(volume.array[:, 1, 1], [2.0 ** (i - 4) for i in range(3)])
    volume, _ = clinical.read(e2e_file([*e2e_parts(), (1, 1, 1, 0, 1073751901, b"\0" * 40)]))
    assert volume.modality == "oct" and "angiography too" in volume.remarks[0]


def test_damaged_e2e_files(e2e_file):
    path = e2e_file(e2e_parts())
    whole = path.read_bytes()
    for length in (50, 100, 300, 600):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="truncated|no B-scan"):
            clinical.read(path)
    data = bytearray(whole)
    entries = len(e2e_parts())
    struct.pack_into("<2I", data, 88 + 52 + 44 * (entries - 1) + 4, 0, 28)  # back to the start
    path.write_bytes(data)
    with pytest.raises(InputError, match="in a circle"):
        clinical.read(path)


@pytest.fixture
def bscans() -> np.ndarray:
    """Three different uint8 B-scans [3 6 9]."""
    return np.random.default_rng(0).integers(0, 255, (3, 6, 9), dtype=np.uint8)


SLO = np.arange(64, dtype=np.uint8).reshape(8, 8)


def test_an_xml_export(xml_folder, bscans, key):
    from eyepy.io.he.xml_reader import HeXmlReader

    path = xml_folder(bscans, SLO)
    volume, localizer = clinical.read(path, key)
    assert np.array_equal(volume.array, bscans) and np.array_equal(localizer.array, SLO)
    assert volume.spacing == clinical.Spacing(0.25, 0.0039, 0.0117)
    assert (volume.laterality, volume.date, len(volume.patient)) == ("OS", "2016-03-09", 32)
    assert np.isnan(volume.layers["ILM"][:, 0]).all() and (volume.layers["ILM"][:, 1:] == 2.5).all()
    # Another reader of the same file says the same of what both read.
    other = HeXmlReader(path)
    assert np.array_equal(other.volume.data, volume.array)
    meta = other.volume.meta
    assert volume.spacing == clinical.Spacing(*(meta[f"scale_{axis}"] for axis in "zyx"))


@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="ISO-8859-1"?>',
                                      '<?xml version="1.0" encoding="UTF-8"?>'])  # fmt: skip
def test_patients_of_other_alphabets_stay_two(xml_folder, bscans, key, declared):
    """In Latin-1, whether the export says so, says nothing or says something else."""
    path = xml_folder(bscans, SLO)
    text = path.read_text()
    root = text[text.index("<HEDX") :]
    begin, end = (root.index(f"<{end}PatientID>") for end in ("", "/"))
    patients = set()
    for name in ("MÜLLER1", "MÖLLER1"):
        own = root[:begin] + f"<PatientID>{name}" + root[end:]
        scans = clinical.read(put(path, (declared + own).encode("latin-1")), key)
        patients |= {scan.patient for scan in scans}
    assert len(patients) == 2


def test_only_names_of_boundaries_are_names_of_layers(xml_folder, bscans):
    path = xml_folder(bscans, SLO)
    whole = path.read_text()
    for name in ("../../evil", "file", "allow_pickle", "Smith, Jane"):
        (volume, _) = clinical.read(put(path, whole.replace(">ILM<", f">{name}<").encode()))
        assert name not in volume.layers


@pytest.mark.parametrize(("entry", "eye"),
                         [("<Laterality>R</Laterality>", "OD"), ("<Laterality></Laterality>", None),
                          ("<Laterality>U</Laterality>", None), ("", None)])  # fmt: skip
def test_the_eye_of_an_xml_export_is_never_guessed(xml_folder, bscans, entry, eye):
    assert clinical.read(xml_folder(bscans, SLO, eye=entry))[0].laterality == eye


def series_of(path):
    """An export's text, and the part of it that is its series."""
    whole = path.read_text()
    return whole, whole[whole.index("<Series>") : whole.index("</Series>") + 9]


def test_several_series_of_an_xml_export(xml_folder, bscans):
    path = xml_folder(bscans, SLO)
    whole, series = series_of(path)
    other = series.replace("<Laterality>L", "<Laterality>R")
    path.write_text(whole.replace(series, series + other))
    scans = clinical.read(path)
    assert [(scan.series, scan.laterality) for scan in scans] == [
        (0, "OS"),
        (0, "OS"),
        (1, "OD"),
        (1, "OD"),
    ]


def test_spacing_of_xml_exports(xml_folder, bscans):
    (volume, _) = clinical.read(xml_folder(bscans[:1], SLO, name="single"))
    assert volume.array.shape[0] == 1 and volume.spacing.between is None
    (volume, _) = clinical.read(xml_folder(bscans, SLO, name="uneven", starts=(0, 0.1, 0.5)))
    assert volume.spacing.between is None and "not evenly" in volume.remarks[0]


@pytest.mark.parametrize("address", ["C:\\x\\..", "missing.png", ""])
def test_pictures_that_are_not_beside_the_xml_file(xml_folder, bscans, address):
    with pytest.raises(InputError, match="not beside it"):
        clinical.read(xml_folder(bscans, SLO, address=address))


def test_no_picture_outside_the_folder_is_read(xml_folder, bscans, tmp_path):
    path = xml_folder(bscans, SLO)
    outside = tmp_path / "outside.png"
    Image.fromarray(bscans[0]).save(outside)
    path.write_text(path.read_text().replace("C:\\export\\b1.png", str(outside)))
    for _ in range(2):
        volume, localizer = clinical.read(path)
        assert np.array_equal(volume.array, bscans[[0, 2]]) and volume.spacing.between == 0.5
        for scan in (volume, localizer):
            assert "B-scans 1 are missing or damaged: 2" in scan.remarks[-1]
            assert "not beside it" in scan.remarks[-1]
        (path.parent / "outside.png").unlink(missing_ok=True)
        (path.parent / "outside.png").symlink_to(outside)


def test_a_lost_series_of_an_xml_export_is_said(xml_folder, bscans):
    path = xml_folder(bscans, SLO)
    whole, series = series_of(path)
    lost = series.replace("C:\\export\\", "C:\\export\\gone_")
    path.write_text(whole.replace(series, lost + series))
    scans = clinical.read(path)
    assert [(scan.kind, scan.series) for scan in scans] == [("volume", 1), ("scanning_laser", 1)]
    assert all("Series 1 of 2 cannot be read" in scan.remarks[0] for scan in scans)
    (path.parent / "slo.png").write_bytes(b"no picture")
    (volume,) = clinical.read(put(path, whole.encode()))
    assert "localizers 1 are missing or damaged" in volume.remarks[0]


def test_deep_bscans_of_an_xml_export_have_one_range(xml_folder, bscans):
    deep = bscans.astype(np.uint16) * np.array([16, 8, 1], np.uint16)[:, None, None]
    (volume, _) = clinical.read(xml_folder(deep, SLO))
    assert np.array_equal(volume.array, deep >> 4)


def test_xml_of_another_kind(xml_folder, bscans):
    path = xml_folder(bscans, SLO)
    whole = path.read_text()
    path.write_text(whole[:400])
    with pytest.raises(InputError, match="truncated"):
        clinical.read(path)
    path.write_text(whole.replace("<HEDX>", '<!DOCTYPE x [<!ENTITY a "b">]><HEDX>'))
    with pytest.raises(InputError, match="entities"):
        clinical.read(path)
    root = ElementTree.fromstring(whole)
    for patient in root.iter("Patient"):
        patient.clear()
    path.write_bytes(ElementTree.tostring(root))
    with pytest.raises(InputError, match="no export of scans"):
        clinical.read(path)


@pytest.mark.parametrize("kind", ["vol", "e2e", "xml"])
def test_random_damage_is_an_error_or_scans(small, e2e_file, xml_folder, bscans, kind):
    path = {"vol": small, "e2e": e2e_file(e2e_parts()), "xml": xml_folder(bscans, SLO)}[kind]
    # The parts of a .vol file that describe something; most of the others is pixels.
    check_damage(path, 60, 12, 2048 + 20 + 256 if kind == "vol" else None, places=4)

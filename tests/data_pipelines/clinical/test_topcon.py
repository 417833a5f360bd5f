"""Topcon's .fda and .fds files, written by the tests chunk by chunk."""

import struct

import numpy as np
import pytest
from device_files import check_damage, compressed, facts, raw, stack

from data_pipelines import clinical
from data_pipelines.errors import InputError

pytestmark = pytest.mark.fast

VOLUME = np.random.default_rng(1).integers(0, 2**16, (4, 5, 6), dtype=np.uint16)
RED = np.zeros((8, 12, 3), np.uint8) + np.array([200, 90, 20], np.uint8)


def check_facts(scan: clinical.Scan) -> None:
    assert (scan.laterality, scan.date) == ("OS", "2014-07-08")
    assert scan.device == "Topcon 3DOCT-1 Maestro"
    assert len(scan.patient) == 32


def test_an_fda_file(topcon_file, key):
    bscans = (VOLUME >> 8).astype(np.uint8)
    fundus = compressed(np.ascontiguousarray(RED[..., ::-1]))
    header = struct.pack("<4I4sI", 12, 8, 24, 1, b"\0" * 4, len(fundus))
    path = topcon_file({**facts(), "@IMG_JPEG": stack(bscans), "@IMG_FUNDUS": header + fundus})
    volume, photograph = clinical.read(path, key)
    assert np.array_equal(volume.array, bscans) and volume.array.dtype == np.uint8
    assert volume.spacing == clinical.Spacing(5.0 / 4, 0.0026, 6.0 / 6)
    assert (volume.kind, volume.modality, volume.scan_pattern) == ("volume", "oct", "volume")
    # The chunk is blue first; what light it was taken in is not stated.
    assert np.array_equal(photograph.array, RED)
    assert (photograph.kind, photograph.modality) == ("photograph", None)
    check_facts(volume)
    check_facts(photograph)


def test_an_fds_file(topcon_file, key):
    blue_first = np.ascontiguousarray(RED[..., ::-1])
    header = struct.pack("<4IBI", 12, 8, 24, 1, 0, RED.size)
    path = topcon_file(
        {**facts(), "@IMG_SCAN_03": raw(VOLUME, 3), "@IMG_OBS": header + blue_first.tobytes()},
        "a.fds",
    )
    volume, photograph = clinical.read(path, key)
    assert np.array_equal(volume.array, VOLUME) and volume.array.dtype == np.uint16
    # The B-scans of a star have no distance.
    assert volume.spacing == clinical.Spacing(None, 0.0026, 1.0) and volume.scan_pattern == "radial"
    assert np.array_equal(photograph.array, RED)
    check_facts(photograph)


def test_raw_bscans_of_an_fda_file_and_old_chunks(topcon_file):
    scanning = struct.pack("<B5I", 2, 0, 0, 0, 0, 0) + struct.pack("<3d", 6.0, 5.0, 2.6)
    date = struct.pack("<6H", 2009, 1, 2, 0, 0, 0)
    path = topcon_file({"@IMG_MOT_COMP_03": raw(VOLUME), "@PARAM_SCAN_02": scanning,
                        "@CAPTURE_INFO": b"\0" + date,
                        "@HW_INFO_01": b"3DOCT-1000\0"})  # fmt: skip
    (volume,) = clinical.read(path)
    assert np.array_equal(volume.array, VOLUME)
    assert volume.spacing == clinical.Spacing(1.25, 0.0026, 1.0)
    assert (volume.laterality, volume.date,
            volume.device) == ("OD", "2009-01-02", "Topcon 3DOCT-1000")  # fmt: skip


@pytest.mark.parametrize("eye", [2, 255])
def test_the_eye_is_never_guessed(topcon_file, eye):
    scans = {**facts(eye), "@IMG_SCAN_03": raw(VOLUME)}
    assert clinical.read(topcon_file(scans))[0].laterality is None
    (one,) = clinical.read(topcon_file({"@IMG_SCAN_03": raw(VOLUME)}))
    assert (one.laterality, one.date, one.patient) == (None, None, None)
    assert one.device == "Topcon" and one.spacing == clinical.Spacing()


def test_damaged_files(topcon_file):
    path = topcon_file({**facts(), "@IMG_SCAN_03": raw(VOLUME)})
    whole = path.read_bytes()
    for length in (4, 14, 16, 40, len(whole) - 100):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="truncated|no B-scans"):
            clinical.read(path)
    # What is cut off may be the patient or the eye: such a file is not read without them.
    path.write_bytes(topcon_file({"@IMG_SCAN_03": raw(VOLUME), **facts()}).read_bytes()[:-9])
    with pytest.raises(InputError, match="last part is cut off"):
        clinical.read(path)
    huge = struct.pack("<B4IBI", 2, 60000, 60000, 16, 9, 0, 1)
    with pytest.raises(InputError, match="60000 x 60000"):
        clinical.read(topcon_file({"@IMG_SCAN_03": huge}))
    (volume,) = clinical.read(topcon_file({"@IMG_SCAN_03": raw(VOLUME)[:-2]}))
    assert np.array_equal(volume.array, VOLUME[:3]) and "missing or damaged: 4" in volume.remarks[0]
    with pytest.raises(InputError, match="truncated"):
        clinical.read(topcon_file({"@IMG_SCAN_03": raw(VOLUME)[:50]}))
    with pytest.raises(InputError, match="12 bits"):
        clinical.read(topcon_file({"@IMG_SCAN_03": struct.pack("<B4IBI", 2, 6, 5, 12, 4, 0, 1)}))
    lying = bytearray(stack(VOLUME.astype(np.uint8)))
    struct.pack_into("<I", lying, 9, 7)
    with pytest.raises(InputError, match="None of its B-scans"):
        clinical.read(topcon_file({"@IMG_JPEG": bytes(lying)}))


def test_what_is_damaged_of_a_file_is_said(topcon_file):
    bscans = (VOLUME >> 8).astype(np.uint8)
    data = bytearray(stack(bscans))
    second = data.index(b"\xff\x4f\xff\x51", data.index(b"\xff\x4f\xff\x51") + 4)
    data[second : second + 4] = b"gone"
    header = struct.pack("<4I4sI", 12, 8, 24, 1, b"\0" * 4, 40)
    parts = {**facts(), "@IMG_JPEG": bytes(data), "@IMG_FUNDUS": header + b"no picture".ljust(40),
             "@IMG_ANGIOGRAPHY_02": b"flow"}  # fmt: skip
    (volume,) = clinical.read(topcon_file(parts))
    assert np.array_equal(volume.array, bscans[[0, 2, 3]]) and volume.spacing.between is None
    assert [remark.split(" ")[0] for remark in volume.remarks] == ["Of", "Its", "It"]
    assert "missing or damaged: 2" in volume.remarks[0] and "photograph" in volume.remarks[1]
    assert "angiography too" in volume.remarks[2]
    fundus = compressed(np.ascontiguousarray(RED[..., ::-1]))
    header = struct.pack("<4I4sI", 12, 8, 24, 1, b"\0" * 4, len(fundus))
    (photograph,) = clinical.read(topcon_file({"@IMG_JPEG": b"", "@IMG_FUNDUS": header + fundus}))
    assert np.array_equal(photograph.array, RED) and "volume cannot be" in photograph.remarks[0]


def test_random_damage_is_an_error_or_scans(topcon_file):
    path = topcon_file({**facts(), "@IMG_JPEG": stack((VOLUME >> 8).astype(np.uint8))})
    check_damage(path, 100, 7)

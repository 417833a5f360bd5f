"""Which reader a file gets, the hash of patients, and what a missing extra says."""

import dataclasses
import sys

import numpy as np
import pytest

from data_pipelines import clinical
from data_pipelines.clinical import scan
from data_pipelines.errors import InputError

pytestmark = pytest.mark.fast
PICTURE = np.zeros((8, 9), np.uint8)


def test_a_file_is_known_by_its_bytes_not_by_its_name(dicom_file, tmp_path):
    (one,) = clinical.read(dicom_file(PICTURE, "IM0001"))
    assert one.kind == "photograph"
    for name, words in {
        "a.vol": "named .vol",
        "a.dcm": "named .dcm",
        "a.e2e": "named .e2e",
        "a.fda": "named .fda",
        "a.img": "research export",
        "a.jpg": "no clinical",
    }.items():
        path = tmp_path / name
        path.write_bytes(b"\xff\xd8 something else" * 20)
        with pytest.raises(InputError, match=words) as caught:
            clinical.read(path)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(InputError, match="cannot be opened"):
        clinical.read(tmp_path / "absent.vol")
    (tmp_path / "empty.vol").touch()
    with pytest.raises(InputError, match="named .vol"):
        clinical.read(tmp_path / "empty.vol")


@pytest.mark.parametrize("module", ["pydicom", "eyepy"])
def test_a_missing_extra_is_named(dicom_file, tmp_path, monkeypatch, module):
    path = dicom_file(PICTURE)
    if module == "eyepy":
        path = tmp_path / "a.e2e"
        path.write_bytes(b"CMDb".ljust(88, b"\0"))
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"pip install 'retina_jax\[clinical\]'"):
        clinical.read(path)


def test_the_hash_of_a_patient():
    of = scan.pseudonym(b"k" * 16)
    assert of("77") == of(" 77\0") != of("78")
    # The first example of RFC 4231, so that other programs can compute it too.
    assert scan.pseudonym(b"\x0b" * 20)("Hi There") == "b0344c61d8db38535ca8afceaf0bf12b"
    assert of("") is of(None) is of(" \0") is scan.pseudonym(None)("77") is None
    assert of("é77") != of("77")
    with pytest.raises(InputError, match="fewer than 16"):
        scan.pseudonym(b"k" * 15)


def test_scans_cannot_be_changed(dicom_file):
    (one,) = clinical.read(dicom_file(PICTURE))
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.laterality = "OD"
    assert "77" not in repr(one).replace(one.source, "") and "Secret" not in repr(one)


def test_days_and_lengths():
    days = ["20210304", "2021-03-04T10:00", "20210304101112.5", "16010101", "20211304", "", None]
    assert [scan.day(text) for text in days] == ["2021-03-04"] * 3 + [None] * 4
    lengths = ["0.01", 2, 0, -1, float("nan"), float("inf"), None, "x"]
    assert [scan.millimetres(value) for value in lengths] == [0.01, 2.0] + [None] * 6


def test_grey_spans_the_decades_of_a_device():
    values = np.array([0, 1e-4, 0.0625, 1, 1.5, np.finfo(np.float32).max], np.float32)
    read = scan.grey(values)
    assert np.allclose(read[:5], [0, 0.1, 0.5, 1, 1]) and np.isnan(read[5])

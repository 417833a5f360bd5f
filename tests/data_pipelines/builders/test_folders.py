"""FIVES, ACRIMA, Kermany's B-scans and OCTID: generated samples, and real B-scans."""

import collections
import pathlib
import shutil

import corpora
import pytest


def labels(records: list[dict]) -> collections.Counter:
    return collections.Counter(label for record in records for label in record["labels"])


@pytest.mark.fast
def test_fives(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_fives(folder)
    records = corpora.built("fives", folder, tmp_path / "data")
    assert labels(records["train"]) == {"normal": 2, "age related macular degeneration": 2,
                                        "diabetic retinopathy": 2, "glaucoma": 2}  # fmt: skip
    assert len(records["test"]) == 4 and not corpora.skipped("fives", tmp_path / "data")
    assert all("/Original/" in row["id"] for found in records.values() for row in found)
    one = next(row for row in records["test"] if "1_A.png" in row["id"])
    assert one["labels"] == ["age related macular degeneration"] and "/test/" in one["id"]


@pytest.mark.fast
def test_acrima(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_acrima(folder)
    # A mirror's own division, with a copy, and a picture of something else.
    corpora.picture(folder / "train" / "Glaucoma" / "Im310_g_ACRIMA.jpg")
    corpora.picture(folder / "train" / "logo.png")
    records = corpora.built("acrima", folder, tmp_path / "data")
    rows = [row for found in records.values() for row in found]
    assert labels(rows) == {"no glaucoma": 5, "glaucoma": 5}
    reasons = sorted(row["reason"] for row in corpora.skipped("acrima", tmp_path / "data"))
    assert reasons == ["another file of this name", "name not of this corpus"]


@pytest.mark.fast
def test_kermany_keeps_a_patient_in_one_part(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_kermany_oct(folder)
    records = corpora.built("kermany_oct", folder, tmp_path / "data")
    assert {split: len(found) for split, found in records.items()} == {
        "train": 14,
        "validation": 1,
        "test": 2,
    }
    assert labels(records["train"]) == {"choroidal neovascularization": 2,
                                        "diabetic macular edema": 4, "drusen": 4,
                                        "normal": 4}  # fmt: skip
    assert all(row["modality"] == "oct" for found in records.values() for row in found)
    home = corpora.homes(records)["1000"]
    assert home == "test", "the same number in another class is the same patient"
    left_out = collections.Counter(
        row["reason"] for row in corpora.skipped("kermany_oct", tmp_path / "data")
    )
    assert left_out == {"patient of 'test' in 'train'": 4, "patient of 'validation' in 'train'": 1}


@pytest.mark.fast
def test_kermany_twice_in_one_archive(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_kermany_oct(folder)
    shutil.copytree(folder / "OCT2017 ", folder / "oct2017" / "OCT2017 ")
    records = corpora.built("kermany_oct", folder, tmp_path / "data")
    assert sum(map(len, records.values())) == 17
    reasons = [row["reason"] for row in corpora.skipped("kermany_oct", tmp_path / "data")]
    assert reasons.count("another file of this name") == 22 and len(reasons) == 27


def test_real_kermany(
    retina_data: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Real B-scans without folders for parts: splits are made by patient."""
    pictures = sorted((retina_data / "kermany_oct" / "images").iterdir())[::6]
    for picture in pictures:
        kind = picture.name.split("-")[0]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / kind / picture.name)
    records = corpora.built("kermany_oct", folder, tmp_path / "data")
    rows = [row for found in records.values() for row in found]
    assert len(rows) == len(pictures) and len(labels(rows)) == 4
    assert len(records) == 3 and corpora.homes(records)


@pytest.mark.fast
def test_octid(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_octid(folder)
    records = corpora.built("octid", folder, tmp_path / "data")
    rows = [row for found in records.values() for row in found]
    assert labels(rows) == {"normal": 2, "macular hole": 2, "age related macular degeneration": 2,
                            "central serous chorioretinopathy": 2,
                            "diabetic retinopathy": 2}  # fmt: skip
    left_out = corpora.skipped("octid", tmp_path / "data")
    assert [row["image"] for row in left_out] == ["Manual_Segmentation/delineation.png"]

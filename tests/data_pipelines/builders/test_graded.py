"""IDRiD, APTOS and Messidor-2: generated samples of their files, and IDRiD's own pictures."""

import collections
import csv
import pathlib
import shutil

import corpora
import pytest

from data_pipelines import build
from data_pipelines.builders.graded import RETINOPATHY, keyword_list, retinopathy_grade
from data_pipelines.errors import InputError


def names(records: list[dict]) -> list[str]:
    return sorted(record["id"].rsplit("/", 1)[-1].split("#")[0] for record in records)


def test_idrid(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_idrid(folder)
    records = corpora.built("idrid", folder, tmp_path / "data")
    assert {split: len(found) for split, found in records.items()} == {"train": 6, "test": 3}
    assert names(records["test"]) == [f"IDRiD_{i:03d}.jpg" for i in (1, 2, 3)]
    first = next(r for r in records["train"] if "IDRiD_001" in r["id"])
    assert first["labels"] == ["no diabetic retinopathy"] and first["dme_grade"] == "1"
    assert (first["modality"], first["dataset"]) == ("cfp", "idrid")
    # Of two pictures of this name it is the one beside the table of grades.
    assert first["id"].startswith("B. Disease Grading/1. Original Images/a. Training Set/")
    assert all("/b. Testing Set/" in record["id"] for record in records["test"])
    labels = {record["labels"][0] for record in records["train"]}
    assert labels == set(RETINOPATHY.values())


def test_a_part_that_is_missing_is_said(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_idrid(folder)
    next(folder.rglob("b. IDRiD*.csv")).unlink()
    said = build.build("idrid", "own", str(tmp_path / "data"), source=str(folder), processes=1)
    assert "6 kept" in said and "so the part 'test' is left out" in said


def test_real_idrid(
    retina_data: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """40 real pictures, put back to where their archive has them."""
    with open(retina_data / "idrid" / "manifest.csv", encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dme_grade"]][:40]
    table = [["Image name", "Retinopathy grade", "Risk of macular edema ", "", ""]]
    for row in rows:
        original = pathlib.PurePosixPath(row["original"])
        table.append([original.stem, row["label_id"], row["dme_grade"].removesuffix(".0"), "", ""])
        place = folder / "B. Disease Grading" / "1. Original Images" / original
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(retina_data / "idrid" / row["file"], place)
    corpora.write_csv(
        folder
        / "B. Disease Grading"
        / "2. Groundtruths"
        / "a. IDRiD_Disease Grading_Training Labels.csv",
        table,
        "\r\n",
    )
    records = [
        r for found in corpora.built("idrid", folder, tmp_path / "data").values() for r in found
    ]
    wanted = collections.Counter(RETINOPATHY[row["label_id"]] for row in rows)
    assert collections.Counter(r["labels"][0] for r in records) == wanted
    by_bytes = {(retina_data / "idrid" / r["file"]).read_bytes(): r["dme_grade"][0] for r in rows}
    assert all(by_bytes[record["image"]] == record["dme_grade"] for record in records)


def test_aptos(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_aptos(folder)
    said = build.build("aptos", "own", str(tmp_path / "data"), source=str(folder), processes=1)
    assert "10 rows read" in said and "10 kept" in said and "no row names a patient" in said
    records = corpora.built("aptos", folder, tmp_path / "data")
    found = {names([r])[0]: r["labels"] for split in records.values() for r in split}
    assert found["002c0ffee12.png"] == ["moderate diabetic retinopathy"] and len(found) == 10


def test_aptos_divided_by_a_mirror(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for table, images in (("train_1", "train"), ("valid", "val"), ("test", "test")):
        corpora.write_csv(folder / f"{table}.csv", [["id_code", "diagnosis"], [f"{images}1", 4]])
        corpora.picture(folder / f"{images}_images" / f"{images}_images" / f"{images}1.png")
    records = corpora.built("aptos", folder, tmp_path / "data")
    assert {split: names(found) for split, found in records.items()} == {
        "train": ["train1.png"],
        "validation": ["val1.png"],
        "test": ["test1.png"],
    }


def test_messidor(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_messidor(folder)
    records = corpora.built("messidor", folder, tmp_path / "data")
    found = {names([r])[0]: r for split in records.values() for r in split}
    left_out = corpora.skipped("messidor", tmp_path / "data")
    assert [row["reason"] for row in left_out] == ["not gradable"] and len(found) == 11
    assert "line 5 of messidor_data.csv" in left_out[0]["detail"]
    capital = found["IM000001.JPG"]
    assert capital["labels"] == ["moderate diabetic retinopathy"] and capital["dme"] == "1"
    assert (capital["patient"], capital["eye"]) == ("examination 4", "OD")
    assert found["IM000000.JPG"]["patient"] == capital["patient"]
    assert found["IM000000.JPG"]["eye"] == "OS"
    assert len(corpora.homes(records)) == 6


def test_messidor_of_a_mirror(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Other names of columns, no pairs, both eyes of a patient in one record impossible."""
    corpora.sample_messidor(folder)
    (folder / "messidor-2.csv").unlink()
    table = folder / "messidor_data.csv"
    table.write_text(
        table.read_text().replace("image_id,adjudicated_dr_grade", "id_code,diagnosis")
    )
    said = build.build("messidor", "own", str(tmp_path / "data"), source=str(folder), processes=1)
    assert "11 kept" in said and "no 'messidor-2.csv'" in said
    with pytest.raises(InputError, match="11 x no patient named"):
        build.build("messidor", "pairs", str(tmp_path / "data"), source=str(folder), unit="patient")


def test_messidor_in_pairs(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_messidor(folder)
    records = corpora.built("messidor", folder, tmp_path / "data", unit="patient")
    rows = [row for found in records.values() for row in found]
    assert len(rows) == 6 and sum(not row["right_image"] for row in rows) == 1


@pytest.mark.fast
def test_rows_that_cannot_be_used(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_aptos(folder)
    with open(folder / "train.csv", "a", encoding="utf-8") as file:
        file.write("absent,0\n000c0ffee12,5\n000c0ffee12,\n,1\n000c0ffee12\n")
    corpora.picture(folder / "train_images" / "copies" / "001c0ffee12.png")
    corpora.picture(folder / "train_images" / "more" / "001c0ffee12.png")
    records = corpora.built("aptos", folder, tmp_path / "data")
    left_out = {row["number"]: row["reason"] for row in corpora.skipped("aptos", tmp_path / "data")}
    assert left_out == {"2": "several pictures of this name", "11": "picture not found",
                        "12": "unknown grade", "13": "unknown grade", "14": "no image named",
                        "15": "wrong number of cells"}  # fmt: skip
    assert sum(map(len, records.values())) == 15 - len(left_out)


@pytest.mark.fast
@pytest.mark.parametrize("dataset",
                         ["idrid", "aptos", "messidor", "rfmid", "octdl", "odir", "synfundus",
                          "fives", "acrima", "kermany_oct", "octid", "refuge"])  # fmt: skip
def test_another_folder_is_one_sentence(dataset: str, folder: pathlib.Path) -> None:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="There is no .*; expected is .*") as caught:
        build.build(dataset, "own", str(folder / "data"), source=str(folder))
    assert "\n" not in str(caught.value) and not (folder / "data").exists()


@pytest.mark.fast
def test_a_table_twice_and_a_missing_column(folder: pathlib.Path) -> None:
    corpora.write_csv(folder / "a" / "train.csv", [["id_code", "grade"], ["x", 0]])
    with pytest.raises(InputError, match="No column names the labels"):
        build.build("aptos", "own", source=str(folder))
    options = {"source": str(folder), "columns": {"labels": "grade"}}
    with pytest.raises(InputError, match="1 x picture not found"):
        build.build("aptos", "own", **options)
    corpora.write_csv(folder / "b" / "train.csv", [["id_code", "diagnosis"], ["x", 0]])
    with pytest.raises(InputError, match="holds 2 tables 'train.csv'"):
        build.build("aptos", "own", source=str(folder))


@pytest.mark.fast
@pytest.mark.parametrize(("cell", "grade"),
                         [("mild nonproliferative retinopathy", "1"),
                          ("hypertensive retinopathy，Moderate non proliferative  retinopathy",
                           "2"),
                          ("color fundus photograph, severe non-proliferative diabetic retinopathy",
                           "3"),
                          ("proliferative diabetic retinopathy, laser spot", "4"),
                          ("severe proliferative diabetic retinopathy", "4"),
                          ("mild nonproliferative retinopathy, severe nonproliferative retinopathy",
                           "3"),
                          ("No diabetic retinopathy", "0"), ("moderate diabetic retinopathy", "2"),
                          ("normal fundus", ""), ("diabetic retinopathy", ""),
                          ("suspected diabetic retinopathy", ""),
                          ("suspected moderate non proliferative retinopathy", ""),
                          ("no signs of severe nonproliferative retinopathy", ""),
                          ("", "")])  # fmt: skip
def test_grades_that_keywords_tell(cell: str, grade: str) -> None:
    assert retinopathy_grade(keyword_list(cell)) == RETINOPATHY.get(grade, "")

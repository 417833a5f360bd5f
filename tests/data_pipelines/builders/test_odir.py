"""ODIR-5K: generated samples of three releases, eye by eye and in pairs, and real pictures."""

import collections
import csv
import itertools
import pathlib
import shutil

import corpora
import pytest

from data_pipelines import build
from data_pipelines.builders.graded import keyword_list, retinopathy_grade
from data_pipelines.builders.manifest import Manifest, ManifestConfig


def by_eye(records: dict[str, list[dict]]) -> dict[tuple[str, str], dict]:
    return {(r["patient"], r["eye"]): r for found in records.values() for r in found}


def check(records: dict[str, list[dict]]) -> None:
    """What the sample says, whatever table it was read from."""
    eyes = by_eye(records)
    assert len(eyes) == 14 and ("3", "OS") not in eyes
    two = eyes["2", "OS"]
    assert two["labels"] == ["drusen", "mild nonproliferative retinopathy"]
    assert two["caption"] == "drusen, mild nonproliferative retinopathy"
    assert (two["age"], two["sex"], two["patient_flags"]) == ("52", "Female", "D O")
    assert two["dr_grade"] == "mild diabetic retinopathy" and eyes["2", "OD"]["dr_grade"] == ""
    assert eyes["2", "OD"]["labels"] == ["normal fundus"]
    for row in itertools.chain(*records.values()):
        side = {"OS": "left", "OD": "right"}[row["eye"]]
        assert f"/Training Images/{row['patient']}_{side}.jpg#" in row["id"]
    assert len(corpora.homes(records)) == 8


@pytest.mark.fast
def test_workbook_of_patients(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_odir(folder)
    check(corpora.built("odir", folder, tmp_path / "data"))
    left_out = corpora.skipped("odir", tmp_path / "data")
    assert [(row["image"], row["reason"]) for row in left_out] == [
        ("3_left.jpg", "no fundus picture"),
        ("7_left.jpg", "no fundus picture"),
    ]


@pytest.mark.fast
def test_table_of_eyes(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Every eye once, although each of its rows has the keywords of both."""
    corpora.sample_odir(folder)
    next(folder.rglob("data.xlsx")).unlink()
    said = build.build("odir", "own", str(tmp_path / "data"), source=str(folder), processes=1)
    assert "16 rows read" in said and "14 kept" in said
    check(corpora.built("odir", folder, tmp_path / "data"))


@pytest.mark.fast
def test_cropped_copies_where_there_are_no_originals(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    corpora.sample_odir(folder)
    shutil.rmtree(next(folder.rglob("Training Images")))
    records = corpora.built("odir", folder, tmp_path / "data")
    eyes = by_eye(records)
    assert len(eyes) == 14 and "preprocessed_images/" in eyes["0", "OS"]["id"]


@pytest.mark.fast
def test_release_with_both_test_parts(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_oia_odir(folder)
    records = corpora.built("odir", folder, tmp_path / "data")
    assert {
        split: sorted({row["patient"] for row in found}) for split, found in records.items()
    } == {"train": ["0", "1"], "validation": ["100", "101"], "test": ["200", "201"]}


@pytest.mark.fast
def test_a_record_is_a_patient(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_odir(folder)
    records = corpora.built("odir", folder, tmp_path / "data", unit="patient")
    rows = {row["patient"]: row for found in records.values() for row in found}
    assert sorted(rows) == [str(i) for i in range(8)]
    images = next(folder.rglob("Training Images"))
    assert rows["0"]["left_image"] == (images / "0_left.jpg").read_bytes()
    assert rows["0"]["right_image"] == (images / "0_right.jpg").read_bytes()
    assert rows["0"]["report"] == "left eye: cataract; right eye: normal fundus"
    assert rows["0"]["labels"] == ["cataract"] and rows["0"]["left_labels"] == ["cataract"]
    assert rows["3"]["left_image"] == b"" and rows["3"]["right_patient_flags"] == "O"


def test_real_odir(retina_data: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """40 real patients; some have one picture only."""
    with open(retina_data / "odir" / "patients.csv", encoding="utf-8-sig", newline="") as file:
        patients = list(csv.DictReader(file))[:40]
    rows = []
    for row in patients:
        names = [f"{row['patient']}_{side}.jpg" for side in ("left", "right")]
        for name, path in zip(names, (row["left_file"], row["right_file"]), strict=True):
            if path:
                (folder / "Training Images").mkdir(parents=True, exist_ok=True)
                shutil.copy(retina_data / "odir" / path, folder / "Training Images" / name)
        words = [row[f"{side}_keywords"].replace(", ", "，") for side in ("left", "right")]
        rows.append([row["patient"], row["age"], row["sex"], *names, *words,
                     *(row[flag] for flag in "NDGCAHMO")])  # fmt: skip
    corpora.write_xlsx(
        folder / "ODIR-5K_Training_Annotations(Updated)_V2.xlsx", [corpora.ODIR_HEADER, *rows]
    )
    records = corpora.built("odir", folder, tmp_path / "data", unit="patient")
    found = {row["patient"]: row for split in records.values() for row in split}
    assert len(found) == 40
    for row in patients:
        record = found[row["patient"]]
        for side in ("left", "right"):
            assert bool(record[f"{side}_image"]) == bool(row[f"{side}_file"])
            if row[f"{side}_file"]:
                assert (
                    record[f"{side}_image"]
                    == (retina_data / "odir" / row[f"{side}_file"]).read_bytes()
                )
                assert record[f"{side}_labels"] == list(
                    dict.fromkeys(
                        word.strip() for word in row[f"{side}_keywords"].lower().split(",")
                    )
                )
    missing = sum(not row[f"{side}_file"] for row in patients for side in ("left", "right"))
    reasons = [row["reason"] for row in corpora.skipped("odir", tmp_path / "data")]
    assert reasons == ["picture not found"] * missing


def test_real_keywords_grade_1314_eyes(retina_data: pathlib.Path) -> None:
    """By either recipe, the corpus's own or a manifest, and no eye that the labels call another."""
    with open(retina_data / "odir" / "patients.csv", encoding="utf-8-sig", newline="") as file:
        cells = [
            row[f"{side}_keywords"]
            for row in csv.DictReader(file)
            for side in ("left", "right")
            if row[f"{side}_file"]
        ]
    told = collections.Counter(map(retinopathy_grade, map(keyword_list, cells)))
    grades = ["mild", "moderate", "severe", "proliferative"]
    counts = [told[f"{grade} diabetic retinopathy"] for grade in grades]
    assert len(cells) == 4878 and counts == [432, 729, 135, 18]
    config = ManifestConfig(name="odir", source=str(retina_data / "odir"), dr_grade="caption")
    entries = Manifest.listing(None, config).entries
    assert collections.Counter(entry.fields["dr_grade"] for entry in entries) == told
    graded = [entry.fields["labels"][0] for entry in entries if entry.fields["dr_grade"]]
    assert len(graded) == 1314 and all("diabetic retinopathy" in label for label in graded)

"""The manifest: several folders, each with a table, become one data set."""

import pathlib

import corpora
import pytest

from data_pipelines.build import build as build_all
from data_pipelines.errors import InputError

pytestmark = pytest.mark.fast

HEADER = ("file", "label", "patient", "split", "modality")


def write_set(folder: pathlib.Path, patients: int, split: str | None, modality: str) -> None:
    """A set of two pictures a patient, whose rows all name `split`, or by turns two splits."""
    rows = [HEADER]
    for patient in range(patients):
        for picture in "ab":
            name = f"images/{patient}{picture}.jpg"
            corpora.picture(folder / name)
            place = split if split is not None else ("train", "test")[patient % 2]
            rows.append((name, "Drusen", str(patient), place, modality))
    corpora.write_csv(folder / "manifest.csv", rows)


def build(tmp_path: pathlib.Path) -> dict[str, list[dict]]:
    return corpora.built("manifest", tmp_path / "source", tmp_path / "data", csv="*/manifest.csv")


def test_folders_are_told_apart_and_split_by_their_own_patients(tmp_path: pathlib.Path) -> None:
    write_set(tmp_path / "source" / "first", 30, "train", "CFP")
    write_set(tmp_path / "source" / "second", 30, "test", "OCT")
    records = build(tmp_path)
    # Neither split column divides its set, so they do not divide what is joined either.
    assert sorted(records) == ["test", "train", "validation"]
    rows = [record for split in records.values() for record in split]
    assert len(rows) == 120
    for name, modality in (("first", "cfp"), ("second", "oct")):
        own = [row for row in rows if row["dataset"] == name]
        assert len(own) == 60 and {row["modality"] for row in own} == {modality}
        assert {row["patient"] for row in own} == {f"{name}/{i}" for i in range(30)}
        assert all(row["id"].startswith(f"{name}/images/") for row in own)
        assert all(any(row["dataset"] == name for row in split) for split in records.values())
    assert len(corpora.homes(records)) == 60


def test_a_table_that_divides_its_rows_keeps_its_splits(tmp_path: pathlib.Path) -> None:
    write_set(tmp_path / "source" / "first", 4, None, "CFP")
    write_set(tmp_path / "source" / "second", 4, None, "CFP")
    records = build(tmp_path)
    assert sorted(records) == ["test", "train"]
    assert {row["patient"] for row in records["test"]} == {"first/1", "first/3", "second/1",
                                                           "second/3"}  # fmt: skip


def test_no_row_is_lost_where_only_some_tables_have_splits(tmp_path: pathlib.Path) -> None:
    write_set(tmp_path / "source" / "first", 4, None, "CFP")
    write_set(tmp_path / "source" / "second", 20, "train", "CFP")
    options = {"csv": "*/manifest.csv", "source": str(tmp_path / "source"), "processes": 1}
    text = build_all("manifest", "own", str(tmp_path / "data"), **options)
    assert "note: 40 rows name no split and got one by patient" in text
    records = corpora.records("manifest", tmp_path / "data")
    assert sorted(records) == ["test", "train"] and sum(map(len, records.values())) == 48
    homes = [{row["patient"] for row in split} for split in records.values()]
    assert homes[0].isdisjoint(homes[1]) and all(
        any(patient.startswith("second/") for patient in patients) for patients in homes
    )
    assert "first/1" in {row["patient"] for row in records["test"]}


def test_one_table_in_a_folder_keeps_the_names_of_its_patients(tmp_path: pathlib.Path) -> None:
    write_set(tmp_path / "source" / "only", 3, "train", "CFP")
    rows = [row for split in build(tmp_path).values() for row in split]
    assert {row["patient"] for row in rows} == {"0", "1", "2"}
    assert {row["dataset"] for row in rows} == {"own"}
    assert len(rows) == 6


def test_no_table_leads_out_of_the_folder(tmp_path: pathlib.Path) -> None:
    write_set(tmp_path / "elsewhere", 2, "train", "CFP")
    (tmp_path / "source").mkdir()
    with pytest.raises(InputError, match="Give files inside"):
        corpora.built("manifest", tmp_path / "source", tmp_path / "data", csv="../*/manifest.csv")
    (tmp_path / "source" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError):
        corpora.built("manifest", tmp_path / "source", tmp_path / "data", csv="*/manifest.csv")


def test_grades_of_keywords_and_of_labels_are_one_field(tmp_path: pathlib.Path) -> None:
    tables = {
        "odir": ("file,caption", ["severe nonproliferative retinopathy", "cataract"]),
        "idrid": ("file,label", ["mild non-proliferative diabetic retinopathy", "no DR"]),
    }
    source = tmp_path / "source"
    for name, (header, cells) in tables.items():
        for i in range(len(cells)):
            corpora.picture(source / name / f"{i}.jpg")
        rows = [header.split(","), *([f"{i}.jpg", cell] for i, cell in enumerate(cells))]
        corpora.write_csv(source / name / "manifest.csv", rows)
    options = {"csv": "*/manifest.csv", "dr_grade": "caption, labels"}
    records = corpora.built("manifest", source, tmp_path / "data", **options)
    found = {row["id"].split(".")[0]: row["dr_grade"] for part in records.values() for row in part}
    assert found == {"odir/0": "severe diabetic retinopathy", "odir/1": "",
                     "idrid/0": "mild diabetic retinopathy", "idrid/1": ""}  # fmt: skip
    with pytest.raises(InputError, match="dr_grade: there is no field 'keywords'; .*caption"):
        corpora.built("manifest", source, tmp_path / "b", **{**options, "dr_grade": "keywords"})
    rows = [["file", "label", "dr_grade"], ["0.jpg", "drusen", "2"]]
    corpora.write_csv(source / "odir" / "manifest.csv", rows)
    with pytest.raises(InputError, match="dr_grade: the table has a column of that name"):
        corpora.built("manifest", source, tmp_path / "c", **options)


def test_a_picture_listed_again_is_told_and_with_other_labels_named(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    for name in "abc":
        corpora.picture(source / f"{name}.png")
    (source / "copy.png").write_bytes((source / "c.png").read_bytes())
    labels = {"a": "normal", "b": "normal"}
    rows = [(f"{name}.png", labels.get(name, "drusen")) for name in ("a", "b", "c", "a", "b")]
    rows += [("copy.png", "glaucoma"), ("b.png", "")]
    corpora.write_csv(source / "manifest.csv", [("image", "label"), *rows])
    options = {"source": str(source), "processes": 1}
    text = build_all("manifest", "own", str(tmp_path / "data"), **options)
    assert "note: 4 rows list a picture that an earlier row lists too; all are kept" in text
    assert "2 pictures have other labels in another row, see remarks.csv" in text
    assert "b.png, row 3: normal; b.png, row 6: normal; b.png, row 8: none" in text
    (told,) = (tmp_path / "data").rglob("remarks.csv")
    lines = told.read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["3", "4", "6", "7", "8"]
    assert "other labels in row 7" in lines[1] and "c.png" in lines[1]

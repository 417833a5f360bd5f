"""RFMiD and OCTDL: generated samples of their files."""

import csv
import pathlib

import corpora
import pytest

pytestmark = pytest.mark.fast


def test_rfmid(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_rfmid(folder)
    records = corpora.built("rfmid", folder, tmp_path / "data")
    sizes = {split: len(found) for split, found in records.items()}
    assert sizes == {"train": 4, "validation": 2, "test": 2}
    for split, place in (("train", "a. Training Set"), ("test", "c. Testing Set")):
        found = {record["id"].split("/")[-1].split("#")[0]: record for record in records[split]}
        assert found["1.png"]["labels"] == ["no disease", "healthy"]
        assert found["2.png"]["labels"] == ["a disease", "exudates", "macular hole"]
        assert place in found["1.png"]["id"], "pictures of the parts have the same names"


def test_rfmid_of_a_mirror_with_28_columns(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Folders twice, other names of folders, the table of the challenge, odd cells."""
    header = ["ID", "Disease_Risk", *corpora.RFMID_FINDINGS[:27], "OTHER"]
    for outer, inner, part in (
        ("Training_Set", "Training", "Training"),
        ("Evaluation_Set", "Validation", "Validation"),
        ("Test_Set", "Test", "Testing"),
    ):
        top = folder / outer / outer
        rows = [[i, 1, *[0] * 27, i % 2] for i in (1, 2)]
        if part == "Testing":
            rows += [[1, 1, 2, *[0] * 27], [1, 1, *[0] * 27]]
        corpora.write_csv(top / f"RFMiD_{part}_Labels.csv", [header, *rows])
        for i in (1, 2):
            corpora.picture(top / inner / f"{i}.png")
    records = corpora.built("rfmid", folder, tmp_path / "data")
    assert {split: len(found) for split, found in records.items()} == {
        "train": 2,
        "validation": 2,
        "test": 2,
    }
    assert sorted(r["labels"] for r in records["test"]) == [
        ["a disease"],
        ["a disease", "other disease"],
    ]
    reasons = [row["reason"] for row in corpora.skipped("rfmid", tmp_path / "data")]
    assert reasons == ["unknown grade", "wrong number of cells"]


def test_rfmid_finding_of_no_name(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_rfmid(folder)
    table = next(folder.rglob("b. RFMiD*.csv"))
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows[0].append("NEW")
    corpora.write_csv(table, [rows[0], [*rows[1], "1"], [*rows[2], "1"]])
    corpora.built("rfmid", folder, tmp_path / "data")
    # A healthy eye stays: only its risk is looked at.
    assert [row["detail"] for row in corpora.skipped("rfmid", tmp_path / "data")] == [
        "line 3 of 2. Groundtruths/b. RFMiD_Validation_Labels.csv: RFMiD has no finding NEW"
    ]


def test_octdl(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_octdl(folder)
    records = corpora.built("octdl", folder, tmp_path / "data")
    rows = {r["id"].split("/")[-1].split("#")[0]: r for found in records.values() for r in found}
    first = rows["amd_1000_1.jpg"]
    assert first["labels"] == ["age related macular degeneration"] and first["modality"] == "oct"
    assert (first["patient"], first["eye"], first["sex"]) == ("0", "OD", "f")
    assert (first["year"], first["subcategory"], first["condition"]) == ("1950", "MNV", "active")
    assert rows["vid_1009_1.jpg"]["labels"] == ["vitreomacular interface disease"]
    assert len(rows) == 10 and len(corpora.homes(records)) == 5
    both = corpora.built("octdl", folder, tmp_path / "pairs", unit="patient")
    assert sum(map(len, both.values())) == 5
    assert all(row["left_image"] and row["right_image"] for f in both.values() for row in f)

"""SynFundus-1M: a generated sample of its table and of three of its parts."""

import pathlib

import corpora
import pytest

from data_pipelines.builders import synfundus

pytestmark = pytest.mark.fast


def test_labels_and_rows_left_out(tmp_path: pathlib.Path) -> None:
    corpora.sample_synfundus(tmp_path / "source")
    records = corpora.built("synfundus", tmp_path / "source", tmp_path / "data")
    found = {r["id"].split("#")[0]: r for rows in records.values() for r in rows}
    assert {name: record["labels"] for name, record in found.items()} == {
        "Part0/0.png": ["normal"],
        "Part0/1.png": ["moderate diabetic retinopathy", "diabetic macular edema"],
        "Part0/2.png": ["no diabetic retinopathy", "glaucoma"],
        "Part0/4.png": ["mild diabetic retinopathy", "degenerative myopia"],
        "Part1/50000.png": [
            "no diabetic retinopathy",
            "age related macular degeneration",
            "degenerative myopia",
        ],
        "Part19/1000017.png": ["proliferative diabetic retinopathy"],
    }
    first = found["Part0/1.png"]
    assert first["eye_side"] == "1" and first["eye"] == "" and first["is_fundus"] == "1"
    reasons = [row["reason"] for row in corpora.skipped("synfundus", tmp_path / "data")]
    assert reasons == ["only degenerative myopia or choroidal pathology"] * 2 + ["unknown grade"]


def test_without_numbers_a_row_is_the_picture_of_its_place(tmp_path: pathlib.Path) -> None:
    corpora.sample_synfundus(tmp_path / "source")
    table = tmp_path / "source" / "SynFundus-1M_gen_cond.csv"
    lines = [line.split(",", 1)[1] for line in table.read_text().splitlines()[:4]]
    table.write_text("\n".join(lines) + "\n")
    records = corpora.built("synfundus", tmp_path / "source", tmp_path / "data")
    found = {r["id"].split("#")[0]: r["labels"] for rows in records.values() for r in rows}
    assert sorted(found) == ["Part0/0.png", "Part0/1.png", "Part0/2.png"]
    assert found["Part0/2.png"] == ["no diabetic retinopathy", "glaucoma"]


@pytest.mark.parametrize(("index", "path"),
                         [("49999", "Part0/49999.png"), ("50000", "Part1/50000.png"),
                          ("999999", "Part19/999999.png"),
                          ("1000017", "Part19/1000017.png")])  # fmt: skip
def test_the_last_part_takes_the_rest(index: str, path: str) -> None:
    assert synfundus.picture(index) == path

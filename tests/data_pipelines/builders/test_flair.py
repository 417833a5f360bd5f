"""FLAIR's tables: lists in cells, paths of two spellings, data sets by their first folder."""

import paired_samples as samples
import pytest

from data_pipelines.errors import InputError

OPTIONS = {"csv": "dataframes/pretraining/*.csv", "images": "datasets"}


def test_rows_of_all_tables(tmp_path):
    samples.sample_flair(tmp_path / "flair")
    records, said, skipped = samples.built("flair", tmp_path / "flair", tmp_path, **OPTIONS)
    assert list(records) == ["train"]
    first, second, again, last = sorted(records["train"], key=lambda r: int(r["id"].split("#")[-1]))
    assert first["dataset"] == "03_IDRID" and first["modality"] == "cfp"
    assert first["labels"] == ["mild diabetic retinopathy"] and first["attributes"] == []
    assert first["image"] == samples.jpeg(1)
    assert (second["labels"], second["attributes"]) == ([], ["noisy"])
    assert second["image"] == again["image"] == samples.jpeg(2) and second["id"] != again["id"]
    assert (again["labels"], again["attributes"]) == ([], [])
    assert last["labels"] == ["glaucoma", "macula's hole"] and last["dataset"] == "08_ODIR-5K"
    assert [row["reason"] for row in skipped] == ["no such file"] * 2
    assert "1 rows list a picture that an earlier row lists too" in said
    assert "no picture is there of 1 data sets: 29_AIROGS (1 rows)" in said


def test_a_picture_that_is_listed_again_can_be_dropped(tmp_path):
    """In 08_ODIR of the published tables most pictures are."""
    samples.sample_flair(tmp_path / "flair")
    options = {**OPTIONS, "repeated": "drop"}
    records, said, skipped = samples.built("flair", tmp_path / "flair", tmp_path, **options)
    kept = sorted(record["id"].split("#")[-1] for record in records["train"])
    images = [record["image"] for record in records["train"]]
    assert len(kept) == len(set(images)) == 3 and samples.jpeg(2) in images
    noisy = next(record for record in records["train"] if record["image"] == samples.jpeg(2))
    assert noisy["attributes"] == ["noisy"]  # the first of the two rows
    reasons = sorted(row["reason"] for row in skipped)
    assert reasons == ["no such file", "no such file", "picture listed before"]
    assert "earlier row lists too" not in said


def test_a_table_whose_name_is_no_text(tmp_path):
    samples.put(tmp_path / "a\nb.csv", b"image\n")
    with pytest.raises(InputError, match=r"Rename 'a\\nb.csv'"):
        samples.built("flair", tmp_path, tmp_path / "data")


@pytest.mark.parametrize(("options", "words"),
                         [({"csv": "*.csv"}, "There is no file"),
                          ({"csv": OPTIONS["csv"], "repeated": "once"},
                           "--repeated is keep or drop, got 'once'"),
                          ({"csv": "../*.csv"}, "Give files inside"),
                          ({"csv": "/*.csv"}, "Give files inside"),
                          ({"csv": ""}, "no pattern|no file"),
                          ({"csv": OPTIONS["csv"], "images": "elsewhere"},
                           "None of the 6 pictures .* elsewhere/03_IDRID/Set A//IDRiD_01.jpg"),
                          ({"csv": OPTIONS["csv"], "images": ".."},
                           "None of the 6 pictures")])  # fmt: skip
def test_mistakes_are_one_sentence(tmp_path, options, words):
    samples.sample_flair(tmp_path / "flair")
    with pytest.raises(InputError, match=words):
        samples.built("flair", tmp_path / "flair", tmp_path, **options)

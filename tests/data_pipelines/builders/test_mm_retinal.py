"""MM-Retinal in the forms in which its tables are about, one of them damaged."""

import collections
import pathlib

import openpyxl
import paired_samples as samples
import pytest

from data_pipelines.builders import misread, table
from data_pipelines.errors import InputError


def by_name(records):
    return {record["id"].rsplit("#")[0]: record for record in records["train"]}


def test_version_one(tmp_path):
    folder = tmp_path / "MM_Retinal_dataset_v1"
    samples.sample_mm_retinal(folder)
    records, _, skipped = samples.built("mm_retinal", folder, tmp_path / "data")
    found = by_name(records)
    assert set(found) == {"CFP/figure01-01A.png", "CFP/figure01-02.jpg", "FFA/figure01-01A.jpg",
                          "OCT/figure02-07B.jpeg"}  # fmt: skip
    record = found["CFP/figure01-01A.png"]
    assert record["caption"] == "A normal fundus, right eye"
    assert record["caption_zh"] == "右眼底正常"
    assert record["image"] == samples.png(1) and record["labels"] == []
    modalities = collections.Counter(record["modality"] for record in records["train"])
    assert modalities == {"cfp": 2, "ffa": 1, "oct": 1}
    assert {(row["image"], row["reason"]) for row in skipped} == {
        ("figure01-03", "no such file"),
        ("figure02-08", "no caption"),
    }
    assert {row["detail"] for row in skipped} == {"line 4 of CFP_translated_v1.csv",
                                                  "line 3 of OCT_translated_v1.csv"}  # fmt: skip


def test_one_modality(tmp_path):
    samples.sample_mm_retinal(tmp_path / "v1")
    records, _, skipped = samples.built("mm_retinal", tmp_path / "v1", tmp_path, modality="ffa")
    assert set(by_name(records)) == {"FFA/figure01-01A.jpg"}
    assert sum(row["reason"] == "another modality" for row in skipped) == 5
    with pytest.raises(InputError, match="modality is one of cfp, ffa, oct"):
        samples.built("mm_retinal", tmp_path / "v1", tmp_path, modality="fundus")


def test_workbooks_are_read_where_there_is_no_csv(tmp_path):
    samples.sample_mm_retinal(tmp_path / "v1")
    for path in (tmp_path / "v1").glob("*.csv"):
        book = openpyxl.Workbook()
        for line in path.read_text(encoding="utf-8").splitlines():
            book.active.append(line.split(",", 2))
        book.save(path.with_suffix(".xlsx"))
        path.unlink()
    records, _, skipped = samples.built("mm_retinal", tmp_path / "v1", tmp_path / "data")
    assert len(records["train"]) == 4 and len(skipped) == 2
    assert by_name(records)["OCT/figure02-07B.jpeg"]["caption_zh"] == "裂孔"


def test_the_caption_of_keepfits_angiograms_is_their_category(tmp_path):
    samples.sample_keepfit_ffa(tmp_path / "v1")
    records, _, skipped = samples.built("mm_retinal", tmp_path / "v1", tmp_path / "data")
    found = by_name(records)
    assert found["FFA/figure01.jpg"]["caption"] == "Late phase; a leak, small"
    assert found["FFA/figure02.png"]["caption"] == "A bull's-eye shape"
    assert {r["modality"] for r in records["train"]} == {"ffa"} and skipped == []


def test_damaged_captions_are_separated_or_skipped(tmp_path):
    samples.sample_retcop(tmp_path / "v1")
    records, said, skipped = samples.built("mm_retinal", tmp_path / "v1", tmp_path / "data")
    found = {name[-5:-4]: record for name, record in by_name(records).items()}
    assert {i: record["caption"] for i, record in found.items()} == {
        "0": "Fundus of a child",
        "1": "Fundus of the right eye",
        "2": "Fundus, right eye, with 1,000 drusen",
        "5": "Drusen, small",
    }
    whole = "正常儿童右眼眼底彩像"
    assert [found[i]["caption_zh"] for i in "0125"] == [whole, "", "", whole]
    assert found["0"]["labels"] == ["macular disease"]
    assert [row["reason"] for row in skipped] == ["captions damaged beyond repair", "no caption"]
    assert "restored where no byte is lost (2 rows); 2 English captions were in its cells" in said


@pytest.mark.fast
@pytest.mark.parametrize(("chinese", "cells", "expected"),
                         [("视盘,Two words", [""], ("视盘", "Two words")),
                          ("视盘小,Two words", [""], ("", "Two words")),
                          ("视盘小,Word", [""], None), ("视力右0.15,左0.12", [""], None),
                          ("视盘小", ["Of 3 μm", ""], ("", "Of 3 μm")),
                          ("视盘小", ["Seen – or not", ""], None),
                          ("视盘", ["Seen – or not", ""], None),
                          ("视盘", ["Two 视盘 words", ""], None),
                          ("一眼底,Two words", [""], ("一眼底", "Two words")),
                          ('视盘小,"Two, words', [""], None), ("", ["", ""], ("", "")),
                          ("视盘小,Two words – or more", [""], None)])  # fmt: skip
def test_what_is_unclear_is_not_repaired(chinese, cells, expected):
    shown = samples.read_as_gbk(chinese)
    if "," in shown:
        shown, *cells = [*shown.split(","), *cells]
    cells = [samples.read_as_gbk(cell) for cell in cells]
    found = misread.captions([shown, *cells])
    assert (found and (found.chinese, found.english)) == expected


@pytest.mark.fast
def test_cells_that_a_caption_was_cut_into_are_emptied():
    whole = samples.read_as_gbk("正常儿童右眼眼底彩像")
    cut = samples.read_as_gbk('视盘小,"A, b, c"').split(",")
    columns = {"image": "a", "caption_zh": "b", "caption": "c"}
    rows = ((2, ("x", whole, "Two", "", "")), (3, ("y", *cut, "")), (4, ("z", whole)))
    found, skipped, _ = misread.repaired(
        table.Table(pathlib.Path("t.csv"), ("a", "b", "c", "", ""), columns, rows)
    )
    assert found.rows[1:] == ((3, ("y", "", "A, b, c", "", "")), (4, ("z", whole)))
    assert skipped == []


@pytest.mark.fast
def test_chinese_that_was_read_rightly_is_left_alone():
    for text in ("正常儿童右眼眼底彩像", "视盘边界清，色淡红，C/D 0.3", "Two words", ""):
        assert not misread.is_misread(text)
    assert misread.is_misread(samples.read_as_gbk("正常儿童右眼眼底彩像"))


def test_a_name_in_several_folders_is_not_guessed(tmp_path):
    samples.sample_mm_retinal(tmp_path / "v1")
    for path in (tmp_path / "v1").glob("*.csv"):
        path.unlink()
    samples.table(tmp_path / "v1" / "all.csv",
                  [["Image_ID", "en_caption"], ["figure01-01A", "In two"],
                   ["figure02-07B", "In one"], ["other/figure.jpg", "In none"]])  # fmt: skip
    samples.put(tmp_path / "v1" / "other" / "figure.jpg", samples.jpeg(6))
    records, _, skipped = samples.built("mm_retinal", tmp_path / "v1", tmp_path / "data")
    assert [r["modality"] for r in records["train"]] == ["oct"]
    assert [row["reason"] for row in skipped] == ["several files of this name", "modality unknown"]


@pytest.mark.fast
def test_no_table(tmp_path):
    with pytest.raises(InputError, match="There is no file"):
        samples.built("mm_retinal", tmp_path, tmp_path / "data")

"""FFA-IR: one record a picture or a case, out of its annotation or the table derived from it."""

import collections
import json

import paired_samples as samples
import pytest

from data_pipelines.errors import InputError


@pytest.mark.parametrize("derived", [False, True])
def test_every_picture_has_the_report_of_its_case(tmp_path, derived):
    samples.sample_ffa_ir(tmp_path / "source", derived)
    records, said, skipped = samples.built("ffa_ir", tmp_path / "source", tmp_path)
    assert {split: len(part) for split, part in records.items()} == {
        "train": 2,
        "validation": 5,
        "test": 1,
    }
    record = records["train"][0]
    assert record["caption"] == "A leak, late." and record["caption_zh"] == "晚期渗漏"
    assert (record["patient"], record["modality"]) == ("c1", "ffa")
    assert {r["patient"] for r in records["validation"]} == {"c2"}
    reasons = collections.Counter(row["reason"] for row in skipped)
    assert reasons == {"no such file": 1, "no pictures named": 1}
    assert "1 records have no English report" in said
    if not derived:
        assert record["Age"] == "61" and records["validation"][0]["Lesion"] == '{"x": [1, 2]}'


def test_a_record_can_be_a_case(tmp_path):
    samples.sample_ffa_ir(tmp_path / "source")
    (tmp_path / "source" / "FAIR" / "c2" / "5.jpg").write_bytes(samples.jpeg(0))
    records, _, skipped = samples.built(
        "ffa_ir", tmp_path / "source", tmp_path, unit="case", max_images=3
    )
    assert [
        len(r["images"]) for part in ("train", "validation", "test") for r in records[part]
    ] == [2, 3, 1]
    chosen = [samples.jpeg(22 + i) for i in (1, 3)] + [samples.jpeg(0)]
    assert list(records["validation"][0]["images"]) == chosen
    assert [row["reason"] for row in skipped] == ["no pictures named"]


def test_half_of_a_character_pair_is_no_text(tmp_path):
    """JSON can spell it, and no file can hold it."""
    content = {
        split: {
            f"{split}\ud800": {
                "Image_path": [f"{split}.jpg", "\ud800.jpg"],
                "En_Report": "a \ud800",
                "\ud800": 1,
            }
        }
        for split in ("train", "test")
    }
    samples.put(tmp_path / "source" / "ffair_annotation.json", json.dumps(content).encode())
    for i, split in enumerate(content):
        samples.put(tmp_path / "source" / f"{split}.jpg", samples.jpeg(i))
    records, _, skipped = samples.built("ffa_ir", tmp_path / "source", tmp_path)
    assert records["train"][0]["caption"] == "a ?" and records["train"][0]["patient"] == "train?"
    assert [row["image"] for row in skipped] == ["?.jpg", "?.jpg"]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("content", "words"),
    [
        # Python 3.13 points at the comma, those before it behind it.
        (b'{"train": {"a": {"Image_path": ["x"],}}}', "broken at line 1, column 3[78]"),
        (b'{"train": {"a": {}, "a": {}}}', "'a' comes twice"),
        (b"[1]", "is no annotation"),
        (b'{"train": [1]}', "is no annotation"),
        (b"\xff\xfe{", "not UTF-8"),
        (b"[" * 100000, "no annotation|broken"),
        (
            b'{"train": {"a": {"Image_path": "x.jpg"}, "b": 1}}',
            "1 x no list of pictures, 1 x case not readable",
        ),
    ],
)
def test_broken_annotations_are_one_sentence(tmp_path, content, words):
    samples.put(tmp_path / "source" / "ffair_annotation.json", content)
    with pytest.raises(InputError, match=words):
        samples.built("ffa_ir", tmp_path / "source", tmp_path / "data")


@pytest.mark.fast
def test_options(tmp_path):
    with pytest.raises(InputError, match="neither ffair_annotation.json nor"):
        samples.built("ffa_ir", tmp_path, tmp_path / "data")
    with pytest.raises(InputError, match="unit of ffa_ir is image or case"):
        samples.built("ffa_ir", tmp_path, tmp_path / "data", unit="patient")
    with pytest.raises(InputError, match="max_images"):
        samples.built("ffa_ir", tmp_path, tmp_path / "data", max_images=2)

"""RET-CLIP's pairs of files: base64 eyes found by offsets, texts by lines."""

import collections
import tracemalloc

import paired_samples as samples
import pytest

from data_pipelines.builders import ret_clip
from data_pipelines.errors import InputError


def test_both_eyes_under_one_report(tmp_path):
    samples.sample_ret_clip(tmp_path / "source")
    records, _, skipped = samples.built("ret_clip", tmp_path / "source", tmp_path)
    found = {r["patient"]: r for part in records.values() for r in part}
    assert {split: len(part) for split, part in records.items()} == {"train": 2, "test": 1}
    assert found["p1"]["left_image"] == samples.jpeg(1)
    assert found["p1"]["right_image"] == samples.png(2)
    assert found["p1"]["report_zh"] == "双眼\u2028视盘边界清" and found["p1"]["report"] == ""
    assert found["p2"]["left_image"] == b"" and found["p2"]["right_image"] == samples.jpeg(1)
    assert found["p2"]["report"] == "Drusen." and found["p2"]["report_zh"] == ""
    assert found["10"]["id"] == "test/10/1?#1" and found["10"]["text_id"] == "1?"
    assert collections.Counter(row["reason"] for row in skipped) == {
        "both eyes missing": 1,
        "patient listed twice": 1,
        "not three cells": 2,
        "not base64": 1,
        "patient has no pictures": 2,
        "text names no patient": 1,
        "not JSON": 1,
        "patient has no text": 1,
    }


def test_pictures_are_not_loaded_to_list_them(tmp_path):
    """A line of many megabytes is known by its offsets."""
    eye = 1 << 24
    samples.put(tmp_path / "a_imgs.tsv", b"\xef\xbb\xbfp1\t" + b"A" * eye + b"\t \r\np2\t\tBB")
    tracemalloc.start()
    found = list(ret_clip._cells(tmp_path / "a_imgs.tsv"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [(("p1", (6, eye), (eye + 7, 0)), ""),
                     (("p2", (eye + 13, 0), (eye + 14, 2)), "")]  # fmt: skip
    assert peak < eye / 16


@pytest.mark.fast
def test_missing_files(tmp_path):
    with pytest.raises(InputError, match="There is no file"):
        samples.built("ret_clip", tmp_path, tmp_path / "data")
    samples.put(tmp_path / "train_imgs.tsv", b"")
    with pytest.raises(InputError, match="train_imgs.tsv has no reports"):
        samples.built("ret_clip", tmp_path, tmp_path / "data")
    samples.put(tmp_path / "train_texts.jsonl", b"")
    with pytest.raises(InputError, match="it has no rows"):
        samples.built("ret_clip", tmp_path, tmp_path / "data")

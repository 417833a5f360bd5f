"""A folder of texts: paragraphs kept once, broken files counted, nothing read outside it."""

import csv

import pytest

from data_pipelines import build
from data_pipelines.errors import InputError
from data_pipelines.records import sources, storage

pytestmark = pytest.mark.fast


@pytest.fixture
def folder(tmp_path):
    texts = tmp_path / "texts"
    (texts / "deep").mkdir(parents=True)
    (texts / "a.txt").write_bytes(b"\xef\xbb\xbfDrusen lie\r\nunder the RPE.\r\n\r\n\r\nCupping.\n")
    (texts / "deep" / "b.txt").write_text("黄斑水肿。\n\nCupping.\n", encoding="utf-8")
    (texts / "c.txt").write_bytes("眼底".encode("gb18030"))
    (texts / "not_text.csv").write_text("x")
    (tmp_path / "secret.txt").write_text("outside")
    (texts / "link.txt").symlink_to(tmp_path / "secret.txt")
    return texts


def test_paragraphs_are_records_and_counts_add_up(folder, tmp_path):
    said = build.build("text_corpus", "own", str(tmp_path / "data"), source=str(folder))
    source = sources.load("text_corpus/own", "train", str(tmp_path / "data"))
    found = {source[i]["text"]: source[i] for i in range(len(source))}
    assert set(found) == {"Drusen lie under the RPE.", "Cupping.", "黄斑水肿。"}
    assert found["黄斑水肿。"]["id"] == "deep/b.txt#1"
    assert found["Cupping."]["id"] == "a.txt#2" and found["Cupping."]["dataset"] == "own"
    place = storage.find("text_corpus/own", str(tmp_path / "data"))
    rows = list(csv.DictReader((place / "skipped.csv").open(encoding="utf-8")))
    reasons = sorted(row["reason"] for row in rows)
    assert reasons == ["not UTF-8", "not readable", "repeated paragraph"]
    assert "6 rows read" in said and "3 kept" in said and "3 skipped" in said


def test_a_folder_without_texts_is_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="There is no .txt file"):
        build.build("text_corpus", "own", str(tmp_path / "data"), source=str(tmp_path / "empty"))

"""WordPiece gives BERT's pieces, and the row numbers of its vocabulary."""

from __future__ import annotations

import pathlib
import pickle

import pytest

from data_pipelines.errors import InputError
from data_pipelines.wordpiece import WordPiece

ROWS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", "the", "ret", "##ina", "##l", "cafe",
    "眼", "底", ",", '"', "0", ".", "##5", "Eye", "eye", "mm", "##mm", "a",
]  # fmt: skip


@pytest.fixture
def vocab(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(ROWS) + "\n", encoding="utf-8", newline="")
    return path


def pieces(tokenizer: WordPiece, text: str, length: int = 24) -> list[str]:
    ids, mask = tokenizer.encode(text, length)
    assert not ids[~mask].any()
    return [ROWS[i] for i in ids[mask]]


def test_the_line_separator_row_does_not_shift_ids(vocab: pathlib.Path) -> None:
    tokenizer = WordPiece(vocab)
    assert tokenizer.vocab_size == len(ROWS)
    assert tokenizer.encode("the", 3)[0].tolist() == [2, ROWS.index("the"), 3]
    dos = vocab.with_name("dos.txt")
    dos.write_bytes(vocab.read_bytes().replace(b"\n", b"\r\n"))
    assert WordPiece(dos).encode("the eye", 8)[0].tolist() == [2, 6, 19, 3, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Retinal", ["the", "ret", "##ina", "##l"]),
        ("Café", ["cafe"]),
        ("眼底，", ["眼", "底", "[UNK]"]),
        ("the眼eye", ["the", "眼", "eye"]),
        ("“eye”,", ['"', "eye", '"', ","]),
        ("0.5mm", ["0", ".", "[UNK]"]),
        ("0.0mm", ["0", ".", "0", "##mm"]),
        ("the\u200b\x00 \ufffd\teye", ["the", "eye"]),
        ("the\u3000eye\xa0a", ["the", "eye", "a"]),
        ("a" * 201, ["[UNK]"]),
        ("[MASK]", ["[UNK]", "[UNK]", "[UNK]"]),
        ("", []),
    ],
)
def test_pieces(vocab: pathlib.Path, text: str, expected: list[str]) -> None:
    assert pieces(WordPiece(vocab), text) == ["[CLS]", *expected, "[SEP]"]


def test_cased_text_keeps_its_case(vocab: pathlib.Path) -> None:
    assert pieces(WordPiece(vocab, lower_case=False), "Eye") == ["[CLS]", "Eye", "[SEP]"]
    assert pieces(WordPiece(vocab), "Eye") == ["[CLS]", "eye", "[SEP]"]


def test_long_texts_keep_their_end_token(vocab: pathlib.Path) -> None:
    ids, mask = WordPiece(vocab).encode("the eye the eye the eye", 5)
    assert ids.tolist() == [2, 6, 19, 6, 3] and mask.all()
    with pytest.raises(InputError, match="no room"):
        WordPiece(vocab).encode("the", 1)


def test_decode_and_word_starts(vocab: pathlib.Path) -> None:
    tokenizer = WordPiece(vocab)
    ids, _ = tokenizer.encode("the retinal 眼底 eye", 12)
    assert tokenizer.decode(ids) == "the retinal眼底eye"
    assert tokenizer.word_starts(ids)[:8].tolist() == [1, 1, 1, 0, 0, 1, 1, 1]


def test_pickles_and_compares(vocab: pathlib.Path) -> None:
    tokenizer = WordPiece(vocab)
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer != WordPiece(vocab, lower_case=False)


def test_other_files_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        WordPiece(tmp_path / "absent.txt")
    (tmp_path / "latin.txt").write_bytes(b"[PAD]\ncaf\xe9\n")
    with pytest.raises(InputError, match="UTF-8"):
        WordPiece(tmp_path / "latin.txt")
    (tmp_path / "words.txt").write_text("the\neye\n")
    with pytest.raises(InputError, match=r"lacks \[PAD\]"):
        WordPiece(tmp_path / "words.txt")

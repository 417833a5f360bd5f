"""WordPiece gives BERT's pieces, and the row numbers of its vocabulary."""

import pathlib
import pickle

import pytest

from data_pipelines.errors import InputError
from data_pipelines.text import wordpiece
from data_pipelines.text.wordpiece import WordPiece

pytestmark = pytest.mark.fast

ROWS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", "the", "ret", "##ina", "##l", "cafe",
    "眼", "底", ",", '"', "0", ".", "##5", "Eye", "eye", "mm", "##mm", "a",
]  # fmt: skip


# Texts with the pieces and the ids that the official tokenizers give: RET-CLIP's, and the uncased
# English one of Hugging Face's `tokenizers`. Their vocabularies are not ours to ship.
CHINESE = {
    "双眼正常眼底": "双 1352 眼 4706 正 3633 常 2382 眼 4706 底 2419",
    "右眼：糖尿病视网膜病变；左眼：黄斑水肿。": (
        "右 1381 眼 4706 ： 8038 糖 5131 尿 2228 病 4567 视 6228 网 5381 膜 5606 病 4567 变 1359 "
        "； 8039 左 2340 眼 4706 ： 8038 黄 7942 斑 3157 水 3717 肿 5514 。 511"
    ),
    "双眼年龄相关性黄斑病变": (
        "双 1352 眼 4706 年 2399 龄 7977 相 4685 关 1068 性 2595 黄 7942 斑 3157 病 4567 变 1359"
    ),
    "OD: AMD, OS: Normal 0.5mm": (
        "o 157 ##d 8168 : 131 amd 8992 , 117 os 8721 : 131 "
        "no 8275 ##rma 13156 ##l 8178 0 121 . 119 5mm 9394"
    ),
    "Café “测试” PDR期": 'cafe 8377 " 107 测 3844 试 6407 " 107 pd 9884 ##r 8180 期 3309',
}
ENGLISH = {
    "Moderate non-proliferative diabetic retinopathy, OD.": (
        "moderate 8777 non 2512 - 1011 pro 4013 ##life 15509 ##rative 18514 dia 22939 ##bet 20915 "
        "##ic 2594 re 2128 ##tino 25690 ##pathy 20166 , 1010 o 1051 ##d 2094 . 1012"
    ),
    "“Cup-to-disc” ratio of 0.65; naïve drusen (40µm) 黄斑": (
        "“ 1523 cup 2452 - 1011 to 2000 - 1011 disc 5860 ” 1524 ratio 6463 of 1997 0 1014 . 1012 "
        "65 3515 ; 1025 naive 15743 dr 2852 ##use 8557 ##n 2078 ( 1006 40 2871 ##µ 29659 "
        "##m 2213 ) 1007 [UNK] 100 [UNK] 100"
    ),
}
BERT = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}


def ids_of(pieces: str) -> dict[str, int]:
    words = iter(pieces.split())
    return {piece: int(next(words)) for piece in words}


def full_size(path: pathlib.Path, texts: dict[str, str], size: int, newline: str) -> WordPiece:
    """A vocabulary of filler with BERT's special tokens and the pieces of `texts` in their rows."""
    rows = [f"filler{i}" for i in range(size)]
    rows[343] = "\u2028"
    for known in (BERT, *map(ids_of, texts.values())):
        for piece, row in known.items():
            rows[row] = piece
    path.write_bytes((newline.join(rows) + newline).encode())
    return WordPiece(path)


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize(
    ("texts", "size"), [(CHINESE, 21128), (ENGLISH, 30522)], ids=["chinese", "english"]
)
def test_ids_are_the_official_ones(
    tmp_path: pathlib.Path, texts: dict[str, str], size: int, newline: str
) -> None:
    tokenizer = full_size(tmp_path / "vocab.txt", texts, size, newline)
    assert tokenizer.vocab_size == size
    for text, official in texts.items():
        expected = [101, *map(int, official.split()[1::2]), 102]
        for _ in range(2):  # the second time from memory
            ids, mask = tokenizer.encode(text, 100)
            assert ids[mask].tolist() == expected and mask.sum() == len(expected), text
        cut, mask = tokenizer.encode(text, 6)
        assert cut.tolist() == [*expected[:5], 102] and mask.all(), text


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


@pytest.mark.parametrize(("text", "expected"),
                         [("The Retinal", ["the", "ret", "##ina", "##l"]), ("Café", ["cafe"]),
                          ("眼底，", ["眼", "底", "[UNK]"]), ("the眼eye", ["the", "眼", "eye"]),
                          ("“eye”,", ['"', "eye", '"', ","]), ("the\x0beye", ["[UNK]"]),
                          ("0.5mm", ["0", ".", "[UNK]"]), ("0.0mm", ["0", ".", "0", "##mm"]),
                          ("the\u200b\x00 \ufffd\teye", ["the", "eye"]),
                          ("the\u3000eye\xa0a", ["the", "eye", "a"]), ("a" * 201, ["[UNK]"]),
                          ("[MASK]", ["[UNK]", "[UNK]", "[UNK]"]), ("", [])])  # fmt: skip
def test_pieces(vocab: pathlib.Path, text: str, expected: list[str]) -> None:
    assert pieces(WordPiece(vocab), text) == ["[CLS]", *expected, "[SEP]"]


def test_cased_text_keeps_its_case(vocab: pathlib.Path) -> None:
    accents = vocab.with_name("accents.txt")
    accents.write_text("\n".join([*ROWS, "Café"]), encoding="utf-8")
    cased = WordPiece(accents, lower_case=False).encode("Café眼Eye", 6)[0].tolist()
    assert cased == [2, len(ROWS), ROWS.index("眼"), ROWS.index("Eye"), 3, 0]
    assert WordPiece(accents).encode("Café", 3)[0].tolist() == [2, ROWS.index("cafe"), 3]
    assert pieces(WordPiece(vocab, lower_case=False), "Eye") == ["[CLS]", "Eye", "[SEP]"]
    assert pieces(WordPiece(vocab), "Eye") == ["[CLS]", "eye", "[SEP]"]


def test_long_texts_keep_their_end_token(vocab: pathlib.Path) -> None:
    ids, mask = WordPiece(vocab).encode("the eye the eye the eye", 5)
    assert ids.tolist() == [2, 6, 19, 6, 3] and mask.all()
    with pytest.raises(InputError, match="no room"):
        WordPiece(vocab).encode("the", 1)


def test_quotes_stay_curly_where_the_vocabulary_has_them(vocab: pathlib.Path) -> None:
    rows = [*ROWS, "“"]
    vocab.write_text("\n".join(rows) + "\n", encoding="utf-8")
    ids = WordPiece(vocab).encode("“eye”", 5)[0].tolist()
    assert [rows[i] for i in ids] == ["[CLS]", "“", "eye", '"', "[SEP]"]


def test_what_is_remembered_is_bounded_and_changes_nothing(
    vocab: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wordpiece, "_REMEMBERED", 3)
    tokenizer = WordPiece(vocab)
    long = "x" * 201
    for text in ("the eye", "retinal a cafe mm", f"{long} the", "眼底0.5mm", "the eye"):
        first = [piece for word in tokenizer.words(text) for piece in tokenizer.pieces(word)]
        ids, mask = tokenizer.encode(text, 24)
        assert ids[mask].tolist() == [2, *first, 3]
        assert 0 < len(tokenizer._remembered) <= 3 and long not in tokenizer._remembered
    assert WordPiece(vocab) == tokenizer == pickle.loads(pickle.dumps(tokenizer))
    assert not pickle.loads(pickle.dumps(tokenizer))._remembered


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

"""Words as tokens: cleaning, the vocabulary, ids there and back."""

import pathlib
import pickle

import numpy as np
import pytest

from data_pipelines.errors import InputError
from data_pipelines.text import tokenizers, train_tokenizer, words
from data_pipelines.transforms import MaskTokens

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("text", "cleaned"),
                         [("1. Late phase: leakage! 2. No NVE", "late phase leakage . no nve ."),
                          ("1.Late phase;\n2) non-perfusion (OD).",
                           "late phase . non-perfusion od ."),
                          ("Cup of 0.5, acuity of 20. Venous phase...",
                           "cup of 0.5 acuity of 20 . venous phase ."),
                          ("  \n. ", ""), ("Drusen, drusen", "drusen drusen .")])  # fmt: skip
def test_cleaning(text: str, cleaned: str) -> None:
    assert words.clean(text) == cleaned
    assert words.clean(cleaned) == cleaned


def write(folder: pathlib.Path, rows: list[str]) -> pathlib.Path:
    path = folder / "own.words"
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def test_a_vocabulary_counts_cleaned_words() -> None:
    texts = ["Leakage of the disc.", "leakage, leakage!", "The cup"]
    assert words.vocabulary(texts, 2) == [".", "leakage", "the"]
    assert "cup" in words.vocabulary(texts, 1)
    with pytest.raises(InputError, match="No word occurs 9 times"):
        words.vocabulary(texts, 9)
    with pytest.raises(InputError, match="at least once, not 0"):
        words.vocabulary(texts, 0)


def test_ids_there_and_back(tmp_path: pathlib.Path) -> None:
    tokenizer = words.WordLevel(write(tmp_path, [".", "leakage", "the"]))
    ids, mask = tokenizer.encode("The leakage, rare.", 8)
    assert ids.tolist() == [2, 7, 6, 1, 5, 3, 0, 0] and ids.dtype == np.int32
    assert mask.tolist() == [True] * 6 + [False] * 2
    assert tokenizer.decode(ids) == "the leakage <unk> ."
    assert tokenizer.vocab_size == 8 and tokenizer.word_starts(ids).all()
    cut, whole = tokenizer.encode("the the the the the", 4)
    assert cut.tolist() == [2, 7, 7, 3] and whole.all()
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer


def test_a_vocabulary_that_shares_the_ends_cannot_be_masked() -> None:
    with pytest.raises(InputError, match="no id for the mask; of a word_level one set shared_ends"):
        MaskTokens(words.WordLevel(shared_ends=True))
    record = {"text": words.WordLevel().encode("Late leakage.", 8)[0]}
    masked = MaskTokens(
        words.WordLevel(), 1.0, mask_token_share=1.0, random_token_share=0.0
    ).random_map(record, np.random.default_rng(0))
    assert (masked["masked_text"] == words.WordLevel().mask_id).sum() == 3


def test_the_published_vocabulary_shares_the_ends(tmp_path: pathlib.Path) -> None:
    """Released: id 0 begins, ends and pads, words and <unk> in order from 1, the end is cut."""
    path = write(tmp_path, [".", "leakage", "the"])
    tokenizer = words.WordLevel(path, shared_ends=True)
    ids, mask = tokenizer.encode("The leakage, rare.", 8)
    assert ids.tolist() == [0, 4, 3, 2, 1, 0, 0, 0]
    assert mask.tolist() == [True] * 6 + [False] * 2
    assert tokenizer.encode("the the the the the", 4)[0].tolist() == [0, 4, 4, 4]
    assert tokenizer.vocab_size == 5 and tokenizer.decode(ids) == "the leakage <unk> ."
    assert tokenizer != words.WordLevel(path)


def test_the_shipped_vocabulary_is_what_the_command_writes(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "angiography.words"
    assert train_tokenizer.main([f"--output={output}", "--model_type=words"]) == 0
    assert output.read_bytes() == words.ANGIOGRAPHY.read_bytes()
    assert "words from 6000 texts; 0.00% of theirs are unknown" in capsys.readouterr().out
    assert tokenizers.TOKENIZERS["word_level"]().vocab_size == 5 + output.read_text().count("\n")


def test_options_of_the_other_kind_are_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x"
    for arguments, said in (
        (["--model_type=words", "--vocab_size=9"], "--vocab_size is not for"),
        (["--min_count=2"], "--min_count is for"),
    ):
        assert train_tokenizer.main([f"--output={output}", *arguments]) == 2
        assert said in capsys.readouterr().err and not output.exists()


@pytest.mark.parametrize(
    "rows",
    [["Leakage"], ["two words"], ["[PAD]", "the"], ["the", "the"], [""], ["a", ""], ["<unk>"]],
)
def test_what_is_no_vocabulary_of_words_is_refused(tmp_path: pathlib.Path, rows: list[str]) -> None:
    with pytest.raises(InputError, match="own.words has lines that are no words"):
        words.WordLevel(write(tmp_path, rows))

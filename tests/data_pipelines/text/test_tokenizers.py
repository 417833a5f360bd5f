"""The shipped bilingual tokenizer."""

import pathlib
import pickle

import numpy as np
import pytest

from data_pipelines.errors import InputError
from data_pipelines.text import tokenizers
from data_pipelines.text.tokenizers import SentencePiece


@pytest.fixture(scope="module")
def tokenizer() -> SentencePiece:
    return SentencePiece()


def test_special_ids_and_size(tokenizer: SentencePiece) -> None:
    special = [tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id]
    assert [*special, tokenizer.mask_id] == [0, 1, 2, 3, 4]
    assert 1000 < tokenizer.vocab_size <= 4000
    assert tokenizers.BILINGUAL.stat().st_size < 200_000


@pytest.mark.parametrize(("text", "back"),
                         [("severe diabetic retinopathy, cup-to-disc ratio 0.4.", None),
                          ("糖尿病视网膜病变、杯盘比0.6。", None),
                          ("右眼 glaucoma 左眼 normal", None),
                          ("Right eye (OD): NORMAL", "right eye (od): normal"),
                          ("右眼：正常；", "右眼:正常;"), ("unseen 龘 é ∑", None),
                          ("", None)])  # fmt: skip
def test_round_trip(tokenizer: SentencePiece, text: str, back: str | None) -> None:
    ids, mask = tokenizer.encode(text, 64)
    assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == mask.shape == (64,)
    assert tokenizer.decode(ids) == (text if back is None else back)
    assert tokenizer.unk_id not in ids, "every character has a spelling in bytes"
    assert ids[0] == tokenizer.bos_id and ids[mask][-1] == tokenizer.eos_id and not ids[~mask].any()


def test_terms_of_both_languages_are_few_pieces(tokenizer: SentencePiece) -> None:
    for term in ("diabetic retinopathy", "糖尿病视网膜病变", "glaucoma", "青光眼", "黄斑"):
        assert tokenizer.encode(term, 32)[1].sum() <= 2 + 3, term


def test_long_texts_keep_their_end(tokenizer: SentencePiece) -> None:
    ids, mask = tokenizer.encode("severe glaucoma " * 40, 16)
    assert mask.all() and ids[-1] == tokenizer.eos_id
    with pytest.raises(InputError, match="no room"):
        tokenizer.encode("a", 1)


def test_no_text_can_write_the_mask(tokenizer: SentencePiece) -> None:
    ids, _ = tokenizer.encode("[MASK] <s> </s> <pad> [mask]", 64)
    assert tokenizer.mask_id not in ids
    assert (ids == tokenizer.bos_id).sum() == (ids == tokenizer.eos_id).sum() == 1


def test_word_starts(tokenizer: SentencePiece) -> None:
    ids, mask = tokenizer.encode("neuroxyz fundus 糖尿病视网膜病变黄斑 龘b", 64)
    starts = tokenizer.word_starts(ids)
    words, current = [], []
    for i, start in zip(ids[mask], starts[mask], strict=True):
        if start and current:
            words.append(tokenizer.decode(current))
            current = []
        current.append(i)
    words.append(tokenizer.decode(current))
    assert words[0] == words[-1] == "" and words[1:3] == ["neuroxyz", "fundus"]
    assert "".join(words[3:]).replace(" ", "") == "糖尿病视网膜病变黄斑龘b" and len(words) >= 6


def test_pickles_with_its_model(tokenizer: SentencePiece) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer and copy.mask_id == tokenizer.mask_id
    assert (copy.encode("glaucoma", 8)[0] == tokenizer.encode("glaucoma", 8)[0]).all()


def test_other_files_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        SentencePiece(tmp_path / "absent.model")
    (tmp_path / "x.model").write_bytes(b"no model")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        SentencePiece(tmp_path / "x.model")


def test_table_builds_them_all() -> None:
    assert tokenizers.TOKENIZERS["sentencepiece"]() == SentencePiece()
    assert set(tokenizers.TOKENIZERS) == {"clip_bpe", "sentencepiece", "wordpiece", "word_level"}

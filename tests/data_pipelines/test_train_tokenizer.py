"""Training a tokenizer is deterministic, on synthetic reports and on files."""

from __future__ import annotations

import pathlib

import pytest

from data_pipelines import tokenizers, train_tokenizer


def test_training_is_deterministic_and_bilingual() -> None:
    texts = list(train_tokenizer.synthetic_texts(150))
    assert len(texts) == 300 and any("眼" in text for text in texts)
    first = train_tokenizer.train(iter(texts), 1000)
    assert first == train_tokenizer.train(iter(texts), 1000)
    assert b"/tmp" not in first and b"rules.tsv" not in first


def test_own_texts(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("normal fundus of the left eye\n正常眼底\n" * 20, encoding="utf-8")
    output = tmp_path / "own.model"
    arguments = [f"--output={output}", f"--text={text}", "--vocab_size=300"]
    assert train_tokenizer.main(arguments) == 0 and "pieces" in capsys.readouterr().out
    assert tokenizers.SentencePiece(output).decode([5]) is not None
    text.write_bytes(b"caf\xe9\n")
    assert train_tokenizer.main(arguments) == 2
    assert "UTF-8" in capsys.readouterr().err

"""Whole words as tokens, the vocabulary of captioners in the manner of R2Gen and KeepFIT-FFA."""

from __future__ import annotations

import collections
import os
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from data_pipelines import places
from data_pipelines.errors import InputError
from data_pipelines.text.wordpiece import frame, read_vocabulary

ANGIOGRAPHY = pathlib.Path(__file__).parent / "assets" / "angiography.words"
UNKNOWN = "<unk>"
_SPECIAL = ("<pad>", UNKNOWN, "<bos>", "<eos>", "<mask>")
# "1." or "2)" before a point of a list; in "acuity of 20. Late phase" it is a number.
_NUMBERING = re.compile(r"(^|[.;:!?\n])[ \t]*\d{1,2}[.)](?=\s|[^\W\d])")
_SENTENCE_END = re.compile(r"[.!?\n](?!\d)")
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['\-/][^\W_]+)*")


def clean(text: str) -> str:
    """Returns a report as its captions are scored: words and numbers in lower case.

    Numbering and punctuation go, but sentences end in " .", as KeepFIT-FFA cleans them
    (modules/tokenizers.py, from R2Gen): "1. Late phase; leakage! 2. No NVE" becomes "late phase
    leakage . no nve .". For languages that put blanks between words.
    """
    parts = _SENTENCE_END.split(_NUMBERING.sub(r"\1 ", text.lower()))
    sentences = [" ".join(_WORD.findall(part)) for part in parts]
    return " ".join(f"{sentence} ." for sentence in sentences if sentence)


def vocabulary(texts: Iterable[str], min_count: int = 3) -> list[str]:
    """Returns the words that cleaned texts have at least `min_count` times, in their order.

    Raises:
        InputError: there are none, or `min_count` is below 1.
    """
    if min_count < 1:
        raise InputError(f"A vocabulary holds words that occur at least once, not {min_count}.")
    counts = collections.Counter(word for text in texts for word in clean(text).split())
    words = sorted(word for word, count in counts.items() if count >= min_count)
    if not words:
        raise InputError(f"No word occurs {min_count} times in the texts: there is no vocabulary.")
    return words


class WordLevel:
    """A tokenizer of cleaned words; others than those of the vocabulary are unknown.

    Args:
        vocab: a file with a word in each line, made by `data_pipelines.text.train_tokenizer
            --model_type=words`; None is the shipped one, of our own synthetic angiograms.
        shared_ends: one id, 0, begins, ends and pads, unknown words come first among the words in
            alphabetical order, and a text that is too long loses its end: the published
            vocabulary, to which released weights belong. It cannot be masked.
    """

    def __init__(
        self, vocab: str | os.PathLike[str] | None = None, shared_ends: bool = False
    ) -> None:
        path = places.local(ANGIOGRAPHY if vocab is None else vocab, "The vocabulary")
        words = read_vocabulary(path)
        bad = [
            word
            for word in words
            if word != "." and (not word or " " in word or word != clean(word).removesuffix(" ."))
        ]
        if bad or len(set(words)) < len(words):
            raise InputError(
                f"The vocabulary {path} has lines that are no words of cleaned texts, or twice "
                f"the same{f', such as {bad[0]!r}' if bad else ''}: make it with python -m "
                "data_pipelines.text.train_tokenizer --model_type=words."
            )
        self._shared = shared_ends
        special = ("<pad>",) if shared_ends else _SPECIAL
        words = sorted([*words, UNKNOWN]) if shared_ends else words
        self._words = (*special, *words)
        self._ids = {word: i for i, word in enumerate(self._words)}
        self.vocab_size = len(self._words)
        ids = {name: self._ids.get(name, 0) for name in _SPECIAL}
        self.pad_id, self.unk_id, self.bos_id, self.eos_id, self.mask_id = ids.values()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WordLevel) and other._words == self._words

    def __hash__(self) -> int:
        return hash(self._words)

    def encode(self, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids int32 [length], mask bool [length]); see `tokenizers.Tokenizer.encode`.

        With shared ends the mask covers the id that ends the text, which padding repeats.
        """
        ids = [self._ids.get(word, self.unk_id) for word in clean(text).split()]
        if not self._shared:
            return frame(ids, self.bos_id, self.eos_id, length)
        ids = [0, *ids, 0][:length]
        padded = np.zeros(length, np.int32)
        padded[: len(ids)] = ids
        return padded, np.arange(length) < len(ids)

    def decode(self, ids: np.ndarray) -> str:
        """Returns the words of ids int [L], special tokens but <unk> left out."""
        special = (self.pad_id, self.bos_id, self.eos_id, self.mask_id)
        return " ".join(self._words[int(i)] for i in ids if i not in special)

    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        """Returns bool [L], all True: every token is a word."""
        return np.ones(len(ids), bool)

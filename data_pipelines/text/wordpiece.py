"""BERT's tokenizer in pure Python: clean, split at blanks, punctuation and CJK, greedy pieces.

It gives the ids of Google's FullTokenizer, which RET-CLIP uses and Hugging Face's agrees with on
clinical text, so released checkpoints read the words they were trained on.
"""

from __future__ import annotations

import os
import re
import unicodedata

import numpy as np

from data_pipelines import places
from data_pipelines.errors import InputError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_CHARACTERS = 200
# Code points of BERT's "CJK characters": unified ideographs and their extensions.
CJK = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
       (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))  # fmt: skip
ASCII_PUNCTUATION = ((33, 47), (58, 64), (91, 96), (123, 126))
# What no word extends over: the blanks, and each CJK character, a part of its own.
_IDEOGRAPH = "".join(f"{chr(first)}-{chr(last)}" for first, last in CJK)
_PART = re.compile(f"[{_IDEOGRAPH}]|[^ \t\n\r{_IDEOGRAPH}]+")
# Parts whose ids are remembered: most of a corpus is a few thousand parts, repeated.
_REMEMBERED = 50_000


def is_cjk(code: int) -> bool:
    """Whether a code point is a CJK ideograph, which BERT makes a word of its own."""
    return any(first <= code <= last for first, last in CJK)


def _is_punctuation(character: str) -> bool:
    code = ord(character)
    if any(first <= code <= last for first, last in ASCII_PUNCTUATION):
        return True
    return unicodedata.category(character).startswith("P")


def _clean(text: str) -> str:
    """Drops control characters, makes every blank a space, sets CJK characters apart."""
    result = []
    for character in text:
        code = ord(character)
        if character in " \t\n\r" or unicodedata.category(character) == "Zs":
            result.append(" ")
        elif code in (0, 0xFFFD) or unicodedata.category(character) in ("Cc", "Cf"):
            continue
        elif is_cjk(code):
            result.append(f" {character} ")
        else:
            result.append(character)
    return "".join(result)


def _without_accents(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def _split_punctuation(word: str) -> list[str]:
    parts, start = [], 0
    for i, character in enumerate(word):
        if _is_punctuation(character):
            parts += [word[start:i], character]
            start = i + 1
    return [part for part in (*parts, word[start:]) if part]


def frame(pieces: list[int], bos: int, eos: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts piece ids between bos and eos, cuts or pads (with 0) them to `length`, at least 2.

    Returns:
        (ids int32 [length], mask bool [length]).
    """
    if length < 2:
        raise InputError(f"A text length of {length} has no room for its start and end: use >= 2.")
    kept = [bos, *pieces[: length - 2], eos]
    ids = np.zeros(length, np.int32)
    ids[: len(kept)] = kept
    return ids, np.arange(length) < len(kept)


def read_vocabulary(path: str | os.PathLike[str]) -> list[str]:
    """Reads one token per line; the row number is its id.

    Rows end at newlines only: Chinese BERT vocabularies have a row that is the line separator
    U+2028, where ``str.splitlines`` would split and shift every later id.
    """
    path = places.local(path, "The vocabulary of the tokenizer")
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"The vocabulary {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The vocabulary {path} is not UTF-8 text: {error.reason}.") from error
    return [row.strip() for row in text.removesuffix("\n").split("\n")]


class WordPiece:
    """BERT's WordPiece tokenizer over a ``vocab.txt``.

    Chinese text becomes single characters, as in all Chinese BERT models: "whole word" masking of
    Chinese words needs a segmenter, which no tokenizer has.

    Curly double quotes become straight where the vocabulary has no row for them. This is RET-CLIP's
    cleaning with its vocabulary; English vocabularies have the rows, and keep the quotes.

    Args:
        vocab: path of the vocabulary, one token per line, with [PAD] as row 0 and the other
            special tokens anywhere.
        lower_case: lower the text and strip accents, as uncased and Chinese models do; cased ones
            do neither. CJK characters and punctuation are set apart in both.
    """

    def __init__(self, vocab: str | os.PathLike[str], lower_case: bool = True) -> None:
        self._tokens = read_vocabulary(vocab)
        self._ids = {token: i for i, token in enumerate(self._tokens)}
        absent = [token for token in SPECIAL if token not in self._ids]
        if absent or self._ids["[PAD]"] != 0:
            raise InputError(
                f"The vocabulary {vocab} lacks {', '.join(absent) or '[PAD] in its first row'}: "
                "it is not the vocab.txt of a BERT model."
            )
        self.lower_case = lower_case
        self.vocab_size = len(self._tokens)
        self.pad_id, self.unk_id, self.bos_id, self.eos_id, self.mask_id = (
            self._ids[token] for token in SPECIAL
        )
        self._quotes = {ord(quote): '"' for quote in "\u201c\u201d" if quote not in self._ids}
        self._remembered: dict[str, list[int]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_remembered": {}}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WordPiece) and other.__getstate__() == self.__getstate__()

    def __hash__(self) -> int:
        return hash((tuple(self._tokens), self.lower_case))

    def words(self, text: str) -> list[str]:
        """Splits a text into words, punctuation marks and single CJK characters."""
        if self.lower_case:
            text = text.lower()
        words = []
        for word in _clean(text.translate(self._quotes)).split():
            if self.lower_case:
                word = _without_accents(word.lower())
            words.extend(_split_punctuation(word))
        return words

    def pieces(self, word: str) -> list[int]:
        """Splits one word into the longest known pieces from the left; [UNK] if it has none."""
        if len(word) > MAX_CHARACTERS:
            return [self.unk_id]
        found: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for stop in range(len(word), start, -1):
                piece = self._ids.get(prefix + word[start:stop])
                if piece is not None:
                    found.append(piece)
                    start = stop
                    break
            else:
                return [self.unk_id]
        return found

    def encode(self, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids int32 [length], mask bool [length]): [CLS], pieces, [SEP], padding.

        A text that is too long keeps its first length - 2 pieces.
        """
        pieces: list[int] = []
        for match in _PART.finditer(text):
            pieces += self._part(match.group())
            if len(pieces) > length:
                break
        return frame(pieces, self.bos_id, self.eos_id, length)

    def _part(self, part: str) -> list[int]:
        """The ids of a text without blanks."""
        ids = self._remembered.get(part)
        if ids is None:
            ids = [piece for word in self.words(part) for piece in self.pieces(word)]
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            if len(part) <= MAX_CHARACTERS:
                self._remembered[part] = ids
        return ids

    def decode(self, ids: np.ndarray) -> str:
        """Returns the words of ids int [L], joined by blanks (none next to CJK characters)."""
        special = (self.pad_id, self.bos_id, self.eos_id, self.mask_id)
        text = ""
        for token in (self._tokens[int(i)] for i in ids if i not in special):
            cjk = bool(token) and is_cjk(ord(token[0]))
            joined = token.startswith("##") or not text or cjk or is_cjk(ord(text[-1]))
            text += token.removeprefix("##") if joined else f" {token}"
        return text

    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        """Returns bool [L]: True but at pieces that continue a word."""
        return np.array([not self._tokens[int(i)].startswith("##") for i in ids], dtype=bool)

"""CLIP's tokenizer in pure Python: bytes as characters, joined pair by pair by rank.

It gives the ids of OpenAI's and open_clip's tokenizer, so released checkpoints read the words they
were trained on. The list of pairs is the user's, as is every vocabulary of released weights.
"""

from __future__ import annotations

import gzip
import html
import itertools
import os
import re
import unicodedata
import zlib

import numpy as np

from data_pipelines import places
from data_pipelines.errors import InputError
from data_pipelines.text.wordpiece import frame

END_OF_WORD = "</w>"
# Two ids for each byte, within a word and at its end, and the two that frame a text.
_OTHER_IDS = 2 * 256 + 2
_CONTRACTION = re.compile("'(?:s|t|re|ve|m|ll|d)")
# Kinds of characters: letters, single numerals, anything else but blanks.
_WORD = re.compile("L+|N|x+")
# Compatibility characters that CLIP's cleaning writes out: ligatures, and full and half widths.
_SPELT_OUT = (*range(0xFB00, 0xFB07), *range(0xFF01, 0xFFEF), 0x3000, 0x132, 0x133, 0x149,
              *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4))  # fmt: skip
_CLEANED = {code: unicodedata.normalize("NFKC", chr(code)) for code in _SPELT_OUT}
# Controls that are no blanks vanish.
_CLEANED |= dict.fromkeys(
    {*range(9), 11, *range(14, 32), 127, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFC)}, ""
)
_CLEANED |= dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u02bc"), "'")
_CLEANED |= dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"')
_REMEMBERED = 50_000


def _characters_of_bytes() -> list[str]:
    """The character of each byte 0..255: itself if it can be seen, else the next from 256 on."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def _kind(character: str) -> str:
    category = unicodedata.category(character)[0]
    if category in "LN":
        return category
    return " " if character.isspace() else "x"


def split_words(text: str) -> list[str]:
    """Splits a clean text into runs of letters, single numerals, and runs of other characters.

    An English contraction ('s, 't, 're, 've, 'm, 'll, 'd) is a word where no word is under way.
    """
    kinds = "".join(map(_kind, text))
    words, start = [], 0
    while start < len(text):
        found = _CONTRACTION.match(text, start) or _WORD.match(kinds, start)
        if found is None:
            start += 1
            continue
        words.append(text[start : found.end()])
        start = found.end()
    return words


def clean(text: str) -> str:
    """Returns a text as CLIP reads it: straight quotes, entities resolved, single blanks, lower.

    OpenAI cleans with the library ftfy, of which this is what well-encoded text needs; text that
    was decoded wrongly before it came here is not repaired.
    """
    text = unicodedata.normalize("NFC", text.translate(_CLEANED))
    return " ".join(html.unescape(html.unescape(text)).split()).lower()


def read_pairs(path: str | os.PathLike[str], count: int) -> list[tuple[str, str]]:
    """Reads the first `count` pairs of a list of merges, one a line after a line of its version.

    Args:
        path: text, or text compressed by gzip.
        count: how many pairs belong to the vocabulary.

    Raises:
        InputError: for a file that cannot be read, has fewer pairs or lines of another kind.
    """
    path = places.local(path, "The merges of the tokenizer")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        lines = data.decode("utf-8").split("\n")[1 : 1 + count]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(
            f"The list of merges {path} cannot be read ({error}): give CLIP's "
            "bpe_simple_vocab_16e6.txt.gz, or the merges.txt that goes with the weights."
        ) from None
    parts = [line.split() for line in lines]
    pairs = [(pair[0], pair[1]) for pair in itertools.takewhile(lambda p: len(p) == 2, parts)]
    if len(pairs) < count:
        raise InputError(
            f"The list of merges {path} has {len(pairs)} pairs after its first line, but a "
            f"vocabulary of {count + _OTHER_IDS} tokens has {count}: it is another file, or "
            "vocab_size is."
        )
    return pairs


class ClipBPE:
    """CLIP's byte-pair encoding (Radford et al. 2021, section 2.4) over a list of merges.

    Texts begin with <|startoftext|> and end in <|endoftext|>, the largest id, at which the tower
    'clip_text' is read; padding is 0 as in OpenAI's code, which is also the id of "!" within a
    word. There is no unknown token, since every byte has an id, and none for masks: `mask_id` is
    -1. A word is what blanks and kinds of characters set apart; Chinese text is one long word.

    Args:
        merges: path of CLIP's ``bpe_simple_vocab_16e6.txt.gz``, or of a ``merges.txt``.
        vocab_size: number of ids, 514 more than pairs.
    """

    pad_id, mask_id = 0, -1

    def __init__(self, merges: str | os.PathLike[str], vocab_size: int = 49_408) -> None:
        if vocab_size < _OTHER_IDS:
            raise InputError(f"A vocabulary of CLIP has at least {_OTHER_IDS} ids.")
        pairs = read_pairs(merges, vocab_size - _OTHER_IDS)
        self._bytes = _characters_of_bytes()
        # Visible bytes have the first ids, in their order, then those that were moved.
        alphabet = sorted(self._bytes)
        pieces = [*alphabet, *(c + END_OF_WORD for c in alphabet), *("".join(p) for p in pairs)]
        self._pieces = pieces
        self._ids = {piece: i for i, piece in enumerate(pieces)}
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self.vocab_size = vocab_size
        self.bos_id, self.eos_id = vocab_size - 2, vocab_size - 1
        self.unk_id = self.eos_id
        self._remembered: dict[str, list[int]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_remembered": {}}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClipBPE) and other._pieces == self._pieces

    def __hash__(self) -> int:
        return hash(tuple(self._pieces))

    def encode(self, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids int32 [length], mask bool [length]); see `tokenizers.Tokenizer.encode`."""
        ids: list[int] = []
        for word in split_words(clean(text)):
            ids += self._word(word)
            if len(ids) > length:
                break
        return frame(ids, self.bos_id, self.eos_id, length)

    def _word(self, word: str) -> list[int]:
        ids = self._remembered.get(word)
        if ids is None:
            characters = [self._bytes[byte] for byte in word.encode("utf-8", "replace")]
            characters[-1] += END_OF_WORD
            ids = [self._ids[piece] for piece in self._joined(characters)]
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[word] = ids
        return ids

    def _joined(self, parts: list[str]) -> list[str]:
        """Joins neighbours, those of the lowest rank first, everywhere in the word."""
        while len(parts) > 1:
            ranks = [self._ranks.get(pair) for pair in zip(parts, parts[1:], strict=False)]
            known = [rank for rank in ranks if rank is not None]
            if not known:
                break
            first, second = parts[ranks.index(min(known))], parts[ranks.index(min(known)) + 1]
            joined, i = [], 0
            while i < len(parts):
                both = parts[i : i + 2] == [first, second]
                joined.append(first + second if both else parts[i])
                i += 2 if both else 1
            parts = joined
        return parts

    def decode(self, ids: np.ndarray) -> str:
        """Returns the clean text of ids int [L], special tokens left out, blanks between words.

        Padding after the end is left out; an id of 0 before it is a "!".
        """
        numbers = [int(i) for i in ids]
        if self.eos_id in numbers:
            numbers = numbers[: numbers.index(self.eos_id)]
        pieces = (self._pieces[i] for i in numbers if i != self.bos_id)
        text = "".join(pieces).replace(END_OF_WORD, " ")
        byte_of = {character: byte for byte, character in enumerate(self._bytes)} | {" ": 32}
        return bytes(byte_of[c] for c in text).decode("utf-8", "replace").rstrip(" ")

    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        """Returns bool [L]: True at the first token and after each that ends a word."""
        special = (self.bos_id, self.eos_id)
        ends = [i in special or self._pieces[int(i)].endswith(END_OF_WORD) for i in ids]
        return np.array([not i or ends[i - 1] or ids[i] in special for i in range(len(ids))], bool)

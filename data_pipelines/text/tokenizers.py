"""Text to token ids: the protocol, the shipped bilingual SentencePiece model, and the table."""

from __future__ import annotations

import os
import pathlib
import re
from typing import Protocol

import numpy as np
import sentencepiece

from data_pipelines import places
from data_pipelines.errors import InputError
from data_pipelines.text.clip_bpe import ClipBPE
from data_pipelines.text.wordpiece import WordPiece, frame, is_cjk
from data_pipelines.text.words import WordLevel

BILINGUAL = pathlib.Path(__file__).parent / "assets" / "bilingual.model"
MASK = "[MASK]"
# SentencePiece writes a blank as this character, at the start of words.
_BLANK = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class Tokenizer(Protocol):
    """What transforms and models may ask of a tokenizer; every one can be pickled.

    Attributes:
        vocab_size: number of ids.
        pad_id, unk_id, bos_id, eos_id, mask_id: special ids; BERT's CLS is bos, its SEP is eos.
    """

    vocab_size: int
    pad_id: int
    unk_id: int
    bos_id: int
    eos_id: int
    mask_id: int

    def encode(self, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids int32 [length], mask bool [length]): bos, pieces, eos, then padding.

        A text that is too long loses pieces at its end and keeps eos.
        """
        ...

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of ids int [L], special tokens left out."""
        ...

    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        """Returns bool [L]: True where a word starts; a CJK character is a word."""
        ...


class SentencePiece:
    """A SentencePiece model (unigram or BPE) with pad, unk, bos, eos and a mask piece.

    The mask is a control symbol: the characters "[MASK]" in a report are ordinary text.

    Args:
        path: a ``.model`` file; None is the shipped model, trained on our own synthetic reports in
            English and Chinese (lower-cased, NFKC-normalised, unknown characters as bytes).
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        path = places.local(BILINGUAL if path is None else path, "The tokenizer")
        try:
            self._load(path.read_bytes())
        except OSError as error:
            raise InputError(
                f"The SentencePiece model {path} cannot be read ({error.strerror}): give an "
                "existing .model file, train one with python -m "
                "data_pipelines.text.train_tokenizer, or give no path for the shipped "
                "bilingual one."
            ) from error
        except RuntimeError as error:
            raise InputError(f"The file {path} is not a SentencePiece model.") from error
        special = {"pad": self.pad_id, "bos": self.bos_id, "eos": self.eos_id, MASK: self.mask_id}
        absent = [name for name, id_ in special.items() if id_ in (-1, self.unk_id)]
        if absent or self.pad_id != 0:
            raise InputError(
                f"The SentencePiece model {path} lacks {', '.join(absent) or 'padding at id 0'}: "
                "train it with python -m data_pipelines.text.train_tokenizer."
            )

    def _load(self, proto: bytes) -> None:
        self._proto = proto
        self._model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        self.vocab_size = self._model.vocab_size()
        self.pad_id, self.unk_id = self._model.pad_id(), self._model.unk_id()
        self.bos_id, self.eos_id = self._model.bos_id(), self._model.eos_id()
        self.mask_id = self._model.piece_to_id(MASK)

    def __getstate__(self) -> bytes:
        return self._proto

    def __setstate__(self, proto: bytes) -> None:
        self._load(proto)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SentencePiece) and other._proto == self._proto

    def __hash__(self) -> int:
        return hash(self._proto)

    def encode(self, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids int32 [length], mask bool [length]); see `Tokenizer.encode`."""
        return frame(self._model.encode(text), self.bos_id, self.eos_id, length)

    def decode(self, ids: np.ndarray) -> str:
        """Returns the (normalised) text of ids int [L], special tokens left out."""
        special = (self.pad_id, self.bos_id, self.eos_id, self.mask_id)
        return self._model.decode([int(i) for i in ids if i not in special])

    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        """Returns bool [L]; blanks start words, as does every piece at a CJK character."""
        pieces = self._model.id_to_piece([int(i) for i in ids])
        special = [self._model.is_control(int(i)) or self._model.is_unknown(int(i)) for i in ids]
        starts = [
            special[i] or i == 0 or special[i - 1] or _starts_word(piece, pieces[i - 1])
            for i, piece in enumerate(pieces)
        ]
        return np.array(starts, bool)


def _starts_word(piece: str, previous: str) -> bool:
    """Whether an ordinary piece starts a word, after another ordinary piece."""
    if piece.startswith(_BLANK) or previous == _BLANK:
        return piece.startswith(_BLANK)
    if _BYTE.fullmatch(piece):
        # The first of the three or four bytes of a character: the rare ones here are CJK.
        return int(piece[1:-1], 16) >= 0xE0
    return any(is_cjk(ord(character)) for character in piece + previous)


TOKENIZERS: dict[str, type] = {
    "clip_bpe": ClipBPE,
    "sentencepiece": SentencePiece,
    "word_level": WordLevel,
    "wordpiece": WordPiece,
}

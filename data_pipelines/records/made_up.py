"""Stands in for a data set and a vocabulary that are not here: the shapes of batches without them.

For compiling only. The transforms that run on a made-up record are the real ones, so a batch has
the shapes and dtypes that it will have with the data.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.images import functional
from data_pipelines.records.sources import Source

RECORDS = 100_000
# Tokens of the usual vocabulary of each kind: of BERT, of CLIP, and of the texts that the configs
# have a SentencePiece model or a list of words trained on.
VOCABULARY = {"wordpiece": 28_996, "clip_bpe": 49_408, "sentencepiece": 8_000, "word_level": 8_000}
_SIDE = 64  # pixels; the transforms make every size of it
_MANY = 64  # pictures of a case or a volume, of which the transforms take as many as they want
_WORDS = "a photograph of the fundus with a small hemorrhage"
_CLASSES = ("normal", "glaucoma")
_CROP = np.array([0, 0, _SIDE, _SIDE], np.int32)


@functools.cache
def _picture() -> bytes:
    return functional.encode_image(np.full((_SIDE, _SIDE, 3), (90, 60, 30), np.uint8), "JPEG")


def _record(index: int) -> dict[str, Any]:
    """Every field that a builder makes; unlike records differ in id and patient."""
    single = ("image", "left_image", "right_image")
    texts = ("caption", "caption_zh", "report", "report_zh", "text", "definition")
    label = _CLASSES[index % 2]
    return {
        **dict.fromkeys(single, _picture()),
        **{f"{name}_crop": _CROP for name in single},
        **dict.fromkeys(("images", "oct"), [_picture()] * _MANY),
        **dict.fromkeys(texts, _WORDS),
        **dict.fromkeys(("labels", "left_labels", "right_labels", "attributes"), [label]),
        **dict.fromkeys(("category", "diagnosis"), label),
        "id": f"{index}", "patient": f"{index}", "digests": [f"{index}"],
        "perceptual": [f"{index}"], "dataset": "made_up", "duplicate_of": "", "modality": "cfp",
        "eye": "OD", "language": "en", "age": 60.0, "sex": "",
    }  # fmt: skip


class MadeUp(Source):
    """Many records that all have the same pictures and texts, whichever of them are asked for.

    Args:
        name: the address of the data set that it stands for.
        split: its split.
        texts: fields beside those that builders make, each an empty text.
    """

    def __init__(self, name: str, split: str, texts: Collection[str] = ()) -> None:
        self.name, self.split, self._texts = name, split, dict.fromkeys(texts, "")
        self.fields = tuple(sorted({**self._texts, **_record(0)}))
        self._folder, self._indices, self._data = pathlib.Path(), None, None

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._texts, **_record(int(index))}

    @property
    def fingerprint(self) -> str:
        """Of no data set."""
        return "made up"

    def column(self, field: str) -> list[Any]:
        """Returns one field of every record; one that is not known is a text."""
        if field in ("id", "patient"):
            return [str(index) for index in range(RECORDS)]
        return [_record(index).get(field, "") for index in range(2)] * (RECORDS // 2)

    def subset(self, indices: Sequence[int] | np.ndarray) -> Source:
        """Returns itself: what is left has the same shapes."""
        return self

    def select(self, where: Any) -> Source:
        """Returns itself."""
        return self

    def without(self, ban: Any) -> Source:
        """Returns itself."""
        return self


def loader(texts: Collection[str]) -> Callable[..., Source]:
    """Returns what stands in for `sources.load`; its records have the fields `texts` too."""
    return lambda dataset, split, *_, **__: MadeUp(dataset, split, texts)


class MadeUpTokenizer:
    """Tokens without a vocabulary: every word is the same.

    Args:
        vocab_size: the number of ids.
        bos_id, eos_id: what begins and ends a text.
    """

    pad_id, unk_id, mask_id = 0, 1, 4

    def __init__(self, vocab_size: int, bos_id: int = 2, eos_id: int = 3) -> None:
        self.vocab_size, self.bos_id, self.eos_id = vocab_size, bos_id, eos_id

    def encode(self, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids int32 [length], mask bool [length]) of as many tokens as there are words."""
        ids = np.zeros(length, np.int32)
        used = min(len(text.split()) + 2, length)
        ids[:used] = min(5, self.vocab_size - 1)
        ids[0], ids[used - 1] = self.bos_id, self.eos_id
        return ids, np.arange(length) < used

    def decode(self, ids: np.ndarray) -> str:
        """Returns a text."""
        return _WORDS

    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        """Returns bool [L], all of them."""
        return np.ones(len(ids), bool)


def tokenizer(spec: Mapping[str, Any], model: Mapping[str, Any]) -> MadeUpTokenizer:
    """A tokenizer with the numbers that a model names, else those of the usual vocabulary.

    Args:
        spec: an entry of TOKENIZERS.
        model: the settings of a model.
    """
    named = dict(_named(model))
    ids = {name: named[name] for name in ("bos_id", "eos_id") if name in named}
    size = named.get("vocab_size", VOCABULARY.get(str(spec.get("name")), 30_522))
    return MadeUpTokenizer(size, **ids)


def _named(model: Mapping[str, Any]) -> list[tuple[str, int]]:
    found = []
    for name, value in model.items():
        if isinstance(value, Mapping):
            found += _named(value)
        elif name in ("vocab_size", "bos_id", "eos_id") and value is not None:
            found.append((name, int(value)))
    return found

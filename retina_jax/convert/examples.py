"""The smallest batch that a model takes, to know the shapes of its variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.models.towers import build_tower
from retina_jax.types import Batch

# Any size does for a network without learned positions; this one leaves a map of 2 x 2.
_ANY_SIZE = 64
_LENGTH = 4


def _words() -> np.ndarray:
    return np.full((1, _LENGTH), 1, np.int32)


def _text(key: str = "text") -> Batch:
    return {key: _words(), f"{key}_mask": np.ones((1, _LENGTH), bool)}


def _picture(size: int) -> np.ndarray:
    return np.zeros((1, size, size, 3), np.uint8)


def _towers(towers: Mapping[str, Mapping[str, Any]], size: int) -> Batch:
    """What the towers, named by the key they read, take."""
    batch: Batch = {}
    for key, spec in towers.items():
        reads = build_tower(spec, "float32").reads
        if reads == "tokens":
            batch |= _text(key)
        elif reads == "volume":
            batch[key] = np.zeros((1, 8, size, size, 1), np.uint8)
        else:
            batch[key] = _picture(size)
    return batch


def _keepfit(spec: Mapping[str, Any], size: int) -> Batch:
    rows = _towers(spec["towers"], size)
    pairs = spec.get("streams", (("public", "expert"),))
    return {name: rows for pair in pairs for name in pair}


def _tripartite(spec: Mapping[str, Any], size: int) -> Batch:
    eyes = np.zeros((1, 2, size, size, 3), np.uint8)
    return {"eyes": eyes, "eye_mask": np.ones((1, 2), bool), **_text()}


_EXAMPLES: dict[str, Callable[[Mapping[str, Any], int], Batch]] = {
    "captioner": lambda spec, size: {"image": _picture(size), **_text()},
    "coca_mim": lambda spec, size: {**_towers(spec["towers"], size), "masked_text": _words()},
    "dual": lambda spec, size: _towers(spec["towers"], size),
    "keepfit": _keepfit,
    "masked_autoencoder": lambda spec, size: {"image": _picture(size)},
    "text_mlm": lambda spec, size: {"masked_text": _words(), **_text()},
    "tower": lambda spec, size: _towers({spec["key"]: spec["tower"]}, size),
    "tripartite": _tripartite,
}


def example(spec: Mapping[str, Any], image_size: int | None = None) -> Batch:
    """A batch of one row for `build(MODELS, spec)`.

    Args:
      spec: the spec of a model.
      image_size: pixels of the side of pictures; None for any.

    Raises:
      InputError: for a model that no published weights are known for.
    """
    if spec["name"] not in _EXAMPLES:
        raise InputError(
            f"There is no example of a batch for the model '{spec['name']}', only for "
            f"{sorted(_EXAMPLES)}."
        )
    return _EXAMPLES[spec["name"]](spec, image_size or _ANY_SIZE)

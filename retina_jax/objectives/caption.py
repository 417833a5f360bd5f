"""Captioning: the next token of a text, from the picture and the tokens before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.losses import generative
from retina_jax.types import Batch, Outputs, Scalar


@dataclasses.dataclass(frozen=True)
class CaptionLoss:
    """Cross-entropy of the next token of texts, over all tokens of its streams at once.

    Attributes:
      term: the name of the term, e.g. 'caption' for expert streams and 'injection' for public ones.
      streams: names in `out['caption_logits']`; none names all of them.
      smoothing: the same as in `losses.generative.masked_token_cross_entropy`.
    """

    term: str = "caption"
    streams: Sequence[str] = ()
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise InputError(f"smoothing is at least 0 and less than 1, not {self.smoothing}.")

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Scalar]:
        """{term: mean over all tokens but the first of each text}; padding does not count."""
        written = out["caption_logits"]
        if not isinstance(written, Mapping):
            written, batch = {"": written}, {"": batch}
        total, count = jnp.float32(0), jnp.int32(0)
        for name in self.streams or written:
            rest = slice(1, written[name].shape[1] + 1)
            mask = batch[name]["text_mask"][:, rest]
            loss = generative.masked_token_cross_entropy(
                written[name], batch[name]["text"][:, rest], mask, self.smoothing
            )
            total, count = total + loss * mask.sum(), count + mask.sum()
        return {self.term: total / jnp.maximum(count, 1)}

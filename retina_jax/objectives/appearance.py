"""Codes of hidden patches, a generative term of KeepFIT V2."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from retina_jax.losses import generative
from retina_jax.types import Batch, Outputs, Scalar


@dataclasses.dataclass(frozen=True)
class PatchCodeLoss:
    """Cross-entropy of the codes of hidden patches.

    Attributes:
      streams: names in `out['appearance']`.
    """

    streams: Sequence[str] = ("public", "expert")

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Scalar]:
        """{'appearance': mean over the hidden patches}, '/<stream>' added for several streams."""
        del batch
        terms = {}
        for stream in self.streams:
            found = out["appearance"][stream]
            name = "appearance" if len(self.streams) == 1 else f"appearance/{stream}"
            terms[name] = generative.masked_token_cross_entropy(
                found["logits"], found["codes"], found["hidden"]
            )
        return terms

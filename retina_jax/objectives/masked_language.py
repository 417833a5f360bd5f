"""Masked-language modelling of the text stream."""

from __future__ import annotations

import dataclasses

from retina_jax.losses import generative
from retina_jax.types import Batch, Outputs, Scalar


@dataclasses.dataclass(frozen=True)
class MaskedLanguage:
    """Cross-entropy of the original tokens where the text was corrupted (BERT)."""

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Scalar]:
        """{'masked_language': mean over the positions that `batch['masked']` marks}."""
        loss = generative.masked_token_cross_entropy(out["logits"], batch["text"], batch["masked"])
        return {"masked_language": loss}

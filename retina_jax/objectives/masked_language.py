"""Reconstruction of texts of which tokens were masked."""

from __future__ import annotations

import dataclasses

from data_pipelines.errors import InputError
from retina_jax.losses import generative
from retina_jax.types import Batch, Outputs, Scalar

POSITIONS = ("masked", "all")
PER = ("token", "text")


@dataclasses.dataclass(frozen=True)
class MaskedLanguage:
    """Cross-entropy of the original tokens (BERT; SKKU, L_cap, eq. 6).

    Attributes:
      positions: 'masked' counts the positions that were chosen to be predicted, 'all' those of the
        whole text, without padding.
      per: 'token' for the mean over all positions of the batch that count, 'text' for their sum in
        each text and the mean over texts.
    """

    positions: str = "masked"
    per: str = "token"

    def __post_init__(self) -> None:
        for name, allowed in (("positions", POSITIONS), ("per", PER)):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"masked_language has {name} {list(allowed)}, not '{getattr(self, name)}'."
                )

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Scalar]:
        """{'masked_language': the loss of `out['logits']` against `batch['text']`}."""
        counted = batch["masked" if self.positions == "masked" else "text_mask"]
        loss = generative.masked_token_cross_entropy(out["logits"], batch["text"], counted)
        if self.per == "text":
            loss = loss * counted.sum() / len(counted)
        return {"masked_language": loss}

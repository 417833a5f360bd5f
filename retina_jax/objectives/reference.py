"""KeepFIT's image-similarity-guided text revision."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax

from data_pipelines.errors import InputError
from retina_jax.losses import reference
from retina_jax.types import Array, Batch, Outputs, Scalar

KINDS = {"squared": reference.text_revision, "cosine": reference.cosine_revision}
SIDES = (None, "text", "reference")


@dataclasses.dataclass(frozen=True)
class Reference:
    """Distance of public texts to what expert texts say of similar images (KeepFIT, L_rev).

    Attributes:
      texts: embeddings in `out['z']`; each is compared with its stream's `out['reference']`.
      kind: 'squared', the mean squared difference of all entries, which KeepFIT weighs by 100, or
        'cosine', one minus the cosine.
      stop_gradient: the side that is a fixed target, 'text' or 'reference'; None for neither, as
        published.
    """

    texts: Sequence[str] = ("public/text",)
    kind: str = "squared"
    stop_gradient: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"A reference loss has kind {list(KINDS)}, not '{self.kind}'.")
        if self.stop_gradient not in SIDES:
            raise InputError(
                f"A reference loss stops the gradient of one of {list(SIDES)}, not of "
                f"'{self.stop_gradient}'."
            )

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Scalar]:
        """{'reference': distance}, or {'reference/<stream>': distance} of several texts."""
        del batch
        terms = {}
        for text in self.texts:
            stream = text.rpartition("/")[0]
            name = "reference" if len(self.texts) == 1 else f"reference/{stream}"
            terms[name] = self._distance(out["z"][text], out["reference"][stream])
        return terms

    def _distance(self, text: Array, target: Array) -> Scalar:
        if self.stop_gradient == "text":
            text = jax.lax.stop_gradient(text)
        if self.stop_gradient == "reference":
            target = jax.lax.stop_gradient(target)
        return KINDS[self.kind](text, target)

"""KeepFIT's image-similarity-guided text revision."""

from __future__ import annotations

import dataclasses

from retina_jax.losses import reference
from retina_jax.types import Batch, Outputs, Scalar


@dataclasses.dataclass(frozen=True)
class Reference:
    """Distance of public texts to what expert texts say of similar images (KeepFIT, L_rev).

    Attributes:
      text: the embedding in `out['z']` that is compared with `out['reference']`.
    """

    text: str = "public/text"

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Scalar]:
        """{'reference': mean squared difference over all entries}; KeepFIT weighs it by 100."""
        del batch
        return {"reference": reference.text_revision(out["z"][self.text], out["reference"])}

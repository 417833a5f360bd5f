"""Reconstruction of pictures of which patches were hidden."""

from __future__ import annotations

import dataclasses

from data_pipelines.errors import InputError
from retina_jax.losses import reconstruction
from retina_jax.types import Batch, Outputs, Scalar

PER = ("pixel", "image")


@dataclasses.dataclass(frozen=True)
class MaskedImage:
    """Squared error of `out['predicted_patches']` (SKKU, L_img, eq. 4).

    Attributes:
      hidden_only: count the patches that the encoder did not see only, as MAE does; otherwise all.
      per: 'pixel' or 'image', see `losses.reconstruction.squared_error`.
    """

    hidden_only: bool = False
    per: str = "pixel"

    def __post_init__(self) -> None:
        if self.per not in PER:
            raise InputError(f"masked_image counts per {list(PER)}, not '{self.per}'.")

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Scalar]:
        """{'masked_image': the error against `out['patches']`}."""
        del batch
        counted = out["hidden_patches"] if self.hidden_only else None
        loss = reconstruction.squared_error(
            out["predicted_patches"], out["patches"], counted, per=self.per
        )
        return {"masked_image": loss}

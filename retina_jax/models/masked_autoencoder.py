"""Pictures alone: what is left of `coca_mim` without texts, as in MAE and RETFound."""

from __future__ import annotations

from data_pipelines.errors import InputError
from retina_jax.models.coca_mim import CocaMim
from retina_jax.models.layers import l2_normalize
from retina_jax.types import Array, Batch, Outputs


class MaskedAutoencoder(CocaMim):
    """A ViT that sees a part of each picture, and a decoder that returns all of it.

    He et al. 2022; with ViT-L/16 and ImageNet's mean and deviation this is what RETFound trained
    (Zhou et al. 2023). Learned positions of the encoder, which MAE keeps fixed, are parameters:
    leave `image/position_embedding` out of the optimizer to train as the original does.

    Parameters: `image`, `image_adaptor`, `image_reconstruction`. Attributes and `reconstruct` are
    those of `CocaMim`; the options of texts and of what connects them stay unset.
    """

    def _check_options(self) -> None:
        if set(self.towers) != {"image"}:
            raise InputError(
                f"masked_autoencoder has one tower, 'image', not {sorted(self.towers)}."
            )
        if self.image_decoder is None:
            raise InputError("masked_autoencoder needs image_decoder; {} for MAE's.")
        unused = {"text_decoder": None, "cross_attention": None, "contrastive_on": "encoder",
                  "context": "clean", "caption_mode": "masked", "bias_init": None,
                  "learn_scale": False}  # fmt: skip
        for name, value in unused.items():
            if getattr(self, name) != value:
                raise InputError(f"masked_autoencoder has no texts, so leave out {name}.")
        self._check_choices("masked_autoencoder")

    def __call__(self, batch: Batch, train: bool = False) -> Outputs:
        """Reconstructs what is hidden of pictures.

        Args:
          batch: 'image', and 'patch_mask' to hide other patches than random ones.
          train: whether dropout is active; random patches are the same every time without it.

        Returns:
          patches, predicted_patches: f32[B P N], pixels after `mean` and `std`, by `patchify`.
          hidden_patches: bool[B P].
        """
        return self._reconstructions(batch, {}, train)

    def embed(self, batch: Batch) -> dict[str, Array]:
        """Unit rows {'image': f32[B F]} of what the whole picture's encoder pools."""
        return {key: l2_normalize(value) for key, value in self.features(batch).items()}

"""Pictures alone, as in MAE and RETFound."""

from __future__ import annotations

from data_pipelines.errors import InputError
from retina_jax.models.layers import l2_normalize
from retina_jax.models.masked_pictures import MaskedPictures
from retina_jax.types import Array, Batch, Outputs


class MaskedAutoencoder(MaskedPictures):
    """A tower that sees a part of each picture, and a decoder that returns all of it.

    He et al. 2022; with ViT-L/16 and ImageNet's mean and deviation this is what RETFound trained
    (Zhou et al. 2023). Learned positions of the encoder, which MAE keeps fixed, are parameters:
    leave `image/position_embedding` out of the optimizer to train as the original does. A tower of
    convolutions keeps the statistics of BatchNorm that it began with.

    Parameters: `image` and those of `MaskedPictures`. Attributes and `reconstruct` are
    those of `MaskedPictures`; nothing is contrasted, so there is neither a scale nor a bias.
    """

    def setup(self) -> None:
        """Checks that there is one tower of pictures, and a decoder."""
        if set(self.towers) != {"image"}:
            raise InputError(
                f"masked_autoencoder has one tower, 'image', not {sorted(self.towers)}."
            )
        if self.image_decoder is None:
            raise InputError("masked_autoencoder needs image_decoder; {} for MAE's.")
        for name, value in {"learn_scale": False, "bias_init": None}.items():
            if getattr(self, name) != value:
                raise InputError(f"masked_autoencoder contrasts nothing, so leave out {name}.")
        super().setup()

    def __call__(self, batch: Batch, train: bool = False) -> Outputs:
        """Reconstructs what is hidden of pictures.

        Args:
          batch: 'image', and 'patch_mask' to hide other patches than random ones.
          train: whether dropout is active; random patches are the same every time without it.

        Returns:
          patches, predicted_patches: f32[B P N], pixels after `mean` and `std`, by `patchify`.
          hidden_patches: bool[B P].
        """
        visible = self._visible(batch, train)
        tokens = self._visible_tokens(batch, visible, train)
        return self._reconstruction(batch, visible, self.image_adaptor(tokens), train)

    def embed(self, batch: Batch) -> dict[str, Array]:
        """Unit rows {'image': f32[B F]} of what the whole picture's encoder pools."""
        return {key: l2_normalize(value) for key, value in self.features(batch).items()}

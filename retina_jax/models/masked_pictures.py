"""Pictures with hidden patches: how a tower sees what is left, and what a decoder makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.build import call
from retina_jax.models.dual import Dual
from retina_jax.models.image_decoder import (
    ImageDecoder,
    comparison,
    patch_moments,
    patchify,
    unpatchify,
)
from retina_jax.models.layers import CLIP_MEAN, CLIP_STD, to_float
from retina_jax.models.towers import with_tokens
from retina_jax.models.vit import ViT, hidden_of, patch_grid
from retina_jax.types import Array, Batch, Outputs

CHOICES = {"masked_patches": ("left_out", "mask_token")}


class MaskedPictures(Dual):
    """What models have in common whose tower 'image' also passes pictures with parts hidden.

    The tokens of a tower of convolutions are the places of its last map, each of which stands for a
    patch. Its hidden pass is as in evaluation, so that statistics stay those of whole pictures: let
    it begin with weights that have such statistics, or normalise by groups.

    Parameters: those of `Dual`; with a decoder `image_adaptor` and `image_reconstruction`; and
    `mask_token`, with masked_patches='mask_token' and a pass that hides anything.

    Attributes:
      image_decoder: options of `ImageDecoder`; None reconstructs no pictures.
      mask_ratio: share of the patches that are hidden.
      masked_patches: 'left_out' of the encoder (MAE), or replaced by a 'mask_token' (SimMIM); for
        a tower of convolutions only the latter, a learned colour in the place of their pixels.
      normalize_patches: reconstruct each patch at mean 0 and deviation 1 (MAE's `norm_pix_loss`).
    """

    learn_scale: bool = False
    mean: Sequence[float] | None = CLIP_MEAN
    std: Sequence[float] | None = CLIP_STD
    image_decoder: Mapping[str, Any] | None = None
    mask_ratio: float = 0.75
    masked_patches: str = "left_out"
    normalize_patches: bool = False

    def setup(self) -> None:
        """Adds the decoder of pictures, and what leads to it, to the towers of `Dual`."""
        self._check_masks()
        super().setup()
        self._check_tower()
        if self.image_decoder is not None:
            options = {"dtype": self.dtype, **self.image_decoder}
            self.image_reconstruction = call("image_decoder", ImageDecoder, **options)
            width = self.image_reconstruction.width
            self.image_adaptor = nn.Dense(width, dtype=jnp.dtype(self.dtype))
        if self.masked_patches == "mask_token" and self._hides():
            init = nn.initializers.normal(0.02)
            values = self.image.width if isinstance(self.image, ViT) else 3
            self.mask_token = self.param("mask_token", init, (values,), jnp.float32)

    def _hides(self) -> bool:
        """Whether any picture is passed with parts hidden."""
        return self.image_decoder is not None

    def _check_choices(self, choices: Mapping[str, Sequence[str]]) -> None:
        for name, allowed in choices.items():
            if (given := getattr(self, name)) not in allowed:
                raise InputError(f"The model has {name} {list(allowed)}, not '{given}'.")

    def _check_masks(self) -> None:
        self._check_choices(CHOICES)
        if not 0 < self.mask_ratio < 1:
            raise InputError("mask_ratio is a share between 0 and 1, both excluded.")

    def _check_tower(self) -> None:
        if not hasattr(self.image, "patch_size"):
            name = self.towers["image"]["name"]
            raise InputError(f"The model hides patches, but a '{name}' tower has no patch_size.")
        if not isinstance(self.image, ViT):
            if self._hides() and self.masked_patches != "mask_token":
                raise InputError(
                    "Convolutions leave no patches out: set masked_patches='mask_token'."
                )
        elif self.image.pool == "patch_mean":
            raise InputError(
                "A 'vit' some of whose patches are hidden pools by 'cls' or 'mean', not by "
                "'patch_mean'."
            )
        elif self.image.token_drop:
            raise InputError("The model hides patches itself: set token_drop of its 'vit' to 0.")

    def reconstruct(self, batch: Batch) -> dict[str, Array]:
        """Pictures to look at, and how far the hidden patches are from what is there.

        Args:
          batch: a batch as for a call; of texts only what the model attends to.

        Returns:
          given, visible, reconstructed: u8[B H W 3], the last as the decoder returns all patches.
          error: f32[B], mean squared difference over the hidden patches, of pixels in [0, 1].
          error_of_mean: f32[B], the same if every hidden patch had the mean colour of the visible
            ones.
        """
        if self.image_decoder is None:
            raise InputError("This model has no image_decoder, so it reconstructs no pictures.")
        visible = self._visible(batch, train=False)
        tokens = self._visible_tokens(batch, visible, train=False)
        given = self._decoder_input(batch, tokens)
        predicted = self._decoded(batch, visible, given, train=False)
        pixels = self._pixels(batch)
        if self.normalize_patches:
            mean, deviation = patch_moments(pixels)
            predicted = predicted * deviation + mean
        true, made = (self._colours(batch, patches) for patches in (pixels, predicted))
        return comparison(true, made, self._hidden_pixels(batch, visible))

    def _decoder_input(self, batch: Batch, tokens: Array) -> Array:
        """f[B T W] of an encoder's tokens f[B T F], in evaluation."""
        del batch
        return self.image_adaptor(tokens)

    def _reconstruction(self, batch: Batch, visible: Array, given: Array, train: bool) -> Outputs:
        """`patches`, `predicted_patches` and `hidden_patches`, of what is given to the decoder."""
        pixels = self._pixels(batch)
        if self.normalize_patches:
            mean, deviation = patch_moments(pixels)
            pixels = (pixels - mean) / deviation
        return {
            "patches": pixels,
            "predicted_patches": self._decoded(batch, visible, given, train),
            "hidden_patches": hidden_of(visible, pixels.shape[1]),
        }

    def _decoded(self, batch: Batch, visible: Array, given: Array, train: bool) -> Array:
        """f32[B P N], what the decoder returns, for all patches."""
        values = self.image.patch_size**2 * batch["image"].shape[-1]
        left_out = visible if self.masked_patches == "left_out" else None
        return self.image_reconstruction(given, left_out, self._grid(batch), values, train)

    def _visible_tokens(self, batch: Batch, visible: Array, train: bool) -> Array:
        """f[B T F] of pictures of which the encoder sees these patches only."""
        image = to_float(batch["image"], self.mean, self.std)
        if isinstance(self.image, ViT):
            token = self.mask_token if self.masked_patches == "mask_token" else None
            return self.image(image, train, visible, token)["tokens"]
        image = jnp.where(self._hidden_pixels(batch, visible), self.mask_token, image)
        return with_tokens(self.image(image, train=False))["tokens"]

    def _hidden_pixels(self, batch: Batch, visible: Array) -> Array:
        """bool[B H W 3], True in the patches that are not among `visible`."""
        rows, columns = grid = self._grid(batch)
        hidden = hidden_of(visible, rows * columns)[..., None]
        return unpatchify(jnp.repeat(hidden, self.image.patch_size**2 * 3, axis=-1), grid)

    def _visible(self, batch: Batch, train: bool) -> Array:
        """i32[B K], the patches that the encoder sees, K = round((1 - mask_ratio) P).

        Those that `patch_mask` does not hide, or random ones. Of a mask that hides another number
        the first K patches count, those not hidden before the others, so that `hidden_patches`
        holds in any case.
        """
        grid = self._grid(batch)
        count = grid[0] * grid[1]
        keep = round((1 - self.mask_ratio) * count)
        if not 0 < keep < count:
            raise InputError(
                f"mask_ratio is {self.mask_ratio}, which leaves {keep} of {count} patches visible; "
                "at least one has to be visible and one hidden."
            )
        if "patch_mask" in batch:
            order = batch["patch_mask"]
            if order.shape[1] != count:
                raise InputError(
                    f"patch_mask has {order.shape[1]} patches, but images of this size have "
                    f"{count}: set 'patches' of mask_patches to it."
                )
        else:
            rng = self.make_rng("dropout") if train else jax.random.key(0)
            order = jax.random.uniform(rng, (len(batch["image"]), count))
        return jnp.argsort(order, axis=1, stable=True)[:, :keep]

    def _grid(self, batch: Batch) -> tuple[int, int]:
        return patch_grid(batch["image"].shape, self.image.patch_size)

    def _pixels(self, batch: Batch) -> Array:
        return patchify(to_float(batch["image"], self.mean, self.std), self.image.patch_size)

    def _colours(self, batch: Batch, patches: Array) -> Array:
        """Patches of normalised pixels -> f32[B H W 3], pixels in [0, 1]."""
        pixels = unpatchify(patches, self._grid(batch))
        pixels = pixels * jnp.asarray(1.0 if self.std is None else self.std)
        return jnp.clip(pixels + jnp.asarray(0.0 if self.mean is None else self.mean), 0, 1)

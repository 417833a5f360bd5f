"""The decoder of masked autoencoders: visible tokens in, the pixels of all patches out."""

from __future__ import annotations

from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.decoder_blocks import encoder_blocks
from retina_jax.types import Array


def patchify(image: Array, patch_size: int) -> Array:
    """Cuts images into patches.

    Args:
      image: f[B H W C]; H and W are multiples of `patch_size`.
      patch_size: side of a patch in pixels.

    Returns:
      f[B P patch_size^2 C], patches row-major, each with its values by row, column and channel.
    """
    sides = {"h": patch_size, "w": patch_size}
    return einops.rearrange(image, "b (r h) (c w) d -> b (r c) (h w d)", **sides)


def unpatchify(patches: Array, grid: tuple[int, int]) -> Array:
    """What `patchify` undoes: f[B P N] on a grid of (rows, columns) patches -> f[B H W 3]."""
    side = round((patches.shape[-1] // 3) ** 0.5)
    sizes = {"r": grid[0], "h": side, "w": side}
    return einops.rearrange(patches, "b (r c) (h w d) -> b (r h) (c w) d", **sizes)


def patch_positions(grid: tuple[int, int], width: int) -> Array:
    """Fixed positions of patches, as MAE's released code makes them.

    Half of the values tell the column, half the row; each half is the sines, then the cosines, of
    the number times 10000^(-4 i / width).

    Args:
      grid: rows and columns.
      width: a multiple of 4.

    Returns:
      f32[P width], patches row-major.

    Raises:
      InputError: for another width.
    """
    if width % 4:
        raise InputError(f"Positions on a grid need a width that is a multiple of 4, not {width}.")
    rates = 10_000.0 ** (-jnp.arange(width // 4) / (width / 4))
    rows, columns = (axis.ravel() for axis in jnp.indices(grid))
    angles = (place[:, None] * rates for place in (columns, rows))
    return jnp.concatenate([f(a) for a in angles for f in (jnp.sin, jnp.cos)], axis=-1)


def patch_moments(patches: Array, epsilon: float = 1e-6) -> tuple[Array, Array]:
    """Mean and deviation of each patch f32[B P N] as MAE takes them, unbiased: f32[B P 1] twice."""
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return patches.mean(axis=-1, keepdims=True), jnp.sqrt(variance + epsilon)


def comparison(given: Array, reconstructed: Array, hidden: Array) -> dict[str, Array]:
    """Pictures beside what a decoder made of them.

    Args:
      given: f32[B H W 3] in [0, 1].
      reconstructed: f32[B H W 3] in [0, 1].
      hidden: bool[B H W 3], the pixels that the encoder did not see.

    Returns:
      given, visible, reconstructed: u8[B H W 3]; what is hidden is grey in the second.
      error: f32[B], mean squared difference over what is hidden.
      error_of_mean: f32[B], the same for the mean colour of what is visible.
    """

    def mean_over(where: Array, values: Array, axes: tuple[int, ...], keep: bool) -> Array:
        total = jnp.where(where, values, 0.0).sum(axes, keepdims=keep)
        return total / where.sum(axes, keepdims=keep)

    def error(guess: Array) -> Array:
        return mean_over(hidden, jnp.square(guess - given), (1, 2, 3), False)

    def picture(pixels: Array) -> Array:
        return jnp.round(255 * pixels).astype(jnp.uint8)

    return {
        "given": picture(given),
        "visible": picture(jnp.where(hidden, 0.5, given)),
        "reconstructed": picture(reconstructed),
        "error": error(reconstructed),
        "error_of_mean": error(mean_over(~hidden, given, (1, 2), True)),
    }


class ImageDecoder(nn.Module):
    """A learned token for each hidden patch, fixed positions, blocks, a linear map to pixels.

    He et al. 2022 (MAE); the defaults are its decoder's and have 25,220,096 parameters beside the
    map to pixels. The input has this decoder's width already.

    Attributes:
      width: the width of the tokens, a multiple of 4.
      depth, heads, mlp_dim, dropout: options of `decoder_blocks.Decoder`.
      dtype: the dtype of the computation; pixels and parameters are float32.
    """

    width: int = 512
    depth: int = 8
    heads: int = 16
    mlp_dim: int = 2048
    dropout: float = 0.0
    dtype: Any = "float32"

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        visible: Array | None,
        grid: tuple[int, int],
        values: int,
        train: bool = False,
    ) -> Array:
        """Predicts all patches of a picture.

        Args:
          tokens: f[B T width], those of the visible patches, after a class token if there is one.
          visible: i32[B K], the row-major number of each of these patches; None if all are there.
          grid: rows and columns of patches.
          values: numbers of a patch.
          train: whether dropout is active.

        Returns:
          f32[B P values].
        """
        dtype = jnp.dtype(self.dtype)
        count = grid[0] * grid[1]
        known = count if visible is None else visible.shape[1]
        first, patches = tokens[:, :-known].astype(dtype), tokens[:, -known:].astype(dtype)
        if visible is not None:
            token = self.param(
                "mask_token", nn.initializers.normal(0.02), (self.width,), jnp.float32
            )
            hidden = jnp.broadcast_to(token.astype(dtype), (len(tokens), count, self.width))
            patches = jax.vmap(lambda row, at, value: row.at[at].set(value))(
                hidden, visible, patches
            )
        patches = patches + patch_positions(grid, self.width).astype(dtype)
        x = encoder_blocks(self)(jnp.concatenate([first, patches], axis=1), train=train)
        init = nn.initializers.xavier_uniform()
        x = nn.Dense(values, dtype=dtype, kernel_init=init, name="pixels")(x[:, -count:])
        return x.astype(jnp.float32)

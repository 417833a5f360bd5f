"""Codes of hidden patches: which entry of a frozen codebook a patch of the picture is like."""

from __future__ import annotations

import functools
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import InputError
from retina_jax.models.decoder_blocks import encoder_blocks
from retina_jax.models.layers import to_float
from retina_jax.models.vit import hidden_of
from retina_jax.types import Array, Outputs


@functools.cache
def read_codebook(path: str) -> np.ndarray:
    """The codebook in a .npy file, f32[K s s 3], values in [0, 1].

    Raises:
      InputError: if it cannot be read or is of another form.
    """
    try:
        codebook = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the codebook {path}: {error}.") from None
    square = codebook.ndim == 4 and codebook.shape[1:] == (codebook.shape[1],) * 2 + (3,)
    if not square or codebook.dtype.kind != "f" or len(codebook) < 2:
        raise InputError(
            f"The codebook {path} has to be float [K s s 3], at least two square patches in RGB, "
            f"not {codebook.dtype} {codebook.shape}."
        )
    if not (codebook.min() >= 0 and codebook.max() <= 1):
        raise InputError(f"The codebook {path} has values outside 0 to 1.")
    return codebook.astype(np.float32)


def codes(image: Array, grid: tuple[int, int], codebook: Array) -> Array:
    """The entry that each patch is most like, in squared difference of pixels.

    Args:
      image: u8 or f32[B H W 3], in 0..255 or [0, 1].
      grid: patches along both axes, which divide H and W; patches are resized to the codebook's.
      codebook: f32[K s s 3].

    Returns:
      i32[B grid[0] * grid[1]], row-major.

    Raises:
      InputError: while tracing, if the image cannot be cut into patches of this grid.
    """
    batch, height, width, _ = image.shape
    if height % grid[0] or width % grid[1]:
        raise InputError(
            f"Images of {height} x {width} pixels cannot be cut into the {grid[0]} x {grid[1]} "
            "places of the feature map: choose a size that is a multiple of 32, or of the patch."
        )
    rows, columns = grid
    patches = einops.rearrange(
        to_float(image), "b (r h) (c w) d -> (b r c) h w d", r=rows, c=columns
    )
    patches = jax.image.resize(patches, (len(patches), *codebook.shape[1:]), "linear")
    flat, entries = patches.reshape(len(patches), -1), codebook.reshape(len(codebook), -1)
    product = jnp.matmul(flat, entries.T, precision=jax.lax.Precision.HIGHEST)
    distance = jnp.square(entries).sum(axis=-1) - 2 * product
    return distance.argmin(axis=-1).reshape(batch, -1).astype(jnp.int32)


class PatchCodePredictor(nn.Module):
    """Predicts the codes of hidden places of a feature map from those that are left.

    The tower saw the whole picture: what is taken away is the vector of a hidden place, not what
    those around it know of it.

    A share of the places, drawn anew for each picture, is replaced by a learned vector; blocks of
    self-attention over all places, and a linear map, score the entries of the codebook there.

    Attributes:
      codebook: path of a file for `read_codebook`; it is frozen.
      share: the share of the places that are hidden.
      depth: number of blocks.
      width: the width of the places.
      heads, mlp_dim, dropout, dtype: options of the blocks.
    """

    codebook: str
    share: float = 0.4
    depth: int = 1
    width: int = 512
    heads: int = 8
    mlp_dim: int = 2048
    dropout: float = 0.1
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, image: Array, features: Array, train: bool) -> Outputs:
        """Scores the codes of an image's places.

        Args:
          image: u8 or f32[B H W 3], as `codes`.
          features: f[B h w F], the feature map.
          train: whether dropout is active, and other places are hidden each time.

        Returns:
          logits: f32[B h*w K].
          codes: i32[B h*w], the right entries.
          hidden: bool[B h*w], the places to predict.
        """
        codebook, dtype = read_codebook(self.codebook), jnp.dtype(self.dtype)
        batch, count = len(features), features.shape[1] * features.shape[2]
        if not 0 < round(self.share * count) < count:
            raise InputError(
                f"The appearance hides {self.share} of {count} places; choose a share that hides "
                "at least one and leaves one."
            )
        init = nn.initializers.normal(0.02)
        x = nn.LayerNorm(dtype=dtype, name="norm")(features.reshape(batch, count, -1))
        x = nn.Dense(self.width, dtype=dtype, name="project")(x)
        key = self.make_rng("dropout") if train else jax.random.key(0)
        order = jax.random.uniform(key, (batch, count))
        chosen = jax.lax.top_k(order, round(self.share * count))[1]
        hidden = ~hidden_of(chosen, count)
        token = self.param("hidden", init, (self.width,), jnp.float32)
        positions = self.param("positions", init, (count, self.width), jnp.float32)
        x = jnp.where(hidden[..., None], token.astype(dtype), x) + positions.astype(dtype)
        x = encoder_blocks(self)(x, train=train).astype(jnp.float32)
        return {
            "logits": nn.Dense(len(codebook), name="logits")(x),
            "codes": codes(image, (features.shape[1], features.shape[2]), jnp.asarray(codebook)),
            "hidden": hidden,
        }

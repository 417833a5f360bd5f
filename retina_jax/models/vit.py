"""The vision transformer, in the arrangement of CLIP or the plain one."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.layers import MLP, SelfAttention
from retina_jax.types import Array


class _Block(nn.Module):
    """A pre-norm transformer block: x += attention(norm(x)); x += mlp(norm(x))."""

    heads: int
    mlp_dim: int
    activation: str
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        norm = partial(nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype)
        x = x + SelfAttention(self.heads, dtype=self.dtype, name="attention")(norm(name="norm1")(x))
        mlp = MLP(x.shape[-1], self.mlp_dim, self.activation, self.dtype, name="mlp")
        return x + mlp(norm(name="norm2")(x))


class ViT(nn.Module):
    """A vision transformer without its projection or classification layer.

    Dosovitskiy et al. 2021. The image tower of Chinese-CLIP (and so of RET-CLIP) is `ViT(
    activation='quick_gelu', pre_norm=True, patch_bias=False)`: 85,799,424 parameters at 224
    pixels, to which its projection (here the system's) adds 393,216.

    Attributes:
      width: of the tokens.
      depth: number of blocks.
      heads: of each attention.
      mlp_dim: hidden width of each block's MLP.
      patch_size: side of a square patch, in pixels; divides the image's height and width.
      pool: 'cls' prepends a class token and returns it, 'mean' averages the patch tokens.
      activation: 'gelu' (exact) or 'quick_gelu'.
      pre_norm: normalise the embedded patches before the first block (CLIP's `ln_pre`).
      patch_bias: whether the patch convolution has a bias.
      eps: of every layer norm.
      dtype: of the computation; parameters are float32.
    """

    reads: ClassVar[str] = "pixels"

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    patch_size: int = 16
    pool: str = "cls"
    activation: str = "gelu"
    pre_norm: bool = False
    patch_bias: bool = True
    eps: float = 1e-5
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> dict[str, Array]:
        """Encodes images.

        Args:
          image: f[B H W 3]. The learned positions are made for the size seen at initialisation;
            another number of patches later is an InputError.
          train: accepted for all towers alike; this one has neither dropout nor statistics.

        Returns:
          pooled: f32[B W].
          tokens: dtype[B T W], row-major patches, after the class token if there is one; all
            through the final layer norm.
        """
        if self.pool not in ("cls", "mean"):
            raise InputError(f"A ViT pools by 'cls' or 'mean', not by '{self.pool}'.")
        dtype = jnp.dtype(self.dtype)
        x = self._embed(image.astype(dtype), dtype)
        if self.pre_norm:
            x = nn.LayerNorm(epsilon=self.eps, dtype=dtype, name="pre_norm")(x)
        for index in range(self.depth):
            x = _Block(
                self.heads, self.mlp_dim, self.activation, self.eps, dtype, name=f"block_{index}"
            )(x)
        x = nn.LayerNorm(epsilon=self.eps, dtype=dtype, name="post_norm")(x)
        tokens = x.astype(jnp.float32)
        pooled = tokens[:, 0] if self.pool == "cls" else tokens.mean(axis=1)
        return {"pooled": pooled, "tokens": x}

    def _embed(self, image: Array, dtype: Any) -> Array:
        """dtype[B H W 3] -> dtype[B T W]: patches, class token and positions."""
        batch, height, width, _ = image.shape
        patch = (self.patch_size, self.patch_size)
        if height % self.patch_size or width % self.patch_size:
            raise InputError(
                f"Images of {height} x {width} pixels cannot be cut into patches of "
                f"{self.patch_size}: choose a size that is a multiple of it."
            )
        x = nn.Conv(
            self.width,
            patch,
            strides=patch,
            padding="VALID",
            use_bias=self.patch_bias,
            dtype=dtype,
            name="patch_embedding",
        )(image)
        x = x.reshape(batch, -1, self.width)
        init = nn.initializers.normal(self.width**-0.5)
        if self.pool == "cls":
            token = self.param("class_embedding", init, (self.width,), jnp.float32)
            token = jnp.broadcast_to(token.astype(dtype), (batch, 1, self.width))
            x = jnp.concatenate([token, x], axis=1)
        if self.has_variable("params", "position_embedding"):
            stored = self.get_variable("params", "position_embedding").shape[0]
            if stored != x.shape[1]:
                raise InputError(
                    f"This ViT has {stored} learned positions, but images of {height} x {width} "
                    f"pixels need {x.shape[1]}: use the image size it was initialised with."
                )
        positions = self.param("position_embedding", init, x.shape[1:], jnp.float32)
        return x + positions.astype(dtype)

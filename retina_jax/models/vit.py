"""The vision transformer, in the arrangement of CLIP or the plain one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.layer_stack import residual_sum, scan_layers
from retina_jax.models.layers import (
    Initializer,
    learned_positions,
    observed,
    torch_attention,
    torch_bias,
    torch_linear,
    zero_bias,
)
from retina_jax.models.transformer import MLP, SelfAttention, fill
from retina_jax.types import Array


class _Inits(NamedTuple):
    """First values of a ViT's linear maps, and of their biases by the number of inputs."""

    patch: Initializer
    attention: Initializer
    attention_out: Initializer
    mlp: Initializer
    bias: Callable[[int], Initializer]


POOLS = ("cls", "mean", "patch_mean")
_xavier = nn.initializers.xavier_uniform()
INITS = {
    "xavier": _Inits(nn.initializers.lecun_normal(), _xavier, _xavier, _xavier, zero_bias),
    "torch": _Inits(torch_linear, torch_attention, torch_linear, torch_linear, torch_bias),
}


def hidden_of(visible: Array, patches: int) -> Array:
    """bool[B P], True at the patches that are not among `visible`, i32[B K]."""
    return ~jnp.any(visible[..., None] == jnp.arange(patches), axis=1)


def patch_grid(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Rows and columns of the patches of `side` pixels in images of this shape, [B H W C].

    Raises:
      InputError: for a height or a width that is no multiple of a patch.
    """
    _, height, width, _ = shape
    if height % side or width % side:
        raise InputError(
            f"Images of {height} x {width} pixels cannot be cut into patches of {side}: choose a "
            "size that is a multiple of it."
        )
    return height // side, width // side


class _ViTBlock(nn.Module):
    """A pre-norm transformer block: x += attention(norm(x)); x += mlp(norm(x)).

    With `layer_scale` each sum adds its branch times a gain of each feature.
    """

    heads: int
    mlp_dim: int
    activation: str
    epsilon: float
    initialization: str
    implementation: str | None
    drop_path: bool
    layer_scale: float | None
    dtype: Any
    length: int | None = None

    @nn.compact
    def __call__(self, x: Array, rate: Array, train: bool) -> tuple[Array, None]:
        norm = partial(nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype)
        init = INITS[self.initialization]
        attention = SelfAttention(
            self.heads,
            dtype=self.dtype,
            kernel_init=init.attention,
            out_init=init.attention_out,
            attention=self.implementation,
            length=self.length,
            name="attention",
        )
        mlp = MLP(
            x.shape[-1], self.mlp_dim, self.activation, self.dtype, init.mlp, init.bias, name="mlp"
        )
        x = observed(self, "inputs", x)
        branch = self._scaled("scale1", attention(norm(name="norm1")(x)))
        x = residual_sum(x, self._kept(branch, rate, train))
        branch = self._scaled("scale2", mlp(norm(name="norm2")(x)))
        return x + self._kept(branch, rate, train), None

    def _scaled(self, name: str, branch: Array) -> Array:
        if self.layer_scale is None:
            return branch
        init = nn.initializers.constant(self.layer_scale)
        return branch * self.param(name, init, branch.shape[-1:], jnp.float32).astype(self.dtype)

    def _kept(self, branch: Array, rate: Array, train: bool) -> Array:
        """A branch left out for some rows and strengthened for the others; the mean stays."""
        if not (train and self.drop_path):
            return branch
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, (len(branch), 1, 1))
        return jnp.where(kept, branch / (1 - rate).astype(branch.dtype), 0)


class ViT(nn.Module):
    """A vision transformer without its projection or classification layer.

    Dosovitskiy et al. 2021. The image tower of Chinese-CLIP (and so of RET-CLIP) is `ViT(
    activation='quick_gelu', pre_norm=True, patch_bias=False, initialization='torch')`: 85,799,424
    parameters at 224 pixels, to which its projection (here the system's) adds 393,216.

    Attributes:
      width: the width of the tokens.
      depth: number of blocks.
      heads: the number of heads of each attention.
      mlp_dim: hidden width of each block's MLP.
      patch_size: side of a square patch, in pixels; divides the image's height and width.
      pool: 'cls' prepends a class token and returns it, 'mean' averages the patch tokens, and
        'patch_mean' averages them beside a class token, before the last layer norm instead of
        after it (MAE's fine-tuning, and so RETFound's).
      activation: 'gelu' (exact) or 'quick_gelu'.
      pre_norm: normalise the embedded patches before the first block (CLIP's `ln_pre`).
      patch_bias: whether the patch convolution has a bias.
      eps: the epsilon of every layer norm.
      layer_scale: first value of a gain for each feature of each block's branches (CaiT, Touvron
        et al. 2021; DINOv2); None for no gains.
      initialization: the initialisation of the linear maps: 'xavier', with zero biases, or 'torch',
        the defaults of PyTorch's layers, from which CLIP models train where nothing is loaded.
      drop_path: largest rate of stochastic depth (Huang et al. 2016): in training a row skips each
        branch of a block with a rate that grows evenly from 0 in the first block to this.
      token_drop: share of the patch tokens that are left out of each image in training, drawn
        anew (FLIP, Li et al. 2023); floor(N (1 - share)) stay, but at least one, and the class
        token always does.
      scan, remat: options of `layer_stack.scan_layers`.
      attention: the implementation that `transformer.attend` uses.
      dtype: the dtype of the computation; parameters are float32.
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
    layer_scale: float | None = None
    initialization: str = "xavier"
    drop_path: float = 0.0
    token_drop: float = 0.0
    scan: bool = True
    remat: str = "dots_no_batch"
    attention: str | None = None
    dtype: Any = "float32"

    @nn.compact
    def __call__(
        self,
        image: Array,
        train: bool = False,
        visible: Array | None = None,
        mask_token: Array | None = None,
    ) -> dict[str, Array]:
        """Encodes images, or what is visible of them.

        Args:
          image: f[B H W 3]. The learned positions are made for the size seen at initialisation;
            another number of patches later is an InputError.
          train: whether `drop_path` and `token_drop` are active (rng collection 'dropout').
          visible: i32[B K], the row-major numbers of the patches that may be seen, each once; the
            pixels of all others have no influence. None for all patches.
          mask_token: f32[W], takes the place of each patch that is not visible, before positions
            are added (SimMIM, Xie et al. 2022). None leaves these patches out, and `tokens` has
            the visible ones in the order of `visible` (MAE, He et al. 2022).

        Returns:
          pooled: f32[B W].
          tokens: dtype[B T W], row-major patches, after the class token if there is one; all
            through the final layer norm, but for pool='patch_mean', where it follows the mean.
            With `token_drop` those that stay, in random order.
        """
        self._check()
        dtype = jnp.dtype(self.dtype)
        x = self._patches(image.astype(dtype), dtype)
        if visible is not None and mask_token is not None:
            x = jnp.where(hidden_of(visible, x.shape[1])[..., None], mask_token.astype(dtype), x)
        x = self._with_positions(x, image.shape, dtype)
        if visible is not None and mask_token is None:
            x = self._chosen(x, visible)
        if train and self.token_drop > 0:
            x = self._some_tokens(x)
        if self.pre_norm:
            x = nn.LayerNorm(epsilon=self.eps, dtype=dtype, name="pre_norm")(x)
        x = observed(self, "cells", self._through_blocks(x, train, dtype))
        post_norm = nn.LayerNorm(epsilon=self.eps, dtype=dtype, name="post_norm")
        if self.pool == "patch_mean":
            pooled = post_norm(x[:, 1:].astype(jnp.float32).mean(axis=1)).astype(jnp.float32)
            return {"pooled": pooled, "tokens": x}
        x = post_norm(x)
        tokens = x.astype(jnp.float32)
        pooled = tokens[:, 0] if self.pool == "cls" else tokens.mean(axis=1)
        return {"pooled": pooled, "tokens": x}

    def _through_blocks(self, x: Array, train: bool, dtype: Any) -> Array:
        """dtype[B T W] -> dtype[B T W]."""
        length = x.shape[1]
        layers = scan_layers(_ViTBlock, self.depth, scan=self.scan, remat=self.remat, inputs=(0,))
        blocks = layers(
            self.heads,
            self.mlp_dim,
            self.activation,
            self.eps,
            self.initialization,
            self.attention,
            self.drop_path > 0,
            self.layer_scale,
            dtype,
            length,
            name="blocks",
        )
        rates = jnp.linspace(0, self.drop_path, self.depth, dtype=jnp.float32)
        return blocks(fill(self, x, self.attention), rates, train)[0][:, :length]

    def others(self) -> int:
        """Number of tokens before those of the patches."""
        return 0 if self.pool == "mean" else 1

    def _check(self) -> None:
        if self.pool not in POOLS:
            raise InputError(f"A ViT pools by one of {POOLS}, not by '{self.pool}'.")
        if self.initialization not in INITS:
            raise InputError(
                f"A ViT has initialization {sorted(INITS)}, not '{self.initialization}'."
            )
        for name in ("drop_path", "token_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is a share of at least 0 and less than 1.")

    def _some_tokens(self, x: Array) -> Array:
        """dtype[B T W] -> dtype[B T' W]: the class token and a random part of the others."""
        first = self.others()
        count = x.shape[1] - first
        keep = max(1, math.floor(count * (1 - self.token_drop) + 1e-6))  # 0.9 of 20 leaves 2
        order = jax.random.uniform(self.make_rng("dropout"), (len(x), count))
        return self._chosen(x, jax.lax.top_k(order, keep)[1])

    def _chosen(self, x: Array, patches: Array) -> Array:
        """dtype[B T W] -> dtype[B T' W]: the class token and the patches of these numbers."""
        first = self.others()
        kept = jnp.take_along_axis(x, patches[..., None] + first, axis=1)
        return jnp.concatenate([x[:, :first], kept], axis=1)

    def _patches(self, image: Array, dtype: Any) -> Array:
        """dtype[B H W 3] -> dtype[B P W], row-major."""
        patch_grid(image.shape, self.patch_size)
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(
            self.width,
            patch,
            strides=patch,
            padding="VALID",
            use_bias=self.patch_bias,
            dtype=dtype,
            kernel_init=INITS[self.initialization].patch,
            bias_init=INITS[self.initialization].bias(self.patch_size**2 * image.shape[-1]),
            name="patch_embedding",
        )(image)
        return x.reshape(len(x), -1, self.width)

    def _with_positions(self, x: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """dtype[B P W] of images of `shape` -> dtype[B T W]: class token and positions added."""
        batch, height, width, _ = shape
        init = nn.initializers.normal(self.width**-0.5)
        if self.others():
            token = self.param("class_embedding", init, (self.width,), jnp.float32)
            token = jnp.broadcast_to(token.astype(dtype), (batch, 1, self.width))
            x = jnp.concatenate([token, x], axis=1)
        needs = f"images of {height} x {width} pixels need"
        return x + learned_positions(self, x.shape[1:], init, "ViT", needs).astype(dtype)

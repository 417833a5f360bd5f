"""The ResNets of CLIP: three convolutions first, means instead of strides, and attention last."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.layers import (
    feature_norm,
    learned_positions,
    observed,
    torch_bias,
    torch_linear,
)
from retina_jax.models.resnet import Block, conv, stages
from retina_jax.models.transformer import attend
from retina_jax.types import Array

_SMALLEST = 32  # pixels that leave a map of one
_HEAD_WIDTH = 64


class _AttentionPool(nn.Module):
    """Attention of the mean of a map to its positions and to itself.

    Radford et al. 2021, section 2.4; without the last projection, which is the system's.
    """

    heads: int
    implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """dtype[B h w F] -> dtype[B F]."""
        batch, height, breadth, width = x.shape
        if width % self.heads:
            raise InputError(f"A width of {width} cannot be split into {self.heads} heads.")
        x = x.reshape(batch, -1, width)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        init = nn.initializers.normal(width**-0.5)
        needs = f"its last map of {height} x {breadth} needs"
        positions = learned_positions(self, x.shape[1:], init, "ResNet of CLIP", needs)
        x = x + positions.astype(self.dtype)
        project = partial(
            nn.DenseGeneral,
            features=(self.heads, width // self.heads),
            dtype=self.dtype,
            kernel_init=init,
            bias_init=torch_bias(width),
        )
        query = project(name="query")(x[:, :1])
        key, value = project(name="key")(x), project(name="value")(x)
        mixed = attend(query, key, value, None, self.implementation)
        return mixed.reshape(batch, width)


class ClipResNet(nn.Module):
    """A residual network of CLIP (Radford et al. 2021, section 2.4) without its projection.

    Three 3x3 convolutions and a mean take the place of torchvision's 7x7 convolution and maximum;
    blocks of bottlenecks make maps smaller by means; the last map is pooled by attention. The
    projection of CLIP has a bias: `dual` has it by `projection_bias=('image',)`. BatchNorm
    statistics are in the collection 'batch_stats'.

    | model | depths | width | image |
    | --- | --- | --- | --- |
    | RN50, CLOOB | 3, 4, 6, 3 | 64 | 224 |
    | RN101 | 3, 4, 23, 3 | 64 | 224 |
    | RN50x4 | 4, 6, 10, 6 | 80 | 288 |
    | RN50x16 | 6, 8, 18, 8 | 96 | 384 |
    | RN50x64 | 3, 15, 36, 10 | 128 | 448 |

    Attributes:
      depths: number of blocks of each of the four stages.
      width: features of the first stage's inner convolutions, even.
      heads: the number of heads of the attention; None for heads of 64, as in all of CLIP.
      zero_init_residual: start each block as the identity, as CLIP does.
      norm: 'batch' or 'group', see `layers.feature_norm`.
      momentum: weight of BatchNorm's old running statistics; 0.9 is CLIP's.
      attention: the implementation that `transformer.attend` uses.
      dtype: the dtype of the computation; parameters and statistics are float32.
    """

    reads: ClassVar[str] = "pixels"
    patch_size: ClassVar[int] = 32  # side in pixels of a place of the map

    depths: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    heads: int | None = None
    zero_init_residual: bool = True
    norm: str = "batch"
    momentum: float = 0.9
    attention: str | None = None
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> dict[str, Array]:
        """Encodes images.

        Args:
          image: f[B H W 3], H and W from 32 up. The learned positions are made for the size seen
            at initialisation; one with another map later is an InputError.
          train: whether to use, and record, the statistics of this batch.

        Returns:
          pooled: f32[B F], F = 32 * width.
          map: dtype[B H/32 W/32 F].
        """
        dtype = jnp.dtype(self.dtype)
        self._check(image.shape)
        x = self._stem(image.astype(dtype), train, dtype)
        block = partial(
            Block,
            bottleneck=True,
            zero_last_gain=self.zero_init_residual,
            norm=self.norm,
            momentum=self.momentum,
            dtype=dtype,
            average=True,
            kernel_init=torch_linear,
        )
        x = observed(self, "cells", stages(x, block, self.depths, self.width, train))
        heads = self.heads or max(1, x.shape[-1] // _HEAD_WIDTH)
        pooled = _AttentionPool(heads, self.attention, dtype, name="attention_pool")(x)
        return {"pooled": pooled.astype(jnp.float32), "map": x}

    def _check(self, shape: Sequence[int]) -> None:
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise InputError(
                f"A ResNet of CLIP has four stages of at least one block, not {self.depths}."
            )
        if self.width % 2:
            raise InputError(f"The width of a ResNet of CLIP is even, not {self.width}.")
        if min(shape[1:3]) < _SMALLEST:
            raise InputError(
                f"Images of {shape[1]} x {shape[2]} pixels are too small for a ResNet of CLIP: "
                f"it needs {_SMALLEST} or more on each side."
            )

    def _stem(self, x: Array, train: bool, dtype: Any) -> Array:
        """dtype[B H W 3] -> dtype[B H/4 W/4 width]."""
        widths = (self.width // 2, self.width // 2, self.width)
        for index, features in enumerate(widths, start=1):
            stride = 2 if index == 1 else 1
            name = f"conv{index}"
            x = conv(features, (3, 3), (stride, stride), dtype, name, torch_linear)(x)
            norm = feature_norm(self.norm, momentum=self.momentum, dtype=dtype, name=f"bn{index}")
            x = nn.relu(norm(x, train))
        return nn.avg_pool(x, (2, 2), strides=(2, 2))

"""ResNet-18, 34, 50 and 101 as torchvision builds them, so that its weights can be loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.convolutions import PointwiseConv, fan_out
from retina_jax.models.layers import Initializer, feature_norm, observed
from retina_jax.types import Array

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECK_DEPTH = 50


def conv(
    features: int,
    size: Sequence[int],
    stride: Sequence[int],
    dtype: Any,
    name: str,
    kernel_init: Initializer = fan_out,
) -> nn.Module:
    """A convolution without bias whose padding is the same on both sides.

    Flax's 'SAME' pads more on the far side when the stride is 2, which would shift the maps by a
    pixel against weights that come from PyTorch. One of size 1 is a `PointwiseConv`, whose
    parameters are the same.

    Args:
      features: channels of the output.
      size: the size of the kernel along each axis, odd.
      stride: along each axis.
      dtype: the dtype of the computation.
      name: the name of the module.
      kernel_init: torchvision's first values, unless others are given.
    """
    if set(size) == {1}:
        return PointwiseConv(features, tuple(stride), False, dtype, kernel_init, name=name)
    return nn.Conv(
        features,
        tuple(size),
        strides=tuple(stride),
        padding=[(n // 2, n // 2) for n in size],
        use_bias=False,
        dtype=dtype,
        kernel_init=kernel_init,
        name=name,
    )


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the output.

    In a volume all kernels and strides have a third axis of the same size.

    Attributes:
      features: the number of channels of the inner convolutions.
      stride: the stride of the 3x3 convolution (the first one of two), torchvision's "v1.5"
        arrangement.
      bottleneck: which of the two forms.
      zero_last_gain: start the last normalisation's gain at zero.
      norm: a kind of `layers.feature_norm`.
      dtype: the dtype of the computation.
      average: instead of a convolution with a stride, one without it and a mean over windows as
        large as the stride: after the activation on the main path, before the convolution on
        the shortcut (CLIP's arrangement).
      kernel_init: the initialiser of the convolutions.
      momentum: an option of `layers.feature_norm`.
    """

    features: int
    stride: int
    bottleneck: bool
    zero_last_gain: bool
    norm: str
    dtype: Any
    average: bool = False
    kernel_init: Initializer = fan_out
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """f[B ... C] -> dtype[B ... C']; with `train`, as `BatchNorm`."""
        axes = x.ndim - 2
        if self.bottleneck:
            plan = ((1, 1, 1), (3, self.stride, 1), (1, 1, 4))
        else:
            plan = ((3, self.stride, 1), (3, 1, 1))
        convolve = partial(self._convolution, axes)
        last_init = nn.initializers.zeros if self.zero_last_gain else nn.initializers.ones
        out = x
        for index, (size, stride, factor) in enumerate(plan, start=1):
            last = index == len(plan)
            out = convolve(out, self.features * factor, size, stride, f"conv{index}")
            scale_init = last_init if last else nn.initializers.ones
            out = self._normalized(out, train, scale_init=scale_init, name=f"bn{index}")
            out = out if last else nn.relu(out)
            out = self._averaged(out, stride)
        if x.shape != out.shape:
            x = self._averaged(x, self.stride)
            x = convolve(x, out.shape[-1], 1, self.stride, "downsample_conv")
            x = self._normalized(x, train, name="downsample_bn")
        return nn.relu(x + out)

    def _normalized(self, x: Array, train: bool, **options: Any) -> Array:
        norm = feature_norm(self.norm, momentum=self.momentum, dtype=self.dtype, **options)
        return norm(x, train)

    def _convolution(
        self, axes: int, x: Array, features: int, size: int, stride: int, name: str
    ) -> Array:
        strides = (1 if self.average else stride,) * axes
        return conv(features, (size,) * axes, strides, self.dtype, name, self.kernel_init)(x)

    def _averaged(self, x: Array, stride: int) -> Array:
        if not self.average or stride == 1:
            return x
        windows = (stride,) * (x.ndim - 2)
        return nn.avg_pool(x, windows, strides=windows)


def stages(
    x: Array, block: Callable[..., nn.Module], depths: Sequence[int], width: int, train: bool
) -> Array:
    """Residual blocks `layer<stage>_<index>`, all stages but the first beginning with stride 2.

    Args:
      x: f[B ... C].
      block: (features, stride, name) -> a block; it becomes part of the module that calls this.
      depths: number of blocks of each stage.
      width: features of the first stage; each stage doubles them.
      train: passed on to `Block`.
    """
    for stage, count in enumerate(depths):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            x = block(width * 2**stage, stride, name=f"layer{stage + 1}_{index}")(x, train)
    return x


class ResNet(nn.Module):
    """A residual network without its classification layer.

    He et al. 2016, with torchvision's stride in the 3x3 convolution. BatchNorm statistics are in
    the collection 'batch_stats'.

    Attributes:
      depth: 18, 34 (basic blocks), 50 or 101 (bottlenecks).
      width: features of the first stage; 64 is the published network.
      zero_init_residual: start each block as the identity (torchvision's option of that name).
      norm: 'batch' or 'group', see `layers.feature_norm`.
      momentum: weight of BatchNorm's old running statistics; 0.9 is torchvision's.
      dtype: the dtype of the computation; parameters and statistics are float32.
    """

    reads: ClassVar[str] = "pixels"
    patch_size: ClassVar[int] = 32  # side in pixels of a place of the map

    depth: int = 50
    width: int = 64
    zero_init_residual: bool = False
    norm: str = "batch"
    momentum: float = 0.9
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> dict[str, Array]:
        """Encodes images.

        Args:
          image: f[B H W 3], any size from 32 up.
          train: whether to use, and record, the statistics of this batch.

        Returns:
          pooled: f32[B F], F = 8 * width, times 4 for bottlenecks: the mean over the map.
          map: dtype[B H/32 W/32 F].
        """
        if self.depth not in STAGES:
            raise InputError(f"There is no ResNet of depth {self.depth}; choose {list(STAGES)}.")
        dtype = jnp.dtype(self.dtype)
        block = partial(
            Block,
            bottleneck=self.depth >= BOTTLENECK_DEPTH,
            zero_last_gain=self.zero_init_residual,
            norm=self.norm,
            momentum=self.momentum,
            dtype=dtype,
        )
        x = conv(self.width, (7, 7), (2, 2), dtype, "conv1")(image.astype(dtype))
        norm = feature_norm(self.norm, momentum=self.momentum, dtype=dtype, name="bn1")
        x = nn.relu(norm(x, train))
        around: Any = ((1, 1), (1, 1))  # of minus infinity; Flax names strings only
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=around)
        x = stages(x, block, STAGES[self.depth], self.width, train)
        x = observed(self, "cells", x)
        return {"pooled": x.astype(jnp.float32).mean(axis=(1, 2)), "map": x}

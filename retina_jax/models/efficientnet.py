"""EfficientNet B0 to B4 and Lite0 to Lite4, built so that published weights can be loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.convolutions import DepthwiseConv, Padding, PointwiseConv, fan_out
from retina_jax.models.layers import feature_norm, observed
from retina_jax.types import Array


class CompoundScale(NamedTuple):
    """How a variant differs from the smallest one.

    Attributes:
      width: factor of the features.
      depth: factor of the repeats.
      size: pixels of the side of the pictures that it was published for.
    """

    width: float
    depth: float
    size: int


# Tan and Le 2019, and tensorflow/tpu for Lite.
VARIANTS: Mapping[str, CompoundScale] = {
    "b0": CompoundScale(1.0, 1.0, 224),
    "b1": CompoundScale(1.0, 1.1, 240),
    "b2": CompoundScale(1.1, 1.2, 260),
    "b3": CompoundScale(1.2, 1.4, 300),
    "b4": CompoundScale(1.4, 1.8, 380),
    "lite0": CompoundScale(1.0, 1.0, 224),
    "lite1": CompoundScale(1.0, 1.1, 240),
    "lite2": CompoundScale(1.1, 1.2, 260),
    "lite3": CompoundScale(1.2, 1.4, 280),
    "lite4": CompoundScale(1.4, 1.8, 300),
}
PADDINGS = ("same", "symmetric")
_STEM, _HEAD = 32, 1280
# Repeats, kernel, stride of the first, expansion and features of each stage of B0 and Lite0.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
           (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip
_SQUEEZED = 4  # the features that enter a block, to one of its squeeze


class BlockPlan(NamedTuple):
    """One block.

    Attributes:
      stage, repeat: its place among the stages, and in its own.
      size, stride: the size and the stride of its depthwise convolution.
      expansion: factor of the features inside.
      features: the channels of its output.
    """

    stage: int
    repeat: int
    size: int
    stride: int
    expansion: int
    features: int


class Plan(NamedTuple):
    """The whole network.

    Attributes:
      lite: whether it is of the family without squeeze-and-excitation.
      stem: features of the first convolution.
      blocks: the options of each block, in their order.
      head: features of the last convolution, which are pooled.
    """

    lite: bool
    stem: int
    blocks: tuple[BlockPlan, ...]
    head: int


def scaled(features: int, factor: float) -> int:
    """`features` times `factor` as a multiple of 8, not less than 90 % of it."""
    exact = features * factor
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def plan(variant: str, width: float | None = None, depth: float | None = None) -> Plan:
    """What a variant consists of.

    Stem and head of Lite keep their features, and its first and last stage their one block,
    whatever the factors.

    Args:
      variant: name in VARIANTS.
      width: factor of the features, instead of the variant's.
      depth: factor of the repeats, instead of the variant's.

    Raises:
      InputError: for another variant, or a factor that is not positive.
    """
    if variant not in VARIANTS:
        raise InputError(f"There is no EfficientNet '{variant}'; choose from {list(VARIANTS)}.")
    width = VARIANTS[variant].width if width is None else width
    depth = VARIANTS[variant].depth if depth is None else depth
    if min(width, depth) <= 0:
        raise InputError(f"Width and depth of an EfficientNet are positive, not {width}, {depth}.")
    lite = variant.startswith("lite")
    ends = 1.0 if lite else width
    blocks = []
    for stage, (repeats, size, stride, expansion, features) in enumerate(_STAGES):
        outer = lite and stage in (0, len(_STAGES) - 1)
        for repeat in range(repeats if outer else math.ceil(depth * repeats)):
            first = stride if repeat == 0 else 1
            found = scaled(features, width)
            blocks.append(BlockPlan(stage, repeat, size, first, expansion, found))
    return Plan(lite, scaled(_STEM, ends), tuple(blocks), scaled(_HEAD, ends))


def zeros_around(shape: Sequence[int], size: int, stride: int, padding: str) -> Padding:
    """Zeros before and after each axis of a map.

    Args:
      shape: (H, W) of the map.
      size: the size of the kernel along both axes, odd.
      stride: along both.
      padding: 'same' for TensorFlow's, as many as ceil(H / stride) places need, the odd one
        behind the map; 'symmetric' for PyTorch's size // 2 on both sides. They differ for strides.
    """
    if padding == "symmetric":
        return ((size // 2, size // 2),) * 2
    needed = [max((math.ceil(n / stride) - 1) * stride + size - n, 0) for n in shape]
    return tuple((zeros // 2, zeros - zeros // 2) for zeros in needed)


class _Layers(NamedTuple):
    """What all parts of a network have in common; see `EfficientNet`."""

    lite: bool
    padding: str
    norm: str
    epsilon: float
    momentum: float
    dtype: Any

    def normalize(self, x: Array, name: str, train: bool) -> Array:
        """Normalises a map, in the compact method of a module."""
        own = (self.norm, self.epsilon, self.momentum)
        return feature_norm(*own, dtype=self.dtype, name=name)(x, train)

    def activate(self, x: Array) -> Array:
        """ReLU6, which 8-bit arithmetic needs, or the swish of Tan and Le."""
        return nn.relu6(x) if self.lite else nn.silu(x)

    def pointwise(self, features: int, name: str, use_bias: bool = False) -> PointwiseConv:
        """A 1x1 convolution."""
        return PointwiseConv(features, use_bias=use_bias, dtype=self.dtype, name=name)


class InvertedBottleneck(nn.Module):
    """An inverted bottleneck: 1x1 to more features, a depthwise convolution, 1x1 to fewer.

    Attributes:
      place: the place of this block.
      layers: the same as in `EfficientNet`.
      drop: share of the rows that skip the block in training.
    """

    place: BlockPlan
    layers: _Layers
    drop: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """dtype[B H W C] -> dtype[B H/stride W/stride features]."""
        place, layers = self.place, self.layers
        out = x
        if place.expansion != 1:
            out = layers.pointwise(x.shape[-1] * place.expansion, "expand_conv")(out)
            out = layers.activate(layers.normalize(out, "bn0", train))
        around = zeros_around(out.shape[1:3], place.size, place.stride, layers.padding)
        out = DepthwiseConv(place.size, place.stride, around, layers.dtype, name="depthwise_conv")(
            out
        )
        out = layers.activate(layers.normalize(out, "bn1", train))
        if not layers.lite:
            out = out * self._excitation(out, max(1, x.shape[-1] // _SQUEEZED))
        out = layers.pointwise(place.features, "project_conv")(out)
        out = layers.normalize(out, "bn2", train)
        if out.shape != x.shape:
            return out
        return x + self._kept(out, train)

    def _excitation(self, x: Array, squeezed: int) -> Array:
        """dtype[B H W C] -> dtype[B 1 1 C] in (0, 1), how much each channel counts (Hu 2018)."""
        layers = self.layers
        mean = x.astype(jnp.float32).mean(axis=(1, 2), keepdims=True).astype(layers.dtype)
        hidden = layers.activate(layers.pointwise(squeezed, "se_reduce", use_bias=True)(mean))
        return nn.sigmoid(layers.pointwise(x.shape[-1], "se_expand", use_bias=True)(hidden))

    def _kept(self, x: Array, train: bool) -> Array:
        """A branch left out for some rows and strengthened for the others; the mean stays."""
        if not (train and self.drop):
            return x
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.drop, (len(x), 1, 1, 1))
        return jnp.where(kept, x / (1 - self.drop), 0)


class EfficientNet(nn.Module):
    """An EfficientNet without its classification layer.

    Tan and Le 2019 with squeeze-and-excitation and swish, or Lite of tensorflow/tpu without the
    former and with ReLU6. BatchNorm statistics are in the collection 'batch_stats'. Parameters
    with the layer of 1,000 classes that published files have, and side of their pictures:

    | variant | parameters | pixels | variant | parameters | pixels |
    | --- | --- | --- | --- | --- | --- |
    | b0 | 5,288,548 | 224 | lite0 | 4,652,008 | 224 |
    | b1 | 7,794,184 | 240 | lite1 | 5,416,680 | 240 |
    | b2 | 9,109,994 | 260 | lite2 | 6,092,072 | 260 |
    | b3 | 12,233,232 | 300 | lite3 | 8,197,096 | 280 |
    | b4 | 19,341,616 | 380 | lite4 | 13,006,568 | 300 |

    Attributes:
      variant: name in VARIANTS.
      width: factor of the features, instead of the variant's.
      depth: factor of the repeats, instead of the variant's.
      padding: a kind of `zeros_around`: 'same' for weights that come from TensorFlow, 'symmetric'
        for those that timm trained itself.
      norm: 'batch' or 'group', see `layers.feature_norm`.
      epsilon: added to the variance by BatchNorm; 1e-3 is TensorFlow's, 1e-5 timm's own.
      momentum: weight of BatchNorm's old running statistics.
      drop_path: largest rate of stochastic depth: in training a row skips each block with a
        probability that grows linearly from 0; 0.2 is published.
      dtype: the dtype of the computation; parameters and statistics are float32.
    """

    reads: ClassVar[str] = "pixels"
    patch_size: ClassVar[int] = 32  # side in pixels of a place of the map

    variant: str = "lite0"
    width: float | None = None
    depth: float | None = None
    padding: str = "same"
    norm: str = "batch"
    epsilon: float = 1e-3
    momentum: float = 0.99
    drop_path: float = 0.0
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> dict[str, Array]:
        """Encodes images.

        Args:
          image: f[B H W 3], any size from 32 up.
          train: whether to use, and record, the statistics of this batch, and whether `drop_path`
            is active (rng collection 'dropout').

        Returns:
          pooled: f32[B F], F = 1280, or 1280 * width for B: the mean over the map.
          map: dtype[B H/32 W/32 F], each side rounded up.
        """
        self._check()
        network = plan(self.variant, self.width, self.depth)
        dtype = jnp.dtype(self.dtype)
        layers = _Layers(network.lite, self.padding, self.norm, self.epsilon, self.momentum, dtype)
        x = nn.Conv(
            network.stem,
            (3, 3),
            strides=(2, 2),
            padding=zeros_around(image.shape[1:3], 3, 2, self.padding),
            use_bias=False,
            dtype=dtype,
            kernel_init=fan_out,
            name="stem_conv",
        )(image.astype(dtype))
        x = layers.activate(layers.normalize(x, "stem_bn", train))
        for number, place in enumerate(network.blocks):
            drop = self.drop_path * number / len(network.blocks)
            x = InvertedBottleneck(place, layers, drop, name=f"block{number}")(x, train)
        x = layers.pointwise(network.head, "head_conv")(x)
        x = layers.activate(layers.normalize(x, "head_bn", train))
        x = observed(self, "cells", x)
        return {"pooled": x.astype(jnp.float32).mean(axis=(1, 2)), "map": x}

    def _check(self) -> None:
        if self.padding not in PADDINGS:
            raise InputError(
                f"An EfficientNet has its padding one of {PADDINGS}, not '{self.padding}'."
            )
        if not 0 <= self.drop_path < 1:
            raise InputError("drop_path is a share of at least 0 and less than 1.")

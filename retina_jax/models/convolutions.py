"""Convolutions that are fast on a processor: 1x1, and of each channel by itself.

XLA's own grouped convolution, and the gradients of its 1x1 one, are many times slower on a
processor than a sum over the kernel's places and a product of matrices. On an accelerator XLA's
own are the better choice. `jax.lax.platform_dependent` decides when a program is compiled, in the
forward pass and in the gradient alike; parameters are the same either way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from retina_jax.models.layers import Initializer
from retina_jax.types import Array

Convolve = Callable[[Array, Array], Array]
Padding = tuple[tuple[int, int], ...]
fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# A depthwise kernel [k k 1 C] is one map of a channel to itself, so the other channels do not
# count: its k k inputs are also what leaves a channel.
depthwise_fan_out = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def by_platform(processor: Convolve, accelerator: Convolve) -> Convolve:
    """One function of (x, kernel) that is `processor` on a CPU and `accelerator` elsewhere.

    The choice is made inside the gradient too. Left to differentiation, the choice would be a
    conditional whose branches each keep what they need, x twice.

    Args:
      processor: (x, kernel) -> output.
      accelerator: the same function of the same arrays, computed in another way.
    """

    def gradient(convolve: Convolve) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
        return lambda x, kernel, g: jax.vjp(convolve, x, kernel)[1](g)

    @jax.custom_vjp
    def convolve(x: Array, kernel: Array) -> Array:
        return jax.lax.platform_dependent(x, kernel, cpu=processor, default=accelerator)

    def forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return convolve(x, kernel), (x, kernel)

    def backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
        ways = {"cpu": gradient(processor), "default": gradient(accelerator)}
        return jax.lax.platform_dependent(*saved, g, **ways)

    convolve.defvjp(forward, backward)
    return convolve


def xla_convolution(
    x: Array, kernel: Array, strides: Sequence[int], padding: Padding, groups: int = 1
) -> Array:
    """XLA's own convolution, channels last.

    Args:
      x: f[B ... C].
      kernel: f[k ... C/groups C'].
      strides: along each axis between.
      padding: zeros before and after each of them.
      groups: the groups of channels that see each other.
    """
    last = x.ndim - 1
    inner = tuple(range(1, last))
    places = (last, last - 1, *range(last - 1))
    order = jax.lax.ConvDimensionNumbers((0, last, *inner), places, (0, last, *inner))
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=order, feature_group_count=groups
    )


def pointwise_product(x: Array, kernel: Array, strides: Sequence[int]) -> Array:
    """A convolution of size 1 as a product of matrices.

    Args:
      x: f[B ... C].
      kernel: f[1 ... C C'].
      strides: along each axis between.
    """
    seen = x[(slice(None), *(slice(None, None, stride) for stride in strides))]
    # One axis instead of several halves the time of the kernel's gradient.
    rows = seen.reshape(-1, x.shape[-1]) @ kernel.reshape(kernel.shape[-2:])
    return rows.reshape(*seen.shape[:-1], kernel.shape[-1])


def pointwise(x: Array, kernel: Array, strides: Sequence[int]) -> Array:
    """A convolution of size 1, see `pointwise_product` for the arguments."""
    convolve = by_platform(
        partial(pointwise_product, strides=strides),
        partial(xla_convolution, strides=strides, padding=((0, 0),) * len(strides)),
    )
    return convolve(x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_sum(x: Array, kernel: Array, stride: int) -> Array:
    """A convolution of each channel by itself, as a sum over the places of the kernel.

    Args:
      x: f[B H W C], padded.
      kernel: f[k k 1 C].
      stride: along both axes.

    Returns:
      f[B (H-k)//stride+1 (W-k)//stride+1 C], added up in float32.
    """
    total = jnp.float32(0)
    for i, j in itertools.product(*map(range, kernel.shape[:2])):
        total += _seen(x, kernel, stride, i, j).astype(jnp.float32) * kernel[i, j, 0]
    return total.astype(x.dtype)


def _seen(x: Array, kernel: Array, stride: int, i: int, j: int) -> Array:
    """What the place (i, j) of the kernel sees of x."""
    rows, columns = ((n - len(kernel)) // stride * stride + 1 for n in x.shape[1:3])
    return x[:, i : i + rows : stride, j : j + columns : stride]


def _depthwise_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return depthwise_sum(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    size = len(kernel)
    # The transpose of a stride: zeros between, and what the last window did not reach behind.
    between = [
        (size - 1, n - 1 - (m - 1) * stride, stride - 1)
        for n, m in zip(x.shape[1:3], g.shape[1:3], strict=True)
    ]
    spread = jax.lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *between, (0, 0, 0)])
    return depthwise_sum(spread, kernel[::-1, ::-1], 1), _kernel_gradient(x, kernel, stride, g)


def _kernel_gradient(x: Array, kernel: Array, stride: int, g: Array) -> Array:
    """The sum over rows and columns of what each place of the kernel sees, times g."""
    size, (batch, height, width, channels) = len(kernel), g.shape
    reach = (width - 1) * stride + 1

    def of_kernel_row(i: Array) -> Array:
        # XLA's sums over all axes but the last are slow on a processor. Row after row is added up
        # first, into arrays that stay in its cache.
        def add(sums: tuple[Array, ...], index: Array) -> tuple[tuple[Array, ...], None]:
            picture, row = index // height, index % height
            one = (1, 1, width, channels)
            pulled = jax.lax.dynamic_slice(g, (picture, row, 0, 0), one)[0, 0]
            start, window = (picture, row * stride + i, 0, 0), (1, 1, *x.shape[2:])
            seen = jax.lax.dynamic_slice(x, start, window)[0, 0]
            products = (
                seen[j : j + reach : stride].astype(jnp.float32) * pulled for j in range(size)
            )
            return tuple(a + b for a, b in zip(sums, products, strict=True)), None

        zeros = (jnp.zeros((width, channels), jnp.float32),) * size
        sums, _ = jax.lax.scan(add, zeros, jnp.arange(batch * height))
        return jnp.stack([total.sum(axis=0) for total in sums])

    # One program for all rows of the kernel, since every place in it costs time to compile.
    total = jax.lax.map(of_kernel_row, jnp.arange(size))
    return total.reshape(kernel.shape).astype(kernel.dtype)


depthwise_sum.defvjp(_depthwise_forward, _depthwise_backward)


def depthwise(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """A convolution of each channel by itself.

    Args:
      x: f[B H W C].
      kernel: f[k k 1 C].
      stride: along both axes.
      padding: zeros before and after each of them.
    """

    def padded_sum(x: Array, kernel: Array) -> Array:
        return depthwise_sum(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel, stride)

    channels = x.shape[-1]
    own = partial(
        xla_convolution, strides=(stride, stride), padding=tuple(padding), groups=channels
    )
    return by_platform(padded_sum, own)(x, kernel)


class PointwiseConv(nn.Module):
    """A convolution of size 1 with the parameters of `flax.linen.Conv`.

    Attributes:
      features: channels of the output.
      strides: along each axis between the first and the last; () for 1 everywhere.
      use_bias: whether there is a bias.
      dtype: the dtype of the computation.
      kernel_init: the initialiser of the kernel f32[1 ... C features].
    """

    features: int
    strides: Sequence[int] = ()
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Initializer = fan_out

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """f[B ... C] -> dtype[B ... features]."""
        axes = x.ndim - 2
        shape = (*(1,) * axes, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        strides = tuple(self.strides) or (1,) * axes
        out = pointwise(x.astype(self.dtype), kernel.astype(self.dtype), strides)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            out = out + bias.astype(self.dtype)
        return out


class DepthwiseConv(nn.Module):
    """A convolution of each channel by itself, with the parameters of `flax.linen.Conv`.

    Attributes:
      size: the size of the square kernel f32[size size 1 C].
      stride: along both axes.
      padding: zeros before and after each axis.
      dtype: the dtype of the computation.
    """

    size: int
    stride: int
    padding: Padding
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """f[B H W C] -> dtype[B H' W' C]."""
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = self.param("kernel", depthwise_fan_out, shape, jnp.float32)
        return depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)

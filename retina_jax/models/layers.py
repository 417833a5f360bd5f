"""Pieces that several towers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.types import Array

# PyTorch's default for linear weights, U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the published heads
# that are not loaded from elsewhere start from it.
torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


def l2_normalize(x: Array, epsilon: float = 1e-12) -> Array:
    """Rows scaled to unit Euclidean length, in float32.

    Args:
      x: f[... D].
      epsilon: rows shorter than this have no direction.

    Returns:
      f32[... D]. A row without direction becomes zero with zero gradient, where dividing by its
      norm (which the published code does, without any epsilon) would give NaN.
    """
    x = x.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    directed = squares > epsilon**2
    return jnp.where(directed, x * jax.lax.rsqrt(jnp.where(directed, squares, 1.0)), 0.0)


def to_float(
    image: Array, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Array:
    """Pixels as the towers expect them; done on the device, so that bytes cross to it.

    Args:
      image: u8[... C] in 0..255, or f[... C] already in the tower's range before `mean`.
      mean: per channel, in units of [0, 1]; None subtracts nothing (FLAIR and KeepFIT).
      std: per channel, in units of [0, 1]; None divides by nothing.

    Returns:
      f32[... C].
    """
    integer = jnp.issubdtype(image.dtype, jnp.integer)
    pixels = image.astype(jnp.float32)
    if integer:
        pixels = pixels / 255.0
    if mean is not None:
        pixels = pixels - jnp.asarray(mean, jnp.float32)
    if std is not None:
        pixels = pixels / jnp.asarray(std, jnp.float32)
    return pixels


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def clip_inward(x: Array, low: float, high: float) -> Array:
    """Clips a learned scalar so that gradient descent can always bring it back into range.

    Published code resets the temperature parameter itself to its bounds before each use, and lets
    the gradient through. A pure function cannot write its parameter, and each plain substitute
    fails: clipping stops the gradient outside, so a scale that once reached its bound would stay
    there for good; passing every gradient lets the parameter wander off as long as the loss
    pushes outwards. Here a gradient passes unless a descent step along it would lead further out:
    the parameter overshoots by one step at most and returns as soon as the loss asks for it.

    Args:
      x: f32[].
      low: smallest value.
      high: largest value.

    Returns:
      f32[] in [low, high].
    """
    return jnp.clip(x, low, high)


def _clip_inward_forward(x: Array, low: float, high: float) -> tuple[Array, Array]:
    return jnp.clip(x, low, high), x


def _clip_inward_backward(low: float, high: float, x: Array, gradient: Array) -> tuple[Array]:
    outward = ((x >= high) & (gradient < 0)) | ((x <= low) & (gradient > 0))
    return (jnp.where(outward, 0.0, gradient),)


clip_inward.defvjp(_clip_inward_forward, _clip_inward_backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running variance.

    Differs from `flax.linen.BatchNorm` in two points: the running variance takes the unbiased
    estimate (n - 1 in the denominator; it matters for small maps), and the variance is computed
    as the mean of squared deviations, which does not cancel for channels with a large mean.
    Under `jit` over a sharded batch the statistics are those of the global batch.

    Attributes:
      epsilon: added to the variance.
      momentum: weight of the old running value (0.9 is PyTorch's `momentum=0.1`).
      dtype: of the output; statistics are float32.
      scale_init: initialiser of the gain.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    dtype: Any = jnp.float32
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """f[... C] -> dtype[... C]; with `train`, uses and records this batch's statistics."""
        channels = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        values = x.astype(jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = values.mean(axes)
            var = jnp.square(values - mean).mean(axes)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                unbiased = var * (count / max(count - 1, 1))
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        gain = jax.lax.rsqrt(var + self.epsilon) * scale
        return ((values - mean) * gain + bias).astype(self.dtype)


class MLP(nn.Module):
    """Two dense layers with an activation between them.

    Attributes:
      width: of input and output.
      hidden: of the middle.
      activation: a key of ACTIVATIONS.
      dtype: of the computation.
      kernel_init: of both layers.
    """

    width: int
    hidden: int
    activation: str = "gelu"
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Array] = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """f[... width] -> dtype[... width]."""
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        hidden = activation(self.activation)(dense(self.hidden, name="in")(x))
        return dense(self.width, name="out")(hidden)


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function of that name; InputError if there is none."""
    if name not in ACTIVATIONS:
        raise InputError(f"There is no activation '{name}'; choose from {sorted(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases, scaled by 1/sqrt(width / heads).

    Attributes:
      heads: number of heads; divides the width.
      dropout: rate of dropout on the attention weights (rng collection 'dropout').
      dtype: of the computation; softmax is float32.
      kernel_init: of the four projections.
    """

    heads: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Array] = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, train: bool = False) -> Array:
        """Mixes the positions of each row.

        Args:
          x: f[B T W].
          mask: bool[B T], the positions that may be attended to; None for all. A row without any
            attends evenly to all positions, which keeps it finite.
          train: whether dropout is active.

        Returns:
          dtype[B T W].
        """
        width = x.shape[-1]
        if width % self.heads:
            raise InputError(f"A width of {width} cannot be split into {self.heads} heads.")
        project = partial(
            nn.DenseGeneral,
            features=(self.heads, width // self.heads),
            dtype=self.dtype,
            kernel_init=self.kernel_init,
        )
        query, key, value = (project(name=name)(x) for name in ("query", "key", "value"))
        keys = None if mask is None else mask[:, None, None, :]
        if train and self.dropout > 0:
            # dot_product_attention has no dropout, so this branch spells it out.
            weights = attention_weights(query, key, keys)
            weights = nn.Dropout(self.dropout, deterministic=False)(weights)
            mixed = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(self.dtype), value)
        else:
            mixed = jax.nn.dot_product_attention(query, key, value, mask=keys)
        return nn.DenseGeneral(
            width, axis=(-2, -1), dtype=self.dtype, kernel_init=self.kernel_init, name="out"
        )(mixed)


def attention_weights(query: Array, key: Array, mask: Array | None = None) -> Array:
    """Softmax over keys of scaled inner products.

    Args:
      query: f[B Q H D].
      key: f[B K H D].
      mask: bool, broadcastable to [B H Q K]; False where a key may not be used.

    Returns:
      f32[B H Q K], the last axis sums to one.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores.astype(jnp.float32) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min / 2)
    return jax.nn.softmax(scores, axis=-1)

"""Pieces that several towers share: initialisers, pixels, unit rows, bounds, normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.types import Array

Initializer = Callable[..., Array]

# What CLIP subtracts from the channels of pictures in [0, 1], and divides them by.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# PyTorch's default for linear weights, U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the published heads
# that are not loaded from elsewhere start from it.
torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# PyTorch draws the three projections of an attention as one Xavier matrix [width, 3 width].
torch_attention = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")


def zero_bias(fan_in: int) -> Initializer:
    """Biases of zero, whatever the number of inputs."""
    del fan_in
    return nn.initializers.zeros


def torch_bias(fan_in: int) -> Initializer:
    """PyTorch's default for the biases of linear layers, U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


# Of a dense layer of a head: at full precision, since an accelerator's default product would cost
# the embeddings as much as the similarities gain by theirs.
head_linear = partial(nn.Dense, precision=jax.lax.Precision.HIGHEST)


def learned_positions(
    module: nn.Module, shape: Sequence[int], init: Initializer, what: str, needs: str
) -> Array:
    """The parameter `position_embedding` of a module with a compact method, f32[T W].

    Args:
      module: whose parameter it is.
      shape: (T, W), as what it sees now needs.
      init: the initialiser of the parameter.
      what: the module, for the message.
      needs: what it sees, and 'need' or 'needs'.

    Raises:
      InputError: if it was initialised for another T.
    """
    if module.has_variable("params", "position_embedding"):
        stored = module.get_variable("params", "position_embedding").shape[0]
        if stored != shape[0]:
            raise InputError(
                f"This {what} has {stored} learned positions, but {needs} {shape[0]}: use the "
                "image size it was initialised with."
            )
    return module.param("position_embedding", init, tuple(shape), jnp.float32)


def observed(module: nn.Module, name: str, x: Array) -> Array:
    """x, at a place where `retina_jax.saliency` reads it and asks for gradients; no one else does.

    Where the collection 'intermediates' is mutable, x is found there, and what 'perturbations' has
    under the same name is added to it, so that a gradient by that is one by x.

    Args:
      module: whose collections these are.
      name: the name within both, unlike that of any part of the module.
      x: any array.
    """
    if module.is_initializing():
        return x  # Flax would make a variable of it
    x = module.perturb(name, x)
    module.sow("intermediates", name, x)
    return x


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
      mean: values for each channel, in units of [0, 1]; None subtracts nothing (FLAIR and KeepFIT).
      std: values for each channel, in units of [0, 1]; None divides by nothing.

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


def standardize_volume(volume: Array, epsilon: float = 1e-6) -> Array:
    """Each volume at mean 0 and standard deviation 1, in float32.

    The linear stretch from grey values to bytes in the data pipeline leaves this as it is.

    Args:
      volume: u8 or f[B T H W C], in any units.
      epsilon: smallest standard deviation that is divided by, in those units; a volume of one
        value becomes zero.

    Returns:
      f32[B T H W C].
    """
    values = volume.astype(jnp.float32)
    axes = tuple(range(1, values.ndim))
    values = values - values.mean(axes, keepdims=True)
    deviation = jnp.sqrt(jnp.square(values).mean(axes, keepdims=True))
    return values / jnp.maximum(deviation, epsilon)


def sinusoids(length: int, width: int) -> Array:
    """Fixed positions f32[length width], sine and cosine in turn (Vaswani et al. 2017, 3.5).

    Args:
      length: number of positions.
      width: even.
    """
    rates = jnp.exp(jnp.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = jnp.arange(length)[:, None] * rates
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(length, width)


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


# FLAIR, KeepFIT and RET-CLIP keep the logarithm in [0, 4.6052]: 3.4e-5 more than a factor of 100.
PUBLISHED_BOUND = math.exp(4.6052)


def inverse_temperature(log_scale: Array, most: float) -> Array:
    """The factor of logits in [1, most] of a learned logarithm, which stays within these bounds."""
    return jnp.exp(clip_inward(log_scale, 0.0, math.log(most)))


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running variance.

    Differs from `flax.linen.BatchNorm` in two points: the running variance takes the unbiased
    estimate (n - 1 in the denominator; it matters for small maps), and the variance is computed
    as the mean of squared deviations, which does not cancel for channels with a large mean.
    Under `jit` over a sharded batch the statistics are those of the global batch.

    Attributes:
      epsilon: added to the variance.
      momentum: weight of the old running value (0.9 is PyTorch's `momentum=0.1`).
      dtype: the dtype of the output; statistics are float32.
      scale_init: initialiser of the gain.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    dtype: Any = jnp.float32
    scale_init: Initializer = nn.initializers.ones

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
                # Another pass of the same step may read them, and must not learn through them.
                now, spread = jax.lax.stop_gradient((mean, unbiased))
                running_mean.value = keep * running_mean.value + (1 - keep) * now
                running_var.value = keep * running_var.value + (1 - keep) * spread
        else:
            mean, var = running_mean.value, running_var.value
        gain = jax.lax.rsqrt(var + self.epsilon) * scale
        return ((values - mean) * gain + bias).astype(self.dtype)


NORMS = ("batch", "group")


def feature_norm(
    kind: str, epsilon: float = 1e-5, momentum: float = 0.9, **options: Any
) -> nn.Module:
    """The normalisation of a convolutional network.

    Args:
      kind: 'batch' for `BatchNorm`; 'group' for groups of channels of one example (Wu and He 2018,
        32 groups, or as many as leave each two channels), which knows no other rows of the batch.
      epsilon, momentum: options of `BatchNorm`, without a meaning for groups.
      **options: `dtype`, `scale_init` and `name`.

    Raises:
      InputError: for another kind.
    """
    if kind not in NORMS:
        raise InputError(f"Feature maps are normalised by one of {NORMS}, not by '{kind}'.")
    if kind == "batch":
        return BatchNorm(epsilon, momentum, **options)
    return _GroupNorm(**options)


class _GroupNorm(nn.Module):
    """`flax.linen.GroupNorm` in groups that fit, called like `BatchNorm`."""

    dtype: Any = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = nn.GroupNorm(
            # A group of one channel would be nothing but zeros on a map of one pixel.
            num_groups=math.gcd(32, max(1, x.shape[-1] // 2)),
            epsilon=1e-5,
            dtype=self.dtype,
            scale_init=self.scale_init,
            use_fast_variance=False,
            name="group",
        )
        return norm(x)


DEVIATIONS = ("biased", "unbiased")


def layer_norm(deviation: str, **options: Any) -> nn.Module:
    """Normalisation of each vector, with a gain `scale` and a `bias`.

    Args:
      deviation: 'biased' for `flax.linen.LayerNorm`, 'unbiased' for `UnbiasedLayerNorm`.
      **options: `epsilon`, `dtype` and `name`.

    Raises:
      InputError: for another deviation.
    """
    if deviation not in DEVIATIONS:
        raise InputError(f"Layer norms divide by a deviation {DEVIATIONS}, not '{deviation}'.")
    return nn.LayerNorm(**options) if deviation == "biased" else UnbiasedLayerNorm(**options)


class UnbiasedLayerNorm(nn.Module):
    """(x - mean) / (deviation + epsilon), the deviation with n - 1 in its denominator.

    The layer norm of R2Gen and KeepFIT-FFA (modules/encoder_decoder.py:90-100).

    Attributes:
      epsilon: added to the deviation.
      dtype: the dtype of the output; the statistics are float32.
    """

    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """f[... W] -> dtype[... W], W at least 2."""
        width = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, width, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, width, jnp.float32)
        values = x.astype(jnp.float32)
        values = values - values.mean(axis=-1, keepdims=True)
        variance = jnp.square(values).sum(axis=-1, keepdims=True) / (width[0] - 1)
        # The gradient of a root at zero is infinite; a constant vector has none here.
        constant = variance == 0
        deviation = jnp.where(constant, 0.0, jnp.sqrt(jnp.where(constant, 1.0, variance)))
        return (scale * values / (deviation + self.epsilon) + bias).astype(self.dtype)

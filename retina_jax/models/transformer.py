"""Pieces of transformers: attention and the MLP."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.ad_checkpoint import checkpoint_name

from data_pipelines.errors import InputError
from retina_jax.models.layer_stack import KEPT
from retina_jax.models.layers import Initializer, zero_bias
from retina_jax.types import Array

_logger = logging.getLogger(__name__)
# The platform that a program is traced for, where that is another than the one it is traced on.
PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)


def gelu(x: Array) -> Array:
    """GELU by the error function (Hendrycks and Gimpel 2016), in float32 whatever `x` is.

    `jax.nn.gelu` spells it with erfc, which XLA computes in kernels of its own for GPUs, and
    writes to memory in between.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * wide * (1 + jax.lax.erf(wide / 2**0.5))).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
}


class MLP(nn.Module):
    """Two dense layers with an activation, and dropout where asked for, between them.

    Attributes:
      width: the width of input and output.
      hidden: the width of the middle.
      activation: a key of ACTIVATIONS.
      dtype: the dtype of the computation.
      kernel_init: the initialiser of both layers.
      bias_init: number of a layer's inputs -> initialiser of its bias.
      dropout: rate on the middle (rng collection 'dropout').
    """

    width: int
    hidden: int
    activation: str = "gelu"
    dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    bias_init: Callable[[int], Initializer] = zero_bias
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """f[... width] -> dtype[... width]."""

        def dense(features: int, fan_in: int, name: str) -> nn.Dense:
            return nn.Dense(
                features,
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init(fan_in),
                name=name,
            )

        hidden = activation(self.activation)(dense(self.hidden, self.width, "in")(x))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return dense(self.width, self.hidden, "out")(hidden)


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function of that name; InputError if there is none."""
    if name not in ACTIVATIONS:
        raise InputError(f"There is no activation '{name}'; choose from {sorted(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases, scaled by 1/sqrt(width / heads).

    Its parameters are those of `nn.MultiHeadDotProductAttention`, which is not used because it
    takes the softmax in the dtype of the computation, draws its dropout from another key, which
    would change every training with dropout, and leaves cuDNN's kernel to a function of its own.

    Attributes:
      heads: number of heads; divides the width.
      dropout: rate of dropout on the attention weights (rng collection 'dropout').
      dtype: the dtype of the computation; softmax is float32.
      kernel_init: the initialiser of the four projections.
      out_init: the initialiser of the last projection, where it differs.
      attention: the implementation that `attend` uses; dropout on the weights is spelt out instead,
        and so is a pass that asks for them: f32[B H T T] in 'intermediates' under `weights`.
      length: the number of positions before those that `fill` added; None for all.
    """

    heads: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer | None = None
    attention: str | None = None
    length: int | None = None

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
        head = (self.heads, width // self.heads)
        parts = [
            _Projection(width, head, self.kernel_init, name=name)()
            for name in ("query", "key", "value")
        ]
        keys = None if mask is None else mask[:, None, None, :]
        spelt_out = is_spelt_out(self, train, self.dropout)
        if self.attention != "cudnn" or spelt_out:
            # One product instead of three: `x` and its gradient pass through memory once.
            together = (jnp.concatenate(weights, axis=-1) for weights in zip(*parts, strict=True))
            projected = self._projected(x, *together).reshape(*x.shape[:-1], 3, *head)
            query, key, value = (projected[..., place, :, :] for place in range(3))
        else:
            # cuDNN's kernel takes three arrays: cutting one into them is a pass of its own. The
            # backward pass keeps them, so that a product adds its bias in its own kernel.
            query, key, value = (
                checkpoint_name(self._projected(x, *part), KEPT).reshape(*x.shape[:-1], *head)
                for part in parts
            )
        if spelt_out:
            weights = attention_weights(query, key, keys)
            self.sow("intermediates", "weights", weights)
            weights = nn.Dropout(self.dropout, deterministic=not train)(weights)
            mixed = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(self.dtype), value)
        else:
            mixed = attend(query, key, value, keys, self.attention, self.length)
        return nn.DenseGeneral(
            width,
            axis=(-2, -1),
            dtype=self.dtype,
            kernel_init=self.out_init or self.kernel_init,
            name="out",
        )(mixed)

    def _projected(self, x: Array, kernel: Array, bias: Array) -> Array:
        """f[... W] -> dtype[... F]."""
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + bias


class _Projection(nn.Module):
    """The parameters of `nn.DenseGeneral` from a width to heads, as a matrix and a vector."""

    width: int
    head: tuple[int, int]
    kernel_init: Initializer

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        flat = (self.width, math.prod(self.head))

        def first(rng: Array, shape: tuple[int, ...]) -> Array:
            return self.kernel_init(rng, flat, jnp.float32).reshape(shape)

        kernel = self.param("kernel", first, (self.width, *self.head))
        bias = self.param("bias", nn.initializers.zeros, self.head)
        return kernel.reshape(flat), bias.reshape(-1)


def is_spelt_out(module: nn.Module, train: bool, dropout: float) -> bool:
    """Whether attention is computed in parts: no kernel returns its weights or drops some.

    Args:
      module: what attends; its weights are asked for where 'intermediates' is mutable.
      train: whether dropout is active.
      dropout: the rate on the weights.
    """
    return module.is_mutable_collection("intermediates") or (train and dropout > 0)


def fill(
    tower: nn.Module, x: Array, attention: str | None, train: bool = False, dropout: float = 0.0
) -> Array:
    """f[B T W], positions added up to the multiple of 8 that cuDNN's kernel has.

    Filled up once, before the first layer, they are not copied around the kernel of each. Nothing
    is added where the attention of the tower `is_spelt_out`.
    """
    fused = attention == "cudnn" and not is_spelt_out(tower, train, dropout)
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % 8 if fused else 0), (0, 0)))


def attend(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    implementation: str | None,
    length: int | None = None,
) -> Array:
    """`jax.nn.dot_product_attention`; which implementation it uses is logged once.

    Args:
      query: f[B T H D].
      key: f[B T H D].
      value: f[B T H D].
      mask: bool[B 1 1 T], False where a key may not be used, or None.
      implementation: None leaves the choice to JAX (XLA's, in the versions known so far), 'xla',
        or 'cudnn', the fused kernel of NVIDIA cards, for bfloat16 and float16 only.
      length: the number of keys before those that `fill` added, where there is no mask.

    Returns:
      f[B T H D].

    Raises:
      InputError: for another implementation, or 'cudnn' where it cannot run.
    """
    if implementation not in (None, "xla", "cudnn"):
        raise InputError(
            f"There is no attention '{implementation}'; choose None, 'xla' or 'cudnn'."
        )
    backend = PLATFORM.get() or jax.default_backend()
    if implementation == "cudnn":
        half = query.dtype in (jnp.bfloat16, jnp.float16)
        if backend != "gpu" or not half:
            raise InputError(
                "attention='cudnn' needs an NVIDIA GPU and the dtype bfloat16 or float16, but this "
                f"is {query.dtype} on '{backend}': leave 'attention' at None."
            )
        _log_attention(implementation, backend)
        return _fused(query, key, value, mask, length)
    _log_attention(implementation, backend)
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=implementation)


def _fused(query: Array, key: Array, value: Array, mask: Array | None, length: int | None) -> Array:
    """cuDNN's kernel, at lengths that it has not: a class token beside 14 x 14 patches makes 197.

    Positions are added up to a multiple of 8, where `fill` has not. No query attends to them, and
    theirs are cut off.
    """
    head = query.shape[-1]
    if head % 8 or head > 128:
        raise InputError(
            f"attention='cudnn' needs heads of a multiple of 8 numbers, 128 at most, not {head}: "
            "choose another number of heads, or leave 'attention' at None."
        )
    rows, queries, keys = query.shape[0], query.shape[1], key.shape[1]
    lengths: dict[str, Any] = {}
    length = keys if length is None else length
    if mask is None and (queries % 8 or length % 8):
        lengths = {"query_seq_lengths": jnp.full(rows, queries, jnp.int32),
                   "key_value_seq_lengths": jnp.full(rows, length, jnp.int32)}  # fmt: skip
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, -x.shape[1] % 8), (0, 0), (0, 0))) for x in (query, key, value)
    )
    if mask is not None:
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, -keys % 8)))
        # cuDNN takes no mask that leaves the queries to broadcasting.
        mask = jnp.broadcast_to(mask, (rows, 1, query.shape[1], key.shape[1]))
    try:
        mixed = jax.nn.dot_product_attention(
            query, key, value, mask=mask, implementation="cudnn", **lengths
        )
    except RuntimeError as error:  # JAX asks the library for its version
        raise InputError(
            f"attention='cudnn' cannot be compiled: {error} pip install 'jax[cuda13]' brings it; "
            "or leave 'attention' at None."
        ) from error
    return mixed[:, :queries]


@cache
def _log_attention(implementation: str | None, backend: str) -> None:
    chosen = "JAX's default (XLA)" if implementation is None else implementation
    _logger.info("Attention is computed by %s on %s.", chosen, backend)


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

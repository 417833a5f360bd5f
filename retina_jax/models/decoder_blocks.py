"""Blocks of self-attention and cross-attention, whole sequences or one position at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.layer_stack import scan_layers
from retina_jax.models.layers import Initializer, layer_norm, zero_bias
from retina_jax.models.transformer import MLP, attend, attention_weights
from retina_jax.types import Array

SELF_ATTENTION = ("causal", "full", "none")
KeysValues = tuple[Array, Array]  # of an attention: dtype[B T H D] twice


class Cache(flax.struct.PyTreeNode):
    """What a decoder keeps of the words so far, for all layers (the first axis).

    Attributes:
      words: keys and values of the positions written so far, dtype[depth B L H D] twice.
      memory: keys and values of the memory, dtype[depth B M H D] twice; None without one.
    """

    words: KeysValues
    memory: KeysValues | None


class Attention(nn.Module):
    """Multi-head attention of one sequence over another, whose keys and values can be kept.

    Its parameters are those of `transformer.SelfAttention`.

    Attributes:
      heads: number of heads; divides the width.
      dropout: rate of dropout on the attention weights (rng collection 'dropout').
      dtype: the dtype of the computation; softmax is float32.
      implementation: the implementation that `transformer.attend` uses.
      bias_init: number of inputs of a linear map -> initialiser of its bias.
    """

    heads: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    implementation: str | None = None
    bias_init: Callable[[int], Initializer] = zero_bias

    @nn.compact
    def __call__(
        self,
        x: Array,
        over: Array | None,
        mask: Array | None,
        train: bool,
        kept: KeysValues | None = None,
        index: Array | None = None,
    ) -> tuple[Array, KeysValues]:
        """Mixes what `over` holds, or what was kept of it, into each position of `x`.

        Args:
          x: f[B Q W].
          over: f[B K W], or None for what is kept only.
          mask: bool, broadcastable to [B 1 Q K]: what may be attended to; None for all.
          train: whether dropout is active.
          kept: keys and values of an earlier call; those of `over` are written into them.
          index: i32[], where.

        Returns:
          dtype[B Q W], and the keys and values.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise InputError(f"A width of {width} cannot be split into {self.heads} heads.")
        init = nn.initializers.xavier_uniform()
        project = partial(
            nn.DenseGeneral,
            features=(self.heads, width // self.heads),
            dtype=self.dtype,
            kernel_init=init,
        )
        query = project(name="query", bias_init=self.bias_init(width))(x)
        if over is not None:
            bias_init = self.bias_init(over.shape[-1])
            key, value = (project(name=n, bias_init=bias_init)(over) for n in ("key", "value"))
            if kept is not None and index is not None:
                key, value = (
                    jax.lax.dynamic_update_slice_in_dim(old, new, index, 1)
                    for old, new in zip(kept, (key, value), strict=True)
                )
        elif kept is not None:
            key, value = kept
        else:
            raise ValueError("An attention needs a sequence, or what was kept of one.")
        if train and self.dropout > 0:
            weights = attention_weights(query, key, mask)
            weights = nn.Dropout(self.dropout, deterministic=False)(weights)
            mixed = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(self.dtype), value)
        else:
            mixed = attend(query, key, value, mask, self.implementation)
        out = nn.DenseGeneral(
            width,
            axis=(-2, -1),
            dtype=self.dtype,
            kernel_init=init,
            bias_init=self.bias_init(width),
            name="out",
        )
        return out(mixed), (key, value)


class _DecoderBlock(nn.Module):
    """x += self-attention(norm(x)); x += cross-attention(norm(x)); x += mlp(norm(x))."""

    heads: int
    mlp_dim: int
    self_attention: str
    cross_attention: bool
    memory_norm: bool
    activation: str
    dropout: float
    mlp_dropout: float
    epsilon: float
    deviation: str
    dtype: Any
    implementation: str | None
    bias_init: Callable[[int], Initializer]

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array | None,
        memory: Array | None,
        memory_mask: Array | None,
        kept: tuple[KeysValues, KeysValues | None] | None,
        index: Array | None,
        train: bool,
    ) -> tuple[Array, Any]:
        norm = partial(layer_norm, self.deviation, epsilon=self.epsilon, dtype=self.dtype)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)
        attention = partial(
            Attention, self.heads, self.dropout, self.dtype, self.implementation, self.bias_init
        )
        words, places = kept or (None, None)
        if self.self_attention != "none":
            normed = norm(name="attention_norm")(x)
            layer = attention(name="attention")
            mixed, words = layer(normed, normed, mask, train, words, index)
            x = x + drop()(mixed)
        if self.cross_attention:
            if self.memory_norm and memory is not None:
                memory = norm(name="memory_norm")(memory)
            layer = attention(name="cross_attention")
            normed = norm(name="cross_attention_norm")(x)
            mixed, places = layer(normed, memory, memory_mask, train, places)
            x = x + drop()(mixed)
        mlp = MLP(
            x.shape[-1],
            self.mlp_dim,
            self.activation,
            self.dtype,
            bias_init=self.bias_init,
            dropout=self.mlp_dropout,
            name="mlp",
        )
        x = x + drop()(mlp(norm(name="mlp_norm")(x), train))
        return x, None if train else (words, places)


class Decoder(nn.Module):
    """Pre-norm transformer blocks and a last norm, over vectors that somebody else embedded.

    With self_attention='full' and without cross-attention it is an encoder; with 'none' it is
    cross-attention only.

    Attributes:
      depth: number of blocks.
      heads: the number of heads of each attention, which divides the width of the input.
      mlp_dim: hidden width of each block's MLP.
      self_attention: 'causal' (a position sees itself and those before it), 'full' or 'none'.
      cross_attention: whether each block attends to a memory, whose width may differ.
      memory_norm: normalise the memory in each block before its cross-attention.
      last_norm: normalise the output of the last block.
      activation: the activation function of the MLPs, a key of `transformer.ACTIVATIONS`.
      dropout: rate on attention weights and on each sum.
      mlp_dropout: rate within each MLP.
      eps: the epsilon of every layer norm.
      deviation: what layer norms divide by, see `layers.layer_norm`.
      dtype: the dtype of the computation; parameters are float32.
      scan, remat: options of `layer_stack.scan_layers`.
      attention: the implementation that `transformer.attend` uses; not used in training with
        dropout.
      bias_init: number of inputs of a linear map -> initialiser of its bias, for all of them.
    """

    depth: int = 3
    heads: int = 8
    mlp_dim: int = 512
    self_attention: str = "causal"
    cross_attention: bool = True
    memory_norm: bool = False
    last_norm: bool = True
    activation: str = "gelu"
    dropout: float = 0.0
    mlp_dropout: float = 0.0
    eps: float = 1e-6
    deviation: str = "biased"
    dtype: Any = "float32"
    scan: bool = True
    remat: str = "dots_no_batch"
    attention: str | None = None
    bias_init: Callable[[int], Initializer] = zero_bias

    def setup(self) -> None:
        """Creates the blocks and the norm."""
        if self.self_attention not in SELF_ATTENTION:
            raise InputError(
                f"A decoder has self_attention {SELF_ATTENTION}, not '{self.self_attention}'."
            )
        dtype = jnp.dtype(self.dtype)
        everywhere = nn.broadcast
        blocks = scan_layers(
            _DecoderBlock,
            self.depth,
            scan=self.scan,
            remat=self.remat,
            inputs=(everywhere, everywhere, everywhere, 0, everywhere),
        )
        self.blocks = blocks(
            self.heads,
            self.mlp_dim,
            self.self_attention,
            self.cross_attention,
            self.memory_norm,
            self.activation,
            self.dropout,
            self.mlp_dropout,
            self.eps,
            self.deviation,
            dtype,
            self.attention,
            self.bias_init,
        )
        if self.last_norm:
            self.norm = layer_norm(self.deviation, epsilon=self.eps, dtype=dtype)

    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        memory: Array | None = None,
        memory_mask: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Decodes whole sequences.

        Args:
          x: f[B L W].
          mask: bool[B L], real positions; no position attends to the others. None for all.
          memory: f[B M W'], for the cross-attention.
          memory_mask: bool[B M], what may be attended to there; None for all.
          train: whether dropout is active.

        Returns:
          dtype[B L W].
        """
        return self._whole(x, mask, memory, memory_mask, train)[0]

    def begin(self, x: Array, memory: Array | None, length: int) -> tuple[Array, Cache]:
        """Decodes the first position of sequences of at most `length` positions.

        Args:
          x: f[B 1 W].
          memory: a memory as for a call; all of it may be attended to.
          length: positions that the cache has room for.

        Returns:
          dtype[B 1 W], and the cache for `step`.
        """
        if self.self_attention != "causal":
            raise InputError("Only a decoder with self_attention='causal' goes word by word.")
        out, ((keys, values), places) = self._whole(x, None, memory, None, train=False)
        room = ((0, 0), (0, 0), (0, length - 1), (0, 0), (0, 0))
        return out, Cache((jnp.pad(keys, room), jnp.pad(values, room)), places)

    def step(self, x: Array, index: Array, cache: Cache) -> tuple[Array, Cache]:
        """Decodes position `index` i32[] from its vector f[B 1 W] and the positions before it.

        Returns:
          dtype[B 1 W], the same as that position of a whole sequence, and the longer cache.
        """
        seen = jnp.arange(cache.words[0].shape[2]) <= index
        kept = (cache.words, cache.memory)
        out, (words, _) = self.blocks(x, seen[None, None, None], None, None, kept, index, False)
        return self._normed(out), cache.replace(words=words)

    def _whole(
        self,
        x: Array,
        mask: Array | None,
        memory: Array | None,
        memory_mask: Array | None,
        train: bool,
    ) -> tuple[Array, Any]:
        if self.cross_attention and memory is None:
            raise InputError("A decoder with cross-attention needs a memory to attend to.")
        seen = _over_keys(mask)
        if self.self_attention == "causal":
            causal = jnp.tril(jnp.ones((x.shape[1],) * 2, bool))[None, None]
            seen = causal if seen is None else causal & seen
        out, kept = self.blocks(x, seen, memory, _over_keys(memory_mask), None, None, train)
        return self._normed(out), kept

    def _normed(self, x: Array) -> Array:
        return self.norm(x) if self.last_norm else x


def _over_keys(mask: Array | None) -> Array | None:
    """bool[B K] -> bool[B 1 1 K]."""
    return None if mask is None else mask.astype(bool)[:, None, None, :]


def encoder_blocks(module: nn.Module) -> Decoder:
    """The submodule `blocks`, which sees whole sequences and nothing else.

    Args:
      module: whose `depth`, `heads`, `mlp_dim`, `dropout` and `dtype` it takes, and whose
        compact method this is called in.
    """
    shared = ("depth", "heads", "mlp_dim", "dropout", "dtype")
    return Decoder(
        self_attention="full",
        cross_attention=False,
        **{name: getattr(module, name) for name in shared},
        name="blocks",
    )

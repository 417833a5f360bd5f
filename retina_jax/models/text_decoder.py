"""Decoders of text: one that writes about a memory, and one that fills in masked words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from retina_jax.models.decoder_blocks import Cache, Decoder, encoder_blocks
from retina_jax.models.layers import Initializer, sinusoids, torch_bias, torch_linear, zero_bias
from retina_jax.types import Array


class TextDecoder(nn.Module):
    """Tokens in, scores of the next token out, with a memory to attend to.

    The defaults are those of KeepFIT-FFA's captioner: embeddings times the root of the width plus
    fixed sinusoids, blocks with ReLU, a linear map with bias to the vocabulary; only `Captioner`
    sets its `mlp_dropout` and `bias_init`.

    Attributes:
      vocab_size: number of tokens.
      width: the width of the hidden states, even.
      depth, heads, mlp_dim, activation, mlp_dropout, eps, deviation, dtype, scan, remat,
        attention, bias_init: options of `decoder_blocks.Decoder`.
      dropout: rate on the embeddings, on attention weights and on each sum.
    """

    vocab_size: int
    width: int = 512
    depth: int = 3
    heads: int = 8
    mlp_dim: int = 512
    activation: str = "relu"
    dropout: float = 0.1
    mlp_dropout: float = 0.0
    eps: float = 1e-6
    deviation: str = "biased"
    dtype: Any = "float32"
    scan: bool = True
    remat: str = "dots_no_batch"
    attention: str | None = None
    bias_init: Callable[[int], Initializer] = zero_bias

    def setup(self) -> None:
        """Creates the embeddings, the blocks and the map to the vocabulary."""
        dtype = jnp.dtype(self.dtype)
        self.embedding = nn.Embed(
            self.vocab_size,
            self.width,
            dtype=dtype,
            embedding_init=nn.initializers.xavier_uniform(),
        )
        self.embedding_dropout = nn.Dropout(self.dropout)
        shared = ("depth", "heads", "mlp_dim", "activation", "dropout", "mlp_dropout", "eps")
        shared += ("deviation", "dtype", "scan", "remat", "attention", "bias_init")
        self.decoder = Decoder(**{name: getattr(self, name) for name in shared})
        self.logits = nn.Dense(
            self.vocab_size,
            dtype=jnp.float32,  # scores, like losses, whatever the blocks compute in
            kernel_init=torch_linear,
            bias_init=torch_bias(self.width),
        )

    def __call__(
        self, text: Array, text_mask: Array | None, memory: Array, train: bool = False
    ) -> Array:
        """Scores of the token that follows each position.

        Args:
          text: i32[B L], token ids.
          text_mask: bool[B L], real tokens; no position attends to the others. None for all.
          memory: f[B M W'].
          train: whether dropout is active.

        Returns:
          f32[B L vocab_size].
        """
        x = self._embed(text, sinusoids(text.shape[1], self.width))
        x = self.embedding_dropout(x, deterministic=not train)
        return self._scores(self.decoder(x, text_mask, memory, train=train))

    def begin(self, token: Array, memory: Array, length: int) -> tuple[Array, Cache]:
        """Scores f32[B V] of what follows the first token i32[B], and the cache for `step`."""
        x = self._embed(token[:, None], sinusoids(1, self.width))
        out, cache = self.decoder.begin(x, memory, length)
        return self._scores(out)[:, 0], cache

    def step(self, token: Array, index: Array, cache: Cache) -> tuple[Array, Cache]:
        """Scores f32[B V] of what follows token i32[B] at position `index` i32[]; its cache."""
        table = sinusoids(cache.words[0].shape[2], self.width)
        x = self._embed(token[:, None], jax.lax.dynamic_slice_in_dim(table, index, 1))
        out, cache = self.decoder.step(x, index, cache)
        return self._scores(out)[:, 0], cache

    def _embed(self, text: Array, positions: Array) -> Array:
        x = self.embedding(text) * math.sqrt(self.width)
        return x + positions.astype(x.dtype)

    def _scores(self, x: Array) -> Array:
        return self.logits(x)


class MaskedTextDecoder(nn.Module):
    """Blocks that see the whole text, and scores by the encoder's word embeddings and a bias.

    Attributes:
      depth, heads, mlp_dim, dropout: options of `decoder_blocks.Decoder`.
      dtype: the dtype of the computation; scores are float32.
    """

    depth: int = 4
    heads: int = 8
    mlp_dim: int = 2048
    dropout: float = 0.0
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, tokens: Array, mask: Array, table: Array, train: bool = False) -> Array:
        """Scores every word at every position.

        Args:
          tokens: f[B L W].
          mask: bool[B L], real tokens; no position attends to the others.
          table: f32[V W], the word embeddings.
          train: whether dropout is active.

        Returns:
          f32[B L V].
        """
        x = encoder_blocks(self)(tokens, mask, train=train)
        bias = self.param("bias", nn.initializers.zeros, (table.shape[0],), jnp.float32)
        scores = jnp.einsum(
            "blw,vw->blv", x, table.astype(x.dtype), preferred_element_type=jnp.float32
        )
        return scores.astype(jnp.float32) + bias

"""A decoder of text over blocks that attend to a memory: whole texts, or word by word."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from retina_jax.models.decoder_blocks import Cache, Decoder
from retina_jax.models.layers import sinusoids, torch_bias, torch_linear
from retina_jax.types import Array


class TextDecoder(nn.Module):
    """Tokens in, scores of the next token out, with a memory to attend to.

    The defaults are those of KeepFIT-FFA's captioner: embeddings times the root of the width plus
    fixed sinusoids, blocks with ReLU, a linear map with bias to the vocabulary.

    Attributes:
      vocab_size: number of tokens.
      width: of the hidden states, even.
      depth, heads, mlp_dim, activation, eps, deviation, dtype, scan, remat, attention: see
        `decoder_blocks.Decoder`.
      dropout: rate on the embeddings, on attention weights and on each sum.
    """

    vocab_size: int
    width: int = 512
    depth: int = 3
    heads: int = 8
    mlp_dim: int = 512
    activation: str = "relu"
    dropout: float = 0.1
    eps: float = 1e-6
    deviation: str = "biased"
    dtype: Any = "float32"
    scan: bool = True
    remat: str = "dots"
    attention: str | None = None

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
        shared = ("depth", "heads", "mlp_dim", "activation", "dropout", "eps", "deviation")
        shared += ("dtype", "scan", "remat", "attention")
        self.decoder = Decoder(**{name: getattr(self, name) for name in shared})
        self.logits = nn.Dense(
            self.vocab_size,
            dtype=jnp.float32,  # scores, like losses, whatever the blocks compute in
            kernel_init=torch_linear,
            bias_init=torch_bias(self.width),
        )

    def __call__(
        self,
        text: Array,
        text_mask: Array | None,
        memory: Array,
        memory_mask: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Scores of the token that follows each position.

        Args:
          text: i32[B L], token ids.
          text_mask: bool[B L], real tokens; no position attends to the others. None for all.
          memory: f[B M W'].
          memory_mask: bool[B M], or None for all.
          train: whether dropout is active.

        Returns:
          f32[B L vocab_size].
        """
        x = self._embed(text, sinusoids(text.shape[1], self.width))
        x = self.embedding_dropout(x, deterministic=not train)
        return self._scores(self.decoder(x, text_mask, memory, memory_mask, train))

    def begin(
        self, token: Array, memory: Array, memory_mask: Array | None, length: int
    ) -> tuple[Array, Cache]:
        """Scores f32[B V] of what follows the first token i32[B], and the cache for `step`."""
        x = self._embed(token[:, None], sinusoids(1, self.width))
        out, cache = self.decoder.begin(x, memory, memory_mask, length)
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

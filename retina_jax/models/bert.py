"""BERT as Hugging Face's `BertModel` computes it, so that its weights can be loaded."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.layer_stack import residual_sum, scan_layers
from retina_jax.models.transformer import MLP, SelfAttention, fill
from retina_jax.types import Array

POOLS = ("flair", "masked_mean", "last_mean", "cls")
bert_init = nn.initializers.truncated_normal(0.02)


class _Layer(nn.Module):
    """Attention and an MLP: x = norm(x + f(x)) for each, or with `pre_norm` x = x + f(norm(x))."""

    heads: int
    mlp_dim: int
    dropout: float
    eps: float
    dtype: Any
    implementation: str | None
    pre_norm: bool

    @nn.compact
    def __call__(self, x: Array, mask: Array, train: bool) -> tuple[Array, Array]:
        norm = partial(nn.LayerNorm, epsilon=self.eps, dtype=self.dtype)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)
        attention = SelfAttention(
            self.heads,
            self.dropout,
            self.dtype,
            kernel_init=bert_init,
            attention=self.implementation,
            name="attention",
        )
        mlp = MLP(x.shape[-1], self.mlp_dim, "gelu", self.dtype, kernel_init=bert_init, name="mlp")
        first, second = norm(name="attention_norm"), norm(name="mlp_norm")
        if self.pre_norm:
            x = residual_sum(x, drop()(attention(first(x), mask, train)))
            x = x + drop()(mlp(second(x)))
        else:
            x = first(residual_sum(x, drop()(attention(x, mask, train))))
            x = second(residual_sum(x, drop()(mlp(x))))
        return x, x


class Bert(nn.Module):
    """The encoder of BERT (Devlin et al. 2019) without its pooling layer.

    The defaults are Bio_ClinicalBERT's (107,719,680 parameters). Exact GELU, layer norms after
    each sum, the type embedding of segment 0 throughout.

    Attributes:
      vocab_size: number of tokens; id 0 pads.
      width: the width of the hidden states.
      depth: number of layers.
      heads: the number of heads of each attention.
      mlp_dim: hidden width of each layer's MLP.
      max_length: number of learned positions, the longest text.
      type_vocab: number of segment types (only the first is used; kept for loading weights).
      dropout: rate on embeddings, on both sums of a layer and on attention weights.
      pool: how `pooled` is made. 'flair' takes the mean over all positions, padding included, of
        the hidden states after layer 1, layer 2 and the last, and the mean of the three, as
        FLAIR and KeepFIT do: the embedding of a text then depends on how far it is padded.
        'masked_mean' is the same over real tokens only. 'last_mean' is their mean after the last
        layer, as sentence transformers have it. 'cls' takes the first position of the last layer.
        With a depth of 2 the last layer is layer 2 and counts twice; with 1, thrice.
      pre_norm: norms before attention and MLP instead of after each sum, which trains from random
        weights without a long warm-up (Xiong et al. 2020), and a norm after the last layer.
      eps: the epsilon of every layer norm.
      dtype: the dtype of the computation; parameters are float32.
      scan, remat: options of `layer_stack.scan_layers`.
      attention: the implementation that `transformer.attend` uses; not used in training with
        dropout.
    """

    reads: ClassVar[str] = "tokens"

    vocab_size: int = 28_996
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    max_length: int = 512
    type_vocab: int = 2
    dropout: float = 0.1
    pool: str = "masked_mean"
    pre_norm: bool = False
    eps: float = 1e-12
    dtype: Any = "float32"
    scan: bool = True
    remat: str = "dots_no_batch"
    attention: str | None = None

    def setup(self) -> None:
        """Creates the embeddings and layers."""
        if self.pool not in POOLS:
            raise InputError(f"There is no pooling '{self.pool}' of texts; choose from {POOLS}.")
        dtype = jnp.dtype(self.dtype)
        embed = partial(nn.Embed, features=self.width, dtype=dtype, embedding_init=bert_init)
        self.word_embedding = embed(self.vocab_size)
        self.position_embedding = embed(self.max_length)
        self.type_embedding = embed(self.type_vocab)
        self.embedding_norm = nn.LayerNorm(epsilon=self.eps, dtype=dtype)
        self.embedding_dropout = nn.Dropout(self.dropout)
        layers = scan_layers(
            _Layer, self.depth, scan=self.scan, remat=self.remat, inputs=(nn.broadcast,)
        )
        self.layers = layers(
            self.heads, self.mlp_dim, self.dropout, self.eps, dtype, self.attention, self.pre_norm
        )
        if self.pre_norm:
            self.last_norm = nn.LayerNorm(epsilon=self.eps, dtype=dtype)

    def __call__(self, text: Array, text_mask: Array, train: bool = False) -> dict[str, Any]:
        """Encodes texts.

        Args:
          text: i32[B L], token ids, L <= max_length.
          text_mask: bool[B L], real tokens; no position attends to the others.
          train: whether dropout is active (rng collection 'dropout').

        Returns:
          pooled: f32[B W].
          tokens: dtype[B L W], the last hidden states.
          hidden: dtype[depth + 1 B L W], the embedded text, then every layer's output, before the
            last norm where there is one.
        """
        length = text.shape[1]
        if length > self.max_length:
            raise InputError(
                f"Texts of {length} tokens do not fit this text tower, which has "
                f"{self.max_length} positions: lower the text length or raise max_length."
            )
        text_mask = text_mask.astype(bool)
        x = self.word_embedding(text) + self.position_embedding(jnp.arange(length))
        x = x + self.type_embedding(jnp.zeros_like(text))
        x = self.embedding_dropout(self.embedding_norm(x), deterministic=not train)
        filled = fill(self, x, self.attention, train, self.dropout)
        mask = jnp.pad(text_mask, ((0, 0), (0, filled.shape[1] - length)))
        last, outputs = self.layers(filled, mask, train)
        last, outputs = last[:, :length], outputs[:, :, :length]
        if self.pre_norm:
            last = self.last_norm(last)
        return {
            "pooled": self._pool(last, outputs, text_mask),
            "tokens": last,
            "hidden": jnp.concatenate([x[None], outputs]),
        }

    def token_table(self) -> Array:
        """The word embeddings, f32[vocab_size width], for a decoder that shares them."""
        return self.word_embedding.embedding

    @property
    def counts_padding(self) -> bool:
        """Whether `pooled` depends on how far a text is padded (see `train.text_lengths`)."""
        return self.pool == "flair"

    def _pool(self, last: Array, outputs: Array, text_mask: Array) -> Array:
        if self.pool == "cls":
            return last[:, 0].astype(jnp.float32)
        weight = jnp.ones_like(text_mask) if self.counts_padding else text_mask
        weight = weight.astype(jnp.float32)[..., None]
        chosen = (outputs[0], outputs[min(2, self.depth) - 1], last)
        if self.pool == "last_mean":
            chosen = (last,)
        mean = sum(state.astype(jnp.float32) for state in chosen) / len(chosen)
        return (mean * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1.0)

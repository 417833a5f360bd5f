"""KeepFIT V2's local knowledge injection: what an expert would write, from places in the picture.

All but what writes captions is used in training only. The abstract of KeepFIT V2 (arXiv 2501.15798)
fixes that local appearance is injected by generative learning; the modules are a design of this
library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.build import call
from retina_jax.models import decoding
from retina_jax.models.appearance import PatchCodePredictor
from retina_jax.models.decoder_blocks import Decoder
from retina_jax.models.text_decoder import TextDecoder
from retina_jax.models.vit import patch_grid
from retina_jax.types import Array


class TiedTextDecoder(TextDecoder):
    """A text decoder that scores the next word by the embeddings it reads words with."""

    def _scores(self, x: Array) -> Array:
        table = self.embedding.embedding
        return jnp.matmul(x.astype(jnp.float32), table.T, precision=jax.lax.Precision.HIGHEST)


class ExpertMemory(nn.Module):
    """The last items of earlier batches, first in, first out (collection 'memory').

    Attributes:
      size: number of items that are kept.
    """

    size: int

    @nn.compact
    def __call__(self, new: Mapping[str, Array], train: bool) -> tuple[dict[str, Array], Array]:
        """Joins the items of this batch with those before, and with `train` remembers them.

        Args:
          new: name -> f32[E ...], one row an item.
          train: whether the new items take the place of the oldest.

        Returns:
          name -> f32[E + size ...], the new items first; remembered ones carry no gradient.
          bool[E + size], which of them are there: a memory begins empty.
        """
        rows = len(jax.tree.leaves(new)[0])
        count = self.variable("memory", "count", jnp.zeros, (), jnp.int32)
        valid = jnp.concatenate([jnp.ones(rows, bool), jnp.arange(self.size) < count.value])
        joined = {}
        for name, items in new.items():
            shape = (self.size, *items.shape[1:])
            past = self.variable("memory", name, jnp.zeros, shape, jnp.float32)
            joined[name] = jnp.concatenate([items, jax.lax.stop_gradient(past.value)])
            if train and not self.is_initializing():
                past.value = jax.lax.stop_gradient(joined[name][: self.size])
        if train and not self.is_initializing():
            count.value = jnp.minimum(count.value + rows, self.size)
        return joined, valid


class QueryExtractor(nn.Module):
    """Learned queries that look at all places of a picture.

    Places are the last feature map: layer norm, a linear map, and learned positions of rows and
    columns. Each of `depth` pre-norm blocks has self-attention among the queries, cross-attention
    to the places, and an MLP.

    Attributes:
      queries: number of queries.
      width: the width of the queries.
      depth: number of blocks.
      heads: the number of heads of each attention.
      mlp_dim: hidden width of each block's MLP.
      dropout: rate on attention weights and on each sum.
      dtype: the dtype of the computation.
    """

    queries: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, features: Array, train: bool) -> Array:
        """f[B h w F] -> dtype[B queries width]; h and w are those seen at initialisation."""
        dtype, init = jnp.dtype(self.dtype), nn.initializers.normal(0.02)
        x = nn.LayerNorm(dtype=dtype, name="norm")(features)
        x = nn.Dense(self.width, dtype=dtype, name="project")(x)
        rows = self.param("rows", init, (x.shape[1], 1, self.width), jnp.float32)
        columns = self.param("columns", init, (x.shape[2], self.width), jnp.float32)
        places = (x + (rows + columns).astype(dtype)).reshape(len(x), -1, self.width)
        queries = self.param("queries", init, (self.queries, self.width), jnp.float32)
        blocks = Decoder(
            depth=self.depth,
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            self_attention="full",
            dropout=self.dropout,
            dtype=self.dtype,
            name="blocks",
        )
        queries = jnp.broadcast_to(queries.astype(dtype), (len(x), *queries.shape))
        return blocks(queries, memory=places, train=train)


def nearest(query: Array, key: Array, count: int, valid: Array | None) -> Array:
    """The most similar keys of each query.

    Args:
      query: f32[B D], unit rows.
      key: f32[E D], unit rows.
      count: how many.
      valid: bool[E], the keys that may be chosen; None for all.

    Returns:
      i32[B count], the most similar first.

    Raises:
      InputError: while tracing, for more than there are.
    """
    if count > len(key):
        raise InputError(
            f"The local injection takes the {count} nearest of {len(key)} expert items; lower "
            "'nearest' or raise the batch_size of the expert stream."
        )
    cosine = jnp.matmul(query, key.T, precision=jax.lax.Precision.HIGHEST)
    if valid is not None:
        cosine = jnp.where(valid, cosine, -2.0)
    return jax.lax.top_k(cosine, count)[1]


class LocalInjection(nn.Module):
    """Writes the captions of expert pictures, and public prompts with the help of expert pictures.

    One query extractor and one decoder serve both. The decoder writes an expert's caption from the
    queries of its picture. For a public picture the queries first attend to those of the expert
    pictures that look most like it (one pre-norm block of cross-attention and MLP), and the
    decoder writes its prompt from the result.

    Attributes:
      decoder: options of `TextDecoder`, whose words are scored by the embeddings they are read
        with; its width, heads and dtype are those here unless given.
      queries: number of queries of a picture.
      width: the width of the queries.
      depth: blocks of the extractor.
      heads: the number of heads of each attention.
      mlp_dim: hidden width of the MLPs of the extractor and of the exchange.
      nearest: expert pictures that a public one looks at.
      length: tokens of a text that are written, from its start.
      dropout: rate in the extractor and the exchange.
      appearance: options of `PatchCodePredictor`; None to predict no codes of patches.
      bos_id, eos_id, decoding: how `generate` writes, see `Captioner`.
      dtype: the dtype of the computation; scores are float32.
    """

    decoder: Mapping[str, Any]
    queries: int = 32
    width: int = 512
    depth: int = 2
    heads: int = 8
    mlp_dim: int = 2048
    nearest: int = 4
    length: int = 128
    dropout: float = 0.1
    appearance: Mapping[str, Any] | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    decoding: Mapping[str, Any] | None = None
    dtype: Any = "float32"

    def setup(self) -> None:
        """Creates the extractor, the exchange, the decoder and, if asked for, the codes."""
        common = {"heads": self.heads, "dropout": self.dropout, "dtype": self.dtype}
        self.extractor = QueryExtractor(
            queries=self.queries, width=self.width, depth=self.depth, mlp_dim=self.mlp_dim, **common
        )
        self.exchange = Decoder(
            depth=1, mlp_dim=self.mlp_dim, self_attention="none", memory_norm=True, **common
        )
        options = {
            "width": self.width, "heads": self.heads, "mlp_dim": self.mlp_dim,
            "activation": "gelu", "dtype": self.dtype, **self.decoder,
        }  # fmt: skip
        where = "The 'decoder' of KeepFIT's local injection"
        self.writer = call(where, TiedTextDecoder, **options)
        self.strategy = decoding.make_decoder(self.decoding)
        if self.appearance is not None:
            options = {**common, "width": self.width, "mlp_dim": self.mlp_dim, **self.appearance}
            where = "The 'appearance' of KeepFIT's local injection"
            self.codes = call(where, PatchCodePredictor, **options)

    def extract_queries(self, features: Array, train: bool) -> Array:
        """The queries of pictures: f[B h w F] -> f32[B queries width]."""
        return self.extractor(features, train).astype(jnp.float32)

    def caption_logits(self, queries: Array, text: Array, text_mask: Array, train: bool) -> Array:
        """Scores every next token of a text.

        Args:
          queries: f[B Q W], what the decoder attends to.
          text: i32[B L], its tokens, the first of which is only read.
          text_mask: bool[B L].
          train: whether dropout is active.

        Returns:
          f32[B min(L, length) - 1 V]: position i scores token i + 1.
        """
        text, text_mask = text[:, : self.length], text_mask[:, : self.length]
        return self.writer(text[:, :-1], text_mask[:, :-1], queries, train=train)

    def generate(self, queries: Array) -> Array:
        """Writes a caption from f[B Q W], i32[B length - 1]; see `decoding.Greedy`."""
        ends = decoding.Ends(self.bos_id, self.eos_id)
        return decoding.generate(self.writer, queries, self.strategy, ends, self.length - 1)

    def cross_attend_experts(
        self, queries: Array, chosen: Array, experts: Array, train: bool, valid: Array | None = None
    ) -> Array:
        """Lets the queries of public pictures look at those of expert pictures.

        Args:
          queries: f32[B Q W].
          chosen: i32[B K], the expert pictures of each public one.
          experts: f32[E Q W].
          train: whether dropout is active.
          valid: bool[E], the expert pictures that may be looked at; None for all. A memory that is
            not full yet may hold fewer than K.

        Returns:
          f[B Q W].
        """
        around = experts[chosen].reshape(len(queries), -1, experts.shape[-1])
        seen = None if valid is None else jnp.repeat(valid[chosen], experts.shape[1], axis=1)
        return self.exchange(queries, memory=around, memory_mask=seen, train=train)


def feature_map(tower: nn.Module, encoded: Mapping[str, Array], image: Array) -> Array:
    """The last feature map of an image tower.

    Args:
      tower: a bound tower of pictures.
      encoded: what it returned.
      image: [B H W 3], what it read.

    Returns:
      f[B h w F].
    """
    if "map" in encoded:
        return encoded["map"]
    if getattr(tower, "token_drop", 0):
        raise InputError("The local injection needs every place: set token_drop to 0.")
    tokens = encoded["tokens"][:, tower.others() :]
    return tokens.reshape(len(tokens), *patch_grid(image.shape, tower.patch_size), -1)

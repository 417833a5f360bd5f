"""KeepFIT: one pair of towers, two streams, and an attention from one stream to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.build import check_options
from retina_jax.models.dual import Dual
from retina_jax.models.layers import torch_linear
from retina_jax.types import Array, Batch, Outputs

SOFTMAX_AXES = {"keys": -1, "heads": 0}


def reference_weights(query: Array, key: Array, softmax_axis: str = "keys") -> Array:
    """How much each public item draws on each expert item.

    Args:
      query: f32[H B d], projected public images.
      key: f32[H E d], projected expert images.
      softmax_axis: 'keys' normalises over the expert items, the attention that KeepFIT describes.
        'heads' normalises over the heads, which is what the released code does: it calls softmax
        on a three-dimensional array without an axis (KeepFIT-CFP keepfit/modeling/model.py:756).

    Returns:
      f32[H B E], which sums to one over the chosen axis.
    """
    scores = jnp.einsum("hbd,hed->hbe", query, key, precision=jax.lax.Precision.HIGHEST)
    return jax.nn.softmax(scores / query.shape[-1] ** 0.5, axis=SOFTMAX_AXES[softmax_axis])


class ReferenceAttention(nn.Module):
    """Multi-head attention without biases, residual or norm, from public to expert items.

    R = concat_h(dropout(A_h) V_h) W_o with A = softmax(Q K^T / sqrt(D / heads)); all expert items
    of the batch are one set of keys. KeepFIT (Wu et al. 2024), keepfit/modeling/model.py:728-762.

    Attributes:
      heads: number of heads; divides D.
      dropout: rate on the weights A (rng collection 'dropout').
      softmax_axis: see `reference_weights`.
    """

    heads: int = 2
    dropout: float = 0.5
    softmax_axis: str = "keys"

    @nn.compact
    def __call__(self, query: Array, key: Array, value: Array, train: bool = False) -> Array:
        """Builds a reference text for each public image.

        Args:
          query: f32[B D], public image embeddings.
          key: f32[E D], expert image embeddings.
          value: f32[E D], expert text embeddings.
          train: whether dropout is active.

        Returns:
          f32[B D], not normalised.
        """
        dim = query.shape[-1]
        if self.softmax_axis not in SOFTMAX_AXES:
            raise InputError(
                f"The reference attention has softmax_axis {list(SOFTMAX_AXES)}, "
                f"not '{self.softmax_axis}'."
            )
        if dim % self.heads:
            raise InputError(
                f"Embeddings of {dim} dimensions cannot be split into {self.heads} heads."
            )

        def project(x: Array, name: str) -> Array:
            dense = nn.Dense(
                dim,
                use_bias=False,
                kernel_init=torch_linear,
                precision=jax.lax.Precision.HIGHEST,
                name=name,
            )
            return dense(x)

        def split(x: Array) -> Array:
            return x.reshape(-1, self.heads, dim // self.heads).transpose(1, 0, 2)

        weights = reference_weights(
            split(project(query, "query")), split(project(key, "key")), self.softmax_axis
        )
        weights = nn.Dropout(self.dropout, deterministic=not train)(weights)
        values = split(project(value, "value"))
        mixed = jnp.einsum("hbe,hed->bhd", weights, values, precision=jax.lax.Precision.HIGHEST)
        return project(mixed.reshape(-1, dim), "out")


class KeepFIT(Dual):
    """An image and a text tower trained on a public and an expert stream at once.

    The streams pass the towers one after the other, in the order of `streams`: BatchNorm
    normalises each by its own statistics and records both, as the published training does. They
    may differ in size. `embed` and `features` are those of `Dual`, on a batch without streams.
    Parameters: those of `Dual`, and `attention` (unused outside training).

    Attributes:
      streams: the two keys of the batch: the one whose texts are revised, then the expert one.
      reference: options of `ReferenceAttention`.
    """

    streams: Sequence[str] = ("public", "expert")
    reference: Mapping[str, Any] | None = None

    def setup(self) -> None:
        """Adds the reference attention to the towers of `Dual`."""
        super().setup()
        if not {"image", "text"} <= set(self.towers):
            raise InputError(
                f"KeepFIT needs an 'image' and a 'text' tower, not {sorted(self.towers)}."
            )
        if len(self.streams) != 2:
            raise InputError(f"KeepFIT has two streams, not {tuple(self.streams)}.")
        options = dict(self.reference or {})
        check_options("KeepFIT's reference", ReferenceAttention, options)
        self.attention = ReferenceAttention(**options)

    def __call__(self, batch: Batch, train: bool = False) -> Outputs:
        """Embeds both streams and builds the reference of the first from the second.

        Args:
          batch: {stream: {key: array}} for both streams and the key of every tower.
          train: whether dropout is active and BatchNorm uses and records the statistics.

        Returns:
          z: {'<stream>/<key>': f32[B dim]}, unit rows, B being the stream's own size.
          scale: f32[], in [1, scale_max].
          bias: f32[], where the model has one.
          reference: f32[B dim] for the items of the first stream; not normalised.
        """
        return self.combine(self.encode(batch, train), train)

    def encode(self, batch: Batch, train: bool = False) -> Outputs:
        """What `__call__` returns without `reference`: each row from its own row of the batch."""
        z = {}
        for stream in self.streams:
            embeddings = self._embeddings(batch[stream], tuple(self.towers), train)
            z.update({f"{stream}/{key}": value for key, value in embeddings.items()})
        return {"z": z, **self._temperature()}

    def combine(self, out: Outputs, train: bool = False) -> Outputs:
        """Adds `reference`, for which each public item looks at all expert items."""
        z, (public, expert) = out["z"], self.streams
        reference = self.attention(
            z[f"{public}/image"], z[f"{expert}/image"], z[f"{expert}/text"], train
        )
        return {**out, "reference": reference}

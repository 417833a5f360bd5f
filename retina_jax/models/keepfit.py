"""KeepFIT: one pair of towers, two streams, and an attention from one stream to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.build import call
from retina_jax.models.dual import Dual
from retina_jax.models.keepfit_v2 import ExpertMemory, LocalInjection, feature_map, nearest
from retina_jax.models.layers import torch_linear
from retina_jax.types import Array, Batch, Outputs

SOFTMAX_AXES = {"keys": -1, "heads": 0}


def reference_weights(
    query: Array, key: Array, softmax_axis: str = "keys", valid: Array | None = None
) -> Array:
    """How much each public item draws on each expert item.

    Args:
      query: f32[H B d], projected public images.
      key: f32[H E d], projected expert images.
      softmax_axis: 'keys' normalises over the expert items, the attention that KeepFIT describes.
        'heads' normalises over the heads, which is what the released code does: it calls softmax
        on a three-dimensional array without an axis (KeepFIT-CFP keepfit/modeling/model.py:756).
      valid: bool[E], the expert items that count, at least one; None for all.

    Returns:
      f32[H B E], which sums to one over the chosen axis, and is zero where an item is not there.
    """
    scores = jnp.einsum("hbd,hed->hbe", query, key, precision=jax.lax.Precision.HIGHEST)
    scores = scores / query.shape[-1] ** 0.5
    if valid is None:
        return jax.nn.softmax(scores, axis=SOFTMAX_AXES[softmax_axis])
    weights = jax.nn.softmax(jnp.where(valid, scores, -1e30), axis=SOFTMAX_AXES[softmax_axis])
    return jnp.where(valid, weights, 0.0)


class ReferenceAttention(nn.Module):
    """Multi-head attention without biases, residual or norm, from public to expert items.

    R = concat_h(dropout(A_h) V_h) W_o with A = softmax(Q K^T / sqrt(D / heads)); all expert items
    of the batch are one set of keys. KeepFIT (Wu et al. 2024), keepfit/modeling/model.py:728-762.

    Attributes:
      heads: number of heads; divides D.
      dropout: rate on the weights A (rng collection 'dropout').
      softmax_axis: the same as in `reference_weights`.
    """

    heads: int = 2
    dropout: float = 0.5
    softmax_axis: str = "keys"

    @nn.compact
    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        train: bool = False,
        valid: Array | None = None,
    ) -> Array:
        """Builds a reference text for each public image.

        Args:
          query: f32[B D], public image embeddings.
          key: f32[E D], expert image embeddings.
          value: f32[E D], expert text embeddings.
          train: whether dropout is active.
          valid: bool[E], see `reference_weights`.

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
            return einops.rearrange(x, "b (h d) -> h b d", h=self.heads)

        weights = reference_weights(
            split(project(query, "query")), split(project(key, "key")), self.softmax_axis, valid
        )
        weights = nn.Dropout(self.dropout, deterministic=not train)(weights)
        values = split(project(value, "value"))
        mixed = jnp.einsum("hbe,hed->bhd", weights, values, precision=jax.lax.Precision.HIGHEST)
        return project(einops.rearrange(mixed, "b h d -> b (h d)"), "out")


class KeepFIT(Dual):
    """An image and a text tower trained on public and expert streams at once (KeepFIT, V1 and V2).

    The streams pass the towers one after the other, in the order of `streams`: BatchNorm
    normalises each by its own statistics and records all of them in that order, as the published
    training does. They may differ in size. `embed` and `features` are those of `Dual`, on a batch
    without streams.

    Parameters: those of `Dual`, `attention`, and `injection` where `local` is given. What is not
    in `Dual` is unused outside training, but for what `generate` writes with. With `memory`, the
    collection 'memory' has the last expert items as `past_<stream>`.

    Attributes:
      streams: pairs of keys of the batch: one whose texts are revised, and the expert one that it
        draws on. Several pairs are trained jointly, for instance one of each modality: pairs share
        all parameters, and no public item looks at the experts of another pair.
      reference: options of `ReferenceAttention`.
      memory: expert items of earlier batches that public items look at beside those of this one,
        without gradient; the oldest are forgotten first.
      local: options of `LocalInjection`; None for KeepFIT V1, without generative terms.
    """

    streams: Sequence[tuple[str, str]] = (("public", "expert"),)
    reference: Mapping[str, Any] | None = None
    memory: int = 0
    local: Mapping[str, Any] | None = None

    def setup(self) -> None:
        """Adds to the towers of `Dual` what public items draw on expert items with."""
        super().setup()
        if not {"image", "text"} <= set(self.towers):
            raise InputError(
                f"KeepFIT needs an 'image' and a 'text' tower, not {sorted(self.towers)}."
            )
        names = [name for pair in self.streams for name in pair]
        if not names or len(set(names)) < 2 * len(self.streams):
            raise InputError(
                "KeepFIT has pairs of two streams, each of which occurs once, not "
                f"{tuple(self.streams)}."
            )
        options = dict(self.reference or {})
        self.attention = call("reference", ReferenceAttention, **options)
        if self.memory:
            self.past = {expert: ExpertMemory(self.memory) for _, expert in self.streams}
        if self.local is not None:
            options = {"dtype": self.dtype, **self.local}
            self.injection = call("KeepFIT's 'local'", LocalInjection, **options)

    def __call__(self, batch: Batch, train: bool = False) -> Outputs:
        """Embeds all streams and builds what the first of each pair takes from the second.

        Args:
          batch: {stream: {key: array}} for all streams and the key of every tower.
          train: whether dropout is active, BatchNorm uses and records the statistics, and the
            memory remembers this batch.

        Returns:
          z: {'<stream>/<key>': f32[B dim]}, unit rows, B being the stream's own size.
          scale: f32[], in [1, scale_max].
          bias: f32[], where the model has one.
          reference: {public stream: f32[B dim]}, not normalised.
          caption_logits, where `local` is given: {stream: f32[B L - 1 V]}, scores of the next
            tokens of each stream's text, see `LocalInjection.caption_logits`.
          appearance, where it is asked for: {stream: what `PatchCodePredictor` returns}.
        """
        return self.combine(self.encode(batch, train), train)

    def generate(self, batch: Batch) -> dict[str, Array]:
        """What an expert would write about pictures of a batch without streams.

        Returns:
          generated: i32[B length - 1], see `LocalInjection`.
          image: f32[B F], as by `features`.
        """
        if self.local is None:
            raise InputError(
                "KeepFIT writes with the option `local` only: remove the evaluator that asks for "
                "texts, or set it."
            )
        encoded = self._encoded(batch, "image", train=False)
        features = feature_map(self.image, encoded, batch["image"])
        queries = self.injection.extract_queries(features, train=False)
        return {"generated": self.injection.generate(queries), "image": encoded["pooled"]}

    def encode(self, batch: Batch, train: bool = False) -> Outputs:
        """What each row gives by itself; `combine` makes of it what `__call__` returns."""
        out: dict[str, dict[str, Any]] = {"z": {}}
        for public, expert in self.streams:
            for stream in (public, expert):
                rows = batch[stream]
                encoded = {key: self._encoded(rows, key, train) for key in self.towers}
                for key, value in encoded.items():
                    out["z"][f"{stream}/{key}"] = self._embedding(key, value)
                if self.local is not None:
                    parts = self._local(rows, encoded["image"], stream == expert, train)
                    for name, value in parts.items():
                        out.setdefault(name, {})[stream] = value
        return {**out, **self.temperature()}

    def _local(
        self, rows: Batch, image: Mapping[str, Array], expert: bool, train: bool
    ) -> dict[str, Any]:
        """Parts of the outputs that the rows of one stream give."""
        features = feature_map(self.image, image, rows["image"])
        queries = self.injection.extract_queries(features, train)
        parts: dict[str, Any] = {"queries": queries}
        text = {key: rows[key] for key in ("text", "text_mask")}
        if expert:
            parts["caption_logits"] = self.injection.caption_logits(queries, **text, train=train)
        else:
            parts["prompt"] = text  # written by `combine`, which sees the experts
        if self.injection.appearance is not None:
            parts["appearance"] = self.injection.codes(rows["image"], features, train)
        return parts

    def combine(self, out: Outputs, train: bool = False) -> Outputs:
        """Adds what each public item takes from all expert items of its pair."""
        out = {**out, "reference": {}}
        queries, prompts = out.pop("queries", {}), out.pop("prompt", {})
        for public, expert in self.streams:
            items = {key: out["z"][f"{expert}/{key}"] for key in ("image", "text")}
            if self.local is not None:
                items["queries"] = queries[expert]
            valid = None
            if self.memory:
                items, valid = self.past[expert](items, train)
            image = out["z"][f"{public}/image"]
            out["reference"][public] = self.attention(
                image, items["image"], items["text"], train, valid
            )
            if self.local is not None:
                chosen = nearest(image, items["image"], self.injection.nearest, valid)
                seen = self.injection.cross_attend_experts(
                    queries[public], chosen, items["queries"], train, valid
                )
                written = self.injection.caption_logits(seen, **prompts[public], train=train)
                out["caption_logits"] = {**out["caption_logits"], public: written}
        return out

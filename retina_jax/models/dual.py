"""Two or more towers that meet in one space of unit vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.layers import (
    PUBLISHED_BOUND,
    head_linear,
    inverse_temperature,
    l2_normalize,
    torch_linear,
)
from retina_jax.models.towers import build_tower, encode, tokens_of
from retina_jax.types import Array, Batch, Outputs


class Dual(nn.Module):
    """One tower for each batch key, each with a linear projection to unit vectors.

    With an image and a text tower this is FLAIR (Silva-Rodriguez et al. 2024) or CLIP; with
    'image' and 'oct' it pairs photographs and volumes (Sükei et al. 2023). Parameters: `<key>`,
    `<key>_projection`, `logit_scale`, and `logit_bias` where it is asked for.

    Embeddings are norm(W features). FLAIR normalises the features as well before the map, which
    changes neither values nor gradients: its W has no bias, so the last norm cancels their length.

    Attributes:
      towers: batch key -> spec of a tower, {'name': one of TOWERS, **its options}.
      dim: the dimension of the common space.
      scale_init: first value of the inverse temperature.
      scale_max: its largest value; the smallest is 1.
      learn_scale: whether it is a parameter; otherwise it stays at `scale_init`.
      bias_init: first value of a learned bias of the logits, for the sigmoid loss (-10 in SigLIP,
        Zhai et al. 2023); None for no such parameter.
      mean: values for each channel that are subtracted from images in [0, 1]; None as in FLAIR and
        KeepFIT.
      std: values for each channel that divide images; None as in FLAIR and KeepFIT.
      projection_bias: keys whose projection has a bias. Only the ResNets of CLIP have one.
      dtype: the dtype of the towers' computation, where their spec names none; parameters,
        embeddings and the scale are float32.
    """

    towers: Mapping[str, Mapping[str, Any]]
    dim: int = 512
    scale_init: float = 1 / 0.07
    scale_max: float = PUBLISHED_BOUND
    learn_scale: bool = True
    bias_init: float | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    projection_bias: Sequence[str] = ()
    dtype: Any = "float32"

    def setup(self) -> None:
        """Creates the towers and projections under the names of their batch keys."""
        if unknown := sorted(set(self.projection_bias) - set(self.towers)):
            raise InputError(
                f"projection_bias names {unknown}, but the model has the towers "
                f"{sorted(self.towers)}."
            )
        for key, spec in self.towers.items():
            setattr(self, key, build_tower(spec, self.dtype))
            bias = key in self.projection_bias
            projection = head_linear(self.dim, use_bias=bias, kernel_init=torch_linear)
            setattr(self, f"{key}_projection", projection)
        if self.learn_scale:
            init = nn.initializers.constant(math.log(self.scale_init))
            self.logit_scale = self.param("logit_scale", init, (), jnp.float32)
        if self.bias_init is not None:
            init = nn.initializers.constant(self.bias_init)
            self.logit_bias = self.param("logit_bias", init, (), jnp.float32)

    def __call__(self, batch: Batch, train: bool = False) -> Outputs:
        """Embeds every modality.

        Args:
          batch: holds the key of every tower, and `text_mask` for `text`.
          train: whether dropout is active and BatchNorm uses and records this batch's statistics.

        Returns:
          z: {key: f32[B dim]}, unit rows.
          scale: f32[], in [1, scale_max].
          bias: f32[], where the model has one.
        """
        return {"z": self._embeddings(batch, tuple(self.towers), train), **self.temperature()}

    def embed(self, batch: Batch) -> dict[str, Array]:
        """Unit embeddings {key: f32[B dim]} for the towers whose key is in the batch."""
        return self._embeddings(batch, self._present(batch), train=False)

    def features(self, batch: Batch) -> dict[str, Array]:
        """What the towers pool, {key: f32[B F]}, neither projected nor normalised."""
        keys = self._present(batch)
        return {key: self._encoded(batch, key, train=False)["pooled"] for key in keys}

    def tokens(self, batch: Batch) -> dict[str, Array]:
        """What the towers of pictures see place by place, {key: f16[B P F]}."""
        keys = [key for key in self._present(batch) if getattr(self, key).reads == "pixels"]
        return {key: tokens_of(self._encoded(batch, key, train=False), key) for key in keys}

    def temperature(self) -> dict[str, Array]:
        """`scale` f32[], and `bias` f32[] where the model has one, as `__call__` returns them."""
        bias = {} if self.bias_init is None else {"bias": self.logit_bias}
        return {"scale": self._scale(), **bias}

    def _present(self, batch: Batch) -> tuple[str, ...]:
        return tuple(key for key in self.towers if key in batch)

    def _encoded(self, batch: Batch, key: str, train: bool) -> dict[str, Array]:
        return encode(getattr(self, key), batch, key, train, self.mean, self.std)

    def _embedding(self, key: str, encoded: Mapping[str, Array]) -> Array:
        projection = getattr(self, f"{key}_projection")
        return l2_normalize(projection(encoded["pooled"]))

    def _embeddings(self, batch: Batch, keys: Sequence[str], train: bool) -> dict[str, Array]:
        return {key: self._embedding(key, self._encoded(batch, key, train)) for key in keys}

    def _scale(self) -> Array:
        if not self.learn_scale:
            return jnp.asarray(self.scale_init, jnp.float32)
        return inverse_temperature(self.logit_scale, self.scale_max)

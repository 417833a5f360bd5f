"""The table of encoders of one modality, and how a tower is fed from a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.models.bert import Bert
from retina_jax.models.clip_resnet import ClipResNet
from retina_jax.models.clip_text import ClipText
from retina_jax.models.efficientnet import EfficientNet
from retina_jax.models.layers import standardize_volume, to_float
from retina_jax.models.resnet import ResNet
from retina_jax.models.resnet3d import ResNet3D
from retina_jax.models.vit import ViT
from retina_jax.types import Array, Batch


class AttentionMIL(nn.Module):
    """A tower of single pictures over every B-scan of a volume, and attention over the B-scans.

    The pooling is that of attention-based multiple instance learning (Ilse et al. 2018, eq. 8):
    the features are averaged with weights softmax_t(w^T tanh(V f_t)). It does not know the order
    of the B-scans.

    Attributes:
      encoder: spec of a tower that reads pixels, shared by all B-scans.
      hidden: rows of V.
      dtype: the dtype of the encoder's computation, where its spec names none; the pooling is
        float32.
    """

    reads: ClassVar[str] = "volume"

    encoder: Mapping[str, Any]
    hidden: int = 128
    dtype: Any = "float32"

    def setup(self) -> None:
        """Creates the encoder and the two maps of the attention."""
        self.slice = build_tower(self.encoder, self.dtype)
        if self.slice.reads != "pixels":
            raise InputError(
                f"'slices' needs an encoder of pictures, not '{self.encoder['name']}'."
            )
        self.attention_hidden = nn.Dense(self.hidden)
        self.attention_score = nn.Dense(1, use_bias=False)

    def __call__(self, volume: Array, train: bool = False) -> dict[str, Array]:
        """Encodes volumes, each at mean 0 and deviation 1 first.

        Args:
          volume: u8 or f32[B T H W 1], T B-scans. Grey is repeated to three channels, so that
            the encoder can start from weights for photographs.
          train: passed on to the encoder.

        Returns:
          pooled: f32[B F].
          weights: f32[B T], how much each B-scan counts; rows sum to one.
        """
        pictures = einops.rearrange(standardize_volume(volume), "b t h w c -> (b t) h w c")
        pictures = jnp.broadcast_to(pictures, (*pictures.shape[:-1], 3))
        features = self.slice(pictures, train=train)["pooled"]
        features = einops.rearrange(features, "(b t) f -> b t f", t=volume.shape[1])
        scores = self.attention_score(nn.tanh(self.attention_hidden(features)))
        weights = jax.nn.softmax(scores[..., 0], axis=-1)
        return {"pooled": jnp.einsum("bt,btf->bf", weights, features), "weights": weights}


# Every tower states in `reads` what it takes ('pixels', 'volume' or 'tokens') and returns a dict
# with 'pooled' f32[B F].
TOWERS = {
    "bert": Bert,
    "clip_resnet": ClipResNet,
    "clip_text": ClipText,
    "efficientnet": EfficientNet,
    "resnet": ResNet,
    "resnet3d": ResNet3D,
    "attention_mil": AttentionMIL,
    "vit": ViT,
}


def with_tokens(encoded: Mapping[str, Array]) -> dict[str, Array]:
    """What a tower returned, with the places of its map as 'tokens' if it has no others."""
    if "tokens" in encoded or "map" not in encoded:
        return dict(encoded)
    places = encoded["map"]
    return {**encoded, "tokens": places.reshape(len(places), -1, places.shape[-1])}


def tokens_of(encoded: Mapping[str, Array], key: str) -> Array:
    """What a tower sees place by place, f16[B P F]: its tokens, or the places of its last map.

    Raises:
      InputError: for a tower that gives neither.
    """
    found = with_tokens(encoded).get("tokens")
    if found is None:
        raise InputError(
            f"The tower of '{key}' gives no tokens and no map, but {sorted(encoded)}; a probe of "
            "what it pools does without."
        )
    return found.astype(jnp.float16)


def build_tower(spec: Mapping[str, Any], dtype: Any) -> nn.Module:
    """Builds the tower of `spec`, computing in `dtype` unless the spec says otherwise."""
    return build(TOWERS, {"dtype": dtype, **spec})


def encode(
    tower: nn.Module,
    batch: Batch,
    key: str,
    train: bool,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> dict[str, Array]:
    """Runs the tower on what the batch holds under its key.

    Args:
      tower: a bound module of TOWERS.
      batch: holds `key`, and `key + '_mask'` for a tower that reads tokens.
      key: the tower's batch key.
      train: passed on to the tower.
      mean: passed on to `to_float`; for towers that read pixels.
      std: passed on to `to_float`; for towers that read pixels.

    Returns:
      The tower's outputs.
    """
    needed = (key, f"{key}_mask") if tower.reads == "tokens" else (key,)
    for name in needed:
        if name not in batch:
            raise InputError(
                f"The model's '{key}' tower needs '{name}', but the batch has only {sorted(batch)}."
            )
    if tower.reads == "pixels":
        return tower(to_float(batch[key], mean, std), train=train)
    if tower.reads == "volume":
        return tower(batch[key], train=train)
    return tower(batch[key], batch[f"{key}_mask"], train=train)

"""The table of encoders of one modality, and how a tower is fed from a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.models.bert import Bert
from retina_jax.models.layers import to_float
from retina_jax.models.resnet import ResNet
from retina_jax.models.vit import ViT
from retina_jax.types import Array, Batch

# Every tower states in `reads` what it takes ('pixels' or 'tokens') and returns a dict with
# 'pooled' f32[B F].
TOWERS = {"bert": Bert, "resnet": ResNet, "vit": ViT}


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
      mean: see `to_float`; for towers that read pixels.
      std: see `to_float`.

    Returns:
      The tower's outputs.
    """
    needed = (key,) if tower.reads == "pixels" else (key, f"{key}_mask")
    for name in needed:
        if name not in batch:
            raise InputError(
                f"The model's '{key}' tower needs '{name}', but the batch has only {sorted(batch)}."
            )
    if tower.reads == "pixels":
        return tower(to_float(batch[key], mean, std), train=train)
    return tower(batch[key], batch[f"{key}_mask"], train=train)

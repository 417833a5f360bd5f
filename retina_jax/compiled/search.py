"""What a config may be told so that its step takes less memory, the cheapest first."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from retina_jax.build import options_of
from retina_jax.models import MODELS
from retina_jax.models.towers import TOWERS
from retina_jax.objectives import OBJECTIVES

_TILE = 1024  # rows of a tile of logits
_MOST_MICROBATCHES = 16
Overrides = dict[str, Any]  # option of a stage, dotted -> value


def savings(stage: Mapping[str, Any], devices: int) -> Iterator[Overrides]:
    """Changes that each save memory: half precision, tiles of logits, values that are computed
    again in the backward pass, microbatches, arrays that are divided over the devices.

    Args:
      stage: the settings of a stage.
      devices: the number of devices that its batch divides over.
    """
    model = stage["model"]
    if "dtype" in options_of(MODELS, model) and model.get("dtype", "float32") == "float32":
        yield {"model.dtype": "bfloat16"}
    rows = min(stream["batch_size"] for stream in stage["streams"].values())
    for name, spec in stage["objectives"].items():
        if "blockwise" in options_of(OBJECTIVES, spec) and not spec.get("blockwise"):
            yield {f"objectives.{name}.blockwise": min(_TILE, rows)}
    remat = {
        f"model.towers.{name}.remat": "full"
        for name, tower in model.get("towers", {}).items()
        if "remat" in options_of(TOWERS, tower) and tower.get("remat") != "full"
    }
    if remat:
        yield remat
    parts = 2
    while parts <= _MOST_MICROBATCHES and rows % (parts * devices) == 0:
        yield {"microbatch": rows // parts}
        parts *= 2
    if devices > 1:
        yield {"mesh.fsdp": devices}


def changed(stage: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """A copy of a stage's settings with these options."""
    made = copy.deepcopy(dict(stage))
    for path, value in overrides.items():
        *places, last = path.split(".")
        inner = made
        for place in places:
            inner[place] = dict(inner.get(place) or {})
            inner = inner[place]
        inner[last] = value
    return made

"""A model with random weights, all of them or from the head downwards (Adebayo et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from retina_jax.saliency.maps import Score, Variables
from retina_jax.train import layer_decay
from retina_jax.types import Batch

SEEDS = 5
ALL = "all"
# What is random -> the share of the layers of the tower that are, beside everything above them.
STEPS = {"head": 0.0, "quarter": 0.25, "half": 0.5, "three_quarters": 0.75, ALL: np.inf}


def drawn(model: nn.Module, score: Score) -> Callable[[int, Mapping[str, np.ndarray]], Variables]:
    """(seed, batch) -> the variables before any training, of all that a score needs."""

    @jax.jit
    def init(key: Any, batch: Batch) -> Any:
        return nn.init(lambda bound: score(bound, batch), model)(key)

    return lambda seed, batch: init(jax.random.key(seed), dict(batch))


def from_the_head(trained: Variables, random: Variables, key: str, share: float) -> Variables:
    """Trained variables of which the head and the uppermost layers of a tower are random.

    Args:
      trained: all variables of a model.
      random: the same, or those of them that a score needs.
      key: the name of the tower.
      share: the share of its layers that are random, in [0, 1]; infinite for what lies below the
        first of them too. Parameters of stacked layers are taken by layer.
    """
    flat: Any = traverse_util.flatten_dict(dict(trained))
    other: Any = traverse_util.flatten_dict(dict(random))
    # The layers of statistics are counted with those of the parameters, not by themselves.
    above = layer_decay.layers_above({path[1:]: np.shape(x) for path, x in flat.items()})
    above = {path: np.ones(()) if place is None else place for path, place in above.items()}
    stem = max(np.max(place) for path, place in above.items() if path[0] == key)
    deepest = share * max(stem - 1, 1)  # the stem is a layer below the first
    mixed = {
        path: jnp.where(above[path[1:]] <= deepest, other[path], x) if path in other else x
        for path, x in flat.items()
    }
    return traverse_util.unflatten_dict(mixed)

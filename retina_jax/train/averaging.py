"""An exponential moving average of what is trained, beside the weights that training goes on from.

Each step that is taken moves the average by `average = d average + (1 - d) new`, where d is
`optimization.ema`, but at most (1 + n) / (10 + n) after n steps: otherwise the random first weights
would have a share in it for many times 1 / (1 - d) steps. This warm-up is that of TensorFlow's
`ExponentialMovingAverage(decay, num_updates)`, by which Inception was trained (Szegedy et al.
2016).

Averaged are the parameters that are trained and the statistics of BatchNorm that move. What is
frozen is its own average and is kept once; other collections, such as a memory, are as they are.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from flax import traverse_util

from retina_jax.train.frozen import Frozen
from retina_jax.types import Array, ModelState, Params, TrainState

_STATISTICS = "batch_stats"
Average = dict[str, Any]  # 'params' and 'batch_stats' -> a part of the tree of that name


def begin(params: Params, model_state: ModelState, frozen: Frozen) -> Average:
    """The average before any step: copies of all that it will hold."""
    trees = {"params": (params, frozen.mask(params))}
    if _STATISTICS in model_state:
        statistics = model_state[_STATISTICS]
        trees[_STATISTICS] = (statistics, frozen.still(params, model_state)[_STATISTICS])
    return {name: _moving(*pair) for name, pair in trees.items()}


def _moving(tree: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    still = traverse_util.flatten_dict(fixed)
    leaves: Any = traverse_util.flatten_dict(tree).items()
    return traverse_util.unflatten_dict({k: jnp.copy(v) for k, v in leaves if not still[k]})


def update(
    average: Average,
    params: Params,
    model_state: ModelState,
    decay: float,
    taken: Array,
    frozen: Frozen,
) -> Average:
    """The average after one more step.

    Args:
      average: that before the step.
      params: those after it.
      model_state: that after it.
      decay: `optimization.ema`.
      taken: i32[], how many steps were taken before it.
      frozen: what is not trained; the first layers that it freezes keep their bits.
    """
    share = jnp.minimum(decay, (1 + taken) / (10 + taken))
    new: Any = _part({"params": params, **model_state}, average)
    moved: Any = optax.incremental_update(new, average, 1 - share)
    return {**moved, "params": frozen.with_first_layers(params, moved["params"])}


def averaged(state: TrainState) -> TrainState:
    """The state with the average in the place of the weights; itself where none is kept."""
    if state.average is None:
        return state
    return _replaced(state, state.average).replace(average=None)


def raw(state: TrainState) -> Average:
    """Of a state with an average, the weights that `averaged` leaves out."""
    return _part({"params": state.params, **state.model_state}, state.average)


def resumed(state: TrainState, weights: Average) -> TrainState:
    """The state whose `averaged` is `state`, and whose `raw` is `weights`."""
    average = _part({"params": state.params, **state.model_state}, weights)
    return _replaced(state, weights).replace(average=average)


def _replaced(state: TrainState, part: Average) -> TrainState:
    whole = _with({"params": state.params, **state.model_state}, part)
    return state.replace(params=whole.pop("params"), model_state=whole)


def _part(tree: Any, like: Any) -> Any:
    """Those leaves of `tree` that `like` has too."""
    if not isinstance(like, Mapping):
        return tree
    return {name: _part(tree[name], value) for name, value in like.items()}


def _with(tree: Any, part: Any) -> Any:
    """`tree` with the leaves of `part` in the place of its own."""
    if not isinstance(tree, Mapping):
        return part
    return {name: _with(leaf, part[name]) if name in part else leaf for name, leaf in tree.items()}

"""Optax from rules over parameter names."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import optax

from data_pipelines.errors import InputError
from retina_jax.build import build, check_options

Rules = Sequence[tuple[str, Mapping[str, Any]]]


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """AdamW with decoupled decay; decays every parameter it is given."""
    return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)


def sgd(
    learning_rate: optax.ScalarOrSchedule, *, momentum: float = 0.9, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """SGD with momentum; the decay is added to the gradient, as PyTorch does."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=momentum)
    )


def amsgrad(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_value: float | None = None,
) -> optax.GradientTransformation:
    """Adam whose second moments never fall (Reddi et al. 2018), decay added to the gradient.

    With `clip_value` each number of the gradient is clipped to that size first. The captioner of
    KeepFIT-FFA trains so. PyTorch takes the maximum before it corrects the bias of the second
    moment, optax after: their first steps differ.
    """
    return optax.chain(
        optax.identity() if clip_value is None else optax.clip(clip_value),
        optax.add_decayed_weights(weight_decay),
        optax.amsgrad(learning_rate, b1=b1, b2=b2, eps=eps),
    )


OPTIMIZERS = {"adamw": adamw, "amsgrad": amsgrad, "sgd": sgd}


def _group(
    *, learning_rate: float = 1.0, decay: bool = True, frozen: bool = False
) -> tuple[float, bool, bool]:
    """The options of a rule: a factor on the learning rate, weight decay or not, frozen or not."""
    return learning_rate, decay, frozen


def parameter_name(path: Sequence[Any]) -> str:
    """'image/layer1/kernel' for the path of a leaf in a nested dict."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)


def assign(params: Any, rules: Rules) -> Any:
    """For each leaf of `params` the index of the first rule whose regex matches its whole name.

    Raises:
      InputError: if a parameter matches no rule, or a rule comes to no parameter: both are
        usually a typo in a pattern.
    """
    patterns = [re.compile(pattern) for pattern, _ in rules]
    used: set[int] = set()

    def index(path: Sequence[Any], _: Any) -> str:
        name = parameter_name(path)
        for i, pattern in enumerate(patterns):
            if pattern.fullmatch(name):
                used.add(i)
                return str(i)
        raise InputError(f"No optimizer rule covers the parameter '{name}'; add ('.*', {{}}) last.")

    labels = jax.tree_util.tree_map_with_path(index, params)
    for i, (pattern, _) in enumerate(rules):
        if i not in used:
            raise InputError(f"The optimizer rule '{pattern}' comes to no parameter; remove it.")
    return labels


def make(
    spec: Mapping[str, Any],
    schedule: optax.Schedule,
    *,
    clip: float | None = None,
    rules: Rules = ((".*", {}),),
) -> optax.GradientTransformation:
    """The gradient transformation of a run.

    Args:
      spec: entry of OPTIMIZERS with its options, e.g. `{'name': 'adamw', 'weight_decay': 1e-5}`.
      schedule: step -> learning rate.
      clip: largest global norm of the gradient, over all parameters that are trained together;
        None for no clipping.
      rules: (regex over the parameter's name, options) pairs; the first that matches counts.
        Options are `learning_rate` (a factor), `decay` (default true) and `frozen`: no state is
        kept for such a parameter (see `train.frozen` for all that the word means).
    """
    groups = {}
    for i, (pattern, options) in enumerate(rules):
        check_options(f"The optimizer rule '{pattern}'", _group, options)
        factor, decay, frozen = _group(**options)
        without_decay = {} if decay else {"weight_decay": 0.0}
        groups[str(i)] = (
            optax.set_to_zero()
            if frozen
            else build(
                OPTIMIZERS, {**spec, **without_decay}, learning_rate=_scaled(schedule, factor)
            )
        )

    def labels(params: Any) -> Any:
        return assign(params, rules)

    transformation = optax.partition(groups, labels)
    if clip is None:
        return transformation
    # Without this the gradient of a frozen tower would shrink the steps of the others.
    trained: dict[Hashable, optax.GradientTransformation] = {
        str(i): optax.set_to_zero() if options.get("frozen") else optax.identity()
        for i, (_, options) in enumerate(rules)
    }
    return optax.chain(
        optax.partition(trained, labels), optax.clip_by_global_norm(clip), transformation
    )


def _scaled(schedule: optax.Schedule, factor: float) -> Callable[[Any], Any]:
    return lambda count: factor * schedule(count)

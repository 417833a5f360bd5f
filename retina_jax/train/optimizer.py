"""Optax from rules over parameter names."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownLambdaType=false
from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_pipelines.errors import InputError
from retina_jax.build import build, check_options
from retina_jax.train.layer_decay import layers_above, stack_of, stacks_of

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
    *,
    learning_rate: float = 1.0,
    decay: bool = True,
    frozen: bool = False,
    frozen_layers: int = 0,
    layer_decay: float = 1.0,
    stored_statistics: bool = False,
) -> tuple[float, bool, bool]:
    """The options of a rule, of which the others are looked up where they are used."""
    del stored_statistics
    if frozen and frozen_layers:
        raise InputError("A rule has 'frozen', or the number of 'frozen_layers', not both.")
    if layer_decay <= 0:
        raise InputError(f"layer_decay is a positive factor of each layer, not {layer_decay}.")
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


def frozen_layers(params: Any, rules: Rules) -> Any:
    """A tree like `params`: how many of the first layers of a leaf are frozen; 0 for none.

    Raises:
      InputError: for a rule with `frozen_layers` that comes to what is no stack of more layers.
    """
    if not any(options.get("frozen_layers") for _, options in rules):
        return jax.tree.map(lambda _: 0, params)
    leaves, structure = jax.tree.flatten_with_path(params)
    paths = [tuple(parameter_name(path).split("/")) for path, _ in leaves]
    stacks = stacks_of(paths)
    numbers: list[int] = []
    chosen = jax.tree.leaves(assign(params, rules))
    for path, (_, leaf), label in zip(paths, leaves, chosen, strict=True):
        pattern, options = rules[int(label)]
        first, name = options.get("frozen_layers", 0), "/".join(path)
        if first and not stack_of(path, stacks):
            raise InputError(
                f"The optimizer rule '{pattern}' has frozen_layers, but comes to '{name}', which "
                "is not of several layers: name those that are, e.g. 'image/blocks/.*', and what "
                "comes before them by a rule that is 'frozen'."
            )
        if first and not 0 < first < leaf.shape[0]:
            raise InputError(
                f"The optimizer rule '{pattern}' has frozen_layers={first}, but '{name}' is of "
                f"{leaf.shape[0]} layers, of which some are to be trained."
            )
        numbers.append(first)
    return jax.tree.unflatten(structure, numbers)


def trained_layers(tree: Any, numbers: Any) -> Any:
    """A tree without the frozen layers that `frozen_layers` counts."""
    return jax.tree.map(lambda leaf, first: leaf[first:] if first else leaf, tree, numbers)


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
        Options are `learning_rate` (a factor), `decay` (default true), `frozen`: no state is
        kept for such a parameter (see `train.frozen` for all that the word means),
        `layer_decay`, e.g. 0.75: one more factor for each layer above (see `train.layer_decay`),
        and `stored_statistics`: BatchNorm with these parameters leaves its statistics as they are
        (see `train.frozen`). `frozen_layers` is how many of the first layers are frozen, where a
        parameter is of a stack of them, as the blocks of a transformer are.
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

    transformation = _of_trained_layers(optax.partition(groups, labels), rules)
    if any("layer_decay" in options for _, options in rules):
        # All that the optimizers do, weight decay too, is proportional to the rate.
        transformation = optax.chain(transformation, _scale_by_layer(rules))
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


def _of_trained_layers(
    inner: optax.GradientTransformation, rules: Rules
) -> optax.GradientTransformation:
    """The same without state and updates of frozen layers in a stack of them."""

    def init(params: Any) -> Any:
        return inner.init(trained_layers(params, frozen_layers(params, rules)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        numbers = frozen_layers(updates, rules)
        seen = None if params is None else trained_layers(params, numbers)
        updates, state = inner.update(trained_layers(updates, numbers), state, seen)
        return jax.tree.map(_filled, updates, numbers), state

    return optax.GradientTransformation(init, update)


def _filled(update: jax.Array, first: int) -> jax.Array:
    return jnp.pad(update, ((first, 0), *((0, 0),) * (update.ndim - 1))) if first else update


def _scaled(schedule: optax.Schedule, factor: float) -> Callable[[Any], Any]:
    return lambda count: factor * schedule(count)


def _scale_by_layer(rules: Rules) -> optax.GradientTransformation:
    """Scales updates by `layer_decay` to the power of the number of layers above."""

    def init(params: Any) -> optax.EmptyState:
        _layer_factors(params, rules)  # so that a mistake is seen before a step is made
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factors = _layer_factors(params, rules)
        return jax.tree.map(_scaled_update, updates, factors), state

    return optax.GradientTransformation(init, update)


def _scaled_update(update: jax.Array, factor: np.ndarray) -> jax.Array:
    return update * factor.astype(update.dtype)


def _layer_factors(params: Any, rules: Rules) -> Any:
    """A tree like `params` of factors that can be broadcast to its leaves.

    Raises:
      InputError: for a rule with `layer_decay` that comes to a tower without known layers.
    """
    leaves, structure = jax.tree.flatten_with_path(params)
    paths = [tuple(parameter_name((key,)) for key in path) for path, _ in leaves]
    shapes = {path: leaf.shape for path, (_, leaf) in zip(paths, leaves, strict=True)}
    above = layers_above(shapes)
    chosen = [int(label) for label in jax.tree.leaves(assign(params, rules))]
    for i, (pattern, options) in enumerate(rules):
        found = [above[path] for path, rule in zip(paths, chosen, strict=True) if rule == i]
        known = any(number is not None and number.any() for number in found)
        if "layer_decay" in options and (not known or any(number is None for number in found)):
            raise InputError(
                f"No layers are known under the optimizer rule '{pattern}', so layer_decay has no "
                "meaning there; leave it out, or name the part that has 'blocks'."
            )
    decays = [float(rules[rule][1].get("layer_decay", 1.0)) for rule in chosen]
    factors = [
        decay ** (0.0 if (number := above[path]) is None else number)
        for decay, path in zip(decays, paths, strict=True)
    ]
    return jax.tree.unflatten(structure, map(np.asarray, factors))

"""Frozen means frozen: no gradient, and modules that behave as in evaluation.

A parameter is frozen by a rule of the optimizer (`{"frozen": True}`), and by nothing else: the
composed loss, the step, microbatches and checkpoints all ask `Frozen` about the same rules.

A module is frozen when it has parameters and all of them are. Whatever `train` it is called with,
it is told `train=False`: no dropout or stochastic depth inside it, and BatchNorm uses the stored
statistics and leaves them as they are. This is done where the model is applied, by intercepting
the calls of its modules (`flax.linen.intercept_methods`), so no tower and no system knows about
it, and it holds for a whole tower, for its first stages, and for layers within a scan. What has no
parameters of its own, such as a dropout between two layers, follows the module that it is part of.
Layers that `layer_stack.scan_layers` stacks are one array, which a regex freezes whole; a rule with
`{"frozen_layers": n}` freezes the first n of them, which are then called apart from the others.

A rule with `{"stored_statistics": True}` is less than that: BatchNorm whose parameters fall under
it normalises by its stored statistics and leaves them, as in evaluation, while its scale and bias,
and all else under the rule, are trained. That is the usual way to fine-tune on batches too small
to tell mean and variance of a channel.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models import layer_stack
from retina_jax.train import optimizer
from retina_jax.train.layer_decay import stack_of, stacks_of
from retina_jax.types import ModelState, Params


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What the rules of an optimizer freeze.

    Attributes:
      rules: the rules of `optimizer.make`; () freezes nothing.
    """

    rules: optimizer.Rules = ()

    @property
    def patterns(self) -> tuple[str, ...]:
        """The regexes of the rules that freeze, with the number of layers where it is told."""
        return tuple(
            f"{pattern} (layers: {layers})" if layers else pattern
            for pattern, options in self.rules
            if (layers := options.get("frozen_layers")) or options.get("frozen")
        )

    def mask(self, params: Params) -> Any:
        """A tree like `params` of True where a leaf is frozen.

        Raises:
          InputError: as `optimizer.assign`.
        """
        if not self.patterns:
            return jax.tree.map(lambda _: False, params)
        chosen = optimizer.assign(params, self.rules)
        return jax.tree.map(lambda i: bool(self.rules[int(i)][1].get("frozen")), chosen)

    def stopped(self, params: Params) -> Params:
        """`params`, the frozen ones cut off from the gradient: nothing goes back through them."""
        return jax.tree.map(
            lambda leaf, fixed: jax.lax.stop_gradient(leaf) if fixed else leaf,
            params,
            self.mask(params),
        )

    def trained(self, tree: Any) -> Any:
        """A tree like the parameters without what is frozen: None, or without its first layers."""
        cut = optimizer.trained_layers(tree, optimizer.frozen_layers(tree, self.rules))
        return jax.tree.map(lambda leaf, fixed: None if fixed else leaf, cut, self.mask(tree))

    def kept(self, old: Params, new: Any) -> Params:
        """`new` with the bits of `old` in all that is frozen."""
        whole = jax.tree.map(
            lambda before, after, fixed: before if fixed else after, old, new, self.mask(old)
        )
        return self.with_first_layers(old, whole)

    def with_first_layers(self, old: Params, new: Any) -> Any:
        """`new`, a tree of all or of some of the parameters, with the frozen layers of `old`."""

        def one(before: Any, after: Any, first: Any) -> Any:
            if isinstance(after, Mapping):
                return {k: one(before[k], value, first[k]) for k, value in after.items()}
            return jnp.concatenate((before[:first], after[first:])) if first else after

        return one(old, new, optimizer.frozen_layers(old, self.rules))

    def still(self, params: Params, model_state: ModelState) -> Any:
        """A tree like `model_state`, True at what a step leaves as it is."""
        modules = self._called_for_evaluation(params, model_state)
        return jax.tree_util.tree_map_with_path(
            lambda path, _: modules.get(_names(path)[1:-1], False), dict(model_state)
        )

    def moving(self, params: Params, model_state: ModelState) -> tuple[str, ...]:
        """Which collections of `model_state` a step may change."""
        trees = self.still(params, model_state)
        return tuple(name for name, tree in trees.items() if not all(jax.tree.leaves(tree)))

    @contextlib.contextmanager
    def evaluation_mode(self, params: Params, model_state: ModelState) -> Generator[None]:
        """Inside it frozen modules of a model with these variables are called for evaluation.

        Raises:
          InputError: for a rule with `stored_statistics` that comes to no BatchNorm.
        """
        modules = self._called_for_evaluation(params, model_state)
        layers = self._first_layers(params)
        if not any(modules.values()) and not layers:
            yield
            return
        inside = False  # of a stack in two parts, whose modules have paths from there

        def call(
            function: Callable[..., Any], args: Sequence[Any], options: dict[str, Any], context: Any
        ) -> Any:
            nonlocal inside
            if inside:
                return function(*args, **options)
            first = layers.get(context.module.path)
            if first and context.method_name == "__call__":
                if not layer_stack.is_stack(context.module):
                    raise InputError(
                        f"'{'/'.join(context.module.path)}' is no stack of `scan_layers`, so none "
                        "of its first layers can be frozen; leave frozen_layers out."
                    )
                inside = True
                try:
                    return layer_stack.in_two(context.module, first, *args)
                finally:
                    inside = False
            if modules.get(context.module.path):
                signature = inspect.signature(context.orig_method)
                if "train" in signature.parameters:
                    bound = signature.bind(*args, **options)
                    bound.arguments["train"] = False
                    args, options = bound.args, bound.kwargs
            return function(*args, **options)

        with nn.intercept_methods(call):
            yield

    def _called_for_evaluation(
        self, params: Params, model_state: ModelState
    ) -> dict[tuple[str, ...], bool]:
        """Path of a module -> whether it is frozen, or has statistics that stay."""
        return {**self._modules(params), **self._with_stored_statistics(params, model_state)}

    def _first_layers(self, params: Params) -> dict[tuple[str, ...], int]:
        """Path of a stack of layers -> how many of the first ones are frozen.

        Raises:
          InputError: where not the same number of layers of all its parameters is frozen.
        """
        found: dict[tuple[str, ...], set[int]] = {}
        numbers = jax.tree_util.tree_leaves_with_path(optimizer.frozen_layers(params, self.rules))
        stacks = stacks_of(_names(path) for path, _ in numbers)
        for path, first in numbers:
            if stack := stack_of(_names(path), stacks):
                found.setdefault(stack, set()).add(first)
        for stack, several in found.items():
            if len(several) > 1:
                raise InputError(
                    f"Optimizer rules freeze the first layers of some parameters of "
                    f"'{'/'.join(stack)}' and other layers of others: give all of them the same "
                    "frozen_layers."
                )
        return {stack: first for stack, (first,) in found.items() if first}

    def _with_stored_statistics(
        self, params: Params, model_state: ModelState
    ) -> dict[tuple[str, ...], bool]:
        """Paths of the modules that have statistics and rules that leave them."""
        rules = [bool(options.get("stored_statistics")) for _, options in self.rules]
        if not any(rules):
            return {}
        statistics = jax.tree_util.tree_leaves_with_path(model_state.get("batch_stats", {}))
        have = {_names(path)[:-1] for path, _ in statistics}
        found: dict[tuple[str, ...], bool] = {}
        used = set()
        for path, label in jax.tree_util.tree_leaves_with_path(
            optimizer.assign(params, self.rules)
        ):
            module = _names(path)[:-1]
            if module in have:
                used.add(int(label))
                found[module] = found.get(module, True) and rules[int(label)]
        for number, (pattern, _) in enumerate(self.rules):
            if rules[number] and number not in used:
                raise InputError(
                    f"The optimizer rule '{pattern}' has stored_statistics, but comes to no "
                    "BatchNorm; leave it out."
                )
        return {module: True for module, stays in found.items() if stays}

    def _modules(self, params: Params) -> dict[tuple[str, ...], bool]:
        """Path of each module with parameters, its own or of modules inside it -> all frozen?"""
        found: dict[tuple[str, ...], bool] = {}
        for path, fixed in jax.tree_util.tree_leaves_with_path(self.mask(params)):
            names = _names(path)
            for length in range(len(names)):
                found[names[:length]] = found.get(names[:length], True) and fixed
        return found


def _names(path: Sequence[Any]) -> tuple[str, ...]:
    return tuple(optimizer.parameter_name((key,)) for key in path)

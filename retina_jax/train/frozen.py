"""Frozen means frozen: no gradient, and modules that behave as in evaluation.

A parameter is frozen by a rule of the optimizer (`{"frozen": True}`), and by nothing else: the
composed loss, the step, microbatches and checkpoints all ask `Frozen` about the same rules.

A module is frozen when it has parameters and all of them are. Whatever `train` it is called with,
it is told `train=False`: no dropout or stochastic depth inside it, and BatchNorm uses the stored
statistics and leaves them as they are. This is done where the model is applied, by intercepting
the calls of its modules (`flax.linen.intercept_methods`), so no tower and no system knows about
it, and it holds for a whole tower, for its first stages, and for layers within a scan. What has no
parameters of its own, such as a dropout between two layers, follows the module that it is part of.
Layers that `transformer.scan_layers` stacks are one array, and so are frozen together.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Generator, Sequence
from typing import Any

import flax.linen as nn
import jax

from retina_jax.train import optimizer
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
        """The regexes of the rules that freeze."""
        return tuple(pattern for pattern, options in self.rules if options.get("frozen"))

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

    def moving(self, params: Params, model_state: ModelState) -> tuple[str, ...]:
        """Which collections of `model_state` a step may change: not all are of frozen modules."""
        return tuple(
            name
            for name, tree in model_state.items()
            if not all(jax.tree.leaves(self.still(params, tree)))
        )

    def still(self, params: Params, collection: Any) -> Any:
        """A tree like a collection of the model's state, True at what is of a frozen module."""
        modules = self._modules(params)
        return jax.tree_util.tree_map_with_path(
            lambda path, _: modules.get(_names(path)[:-1], False), collection
        )

    @contextlib.contextmanager
    def evaluation_mode(self, params: Params) -> Generator[None]:
        """Inside it frozen modules of a model with these parameters are called for evaluation."""
        if not self.patterns:
            yield
            return
        modules = self._modules(params)

        def call(
            function: Callable[..., Any], args: Sequence[Any], options: dict[str, Any], context: Any
        ) -> Any:
            if modules.get(context.module.path):
                signature = inspect.signature(context.orig_method)
                if "train" in signature.parameters:
                    bound = signature.bind(*args, **options)
                    bound.arguments["train"] = False
                    args, options = bound.args, bound.kwargs
            return function(*args, **options)

        with nn.intercept_methods(call):
            yield

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

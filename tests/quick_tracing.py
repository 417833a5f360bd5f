"""Flax without the tracing that only compares shapes: half of what applying a model takes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax.core import meta, scope

_traced = scope.Scope.param


def _param(
    self: scope.Scope, name: str, init_fn: Callable, *args: Any, unbox: bool = True, **options: Any
) -> Any:
    """`Scope.param`, which traces an initialiser even where the parameter is there already.

    An initialiser that is given a shape makes that shape, so it is compared without a trace.
    """
    if self.has_variable("params", name) and args and isinstance(args[0], tuple):
        value = self.get_variable("params", name)
        value = meta.unbox(value) if unbox else value
        if {np.shape(leaf) for leaf in jax.tree.leaves(value)} == {args[0]}:
            self.reserve(name, "params")
            return value
    return _traced(self, name, init_fn, *args, unbox=unbox, **options)


scope.Scope.param = _param

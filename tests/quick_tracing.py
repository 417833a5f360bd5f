"""What tests, and the programs that they start, spare: half of applying a model, for instance.

Flax without the tracing that only compares shapes; one context of MLIR for all programs of a
process, which JAX makes anew, with all dialects in it, for each; fewer collections of garbage.
"""

import functools
import gc
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax.core import meta, scope
from jax._src.interpreters import mlir

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
gc.set_threshold(50_000, 20, 100)  # a trace makes many objects and leaves few
mlir.make_ir_context = functools.cache(mlir.make_ir_context)

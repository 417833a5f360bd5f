"""How many operations a function computes, counted in its trace.

XLA's own count has the body of a loop once, however often it runs, and none for GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def count(jaxpr: Any) -> float:
    """Floating-point operations of all products and convolutions, two for each multiply-add.

    Args:
      jaxpr: what `jax.make_jaxpr` returns. Bodies of `scan` count as often as they run; of `cond`
        the largest branch counts; of `while`, whose length is not known, the body counts once.
    """
    return sum(_of(equation) for equation in _inner(jaxpr).eqns)


def _inner(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _of(equation: Any) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        sizes = equation.invars[0].aval.shape
        return 2 * _size(equation.outvars[0]) * math.prod(sizes[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
        # Each output is a product with the kernel of its own channel; holes of a dilated input are
        # zeros that nobody multiplies.
        holes = math.prod(parameters["lhs_dilation"])
        return 2 * _size(equation.outvars[0]) * math.prod(kernel) / outputs / holes
    if name.startswith("dot_product_attention"):  # cuDNN's kernel
        rows, queries, heads, width = equation.invars[0].aval.shape
        keys = equation.invars[1].aval.shape[1]
        # Backward, the logits again, and two gradients of each product.
        return 2 * (5 if "bwd" in name else 2) * rows * queries * keys * heads * width
    if name == "cond":
        return max(count(branch) for branch in parameters["branches"])
    times = parameters["length"] if name == "scan" else 1
    return times * sum(count(part) for part in _parts(parameters))


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def _parts(parameters: Any) -> Iterator[Any]:
    """The traces inside an equation, of `jit`, `remat`, `scan` and their like."""
    for value in parameters.values():
        for part in value if isinstance(value, list | tuple) else (value,):
            if hasattr(_inner(part), "eqns"):
                yield part

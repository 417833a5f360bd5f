"""Fixtures of the model tests."""

from collections.abc import Callable

import jax
import numpy as np
import pytest


def _fill(path: tuple, shape: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
    """A random array; around 1 for gains and variances, which must stay positive."""
    name = path[-1].key
    values = rng.normal(size=shape.shape) * 0.2
    if name == "scale":
        values = values + 1
    elif name == "var":
        values = abs(values) + 0.5
    return values.astype(shape.dtype)


@pytest.fixture
def random_variables() -> Callable:
    """(model, *args) -> its variables, every array random: no zero bias hides a mistake.

    Much quicker than compiling the model's own initialisers.
    """

    def make(model, *args, seed: int = 0):
        shapes = jax.eval_shape(lambda key: model.init(key, *args), jax.random.key(0))
        rng = np.random.default_rng(seed)
        return jax.tree_util.tree_map_with_path(lambda p, s: _fill(p, s, rng), shapes)

    return make


@pytest.fixture
def run() -> Callable:
    """(function of arrays, *arrays) -> its result, compiled."""

    def call(function, *args):
        return jax.jit(function)(*args)

    return call


@pytest.fixture
def count_parameters() -> Callable:
    """(model, *args) -> number of parameters, without allocating any."""

    def count(model, *args) -> int:
        shapes = jax.eval_shape(lambda key: model.init(key, *args), jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))

    return count

"""What the tests change of Flax compares the shapes of parameters all the same."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

DRAWN = []


def init(key, shape):
    DRAWN.append(shape)
    return jnp.ones(shape)


class Shifted(nn.Module):
    """A parameter of three numbers."""

    @nn.compact
    def __call__(self, x):
        return x + self.param("shift", init, (3,))


def test_a_parameter_that_is_there_is_compared_without_its_initialiser():
    x = np.zeros(3, np.float32)
    found = Shifted().apply({"params": {"shift": np.full(3, 2.0, np.float32)}}, x)
    np.testing.assert_array_equal(found, [2.0] * 3)
    assert not DRAWN
    with pytest.raises(ScopeParamShapeError):
        Shifted().apply({"params": {"shift": np.zeros(2, np.float32)}}, x)

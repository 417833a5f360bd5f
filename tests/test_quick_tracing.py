"""What the tests change of Flax and JAX still does what they rely on."""

import flax.linen as nn
import jax
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


def test_programs_of_one_process_share_a_context():
    one, other = (jax.jit(lambda x, n=n: x + n).lower(np.float32(1)) for n in (2, 3))
    modules = [lowered.compiler_ir() for lowered in (one, other)]
    assert modules[0].context is modules[1].context
    assert str(modules[0]) != str(modules[1])
    assert [lowered.compile()(np.float32(1)) for lowered in (one, other)] == [3.0, 4.0]

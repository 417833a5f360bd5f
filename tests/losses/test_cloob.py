"""CLOOB against golden values of the published code, numeric differences and at its ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from data_pipelines.errors import InputError
from retina_jax.losses import cloob, contrastive

# Rows, dimensions, inv_tau and beta; image term, text term and their sum by the published code.
GOLDEN = {(4, 3, 30.0, 8.0): (1.008927081154, 0.948505520817, 1.957432601971),
          (4, 3, 30.0, 14.3): (1.008310599521, 0.964690445925, 1.973001045446),
          (8, 5, 30.0, 8.0): (0.990595827268, 0.911591781630, 1.902187608898),
          (2, 3, 30.0, 8.0): (-1.990810404474, -1.627223085137, -3.618033489611)}  # fmt: skip
P_XX = (0.61519251, 0.76074966, 0.20687708)
P_XY = (0.62861086, 0.75487592, 0.18711155)


@pytest.fixture(params=["float32", "float64"])
def tolerance(request):
    """How exact the losses have to be in the float type that the test runs with."""
    with jax.enable_x64(request.param == "float64"):
        yield 1e-10 if request.param == "float64" else 1e-6


def fixture(rows, dim):
    t = 1.0 + np.arange(rows * dim).reshape(rows, dim)
    return [
        jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))
        for x in (np.sin(t), np.cos(t / 2))
    ]


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_values(case, tolerance):
    rows, dim, inv_tau, beta = case
    x, y = fixture(rows, dim)
    p_xx, p_xy = cloob.retrieve(x, x, beta), cloob.retrieve(y, x, beta)
    p_yy, p_yx = cloob.retrieve(y, y, beta), cloob.retrieve(x, y, beta)
    found = (contrastive.infoloob(p_xx, p_xy, inv_tau), contrastive.infoloob(p_yy, p_yx, inv_tau),
             cloob.cloob(x, y, inv_tau, beta))  # fmt: skip
    np.testing.assert_allclose(found, GOLDEN[case], rtol=tolerance, atol=0)


def test_golden_retrievals(tolerance):
    x, y = fixture(4, 3)
    np.testing.assert_allclose(cloob.retrieve(x, x, 8.0)[0], P_XX, atol=1e-7)
    np.testing.assert_allclose(cloob.retrieve(y, x, 8.0)[0], P_XY, atol=1e-7)


def test_golden_values_without_retrieval(tolerance):
    x, y = fixture(4, 3)
    found = contrastive.infoloob(x, y, 30.0), contrastive.infoloob(y, x, 30.0)
    np.testing.assert_allclose(found, (0.871231527585, 0.909970072517), rtol=tolerance)
    clip = contrastive.softmax(x, y, 10.0), contrastive.softmax(x, y, jnp.exp(4.5))
    np.testing.assert_allclose(clip, (9.658450896084, 84.270640730113), rtol=tolerance)


def test_rows_that_are_all_alike_give_the_constant_baseline(tolerance):
    x, y = fixture(4, 3)
    np.testing.assert_allclose(cloob.cloob(x, y, 30.0, 0.0), 2 * np.log(3) / 30, rtol=tolerance)


def test_gradients_are_those_of_numeric_differences():
    with jax.enable_x64(True):
        x, y = fixture(5, 4)
        arguments = (x, y, jnp.asarray(12.0), jnp.asarray(3.0))
        for loss, given in ((cloob.cloob, arguments), (contrastive.infoloob, arguments[:3])):
            check_grads(jax.jit(loss), given, order=1, modes=("rev",), rtol=1e-6)


def test_the_temperature_does_not_change_the_pull_of_a_positive():
    """The loss is multiplied by tau: its derivative by the cosine of a positive is -1 / N."""
    slope = jax.jit(jax.grad(contrastive.infoloob, argnums=1))
    for inv_tau in (1.0, 30.0, 100.0):
        gradient = slope(jnp.eye(3), jnp.eye(3), inv_tau)
        np.testing.assert_allclose(np.diagonal(gradient), -1 / 3, rtol=1e-6)


def test_a_learned_temperature_only_ever_falls():
    """The derivative by tau is an entropy, so the loss always asks for a larger inverse."""
    x, y = fixture(8, 5)
    slope = jax.jit(jax.grad(cloob.cloob, argnums=2))
    assert all(float(slope(x, y, inv_tau, 8.0)) < 0 for inv_tau in (1.0, 30.0, 100.0))


@pytest.mark.parametrize("loss", ["infoloob", "cloob"])
def test_one_row_is_refused(loss):
    one = jnp.ones((1, 3)) / 3**0.5
    function, arguments = {"infoloob": (contrastive.infoloob, (one, one, 30.0)),
                           "cloob": (cloob.cloob, (one, one, 30.0, 8.0))}[loss]  # fmt: skip
    with pytest.raises(InputError, match="this batch has only one row"):
        jax.jit(function)(*arguments)


@pytest.mark.parametrize("case", ["two equal rows", "memory that cancels", "zeros"])
def test_value_and_gradient_are_finite(case):
    x = {"two equal rows": jnp.tile(jnp.eye(3)[:1], (2, 1)),
         "memory that cancels": jnp.stack([jnp.eye(3)[0], -jnp.eye(3)[0]]),
         "zeros": jnp.zeros((4, 3))}[case]  # fmt: skip
    beta = 0.0 if case == "memory that cancels" else 8.0
    differentiate = jax.jit(jax.value_and_grad(cloob.cloob, argnums=(0, 1, 2, 3)))
    value, gradients = differentiate(x, x, 30.0, beta)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_bfloat16_embeddings_are_compared_in_float32():
    x, y = (z.astype(jnp.bfloat16) for z in fixture(8, 5))
    value = cloob.cloob(x, y, jnp.bfloat16(30.0), 8.0)
    assert value.dtype == jnp.float32
    wide = cloob.cloob(x.astype(jnp.float32), y.astype(jnp.float32), 30.0, 8.0)
    assert float(value) == pytest.approx(float(wide), rel=1e-6)

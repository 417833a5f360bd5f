"""The squared error of patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retina_jax.losses.reconstruction import squared_error

rng = np.random.default_rng(0)
PREDICTED, TARGET = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
COUNTED = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool)


def test_mean_over_what_counts():
    squares = (PREDICTED - TARGET) ** 2
    assert float(squared_error(PREDICTED, TARGET)) == pytest.approx(squares.mean(), rel=1e-5)
    value = float(squared_error(PREDICTED, TARGET, COUNTED))
    assert value == pytest.approx(squares[COUNTED].mean(), rel=1e-5)


def test_sum_in_each_image():
    squares = (PREDICTED - TARGET) ** 2
    value = float(squared_error(PREDICTED, TARGET, per="image"))
    assert value == pytest.approx(squares.sum() / 3, rel=1e-5)
    value = float(squared_error(PREDICTED, TARGET, COUNTED, per="image"))
    assert value == pytest.approx(squares[COUNTED].sum() / 3, rel=1e-5)


def test_what_does_not_count_has_no_gradient():
    gradient = jax.grad(squared_error)(PREDICTED, TARGET, COUNTED)
    assert (np.asarray(gradient != 0).any(axis=-1) == COUNTED).all()
    value, gradient = jax.value_and_grad(squared_error)(PREDICTED, TARGET, COUNTED & False)
    assert float(value) == 0 and not gradient.any()


def test_half_precision_is_compared_in_floats():
    half = PREDICTED.astype(jnp.bfloat16)
    value = squared_error(half, TARGET)
    assert value.dtype == np.float32
    assert float(value) == float(squared_error(half.astype(np.float32), TARGET))

"""Token cross-entropy over the positions that count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from retina_jax.losses import generative

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(3, 5, 7)).astype(np.float32) * 3
TARGETS = rng.integers(0, 7, size=(3, 5))
MASK = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]], bool)


def test_mean_over_masked_positions_of_the_whole_batch():
    picked = np.take_along_axis(log_softmax(LOGITS, axis=-1), TARGETS[..., None], axis=-1)[..., 0]
    value = generative.masked_token_cross_entropy(LOGITS, TARGETS, MASK)
    assert float(value) == pytest.approx(-picked[MASK].mean(), rel=1e-5)


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary():
    value = generative.masked_token_cross_entropy(
        jnp.zeros((2, 3, 50)), jnp.ones((2, 3), int), jnp.ones((2, 3), bool)
    )
    assert float(value) == pytest.approx(np.log(50), rel=1e-6)


def test_nothing_masked_is_zero_with_zero_gradient():
    none = jnp.zeros_like(MASK)
    value, gradient = jax.value_and_grad(generative.masked_token_cross_entropy)(
        jnp.asarray(LOGITS), TARGETS, none
    )
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_gradient_is_zero_where_not_masked_and_finite_for_large_bfloat16():
    large = jnp.asarray(LOGITS * 1e4, jnp.bfloat16)
    value, gradient = jax.value_and_grad(generative.masked_token_cross_entropy)(
        large, TARGETS, jnp.asarray(MASK)
    )
    gradient = np.asarray(gradient, np.float32)
    assert value.dtype == jnp.float32 and np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert (gradient[~MASK] == 0).all() and (gradient[MASK] != 0).any()

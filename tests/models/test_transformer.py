"""Attention, the MLP, and equal layers as a loop or written out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from data_pipelines.errors import InputError
from retina_jax.models import transformer

pytestmark = pytest.mark.fast

rng = np.random.default_rng(0)


def attention_in_numpy(params, x, mask):
    def project(name):
        return np.einsum("btw,whd->bhtd", x, params[name]["kernel"]) + params[name]["bias"][:, None]

    query, key, value = project("query"), project("key"), project("value")
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
    weights = softmax(np.where(mask[:, None, None, :], scores, -1e30), axis=-1)
    out = params["out"]
    return np.einsum("bhtd,hdw->btw", weights @ value, out["kernel"]) + out["bias"]


def test_attention_with_and_without_the_dropout_branch(random_variables, run):
    x = rng.normal(size=(2, 5, 6)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    variables = random_variables(transformer.SelfAttention(heads=3), x)
    expected = attention_in_numpy(variables["params"], x, mask)
    almost_none = transformer.SelfAttention(heads=3, dropout=1e-9)
    rngs = {"dropout": jax.random.key(0)}

    def both(variables):
        fused = transformer.SelfAttention(heads=3).apply(variables, x, mask)
        return fused, almost_none.apply(variables, x, mask, train=True, rngs=rngs)

    fused, spelt_out = run(both, variables)
    np.testing.assert_allclose(fused, expected, atol=1e-5)
    np.testing.assert_allclose(spelt_out, expected, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_of_a_row_without_tokens_is_finite(random_variables, run, dropout):
    x, mask = jnp.ones((2, 3, 4)), jnp.zeros((2, 3), bool)
    model = transformer.SelfAttention(heads=2, dropout=dropout)
    variables = random_variables(model, x)

    def total(x):
        rngs = {"dropout": jax.random.key(0)}
        return jnp.square(model.apply(variables, x, mask, train=True, rngs=rngs)).sum()

    value, gradient = run(jax.value_and_grad(total), x)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_attention_dropout_acts_in_training_only(random_variables, run):
    x = rng.normal(size=(1, 8, 4)).astype(np.float32)
    model = transformer.SelfAttention(heads=2, dropout=0.5)
    variables = random_variables(model, x)

    def outputs(variables):
        cases = [(train, jax.random.key(seed)) for train in (True, False) for seed in (0, 1)]
        return [model.apply(variables, x, train=t, rngs={"dropout": key}) for t, key in cases]

    runs = run(outputs, variables)
    assert not np.allclose(runs[0], runs[1])
    np.testing.assert_array_equal(runs[2], runs[3])


def test_activations():
    x = jnp.linspace(-3, 3, 7)
    quick = x / (1 + np.exp(-1.702 * x))
    np.testing.assert_allclose(transformer.activation("quick_gelu")(x), quick, atol=1e-6)
    # The exact GELU at 1 is 0.8413447; its tanh approximation is 0.8411920.
    assert float(transformer.activation("gelu")(jnp.float32(1.0))) == pytest.approx(0.8413447, abs=1e-6)
    with pytest.raises(InputError, match="no activation 'relu6'"):
        transformer.activation("relu6")


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="width of 6 cannot be split into 4 heads"):
        jax.eval_shape(transformer.SelfAttention(heads=4).init, jax.random.key(0), jnp.ones((1, 2, 6)))

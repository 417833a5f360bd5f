"""Shared layers: normalisation, pixels, the temperature's bounds, BatchNorm, attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from data_pipelines.errors import InputError
from retina_jax.models import layers

pytestmark = pytest.mark.fast

rng = np.random.default_rng(0)


def test_l2_normalize_gives_unit_rows_in_float32():
    x = rng.normal(size=(3, 2, 8)) * np.array([1e-6, 1.0, 1e6])[:, None, None]
    y = layers.l2_normalize(jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), 1, rtol=1e-6)


def test_l2_normalize_of_a_zero_row_is_zero_with_zero_gradient():
    x = jnp.zeros((2, 4)).at[0, 0].set(3.0)
    y, backward = jax.vjp(layers.l2_normalize, x)
    np.testing.assert_allclose(y, [[1, 0, 0, 0], [0, 0, 0, 0]], atol=1e-7)
    (gradient,) = backward(jnp.ones_like(y))
    np.testing.assert_allclose(gradient, [[0, 1 / 3, 1 / 3, 1 / 3], [0, 0, 0, 0]], atol=1e-6)


def test_to_float_divides_bytes_and_only_bytes():
    levels = jnp.array([[[0, 51, 255]]], jnp.uint8)
    np.testing.assert_allclose(layers.to_float(levels)[0, 0], [0, 0.2, 1], rtol=1e-6)
    np.testing.assert_allclose(layers.to_float(jnp.array([0.0, 0.2, 1.0])), [0, 0.2, 1], rtol=1e-6)
    shifted = layers.to_float(levels, mean=(0.1, 0.2, 0.5), std=(0.5, 0.25, 0.25))
    np.testing.assert_allclose(shifted[0, 0], [-0.2, 0, 2], atol=1e-6)


def test_clip_inward_lets_gradients_pass_only_towards_the_range():
    gradient = jax.grad(lambda x, sign: sign * layers.clip_inward(x, 0.0, 4.0))
    assert float(layers.clip_inward(jnp.float32(5.0), 0.0, 4.0)) == 4.0
    assert float(layers.clip_inward(jnp.float32(-1.0), 0.0, 4.0)) == 0.0
    # Descent subtracts the gradient: a negative one raises x.
    cases = {(2.0, 1): 1, (2.0, -1): -1, (5.0, 1): 1, (5.0, -1): 0, (-1.0, 1): 0, (-1.0, -1): -1}
    for (x, sign), expected in cases.items():
        assert float(gradient(x, float(sign))) == expected, (x, sign)


def test_clip_inward_neither_drifts_nor_sticks():
    x = jnp.float32(3.9)
    for sign in [-1.0] * 50 + [1.0] * 5:
        x = x - 0.1 * jax.grad(lambda v, s=sign: s * layers.clip_inward(v, 0.0, 4.0))(x)
        assert float(x) < 4.11
    assert float(x) == pytest.approx(3.5, abs=0.11)


def test_batch_norm_is_pytorchs(random_variables):
    x = (rng.normal(size=(4, 3, 2, 5)) * 3 + 7).astype(np.float32)
    model = layers.BatchNorm()
    variables = random_variables(model, x)
    params, stats = variables["params"], variables["batch_stats"]
    y, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, atol=1e-4)
    unbiased = x.var((0, 1, 2), ddof=1)
    new = updated["batch_stats"]
    np.testing.assert_allclose(new["mean"], 0.9 * stats["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * stats["var"] + 0.1 * unbiased, rtol=1e-5)
    still = model.apply(variables, x)
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"]
    np.testing.assert_allclose(still, expected + params["bias"], rtol=1e-4, atol=1e-4)


def test_batch_norm_of_one_value_is_finite(random_variables):
    model, x = layers.BatchNorm(), np.ones((1, 1, 1, 3), np.float32)
    y, updated = model.apply(random_variables(model, x), x, train=True, mutable=["batch_stats"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((y, updated)))


def test_batch_norm_does_not_cancel_for_a_large_mean(random_variables):
    x = (rng.normal(size=(64, 1)) + 3000).astype(np.float32)
    model = layers.BatchNorm()
    variables = {"params": {"scale": np.ones(1), "bias": np.zeros(1)}}
    variables["batch_stats"] = random_variables(model, x)["batch_stats"]
    y, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    assert float(y.std()) == pytest.approx(1.0, abs=1e-3)


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
    variables = random_variables(layers.SelfAttention(heads=3), x)
    expected = attention_in_numpy(variables["params"], x, mask)
    almost_none = layers.SelfAttention(heads=3, dropout=1e-9)
    rngs = {"dropout": jax.random.key(0)}

    def both(variables):
        fused = layers.SelfAttention(heads=3).apply(variables, x, mask)
        return fused, almost_none.apply(variables, x, mask, train=True, rngs=rngs)

    fused, spelt_out = run(both, variables)
    np.testing.assert_allclose(fused, expected, atol=1e-5)
    np.testing.assert_allclose(spelt_out, expected, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_of_a_row_without_tokens_is_finite(random_variables, run, dropout):
    x, mask = jnp.ones((2, 3, 4)), jnp.zeros((2, 3), bool)
    model = layers.SelfAttention(heads=2, dropout=dropout)
    variables = random_variables(model, x)

    def total(x):
        rngs = {"dropout": jax.random.key(0)}
        return jnp.square(model.apply(variables, x, mask, train=True, rngs=rngs)).sum()

    value, gradient = run(jax.value_and_grad(total), x)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_attention_dropout_acts_in_training_only(random_variables, run):
    x = rng.normal(size=(1, 8, 4)).astype(np.float32)
    model = layers.SelfAttention(heads=2, dropout=0.5)
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
    np.testing.assert_allclose(layers.activation("quick_gelu")(x), quick, atol=1e-6)
    # The exact GELU at 1 is 0.8413447; its tanh approximation is 0.8411920.
    assert float(layers.activation("gelu")(jnp.float32(1.0))) == pytest.approx(0.8413447, abs=1e-6)
    with pytest.raises(InputError, match="no activation 'relu6'"):
        layers.activation("relu6")


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="width of 6 cannot be split into 4 heads"):
        jax.eval_shape(layers.SelfAttention(heads=4).init, jax.random.key(0), jnp.ones((1, 2, 6)))

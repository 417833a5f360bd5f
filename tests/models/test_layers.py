"""Shared layers: unit rows, pixels, volumes, the temperature's bounds, first values, norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_volumes_have_mean_0_and_deviation_1_each():
    volume = rng.integers(0, 255, (3, 4, 5, 6, 1), np.uint8)
    volume[1] //= 7
    volume[2] = 9
    y = layers.standardize_volume(volume)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y.mean((1, 2, 3, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(y[:2].std((1, 2, 3, 4)), 1, rtol=1e-5)
    assert not y[2].any()
    stretched = layers.standardize_volume(volume[:2].astype(np.float32) * 0.01 - 5)
    np.testing.assert_allclose(stretched, y[:2], atol=1e-4)


def test_group_norm_is_the_formula(random_variables):
    x = (rng.normal(size=(2, 3, 4, 64)) * 3 + 50).astype(np.float32)
    model = layers.feature_norm("group")
    variables = random_variables(model, x)
    grouped = x.astype(np.float64).reshape(2, 3, 4, 32, 2)
    grouped = grouped - grouped.mean((1, 2, 4), keepdims=True)
    grouped = grouped / np.sqrt(np.square(grouped).mean((1, 2, 4), keepdims=True) + 1e-5)
    params = variables["params"]["group"]
    expected = grouped.reshape(x.shape) * params["scale"] + params["bias"]
    np.testing.assert_allclose(model.apply(variables, x, True), expected, atol=1e-4)


def test_groups_of_few_channels_survive_a_map_of_one_pixel(random_variables):
    x = rng.normal(size=(2, 1, 1, 8)).astype(np.float32)
    model = layers.feature_norm("group")
    y = model.apply(random_variables(model, x), x)
    assert not np.allclose(y[0], y[1])


def test_biases_are_pytorchs():
    values = layers.torch_bias(25)(jax.random.key(0), (10_000,))
    assert 0.199 < abs(values).max() <= 0.2 and abs(values.mean()) < 0.005
    assert values.dtype == jnp.float32
    assert not layers.zero_bias(25)(jax.random.key(0), (3,)).any()


def test_unbiased_layer_norm_is_the_formula_and_has_no_gradient_at_a_constant():
    """gain (x - mean) / (deviation with n - 1, plus 1e-6) + bias, of R2Gen and KeepFIT-FFA."""
    x, gain, bias = (np.random.default_rng(0).normal(size=(3, 4, 6)) for _ in range(3))
    model = layers.layer_norm("unbiased", epsilon=0.5)
    variables = {"params": {"scale": gain[0, 0], "bias": bias[0, 0]}}
    x = x * np.arange(3)[:, None, None]  # the first rows are constant
    deviation = x.std(axis=-1, ddof=1, keepdims=True)
    expected = gain[0, 0] * (x - x.mean(axis=-1, keepdims=True)) / (deviation + 0.5) + bias[0, 0]
    np.testing.assert_allclose(model.apply(variables, x), expected, atol=1e-5)
    gradient = jax.grad(lambda x: jnp.square(model.apply(variables, x)).sum())(jnp.float32(x))
    assert np.isfinite(gradient).all()
    with pytest.raises(InputError, match="not 'none'"):
        layers.layer_norm("none")

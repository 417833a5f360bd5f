"""The text revision loss of KeepFIT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retina_jax.losses import reference

rng = np.random.default_rng(0)
TEXT = rng.normal(size=(6, 512)).astype(np.float32)
REFERENCE = rng.normal(size=(6, 512)).astype(np.float32)


def test_weight_100_is_a_fifth_of_the_squared_distance():
    squared_distance = np.square(TEXT - REFERENCE).sum(axis=1).mean()
    value = 100 * float(reference.text_revision(TEXT, REFERENCE))
    assert value == pytest.approx(100 / 512 * squared_distance, rel=1e-5)


def test_gradient_reaches_both_sides():
    text, target = jax.grad(reference.text_revision, argnums=(0, 1))(
        jnp.asarray(TEXT), jnp.asarray(REFERENCE)
    )
    np.testing.assert_allclose(text, 2 * (TEXT - REFERENCE) / TEXT.size, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(target, -text)


def test_bfloat16_is_subtracted_in_float32():
    text = jnp.asarray(TEXT, jnp.bfloat16)
    value = reference.text_revision(text, REFERENCE)
    expected = np.square(np.asarray(text, np.float64) - REFERENCE).mean()
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_reference_without_direction_has_a_cosine_of_zero_and_no_gradient():
    target = REFERENCE.copy()
    target[0] = 0
    value, gradient = jax.value_and_grad(reference.cosine_revision, argnums=1)(
        jnp.asarray(TEXT), jnp.asarray(target)
    )
    unit = TEXT[1:] / np.linalg.norm(TEXT[1:], axis=1, keepdims=True)
    other = target[1:] / np.linalg.norm(target[1:], axis=1, keepdims=True)
    assert float(value) == pytest.approx((1 + (1 - (unit * other).sum(axis=1)).sum()) / 6, rel=1e-5)
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[0].any()


def test_a_short_reference_has_a_direction():
    whole, short = (reference.cosine_revision(TEXT, size * REFERENCE) for size in (1.0, 1e-6))
    assert float(short) == pytest.approx(float(whole), rel=1e-5)


def test_float64_is_computed_in_float64():
    with jax.enable_x64(True):
        text, target = TEXT.astype(np.float64), REFERENCE.astype(np.float64)
        squares = reference.text_revision(text, target)
        cosines = reference.cosine_revision(text, target)
    assert squares.dtype == cosines.dtype == np.float64
    assert float(squares) == pytest.approx(np.square(text - target).mean(), rel=1e-12)
    norms = np.linalg.norm(text, axis=1) * np.linalg.norm(target, axis=1)
    assert float(cosines) == pytest.approx(np.mean(1 - (text * target).sum(1) / norms), rel=1e-12)

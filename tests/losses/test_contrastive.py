"""The contrastive losses against float64 transcriptions, and where they could break."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from data_pipelines.errors import InputError
from retina_jax.losses import contrastive

pytestmark = pytest.mark.fast


def unit_rows(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def published_loss(a, b, scale, targets) -> float:
    logits = scale * np.asarray(a, np.float64) @ np.asarray(b, np.float64).T

    def cross_entropy(rows):
        return -np.mean(np.sum(targets * log_softmax(rows, axis=1), axis=1))

    return 0.5 * (cross_entropy(logits) + cross_entropy(logits.T))


def test_group_targets_golden():
    groups = jnp.array([0, 0, 1, 2, 2, 2])  # a, a, b, c, c, c
    expected = np.zeros((6, 6))
    expected[:2, :2], expected[2, 2], expected[3:, 3:] = 1 / 2, 1, 1 / 3
    targets = np.asarray(contrastive.group_targets(groups))
    np.testing.assert_allclose(targets, expected, rtol=1e-6)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(targets, targets.T)


@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 100.0])
@pytest.mark.parametrize("groups", [None, [0, 1, 0, 2, 2, 2, 3]])
def test_softmax_is_the_published_formula(scale, groups):
    a, b = unit_rows(7, 16, seed=1), unit_rows(7, 16, seed=2)
    targets = None if groups is None else contrastive.group_targets(jnp.array(groups))
    expected = published_loss(a, b, scale, np.eye(7) if groups is None else np.asarray(targets))
    assert float(contrastive.softmax(a, b, scale, targets)) == pytest.approx(expected, rel=1e-5)
    assert float(contrastive.softmax(b, a, scale, targets)) == pytest.approx(expected, rel=1e-5)


def test_softmax_of_orthonormal_pairs_in_closed_form():
    value = contrastive.softmax(jnp.eye(5), jnp.eye(5), 3.0)
    assert float(value) == pytest.approx(np.log1p(4 * np.exp(-3)), rel=1e-5)


def test_distinct_groups_are_the_identity():
    a, b = unit_rows(6, 8, 3), unit_rows(6, 8, 4)
    soft = contrastive.softmax(a, b, 10.0, contrastive.group_targets(jnp.arange(6) * 7))
    assert float(soft) == pytest.approx(float(contrastive.softmax(a, b, 10.0)), rel=1e-6)


def test_bfloat16_inputs_are_compared_in_float32():
    a, b = (jnp.asarray(unit_rows(32, 64, s), jnp.bfloat16) for s in (5, 6))
    expected = published_loss(
        np.asarray(a, np.float64), np.asarray(b, np.float64), 100.0, np.eye(32)
    )
    value = contrastive.softmax(a, b, jnp.bfloat16(100.0))
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_similarity_asks_for_the_highest_precision():
    jaxpr = str(jax.make_jaxpr(contrastive.similarity)(jnp.ones((2, 3)), jnp.ones((2, 3))))
    assert "HIGHEST" in jaxpr


DEGENERATE = {"zero vectors": (np.zeros((4, 8)), np.zeros((4, 8))),
              "all equal": (np.ones((4, 8)) / 8**0.5, np.ones((4, 8)) / 8**0.5),
              "one row": (unit_rows(1, 8), unit_rows(1, 8, 1)),
              "opposite": (unit_rows(4, 8), -unit_rows(4, 8))}  # fmt: skip


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_value_and_gradient_are_finite(case, dtype):
    a, b = (jnp.asarray(x, dtype) for x in DEGENERATE[case])
    targets = contrastive.group_targets(jnp.zeros(len(a), jnp.int32))
    differentiate = jax.jit(jax.value_and_grad(contrastive.softmax, argnums=(0, 1, 2)))
    for target in (None, targets):
        value, gradients = differentiate(a, b, jnp.float32(100.0), target)
        assert np.isfinite(value)
        assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in gradients)


def test_one_row_has_nothing_to_tell_apart():
    assert float(contrastive.softmax(unit_rows(1, 8), unit_rows(1, 8, 1), 100.0)) == 0.0


@pytest.mark.parametrize("groups", [None, [0, 1, 0, 2, 2, 2, 3]])
def test_sigmoid_is_the_published_formula(groups):
    a, b = unit_rows(7, 16, seed=1), unit_rows(7, 16, seed=2)
    same = np.eye(7, dtype=bool) if groups is None else np.equal.outer(groups, groups)
    logits = np.where(same, 1, -1) * (10.0 * np.float64(a) @ np.float64(b).T - 3.0)
    expected = np.logaddexp(0, -logits).sum() / 7  # by rows, not by pairs
    value = contrastive.sigmoid(a, b, 10.0, -3.0, None if groups is None else same)
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_local_negatives_are_the_mean_of_the_groups():
    a, b, groups = unit_rows(6, 8, 3), unit_rows(6, 8, 4), np.array([0, 0, 1, 0, 0, 0])

    def loss(a, b, groups):
        return contrastive.softmax(a, b, 10.0, contrastive.group_targets(groups))

    expected = np.mean([float(loss(a[i : i + 3], b[i : i + 3], groups[i : i + 3])) for i in (0, 3)])
    value = contrastive.local(loss, 3, *map(jnp.asarray, (a, b, groups)))
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert float(value) != pytest.approx(float(loss(a, b, groups)), rel=0.05)
    plain = contrastive.local(lambda a, b, _: contrastive.softmax(a, b, 10.0), 6, a, b, None)
    assert float(plain) == pytest.approx(float(contrastive.softmax(a, b, 10.0)), rel=1e-6)


@pytest.mark.parametrize("rows", [4, 0])
def test_local_negatives_have_to_divide_the_batch(rows):
    with pytest.raises(InputError, match=f"local_negatives is {rows}, which does not divide .* 6"):
        contrastive.local(lambda x: x.sum(), rows, jnp.ones((6, 2)))

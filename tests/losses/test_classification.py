"""Cross-entropy of parts, of classes in order and of labels, by hand and with numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import expit, log_softmax, softmax

from retina_jax.losses import classification

pytestmark = pytest.mark.fast

rng = np.random.default_rng(0)
LOG = np.log


def mean(losses):
    return float(classification.weighted_mean(*losses))


def test_a_record_is_compared_with_the_classes_of_its_own_part():
    logits = LOG(np.array([[1, 3, 100, 100, 100], [100, 100, 1, 2, 5]], np.float32))
    losses, weights = classification.softmax(logits, classification.one_hot([1, 4], 5), (2, 3))
    np.testing.assert_array_equal(weights, [[1, 0], [0, 1]])
    np.testing.assert_allclose([losses[0, 0], losses[1, 1]], [-LOG(3 / 4), -LOG(5 / 8)], rtol=1e-6)
    assert mean((losses, weights)) == pytest.approx(-(LOG(3 / 4) + LOG(5 / 8)) / 2)


def test_a_record_may_have_a_class_in_each_part_and_several_in_one():
    logits = LOG(np.array([[1, 3, 1, 2, 5]], np.float32))
    losses = classification.softmax(logits, np.array([[0, 1, 0, 1, 1]], np.float32), (2, 3))
    shared = -(LOG(2 / 8) + LOG(5 / 8)) / 2
    assert mean(losses) == pytest.approx((-LOG(3 / 4) + shared) / 2)


def test_smoothing_by_hand():
    """Three classes at probabilities .7, .2, .1 and a share of .1: .463297."""
    logits = LOG(np.array([[0.7, 0.2, 0.1, 9.0]], np.float32))
    target = classification.one_hot([0], 4)
    assert mean(classification.softmax(logits, target, (3, 1), smoothing=0.1)) == pytest.approx(
        0.463297, abs=1e-6
    )


def test_class_weights_are_of_the_record():
    """A weighted mean: sixty, thirty and ten records, balanced, count as three classes do."""
    counts, logits = np.array([60, 30, 10]), rng.normal(size=(100, 3)).astype(np.float32)
    labels = np.repeat(np.arange(3), counts)
    weights = 100 / (3 * counts)
    np.testing.assert_allclose(weights, [0.555556, 1.111111, 3.333333], atol=1e-6)
    found = classification.softmax(
        logits, classification.one_hot(labels, 3), (3,), class_weights=weights
    )
    each = -log_softmax(logits.astype(float), axis=1)[np.arange(100), labels]
    expected = np.mean([each[labels == c].mean() for c in range(3)])
    assert mean(found) == pytest.approx(expected, rel=1e-5)


def test_adjusted_scores_of_the_shares_know_nothing():
    """Scores that are all alike say the shares; the best ones for equal classes are the odds."""
    shares = np.array([0.6, 0.3, 0.1, 1.0])
    target = classification.one_hot([0, 1, 2], 4)
    losses, _ = classification.softmax(np.zeros((3, 4)), target, (3, 1), shares=shares)
    np.testing.assert_allclose(losses[:, 0], -LOG(shares[:3]), rtol=1e-6)
    unshared, _ = classification.softmax(
        rng.normal(size=(3, 4)), target, (3, 1), shares=np.full(4, 0.25)
    )
    assert np.isfinite(unshared).all()


def test_the_focal_loss_forgets_what_is_sure_and_keeps_its_gradients():
    """Gradients at scores so sure that the probability is 1, and against differences elsewhere."""
    target = classification.one_hot([0, 1], 3)

    def loss(logits):
        return classification.softmax(logits, target, (3,), focal=2.0)[0].sum()

    check_grads(loss, (jnp.array([[0.3, -1.0, 0.2], [0.1, 0.5, 2.0]]),), order=1, modes=["rev"])
    sure = jnp.array([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]])
    assert float(loss(sure)) == 0
    np.testing.assert_array_equal(jax.grad(loss)(sure), np.zeros((2, 3)))
    wrong = jax.grad(loss)(-sure)
    assert np.isfinite(wrong).all() and float(jnp.abs(wrong).max()) > 0.4


def test_classes_in_order_are_told_apart_at_each_step():
    """Probabilities .1, .2, .3, .4: above class 0, 1 and 2 are .9, .7 and .4."""
    logits = LOG(np.array([[0.1, 0.2, 0.3, 0.4]] * 3, np.float32)) + 5
    target = classification.one_hot([0, 2, 3], 4)
    losses, _ = classification.softmax(logits, target, (4,), ordered=(0,))
    expected = [-LOG(0.1) - LOG(0.3) - LOG(0.6), -LOG(0.9) - LOG(0.7) - LOG(0.6),
                -LOG(0.9) - LOG(0.7) - LOG(0.4)]  # fmt: skip
    np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-5)


def test_two_classes_in_order_are_two_classes():
    logits = rng.normal(size=(6, 2)).astype(np.float32)
    target = classification.one_hot(np.arange(6) % 2, 2)
    plain, ordered = (
        classification.softmax(logits, target, (2,), ordered=order)[0] for order in ((), (0,))
    )
    np.testing.assert_allclose(plain, ordered, rtol=1e-5)


def test_smoothing_of_classes_in_order_stays_next_to_the_class():
    """A share of .2 gives (0, .2, .8) at the end and (.1, .8, .1) in the middle."""
    probability = np.array([0.5, 0.3, 0.2])
    logits = LOG(np.array([probability] * 2, np.float32))
    target = classification.one_hot([2, 1], 3)
    losses, _ = classification.softmax(logits, target, (3,), ordered=(0,), smoothing=0.2)

    def binary(share_above, above):
        return -(share_above * LOG(above) + (1 - share_above) * LOG(1 - above))

    expected = [binary(1, 0.5) + binary(0.8, 0.2), binary(0.9, 0.5) + binary(0.1, 0.2)]
    np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-5)


def test_missing_labels_do_not_count():
    logits = rng.normal(size=(4, 3)).astype(np.float32)
    targets = np.array([[1, 0, np.nan], [np.nan] * 3, [0, 1, 1], [np.nan, 1, 0]], np.float32)
    found = classification.sigmoid(logits, targets, class_weights=(2.0, 3.0, 4.0))
    p, total, count = expit(logits.astype(float)), 0.0, 0.0
    for i, c in zip(*np.nonzero(~np.isnan(targets)), strict=True):
        weight = (2, 3, 4)[c] if targets[i, c] else 1
        total -= weight * LOG(p[i, c] if targets[i, c] else 1 - p[i, c])
        count += weight
    assert mean(found) == pytest.approx(total / count, rel=1e-5)


def test_smoothing_of_labels_by_hand():
    logits, targets = np.array([[LOG(3.0)]], np.float32), np.ones((1, 1), np.float32)
    found = classification.sigmoid(logits, targets, smoothing=0.2)
    assert mean(found) == pytest.approx(-(0.9 * LOG(0.75) + 0.1 * LOG(0.25)), rel=1e-5)


def softmax_loss(targets, parts=(2, 3), **options):
    return lambda logits: classification.weighted_mean(
        *classification.softmax(logits, targets, parts, **options)
    )


def test_the_gradient_is_what_is_predicted_too_much():
    logits = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
    target = np.asarray(classification.one_hot([0, 3, 4], 5))
    gradient = jax.grad(softmax_loss(target))(logits)
    expected = np.zeros((3, 5))
    expected[0, :2] = softmax(logits[0, :2]) - target[0, :2]
    expected[1:, 2:] = softmax(logits[1:, 2:], axis=1) - target[1:, 2:]
    np.testing.assert_allclose(gradient, expected / 3, atol=1e-6)


def test_the_gradient_of_classes_in_order_is_that_of_differences():
    logits = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
    targets = classification.one_hot([0, 3, 4], 5)
    loss = softmax_loss(targets, ordered=(1,), smoothing=0.1, class_weights=(1, 2, 3, 4, 5))
    check_grads(loss, (logits,), order=1, modes="rev", atol=1e-2, rtol=1e-2)


NOTHING = np.full((2, 5), np.nan, np.float32)


@pytest.mark.parametrize(
    "loss",
    [
        softmax_loss(classification.one_hot([-1, -1], 5)),
        softmax_loss(NOTHING, ordered=(1,), smoothing=0.1),
        lambda logits: classification.weighted_mean(*classification.sigmoid(logits, NOTHING)),
        softmax_loss(classification.one_hot([0, 4], 5), parts=(1,) * 5, ordered=(0, 4)),
    ],
    ids=["no class", "all missing", "no label", "one class a part"],
)
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_nothing_to_learn_is_zero_with_a_zero_gradient(loss, size):
    logits = jnp.asarray(rng.normal(size=(2, 5)) * size, jnp.float32)
    value, gradient = jax.value_and_grad(loss)(logits)
    assert float(value) == 0 and not np.asarray(gradient).any()


@pytest.mark.parametrize("ordered", [(), (0,)])
def test_scores_far_apart_are_finite(ordered):
    logits = jnp.array([[1e4, -1e4, 0.0]])
    loss = softmax_loss(classification.one_hot([1], 3), (3,), ordered=ordered, smoothing=0.1)
    value, gradient = jax.value_and_grad(loss)(logits)
    assert np.isfinite(value) and value > 1e3 and np.isfinite(gradient).all()


def test_an_index_that_is_no_class_is_not_forgotten():
    logits = jnp.zeros((2, 5))
    assert np.isnan(softmax_loss(classification.one_hot([0, 5], 5))(logits))


def test_half_precision_is_summed_in_full():
    logits = jnp.asarray(rng.normal(size=(2, 5)), jnp.bfloat16)
    for losses in (
        classification.softmax(logits, classification.one_hot([0, 4], 5), (2, 3)),
        classification.sigmoid(logits, np.ones((2, 5), np.float32)),
    ):
        assert all(array.dtype == jnp.float32 for array in losses)

"""Classification figures against scikit-learn, and where it has none."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from data_pipelines.errors import InputError
from retina_jax.metrics import classification

pytestmark = pytest.mark.fast

CLASSES = 4


@st.composite
def records(draw):
    count = draw(st.integers(2, 30))
    one = st.lists(st.integers(0, CLASSES - 1), min_size=count, max_size=count)
    return np.array(draw(one)), np.array(draw(one))


@settings(max_examples=60, deadline=None)
@given(records())
def test_counts_agree_with_scikit_learn(pair):
    labels, predictions = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of classes that are only predicted
        assert classification.accuracy(labels, predictions) == pytest.approx(
            oracle.accuracy_score(labels, predictions)
        )
        assert classification.balanced_accuracy(labels, predictions) == pytest.approx(
            oracle.balanced_accuracy_score(labels, predictions)
        )
        every = list(range(CLASSES))
        assert classification.quadratic_kappa(labels, predictions, CLASSES) == pytest.approx(
            oracle.cohen_kappa_score(labels, predictions, labels=every, weights="quadratic"),
            nan_ok=True,
        )
        np.testing.assert_array_equal(
            classification.confusion_matrix(labels, predictions, CLASSES),
            oracle.confusion_matrix(labels, predictions, labels=every),
        )


def test_auc_agrees_with_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, 60)])
    scores = rng.dirichlet(np.ones(CLASSES), size=64).round(1)  # rounding makes ties
    one_versus_rest = [oracle.roc_auc_score(labels == c, scores[:, c]) for c in range(CLASSES)]
    np.testing.assert_allclose(classification.auc_per_class(labels, scores), one_versus_rest)
    assert classification.auc(labels, scores) == pytest.approx(np.mean(one_versus_rest))


@st.composite
def labelled(draw):
    """Several labels each of some records and not of all, and scores of few values: many ties."""
    count = draw(st.integers(3, 30))
    member = np.zeros((count, CLASSES), bool)
    for column in member.T:
        column[: draw(st.integers(1, count - 1))] = True
        column[:] = draw(st.permutations(list(column)))
    scores = st.lists(st.integers(0, 6), min_size=count * CLASSES, max_size=count * CLASSES)
    return member, np.array(draw(scores), float).reshape(count, CLASSES)


@given(labelled())
@settings(max_examples=40, deadline=None)
def test_figures_of_labels_are_scikit_learns(made):
    member, scores = made
    for ours, theirs in (
        (classification.auc_per_label, oracle.roc_auc_score),
        (classification.average_precision_per_label, oracle.average_precision_score),
    ):
        expected = theirs(member, scores, average=None)
        np.testing.assert_allclose(ours(member, scores), expected)
        np.testing.assert_allclose(ours(member.astype(np.float32), scores), expected)


def test_labels_that_none_or_all_have():
    labels, scores = np.array([[0, 1], [0, 1], [0, 1]]), np.arange(6.0).reshape(3, 2)
    assert np.isnan(classification.auc_per_label(labels, scores)).all()
    precision = classification.average_precision_per_label(labels, scores)
    assert np.isnan(precision[0]) and precision[1] == 1
    none = np.zeros((0, 2))
    assert np.isnan(classification.average_precision_per_label(none, none)).all()
    assert np.isnan(classification.auc_per_label(none, none)).all()
    broken = np.array([[np.nan], [0.5], [0.7]])
    assert np.isnan(classification.average_precision_per_label(labels[:, 1:], broken)).all()
    with pytest.raises(InputError, match=r"\(3, 2\) and scores \(3, 1\)"):
        classification.auc_per_label(labels, broken)


@pytest.mark.parametrize("form", ["one column", "probabilities", "logits"])
def test_auc_of_two_classes(form):
    rng = np.random.default_rng(1)
    labels, margin = rng.integers(0, 2, 40), rng.normal(size=40).round(1)
    expected = oracle.roc_auc_score(labels, margin)
    probability = 1 / (1 + np.exp(-margin))
    common = rng.normal(size=40).round()  # what softmax would cancel
    scores = {"one column": margin,
              "probabilities": np.stack([1 - probability, probability], axis=1),
              "logits": np.stack([common, common + margin], axis=1).round(6)}[form]  # fmt: skip
    assert classification.auc(labels, scores) == pytest.approx(expected, abs=2e-3)
    assert classification.auc(labels, -scores) == pytest.approx(1 - expected, abs=2e-3)


def test_constant_scores_are_chance():
    labels = np.array([0, 1, 2, 1, 0])
    assert classification.auc(labels, np.zeros((5, 3))) == 0.5
    assert classification.auc(labels > 0, np.zeros(5)) == 0.5


def test_an_absent_class_is_nan():
    labels, scores = np.array([0, 0, 1]), np.eye(3)
    assert np.isnan(classification.auc(labels, scores))
    np.testing.assert_array_equal(
        np.isnan(classification.auc_per_class(labels, scores)), [False, False, True]
    )
    assert np.isnan(classification.auc(np.zeros(4, int), np.arange(4.0)))


def test_a_class_that_is_only_predicted_does_not_count():
    assert classification.balanced_accuracy(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])) == 0.75


def test_no_records_are_nan():
    none = np.zeros(0, int)
    assert np.isnan(classification.accuracy(none, none))
    assert np.isnan(classification.balanced_accuracy(none, none))
    assert np.isnan(classification.majority_accuracy(none))
    assert np.isnan(classification.auc(none, np.zeros((0, 3))))


def test_not_a_number_never_becomes_a_good_score():
    assert np.isnan(classification.auc(np.array([0, 1, 1]), np.array([np.nan, 0.2, 0.3])))


def test_kappa_counts_a_missing_grade_in_the_order():
    # Two grades apart is four times as bad as one apart, even if no one has the grade between.
    labels, predictions = np.array([0, 0, 2, 2]), np.array([0, 2, 2, 2])
    weights = np.square(np.arange(3)[:, None] - np.arange(3))
    counts = classification.confusion_matrix(labels, predictions, 3)
    expected = 1 - (weights * counts).sum() / (weights * np.outer([2, 0, 2], [1, 0, 3]) / 4).sum()
    assert classification.quadratic_kappa(labels, predictions, 3) == pytest.approx(expected)
    assert np.isnan(classification.quadratic_kappa(np.ones(3, int), np.ones(3, int), 3))


def test_chance_levels():
    rng = np.random.default_rng(2)
    labels = rng.choice(4, size=20_000, p=[0.7, 0.1, 0.1, 0.1])
    guesses = rng.choice(4, size=20_000, p=[0.4, 0.3, 0.2, 0.1])
    assert classification.balanced_accuracy(labels, guesses) == pytest.approx(
        classification.chance_balanced_accuracy(4), abs=0.02
    )
    assert classification.majority_accuracy(np.array([2, 2, 5, 2])) == 0.75


def test_f1_of_the_second_class_is_scikit_learns():
    generator = np.random.default_rng(3)
    labels, predictions = generator.integers(0, 2, (2, 40))
    expected = oracle.f1_score(labels, predictions)
    assert classification.f1(labels, predictions) == pytest.approx(expected)
    assert np.isnan(classification.f1(np.zeros(3), np.zeros(3)))


@pytest.mark.parametrize("seed", range(4))
def test_f1_at_the_best_threshold_is_the_published_search(seed):
    """KeepFIT: each score as a threshold, the first greatest sum of kappa and F1."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, 30)
    scores = np.round(generator.normal(size=30) + labels, 1)  # with ties
    found = []
    for threshold in np.unique(scores):
        called = (scores >= threshold).astype(int)
        f1 = oracle.f1_score(labels, called)
        found.append((oracle.cohen_kappa_score(labels, called) + f1, f1))
    best = max(found, key=lambda pair: pair[0])[1]
    assert classification.f1_at_best_threshold(labels, scores) == pytest.approx(best)
    assert np.isnan(classification.f1_at_best_threshold(np.ones(3), np.arange(3)))


def test_which_class_is_called_positive_matters_for_f1_and_not_for_the_area():
    """KeepFIT's "AMD" counts the 311 normal eyes as positive, not the 89 with the disease."""
    labels = np.repeat([0, 1], [89, 311])
    scores = np.random.default_rng(0).normal(size=400) + labels
    both = np.stack([-scores, scores], axis=1)
    assert classification.auc(labels, both) == pytest.approx(
        classification.auc(1 - labels, both[:, ::-1])
    )
    normal = classification.f1_at_best_threshold(labels, scores)
    disease = classification.f1_at_best_threshold(1 - labels, -scores)
    assert normal > disease + 0.2

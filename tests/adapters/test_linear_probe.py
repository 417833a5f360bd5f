"""The linear probe: the published settings, missing classes and bad input."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from data_pipelines.errors import InputError
from retina_jax.adapters import linear_probe

rng = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], [60, 20, 10])
FEATURES = (rng.normal(size=(90, 8)) + np.eye(8)[LABELS] * 2).astype(np.float32)


def test_it_is_flairs_logistic_regression():
    expected = LogisticRegression(
        C=0.316, solver="lbfgs", max_iter=1000, class_weight="balanced", random_state=0
    ).fit(FEATURES.astype(np.float64), LABELS)
    probe = linear_probe.fit(FEATURES, LABELS)
    probabilities = expected.predict_proba(FEATURES)
    np.testing.assert_allclose(probe.predict_proba(FEATURES), probabilities, atol=1e-6)
    assert probe.converged and probe.classes == 3
    assert (probabilities.argmax(axis=1) == LABELS).mean() > 0.8


def test_balancing_favours_the_rare_class():
    found = [linear_probe.fit(FEATURES, LABELS, balanced=b) for b in (True, False)]
    rare = [(probe.predict_proba(FEATURES).argmax(1) == 2).sum() for probe in found]
    assert rare[0] > rare[1]


def test_standardizing_makes_it_independent_of_the_features_scale():
    scaled = FEATURES * np.array([1e-3, 1e3, 1, 1, 1, 1, 1, 1])
    for standardize, same in ((True, True), (False, False)):
        first, second = (
            linear_probe.fit(x, LABELS, standardize=standardize).predict_proba(x)
            for x in (FEATURES, scaled)
        )
        assert np.allclose(first, second, atol=1e-3) is same


def test_a_class_without_records_gets_probability_zero():
    keep = LABELS != 1
    probe = linear_probe.fit(FEATURES[keep], LABELS[keep], classes=5)
    probabilities = probe.predict_proba(FEATURES)
    assert probabilities.shape == (90, 5)
    np.testing.assert_array_equal(probabilities[:, [1, 3, 4]], 0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert set(probabilities.argmax(axis=1)) == {0, 2}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_it_says_when_the_solver_stopped_early():
    assert not linear_probe.fit(FEATURES, LABELS, max_iter=2).converged


SEVERAL = np.stack([LABELS == 0, LABELS > 0, LABELS == 2, LABELS < 0, LABELS >= 0], axis=1)


@pytest.mark.parametrize("standardize", [False, True])
def test_each_of_several_labels_has_a_regression_of_its_own(standardize):
    probe = linear_probe.fit(FEATURES, SEVERAL.astype(np.float32), standardize=standardize)
    probabilities = probe.predict_proba(FEATURES)
    assert probabilities.shape == (90, 5) and probe.converged and probe.classes == 5
    for label in range(3):
        alone = linear_probe.fit(FEATURES, SEVERAL[:, label], standardize=standardize)
        expected = alone.predict_proba(FEATURES)[:, 1]
        np.testing.assert_allclose(probabilities[:, label], expected, atol=1e-6)
    # Nothing can be learned of what no record has, or every one.
    assert probe.present.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(probabilities[:, 3:], 0)


def test_a_single_label_that_varies():
    probe = linear_probe.fit(FEATURES, SEVERAL[:, [2, 3]])
    expected = linear_probe.fit(FEATURES, SEVERAL[:, 2]).predict_proba(FEATURES)[:, 1]
    np.testing.assert_allclose(probe.predict_proba(FEATURES)[:, 0], expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_it_says_when_the_solver_of_one_label_stopped_early():
    assert not linear_probe.fit(FEATURES, SEVERAL, max_iter=2).converged


def test_bad_labels_are_refused():
    with pytest.raises(InputError, match="one column for each of 4 names; got 5 columns"):
        linear_probe.fit(FEATURES, SEVERAL, classes=4)
    with pytest.raises(InputError, match=r"5 columns from 0.0 to 0.5"):
        linear_probe.fit(FEATURES, SEVERAL * 0.5)
    with pytest.raises(InputError, match="a label that only some of the 90 records have"):
        linear_probe.fit(FEATURES, SEVERAL[:, 3:])


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="two classes or more.* 90 records of class \\[1\\]"):
        linear_probe.fit(FEATURES, np.ones(90))
    with pytest.raises(InputError, match="not all in \\[0, 2\\)"):
        linear_probe.fit(FEATURES, LABELS, classes=2)
    with pytest.raises(InputError, match="90 rows of features and 5 labels"):
        linear_probe.fit(FEATURES, LABELS[:5])
    broken = FEATURES.copy()
    broken[3, 4] = np.nan
    with pytest.raises(InputError, match="with 1 values that are not"):
        linear_probe.fit(broken, LABELS)

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
@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["classes", "several labels"])
def test_it_says_when_the_solver_stopped_early(labels):
    assert not linear_probe.fit(FEATURES, labels, max_iter=2).converged


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


def three_classes(scale, count=120, signal=3):
    """Records of three classes of unequal size, three of each patient, in 32 features."""
    random = np.random.default_rng(0)
    labels = np.repeat(random.choice(3, count // 3, p=(0.7, 0.2, 0.1)), 3)
    features = random.normal(size=(count, 32))
    features[np.arange(count), labels] += signal
    return scale * features, labels, np.repeat(np.arange(count // 3), 3)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_by_groups_the_scale_of_features_does_not_count(scale):
    features, labels, groups = three_classes(scale)
    probe = linear_probe.fit_by_groups(features, labels, groups)
    reference = linear_probe.fit_by_groups(*three_classes(1.0))
    np.testing.assert_allclose(
        probe.predict_proba(features), reference.predict_proba(features / scale), atol=1e-4
    )
    assert probe.converged and set(probe.scores(features).argmax(1)) == {0, 1, 2}
    if scale == 1e-4:  # the one penalty of the published protocol tells them nothing
        plain = linear_probe.fit(features, labels, balanced=False)
        assert set(plain.predict_proba(features).argmax(1)) == {0}


def test_a_solver_that_takes_no_step_has_not_converged():
    """Below its tolerance it ends at once: no coefficient, records all of one class, no warning."""
    features, labels, _ = three_classes(1e-6)
    probe = linear_probe.fit(features, labels)
    assert not probe.converged and not probe.kernel.any()


def test_groups_choose_the_penalty_that_serves_new_ones():
    """What tells patients apart, and nothing else, is worth a lot in folds that split them."""
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 4)
    labels = np.repeat(random.permutation(np.arange(40) % 2), 4)
    features = np.repeat(random.normal(size=(40, 60)), 4, axis=0)
    features += 0.1 * random.normal(size=features.shape)
    chosen = [linear_probe.fit_by_groups(features, labels, by).penalties[0]
              for by in (groups, np.arange(160))]  # fmt: skip
    assert 10 * chosen[0] < chosen[1]


def test_by_groups_decides_where_all_classes_count_alike():
    features, labels, groups = three_classes(1.0, signal=1)
    probe = linear_probe.fit_by_groups(features, labels, groups)
    shares = np.bincount(labels) / len(labels)
    expected = probe.predict_proba(features) / shares
    np.testing.assert_allclose(probe.scores(features), expected)
    assert (probe.predict_proba(features).argmax(1) != expected.argmax(1)).any()


def test_a_class_of_one_group_leaves_the_penalty_as_it_is():
    features, labels, groups = three_classes(1.0)
    groups[labels == 2] = 1000
    assert linear_probe.fit_by_groups(features, labels, groups).penalties[0] == 0.01
    with pytest.raises(InputError, match="120 rows of features, 120 labels and 3 groups"):
        linear_probe.fit_by_groups(features, labels, groups[:3])


@pytest.mark.parametrize("labels", [LABELS, LABELS // 2, SEVERAL], ids=["three", "two", "labels"])
@pytest.mark.parametrize("absent", [0, 2])
def test_a_probe_is_a_head(labels, absent, tmp_path):
    """Folded, a softmax or sigmoid of a linear map of raw features; saved, it is the same probe."""
    labels = (
        np.concatenate([labels, 0 * labels[:, :absent]], axis=1) if labels.ndim == 2 else labels
    )
    count = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1 + absent
    features = 1e-3 * FEATURES + 5
    probe = linear_probe.fit_by_groups(features, labels, np.arange(90), classes=count, folds=2)
    kernel, bias = probe.folded()
    logits = features @ kernel + bias
    found = 1 / (1 + np.exp(-logits)) if labels.ndim == 2 else (
        np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))  # fmt: skip
    np.testing.assert_allclose(found, probe.predict_proba(features), atol=1e-9)
    probe.save(tmp_path / "probe", [f"c{i}" for i in range(count)])
    again, names = linear_probe.load(tmp_path / "probe")
    np.testing.assert_array_equal(again.scores(features), probe.scores(features))
    assert len(names) == again.classes == count and again.penalties == probe.penalties
    (tmp_path / "probe" / "probe.npz").write_bytes(b"no")
    with pytest.raises(InputError, match="holds no probe that can be read"):
        linear_probe.load(tmp_path / "probe")


def test_an_unknown_label_is_no_negative_one():
    """Records of -1 are left out of that label's regression and of no other's."""
    labels = SEVERAL[:, :3].astype(int)
    labels[:30, 0] = -1
    probe = linear_probe.fit_by_groups(FEATURES, labels, np.arange(90), folds=2)
    alone = linear_probe.fit_by_groups(FEATURES[30:], labels[30:, [0]], np.arange(30, 90), folds=2)
    np.testing.assert_allclose(probe.kernel[:, 0], alone.kernel[:, 0])
    whole = linear_probe.fit_by_groups(FEATURES, SEVERAL[:, :3], np.arange(90), folds=2)
    np.testing.assert_allclose(probe.kernel[:, 1], whole.kernel[:, 1])
    assert probe.shares[0] == 30 / 60
    # At its own prevalence a label is as likely as not.
    rows = probe.predict_proba(FEATURES)[:, 2] > probe.shares[2]
    np.testing.assert_array_equal(rows, probe.scores(FEATURES)[:, 2] > 0.5)

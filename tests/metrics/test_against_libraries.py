"""Weighted figures against scikit-learn on random records, and simulations of intervals."""

import ast
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn import linear_model
from sklearn import metrics as oracle

from retina_jax.metrics import (
    binary,
    bootstrap,
    calibration,
    classification,
    comparison,
    delong,
    operating_point,
    regression,
    weighted,
)


def theirs_and_ours(which, labels, calls, scores, classes, w):
    """One of the figures under the weights f[N], by scikit-learn and by `weighted`."""
    every = {"labels": list(range(classes)), "sample_weight": w}
    counts = weighted.confusion(labels, calls, classes, w[None])
    if which < 3:
        kind = (None, "linear", "quadratic")[which]
        theirs = oracle.cohen_kappa_score(labels, calls, weights=kind, **every)
        return theirs, weighted.kappa(counts, which)[0]
    if which == 3:
        theirs = oracle.f1_score(labels, calls, average=None, zero_division=np.nan, **every)
        return theirs, weighted.f1(counts)[0]
    if which == 4:
        return oracle.confusion_matrix(labels, calls, **every), counts[0]
    member = labels == 0
    sides = {bool(side) for side in member[w > 0]}
    if which == 5:
        theirs = (
            oracle.roc_auc_score(member, scores, sample_weight=w) if len(sides) == 2 else np.nan
        )
        return theirs, weighted.auc(member, scores, w[None])[0]
    theirs = np.nan
    if True in sides:
        theirs = oracle.average_precision_score(member, scores, sample_weight=w)
    return theirs, weighted.average_precision(member, scores, w[None])[0]


@pytest.mark.fast
def test_weighted_figures_are_those_of_scikit_learn():
    """On 200 random sets with ties, missing classes and weights of 0."""
    rng = np.random.default_rng(0)
    for trial in range(200):
        count, classes = int(rng.integers(1, 40)), int(rng.integers(2, 6))
        labels, calls = rng.integers(0, classes, (2, count))
        w = rng.integers(0, 3, count).astype(float) + (trial % 2)
        w[0] = 1  # scikit-learn refuses weights that are all 0
        scores = rng.integers(0, 6, count) / 5
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs, ours = theirs_and_ours(trial % 7, labels, calls, scores, classes, w)
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.fast
def test_other_figures_are_those_of_libraries():
    rng = np.random.default_rng(1)
    for _ in range(5):
        labels, p = rng.integers(0, 2, 50), rng.beta(2, 2, 50).round(2)
        assert binary.brier(labels, p) == pytest.approx(oracle.brier_score_loss(labels, p))
        assert binary.log_loss(labels, p) == pytest.approx(oracle.log_loss(labels, p))
        calls = (p > 0.5).astype(int)
        assert classification.matthews(labels, calls, 2) == pytest.approx(
            oracle.matthews_corrcoef(labels, calls)
        )
        logits = np.log(p / (1 - p))[:, None]
        fit = linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        fit.fit(logits, labels)
        np.testing.assert_allclose(
            calibration.slope(labels, p), (fit.coef_[0, 0], fit.intercept_[0]), atol=1e-4
        )
        y, found = rng.normal(size=(2, 20))
        ours = regression.figures(y, found)
        assert ours["r2"] == pytest.approx(oracle.r2_score(y, found))
        assert ours["mae"] == pytest.approx(oracle.mean_absolute_error(y, found))


@pytest.mark.fast
def test_a_threshold_is_the_best_of_all_that_there_are():
    """By trying each one, on random records with ties."""
    rng = np.random.default_rng(2)
    for _ in range(15):
        labels, scores = rng.integers(0, 2, 60), rng.integers(0, 15, 60) / 10
        tried = [(t, binary.at_threshold(labels, scores, t)) for t in [*np.unique(scores), np.inf]]
        enough = [t for t, at in tried if at.sensitivity >= 0.9]
        assert operating_point.choose(labels, scores, "sensitivity>=.9").value == max(enough)
        allowed = [(at.sensitivity, t) for t, at in tried if at.specificity >= 0.9]
        assert operating_point.choose(labels, scores, "specificity>=.9").value == max(allowed)[1]
        sums = [(round(at.sensitivity + at.specificity, 9), t) for t, at in tried]
        assert operating_point.choose(labels, scores, "youden").value == max(sums)[1]


@pytest.mark.fast
def test_no_test_is_made_on_replicates():
    """A p-value of bootstrap replicates measures how many there are."""
    root = Path(__file__).resolve().parents[2] / "retina_jax"
    names = {"wilcoxon", "ttest_rel", "ttest_ind", "ttest_1samp", "mannwhitneyu"}
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            used = getattr(node, "attr", getattr(node, "id", None))
            assert used not in names, f"{path}: {used}"


def two_eyes(rng, patients, models=1, effect=(1.5,)):
    """Labels, scores [models 2 P] and patients of two eyes each, whose scores correlate by .8."""
    labels = np.repeat(rng.integers(0, 2, patients), 2)
    labels[:4] = [0, 0, 1, 1]
    shared = np.repeat(rng.normal(size=patients), 2)
    noise = np.sqrt(0.8) * shared + np.sqrt(0.2) * rng.normal(size=(models, 2 * patients))
    return labels, noise + np.array(effect)[:, None] * labels, np.repeat(np.arange(patients), 2)


@pytest.mark.slow
def test_patients_cover_the_truth_and_images_do_not():
    from scipy.special import ndtr

    truth = ndtr(1.5 / np.sqrt(2))
    rng, draws = np.random.default_rng(0), 300
    for patients in (30, 100):
        covered = np.zeros(2)
        for _ in range(draws):
            labels, scores, groups = two_eyes(rng, patients)

            def of(weights, labels=labels, scores=scores):
                return weighted.auc(labels, scores[0], weights)

            ends = (bootstrap.Resampling(groups, 1000).interval(of, edge=("rank", patients // 2)),
                    bootstrap.Resampling(np.arange(2 * patients), 1000, method="percentile")
                    .interval(of))  # fmt: skip
            covered += [end.low <= truth <= end.high for end in ends]
        by_patient, by_image = covered / draws
        assert 0.92 <= by_patient <= 0.98
        if patients == 30:
            assert by_image < 0.93


def of_models(labels, scores):
    """The areas of the models as functions of weights."""
    return [lambda w, row=row: weighted.auc(labels, row, w) for row in scores]


@pytest.mark.slow
def test_equal_models_are_seldom_told_apart():
    rng, draws, found = np.random.default_rng(1), 120, 0
    for _ in range(draws):
        labels, scores, groups = two_eyes(rng, 52, models=2, effect=(1.5, 1.5))
        figures = of_models(labels, scores)
        found += comparison.paired(*figures, groups, resamples=1000, method="percentile").p < 0.05
    assert found / draws <= 0.1
    labels, scores, groups = two_eyes(rng, 300, models=2, effect=(2.0, 1.5))
    figures = of_models(labels, scores)
    assert comparison.paired(*figures, groups).p < 0.05
    assert delong.difference(labels, *scores, groups)[3] < 0.05

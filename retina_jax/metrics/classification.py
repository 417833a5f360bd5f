"""Figures of merit of classifiers, as functions of labels and predictions.

Each record has one of C classes, int[N], or for functions named `per_label` any number of C labels.

All are plain counts and ranks in numpy, so that a bootstrap can afford a thousand of each. They
agree with scikit-learn where it defines a value; where it warns or raises, they return NaN.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import numpy as np

from data_pipelines.errors import InputError


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts of (label, prediction).

    Args:
      labels: int[N] in [0, classes).
      predictions: int[N] in [0, classes).
      classes: number of classes C.

    Returns:
      i64[C C], rows are labels.
    """
    flat = np.asarray(labels, np.int64) * classes + np.asarray(predictions, np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of predictions int[N] that equal their label int[N]; NaN without records."""
    labels = np.asarray(labels)
    return float(np.mean(labels == np.asarray(predictions))) if labels.size else float("nan")


def balanced_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean over the classes among the labels of the share predicted right (FLAIR's "ACA").

    A class that is only ever predicted does not count (the published code returns NaN then).

    Args:
      labels: int[N].
      predictions: int[N].

    Returns:
      In [0, 1]; NaN without records. Its chance level is 1 / (number of classes) for any
      prediction that does not depend on the label.
    """
    classes = int(max(np.max(labels, initial=-1), np.max(predictions, initial=-1))) + 1
    counts = confusion_matrix(labels, predictions, classes)
    totals = counts.sum(axis=1)
    present = totals > 0
    if not present.any():
        return float("nan")
    return float(np.mean(np.diagonal(counts)[present] / totals[present]))


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 = 2 TP / (2 TP + FP + FN) of class 1 of two.

    Args:
      labels: int[N], 0 or 1.
      predictions: int[N], 0 or 1.

    Returns:
      In [0, 1]; NaN where no record has class 1 and none is predicted to have it.
    """
    labels, predictions = np.asarray(labels) == 1, np.asarray(predictions) == 1
    involved = labels.sum() + predictions.sum()
    return float(2 * (labels & predictions).sum() / involved) if involved else float("nan")


def f1_at_best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """F1 of class 1 at the threshold with the greatest sum of Cohen's kappa and F1.

    KeepFIT's figure for its set "AMD" (keepfit/utils/metrics.py). The threshold is chosen on the
    labels that are scored, so the figure is too good, and no measure of a classifier in use.

    Args:
      labels: int[N], 0 or 1.
      scores: f[N], higher for class 1; every score is tried as a threshold that belongs to it.

    Returns:
      In [0, 1]; NaN if a class is absent.
    """
    member, scores = np.asarray(labels) == 1, np.asarray(scores, np.float64)
    positives, count = member.sum(), len(member)
    if positives in (0, count):
        return float("nan")
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    first = np.flatnonzero(np.diff(ascending, prepend=-np.inf) > 0)
    called = count - first
    hits = positives - np.concatenate([[0], np.cumsum(member[order])])[first]
    agreement = 2 * hits / (called + positives)
    observed = (hits + (count - called) - (positives - hits)) / count
    by_chance = (called * positives + (count - called) * (count - positives)) / count**2
    kappa = (observed - by_chance) / (1 - by_chance)
    return float(agreement[np.argmax(kappa + agreement)])


def quadratic_kappa(labels: np.ndarray, predictions: np.ndarray, classes: int) -> float:
    """Cohen's kappa with quadratic weights, for ordered classes such as grades of retinopathy.

    1 - sum(w O) / sum(w E) with w_ij = (i - j)^2, O the confusion matrix, and E the one expected
    of independent raters with the same marginals.

    Args:
      labels: int[N] in [0, classes).
      predictions: int[N] in [0, classes).
      classes: number of grades; a missing grade keeps its place in the order.

    Returns:
      In [-1, 1], chance is 0; NaN where both raters use one and the same grade only.
    """
    counts = confusion_matrix(labels, predictions, classes).astype(np.float64)
    grades = np.arange(classes)
    weights = np.square(grades[:, None] - grades[None, :])
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / max(counts.sum(), 1.0)
    disagreement = (weights * expected).sum()
    if disagreement == 0:
        return float("nan")
    return float(1.0 - (weights * counts).sum() / disagreement)


def auc_per_class(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the receiver operating characteristic of each class against the rest.

    The probability that a record of the class scores higher in its column than one of the others,
    equal scores counting half.

    Args:
      labels: int[N] in [0, C).
      scores: f[N C], higher for a likelier class; any monotone scale.

    Returns:
      f64[C]; NaN for a class that no record, or every record, has.
    """
    scores = np.asarray(scores, np.float64)
    return auc_per_label(np.asarray(labels)[:, None] == np.arange(scores.shape[1]), scores)


def auc_per_label(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the receiver operating characteristic of each label, as `auc_per_class`.

    Args:
      labels: bool or 0 / 1 [N C], any number of labels a record.
      scores: f[N C], higher for a likelier label; any monotone scale.

    Returns:
      f64[C]; NaN for a label that no record, or every record, has.
    """
    from scipy.stats import rankdata  # scipy.stats takes a second to import

    member, scores = _members(labels, scores)
    positives = member.sum(axis=0)
    pairs = positives * (len(labels) - positives)
    ranks = rankdata(scores, axis=0) if len(labels) else scores
    above = (ranks * member).sum(axis=0) - positives * (positives + 1) / 2
    return np.where(pairs > 0, above / np.maximum(pairs, 1), np.nan)


def average_precision_per_label(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Average precision of each label: the mean, over records that have it, of the precision there.

    The precision at a record is the share that has the label among those that score as high or
    higher, so equal scores are one step of the curve.

    Args:
      labels: bool or 0 / 1 [N C].
      scores: f[N C], higher for a likelier label; any monotone scale.

    Returns:
      f64[C]; NaN for a label that no record has. Chance is the share of records that have it.
    """
    from scipy.stats import rankdata  # scipy.stats takes a second to import

    member, scores = _members(labels, scores)
    positives = member.sum(axis=0)
    if not len(labels):
        return np.full(scores.shape[1], np.nan)
    retrieved = rankdata(-scores, method="max", axis=0)
    right = rankdata(np.where(member, -scores, np.inf), method="max", axis=0)
    total = np.where(member, right / retrieved, 0.0).sum(axis=0)
    return np.where(positives > 0, total / np.maximum(positives, 1), np.nan)


def _members(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores as f64, which must have one shape."""
    member, scores = np.asarray(labels) > 0, np.asarray(scores, np.float64)
    if member.shape != scores.shape or member.ndim != 2:
        raise InputError(
            f"Labels {member.shape} and scores {scores.shape} are not both [records, labels]."
        )
    return member, scores


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Macro one-vs-rest AUC; for two classes the AUC of class 1.

    Args:
      labels: int[N] in [0, C).
      scores: f[N C], or f[N] of class 1 when there are two classes.

    Returns:
      In [0, 1], chance is 0.5; NaN if any class is absent, because a mean
      over the rest would be another quantity.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim == 2 and scores.shape[1] == 2:
        # Softmax and sigmoid scores alike are decided by which of the two is higher.
        scores = scores[:, 1] - scores[:, 0]
    if scores.ndim == 1:
        return float(auc_per_class(np.asarray(labels) == 1, np.stack([-scores, scores], 1))[1])
    return float(auc_per_class(labels, scores).mean())


def chance_balanced_accuracy(classes: int) -> float:
    """Balanced accuracy expected of predictions that do not depend on the label."""
    return 1.0 / classes


def majority_accuracy(labels: np.ndarray) -> float:
    """Accuracy of always predicting the most frequent of the labels int[N]."""
    labels = np.asarray(labels)
    if not labels.size:
        return float("nan")
    return float(np.unique(labels, return_counts=True)[1].max() / labels.size)

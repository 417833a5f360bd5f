"""Figures of merit of classifiers, as functions of labels and predictions.

Each record has one of C classes, int[N], or for functions named `per_label` any number of C labels.

They agree with scikit-learn where it defines a value; where it warns or raises, they return NaN.
`weighted` has those that intervals are made of, and computes them.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.metrics import weighted

# Probabilities are kept this far from 0 before their logarithm.
_SMALLEST = float(np.finfo(np.float64).eps)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts of (label, prediction).

    Args:
      labels: int[N]; a record with one outside [0, classes) counts nowhere.
      predictions: int[N], the same.
      classes: number of classes C.

    Returns:
      i64[C C], rows are labels.
    """
    return _counts(labels, predictions, classes)[0].astype(np.int64)


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
    return float(weighted.balanced_accuracy(_counts(labels, predictions, None))[0])


def adjusted_balanced_accuracy(labels: np.ndarray, predictions: np.ndarray, classes: int) -> float:
    """Balanced accuracy as (value - 1 / C) / (1 - 1 / C), so that chance is 0."""
    chance = chance_balanced_accuracy(classes)
    return (balanced_accuracy(labels, predictions) - chance) / (1.0 - chance)


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 = 2 TP / (2 TP + FP + FN) of class 1 of two.

    Args:
      labels: int[N], 0 or 1.
      predictions: int[N], 0 or 1.

    Returns:
      In [0, 1]; NaN where no record has class 1 and none is predicted to have it.
    """
    return float(weighted.f1(_counts(labels, predictions, 2))[0, 1])


def macro_f1(labels: np.ndarray, predictions: np.ndarray, classes: int) -> float:
    """Mean over all C classes of their F1, which is 0 for a class that is nowhere."""
    return float(np.nan_to_num(weighted.f1(_counts(labels, predictions, classes)))[0].mean())


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
    return float(weighted.f1_at_best_threshold(member, scores, weighted.ones(len(member)))[0])


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
    return float(weighted.kappa(_counts(labels, predictions, classes))[0])


def kappa(labels: np.ndarray, predictions: np.ndarray, classes: int, power: int = 0) -> float:
    """Cohen's kappa whose weights are the distance of classes to `power`; 0: unweighted."""
    return float(weighted.kappa(_counts(labels, predictions, classes), power)[0])


def matthews(labels: np.ndarray, predictions: np.ndarray, classes: int) -> float:
    """Matthews' correlation of labels and predictions int[N]; NaN where one of them is constant."""
    counts = _counts(labels, predictions, classes)[0]
    rows, columns, total = counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    spread = (total**2 - (rows**2).sum()) * (total**2 - (columns**2).sum())
    right = total * np.trace(counts) - (rows * columns).sum()
    return float(right / np.sqrt(spread)) if spread > 0 else float("nan")


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
      labels: bool or 0 / 1 [N C], any number of labels a record; -1 where one is not known, which
        leaves the record out of that label's figure.
      scores: f[N C], higher for a likelier label; any monotone scale.

    Returns:
      f64[C]; NaN for a label that no record, or every record, has.
    """
    return _per_label(weighted.auc, labels, scores)


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
    return _per_label(weighted.average_precision, labels, scores)


def _per_label(
    figure: Callable[..., np.ndarray], labels: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    labels, scores = _members(labels, scores)
    once = weighted.ones(len(labels))
    return np.array([figure(*pair, once)[0] for pair in zip(labels.T, scores.T, strict=True)])


def _members(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores as f64, which must have one shape."""
    member, scores = np.asarray(labels), np.asarray(scores, np.float64)
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


def one_versus_one_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean over all ordered pairs of classes of the area of the first class's column (Hand, Till).

    Args:
      labels: int[N] in [0, C).
      scores: f[N C].

    Returns:
      In [0, 1]; NaN if a class is absent.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    pairs = [(i, j) for i in range(scores.shape[1]) for j in range(scores.shape[1]) if i != j]
    areas = []
    for i, j in pairs:
        rows = (labels == i) | (labels == j)
        once = weighted.ones(int(rows.sum()))
        areas.append(weighted.auc(labels[rows] == i, scores[rows, i], once)[0])
    return float(np.mean(areas)) if areas else float("nan")


def top_k_accuracy(labels: np.ndarray, scores: np.ndarray, k: int) -> float:
    """Share of the records whose class is among its k highest scores f[N C], the last of equals."""
    labels = np.asarray(labels)
    best = np.argsort(np.asarray(scores, np.float64), axis=1, kind="stable")[:, ::-1][:, :k]
    return float((best == labels[:, None]).any(axis=1).mean()) if labels.size else float("nan")


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of -log of the probability f[N C] of the class int[N] of a record, in nats.

    NaN without records, and where a label is outside [0, C). Probabilities are not below 2e-16.
    """
    found = _of_own_class(labels, probabilities)
    return float(-np.log(np.clip(found, _SMALLEST, 1.0)).mean()) if found.size else float("nan")


def brier_multiclass(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over records of the sum over classes of (p - y)^2, in [0, 2]; NaN as in `log_loss`."""
    probabilities = np.asarray(probabilities, np.float64)
    own = _of_own_class(labels, probabilities)
    return float((np.square(probabilities).sum(axis=1) - 2 * own + 1).mean()) if own.size else (
        float("nan")
    )  # fmt: skip


def tied_tops(scores: np.ndarray) -> int:
    """How many records f[N C] have two equal highest scores, of which argmax takes the first."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.shape[1] < 2:
        return 0
    top = np.sort(scores, axis=1)[:, -2:]
    return int((top[:, 0] == top[:, 1]).sum())


def _of_own_class(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The probability f64[N] that each record has of its class; NaN for a class outside."""
    labels, probabilities = np.asarray(labels, np.int64), np.asarray(probabilities, np.float64)
    inside = (labels >= 0) & (labels < probabilities.shape[1])
    found = probabilities[np.arange(len(labels)), np.where(inside, labels, 0)]
    return np.where(inside, found, np.nan)


def _counts(labels: np.ndarray, predictions: np.ndarray, classes: int | None) -> np.ndarray:
    """The confusion matrix f64[1 C C]; None for as many classes as there are numbers."""
    if classes is None:
        classes = int(max(np.max(labels, initial=0), np.max(predictions, initial=0))) + 1
    return weighted.confusion(labels, predictions, classes, weighted.ones(len(labels)))

"""Figures of merit under weights of the records, for many weightings at once.

A bootstrap sample is the number of times that each record was drawn, so an interval is made of one
call instead of thousands. Everywhere: weights f64[B N], results f64[B ...], NaN where a figure is
not defined. No function raises or warns for what is in the data.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from typing import Any

import numpy as np


def ones(count: int) -> np.ndarray:
    """The one weighting f64[1 N] in which every record counts once."""
    return np.ones((1, count))


def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """Quotients of arrays that broadcast, f64; NaN where the divisor is 0 or NaN."""
    over, under = np.broadcast_arrays(np.asarray(over, np.float64), np.asarray(under, np.float64))
    usable = ~np.isnan(under) & (under != 0)
    return np.divide(over, under, out=np.full(over.shape, np.nan), where=usable)


def confusion(
    labels: np.ndarray, predictions: np.ndarray, classes: int, weights: np.ndarray
) -> np.ndarray:
    """Weights of (label, prediction), f64[B C C] with a row for each label.

    Args:
      labels: int[N]; a record whose label is outside [0, C) counts nowhere.
      predictions: int[N], the same.
      classes: number of classes C.
      weights: f64[B N].
    """
    from scipy import sparse

    labels, predictions = np.asarray(labels, np.int64), np.asarray(predictions, np.int64)
    inside = (np.minimum(labels, predictions) >= 0) & (np.maximum(labels, predictions) < classes)
    cells = (labels * classes + predictions)[inside]
    shape = (classes * classes, len(labels))
    chosen: Any = sparse.csr_array((np.ones(len(cells)), (cells, np.flatnonzero(inside))), shape)
    return (chosen @ np.asarray(weights, np.float64).T).T.reshape(-1, classes, classes)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of the weight of confusion matrices f64[B C C] that is on the diagonal, f64[B]."""
    return ratio(_right(counts).sum(axis=1), counts.sum(axis=(1, 2)))


def recall(counts: np.ndarray) -> np.ndarray:
    """Sensitivity of each class, f64[B C]."""
    return ratio(_right(counts), counts.sum(axis=2))


def precision(counts: np.ndarray) -> np.ndarray:
    """Positive predictive value of each class, f64[B C], at the prevalence of the records."""
    return ratio(_right(counts), counts.sum(axis=1))


def specificity(counts: np.ndarray) -> np.ndarray:
    """Share of the records without each class that is not predicted to have it, f64[B C]."""
    return ratio(_rejected(counts), counts.sum(axis=(1, 2))[:, None] - counts.sum(axis=2))


def negative_predictive_value(counts: np.ndarray) -> np.ndarray:
    """Share of the records that are not predicted to have each class that lack it, f64[B C]."""
    return ratio(_rejected(counts), counts.sum(axis=(1, 2))[:, None] - counts.sum(axis=1))


def f1(counts: np.ndarray) -> np.ndarray:
    """F1 of each class, f64[B C]; NaN where nothing has the class and nothing is called it."""
    return ratio(2 * _right(counts), counts.sum(axis=1) + counts.sum(axis=2))


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """Mean of the sensitivity of those classes that records have, f64[B]."""
    found = recall(counts)
    present = ~np.isnan(found)
    return ratio(np.where(present, found, 0.0).sum(axis=1), present.sum(axis=1))


def kappa(counts: np.ndarray, power: int = 2) -> np.ndarray:
    """Cohen's kappa, f64[B]: 1 - sum(w O) / sum(w E).

    Args:
      counts: confusion matrices f64[B C C].
      power: the disagreement w of classes i and j is |i - j| to this power; 2 is the quadratic
        kappa, 1 the linear one, and 0 counts every disagreement alike.

    Returns:
      NaN where labels and predictions are all of one and the same class.
    """
    classes = np.arange(counts.shape[1])
    apart = np.abs(classes[:, None] - classes[None, :]).astype(np.float64)
    apart = np.where(apart > 0, apart**power, 0.0)
    rows, columns = counts.sum(axis=2), counts.sum(axis=1)
    expected = ratio(np.einsum("bi,ij,bj->b", rows, apart, columns), counts.sum(axis=(1, 2)))
    return 1.0 - ratio((apart * counts).sum(axis=(1, 2)), expected)


def auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the receiver operating characteristic of one label, f64[B].

    The probability that a record with the label scores higher than one without, equal scores
    counting half.

    Args:
      labels: bool or int[N]: 1 has the label, 0 lacks it, and of -1 it is not known.
      scores: f[N].
      weights: f64[B N].

    Returns:
      NaN where no record, or every record, has the label, and where a score is NaN.
    """
    steps = _steps(labels, scores, weights)
    if steps is None:
        return np.full(len(weights), np.nan)
    has, lacks = steps
    below = np.cumsum(lacks, axis=1) - lacks / 2
    return ratio((has * below).sum(axis=1), has.sum(axis=1) * lacks.sum(axis=1))


def average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision of one label, f64[B]: the sum of (R_n - R_n-1) P_n over distinct scores.

    Args:
      labels, scores, weights: what `auc` takes.

    Returns:
      NaN where no record has the label, and where a score is NaN.
    """
    steps = _steps(labels, scores, weights)
    if steps is None:
        return np.full(len(weights), np.nan)
    has, lacks = (part[:, ::-1] for part in steps)
    found = np.cumsum(has, axis=1)
    called = found + np.cumsum(lacks, axis=1)
    share = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return ratio((has * share).sum(axis=1), has.sum(axis=1))


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean f64[B] of values f[N]."""
    return ratio(np.asarray(weights, np.float64) @ np.asarray(values, np.float64),
                 np.asarray(weights, np.float64).sum(axis=1))  # fmt: skip


def r2(values: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """1 - the squared error over that of the mean of values f[N], f64[B]; NaN of equal values."""
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    spread = (weights * np.square(values - mean(values, weights)[:, None])).sum(axis=1)
    return 1.0 - ratio(weights @ np.square(values - np.asarray(predictions, np.float64)), spread)


def f1_at_best_threshold(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:  # fmt: skip
    """F1 at the threshold with the greatest sum of kappa and F1; `classification` says more."""
    steps = _steps(labels, scores, weights)
    if steps is None:
        return np.full(len(weights), np.nan)
    has, lacks = (np.cumsum(part[:, ::-1], axis=1)[:, ::-1] for part in steps)
    positives, negatives = has[:, :1], lacks[:, :1]
    called, count = has + lacks, positives + negatives
    agreement = ratio(2 * has, called + positives)
    observed = ratio(has + negatives - lacks, count)
    by_chance = ratio(called * positives + (count - called) * negatives, count**2)
    best = np.nan_to_num(ratio(observed - by_chance, 1 - by_chance) + agreement, nan=-np.inf)
    found = np.take_along_axis(agreement, best.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where((positives * negatives)[:, 0] > 0, found, np.nan)


def _right(counts: np.ndarray) -> np.ndarray:
    return np.diagonal(counts, axis1=1, axis2=2)


def _rejected(counts: np.ndarray) -> np.ndarray:
    total = counts.sum(axis=(1, 2))[:, None]
    return total - counts.sum(axis=2) - counts.sum(axis=1) + _right(counts)


def _steps(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights of the records with and without a label at each distinct score, upwards, f64[B S].

    Records of an unknown label are left out; None where none is left, or a score is NaN.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    known = np.flatnonzero(labels >= 0)
    if not len(known) or np.isnan(scores[known]).any():
        return None
    order = known[np.argsort(scores[known], kind="stable")]
    found, has = scores[order], labels[order] > 0
    starts = np.flatnonzero(np.concatenate([[True], found[1:] != found[:-1]]))
    drawn = np.asarray(weights, np.float64)[:, order]
    parts = (np.where(has, drawn, 0.0), np.where(has, 0.0, drawn))
    if len(starts) == len(order):
        return parts
    return np.add.reduceat(parts[0], starts, axis=1), np.add.reduceat(parts[1], starts, axis=1)

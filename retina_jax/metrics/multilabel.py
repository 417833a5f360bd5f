"""Figures of records that may have any number of C labels: 0 / 1 [N C], and -1 where unknown.

Per label figures are `classification.auc_per_label` and `average_precision_per_label`.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import numpy as np

from retina_jax.metrics import binary, classification, weighted


def micro_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area of all labels in one pile, which mixes prevalences: a secondary figure."""
    return binary.auc(np.ravel(labels), np.ravel(scores))


def micro_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Average precision of all labels in one pile: a secondary figure."""
    return binary.average_precision(np.ravel(labels), np.ravel(scores))


def f1_per_label(labels: np.ndarray, calls: np.ndarray) -> np.ndarray:
    """F1 f64[C] of calls 0 / 1 [N C]; NaN where a label is neither known of a record nor called."""
    pairs = zip(np.asarray(labels).T, np.asarray(calls, np.int64).T, strict=True)
    return np.array([classification.f1(*pair) for pair in pairs])


def macro_f1(labels: np.ndarray, calls: np.ndarray) -> float:
    """Mean over all labels of their F1, which is 0 for a label that is nowhere."""
    found = f1_per_label(labels, calls)
    return float(np.nan_to_num(found).mean()) if found.size else float("nan")


def micro_f1(labels: np.ndarray, calls: np.ndarray) -> float:
    """F1 of all labels in one pile."""
    return classification.f1(np.ravel(labels), np.ravel(np.asarray(calls, np.int64)))


def samples_f1(labels: np.ndarray, calls: np.ndarray) -> float:
    """Mean over records of the F1 of their labels, which is 0 for a record without any."""
    labels, calls = np.asarray(labels), np.asarray(calls, np.int64)
    counts = [
        weighted.confusion(*pair, 2, weighted.ones(labels.shape[1]))
        for pair in zip(labels, calls, strict=True)
    ]
    each = [np.nan_to_num(weighted.f1(one)[0, 1]) for one in counts]
    return float(np.mean(each)) if each else float("nan")


def exact_match(labels: np.ndarray, calls: np.ndarray) -> float:
    """Share of the records of which every known label is called right."""
    right = (np.asarray(labels) == np.asarray(calls)) | (np.asarray(labels) < 0)
    return float(right.all(axis=1).mean()) if right.size else float("nan")


def hamming_loss(labels: np.ndarray, calls: np.ndarray) -> float:
    """Share of the known labels that is called wrong."""
    labels = np.asarray(labels)
    stated = labels >= 0
    wrong = (labels != np.asarray(calls)) & stated
    return float(wrong.sum() / stated.sum()) if stated.any() else float("nan")


def odir_challenge(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The score of the ODIR-2019 challenge, as its script has it: patients x labels in one pile.

    A score above 0.5 is a call; its "F1" with average='micro' is the accuracy of the pile.

    Returns:
      'kappa', 'f1' (an accuracy), 'auc' and their mean 'score'.
    """
    labels, scores = np.ravel(labels), np.ravel(np.asarray(scores, np.float64))
    calls = (scores > 0.5).astype(np.int64)
    found = {
        "kappa": classification.kappa(labels, calls, 2),
        "f1": classification.accuracy(labels, calls),
        "auc": binary.auc(labels, scores),
    }
    return {**found, "score": float(np.mean(list(found.values())))}

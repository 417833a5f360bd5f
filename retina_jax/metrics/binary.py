"""Figures of tests with two outcomes: at a threshold, of probabilities, and in another population.

Labels are int[N], 1 for disease and 0 without. A record is called positive where its score is the
threshold or higher. What is not defined is NaN; nothing raises or warns for what is in the data.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses

import numpy as np

from retina_jax.metrics import classification, weighted


@dataclasses.dataclass(frozen=True)
class AtThreshold:
    """What a test does at a threshold.

    Attributes:
      confusion: i64[2 2], rows are labels, columns what was called.
      sensitivity, specificity: shares of the records with and without disease that are called so.
      ppv, npv: predictive values, at the prevalence of the records.
      accuracy, balanced_accuracy, f1, matthews, kappa: agreement of calls and labels.
      called: the share of the records that is called positive.
    """

    confusion: np.ndarray
    sensitivity: float
    specificity: float
    ppv: float
    npv: float
    accuracy: float
    balanced_accuracy: float
    f1: float
    matthews: float
    kappa: float
    called: float


def at_threshold(labels: np.ndarray, scores: np.ndarray, threshold: float) -> AtThreshold:
    """What calling records of scores f[N] >= `threshold` positive does."""
    labels = np.asarray(labels, np.int64)
    called = (np.asarray(scores, np.float64) >= threshold).astype(np.int64)
    counts = weighted.confusion(labels, called, 2, weighted.ones(len(labels)))
    return AtThreshold(
        confusion=counts[0].astype(np.int64),
        sensitivity=float(weighted.recall(counts)[0, 1]),
        specificity=float(weighted.specificity(counts)[0, 1]),
        ppv=float(weighted.precision(counts)[0, 1]),
        npv=float(weighted.negative_predictive_value(counts)[0, 1]),
        accuracy=float(weighted.accuracy(counts)[0]),
        balanced_accuracy=float(weighted.balanced_accuracy(counts)[0]),
        f1=float(weighted.f1(counts)[0, 1]),
        matthews=classification.matthews(labels, called, 2),
        kappa=float(weighted.kappa(counts, 0)[0]),
        called=float(called.mean()) if called.size else float("nan"),
    )


def predictive_values(
    sensitivity: float, specificity: float, prevalence: float
) -> tuple[float, float]:  # fmt: skip
    """Positive and negative predictive value where a share `prevalence` has the disease (Bayes)."""
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    clear, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return (
        right / (right + wrong) if right + wrong else float("nan"),
        clear / (clear + missed) if clear + missed else float("nan"),
    )


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the receiver operating characteristic; NaN where one of the classes is absent."""
    return float(weighted.auc(labels, scores, weighted.ones(len(labels)))[0])


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the steps of precision over recall; NaN without a positive record."""
    return float(weighted.average_precision(labels, scores, weighted.ones(len(labels)))[0])


def auprc_trapezoid(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under precision over recall with straight lines between its points: too optimistic."""
    if not _usable(labels, scores) or not np.any(np.asarray(labels) == 1):
        return float("nan")
    from sklearn import metrics  # a second that --help can spare

    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    return float(metrics.auc(recall, precision))


def partial_auc(labels: np.ndarray, scores: np.ndarray, most_false_positives: float) -> float:
    """Area up to a false positive rate, standardised so that chance is 0.5 (McClish 1989)."""
    if not _usable(labels, scores) or len(np.unique(labels)) != 2:
        return float("nan")
    from sklearn import metrics

    return float(metrics.roc_auc_score(labels, scores, max_fpr=most_false_positives))


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of (p - y)^2, in [0, 1]; NaN without records."""
    labels = np.asarray(labels, np.float64)
    apart = np.square(np.asarray(probabilities, np.float64) - labels)
    return float(apart.mean()) if apart.size else float("nan")


def brier_skill(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """1 - Brier / (prevalence (1 - prevalence)): 0 for who knows the prevalence and no more."""
    prevalence = float(np.mean(labels)) if np.size(labels) else 0.0
    spread = prevalence * (1 - prevalence)
    return 1 - brier(labels, probabilities) / spread if spread else float("nan")


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of -log of the probability of what is the case, in nats."""
    probabilities = np.asarray(probabilities, np.float64)
    return classification.log_loss(labels, np.stack([1 - probabilities, probabilities], axis=-1))


def chance_f1(prevalence: float) -> float:
    """F1 of calling every record positive."""
    return 2 * prevalence / (1 + prevalence)


def _usable(labels: np.ndarray, scores: np.ndarray) -> bool:
    return bool(
        np.size(labels) and np.isfinite(scores).all() and np.isin(labels, (0, 1)).all()
    )  # fmt: skip

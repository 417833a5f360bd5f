"""What a decision is worth: net benefit, and the risk of cases that are not left to others."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

THRESHOLDS = tuple(round(0.01 * i, 2) for i in range(1, 51))


def net_benefit(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> float:
    """Net benefit of acting where p >= threshold (Vickers and Elkin 2006); 0 is acting on nobody.

    TP / n - FP / n * t / (1 - t), NaN without records or at a threshold of 1.
    """
    if not len(labels) or not 0 <= threshold < 1:
        return float("nan")
    return float(of_weights(labels, probabilities, (threshold,))(np.ones((1, len(labels))))[0, 0])


def of_weights(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float] = THRESHOLDS
) -> Callable[[np.ndarray], np.ndarray]:
    """Weights f64[B N] of the records -> net benefit at each threshold below 1, f64[B T]."""
    labels, t = np.asarray(labels), np.asarray(thresholds, np.float64)
    acts = np.asarray(probabilities, np.float64)[:, None] >= t
    # What acting on a record adds: 1 where that is right, minus the odds of t where it is not.
    gain = np.where((labels == 1)[:, None], 1.0, -(t / (1 - t)) * (labels == 0)[:, None]) * acts
    return lambda weights: weights @ gain / weights.sum(axis=1, keepdims=True)


def decision_curve(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float] = THRESHOLDS
) -> list[dict[str, float]]:
    """Points of a decision curve of calibrated probabilities.

    Returns:
      A dict a threshold: 'threshold', net benefits of the 'model' and of acting on 'all', and
      'standardised', the model's over the prevalence.
    """
    everyone = np.ones(len(labels))
    prevalence = float(np.mean(np.asarray(labels) == 1)) if len(labels) else float("nan")
    points: list[dict[str, float]] = []
    for threshold in thresholds:
        model = net_benefit(labels, probabilities, threshold)
        points.append({
            "threshold": threshold,
            "model": model,
            "all": net_benefit(labels, everyone, threshold),
            "standardised": model / prevalence if prevalence else float("nan"),
        })  # fmt: skip
    return points


def risk_coverage(confidence: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, float]:
    """Risk of the surest k records, for every k.

    Args:
      confidence: f[N]; of equals the first comes first.
      errors: bool or 0 / 1 [N], whether the prediction is wrong.

    Returns:
      (f64[N], the mean of the errors of the first k; its mean over k, NaN without records).
    """
    order = np.argsort(-np.asarray(confidence, np.float64), kind="stable")
    wrong = np.asarray(errors, np.float64)[order]
    risk = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    return risk, float(risk.mean()) if risk.size else float("nan")

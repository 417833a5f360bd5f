"""Figures of predicted quantities, in the units of the labels f[N]; NaN where not defined."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import numpy as np

from retina_jax.metrics import weighted


def figures(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """All of them.

    Args:
      labels, predictions: f[N].

    Returns:
      'mae', 'rmse', 'median_absolute_error', 'bias' and 'deviation' (mean and standard deviation of
      prediction minus label, ddof 1), 'agreement_low' and 'agreement_high' (bias +- 1.96
      deviations, Bland and Altman 1986), 'r2', 'pearson', 'spearman', and 'concordance' (Lin 1989,
      of moments with ddof 0). NaN is R2 where all labels are equal, what needs two records where
      there is one, and everything where a value is not finite.
    """
    truth, found = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    names = ("mae", "rmse", "median_absolute_error", "bias", "deviation", "agreement_low",
             "agreement_high", "r2", "pearson", "spearman", "concordance")  # fmt: skip
    if not truth.size or not np.isfinite(truth).all() or not np.isfinite(found).all():
        return dict.fromkeys(names, float("nan"))
    error = found - truth
    bias = float(error.mean())
    deviation = float(error.std(ddof=1)) if len(error) > 1 else float("nan")
    values = (
        np.abs(error).mean(), np.sqrt(np.square(error).mean()), np.median(np.abs(error)), bias,
        deviation, bias - 1.96 * deviation, bias + 1.96 * deviation, r2(truth, found),
        correlation(truth, found), _rank_correlation(truth, found), _concordance(truth, found),
    )  # fmt: skip
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def r2(labels: np.ndarray, predictions: np.ndarray) -> float:
    """1 - the squared error over that of the mean label; NaN where all labels are equal."""
    return float(weighted.r2(labels, predictions, weighted.ones(len(labels)))[0])


def correlation(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Pearson's correlation; NaN where one of the two is constant."""
    labels, predictions = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    if labels.size < 2 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return float("nan")
    return float(np.corrcoef(labels, predictions)[0, 1])


def _rank_correlation(labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy.stats import rankdata  # a second that --help can spare

    return correlation(rankdata(labels), rankdata(predictions))


def _concordance(labels: np.ndarray, predictions: np.ndarray) -> float:
    together = np.mean((labels - labels.mean()) * (predictions - predictions.mean()))
    spread = labels.var() + predictions.var() + (labels.mean() - predictions.mean()) ** 2
    return float(2 * together / spread) if spread > 0 else float("nan")

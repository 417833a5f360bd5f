"""The variance of areas under the receiver operating characteristic, without resampling.

DeLong 1988 by midranks (Sun and Xu 2014); for records that belong together Obuchowski 1997.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import numpy as np


def components(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structural components of an area.

    Args:
      labels: int[N], 1 or 0.
      scores: f[N].

    Returns:
      f64[m]: the share of the negatives that each positive scores above, equal ones half; f64[n]:
      the share of the positives that each negative scores below. The mean of either is the area.
    """
    from scipy.stats import rankdata  # scipy.stats takes a second to import

    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    positive, negative = scores[labels == 1], scores[labels == 0]
    ranks = rankdata(np.concatenate([positive, negative]))
    m, n = len(positive), len(negative)
    above = (ranks[:m] - rankdata(positive)) / max(n, 1)
    below = 1 - (ranks[m:] - rankdata(negative)) / max(m, 1)
    return above, below


def areas(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Areas of K models on the same records, and their covariance.

    Args:
      labels: int[N], 1 or 0.
      scores: f[K N].
      groups: [N], what is independent; None for the records.

    Returns:
      (f64[K], f64[K K]); NaN where there are fewer than two independent positives or negatives.
    """
    labels, scores = np.asarray(labels), np.atleast_2d(np.asarray(scores, np.float64))
    models = len(scores)
    positive = labels == 1
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    codes = np.unique(groups, return_inverse=True)[1]
    independent = [len(np.unique(codes[rows])) for rows in (positive, labels == 0)]
    if min(independent) < 2 or np.isnan(scores).any():
        return np.full(models, np.nan), np.full((models, models), np.nan)
    parts = [components(labels, row) for row in scores]
    above, below = (np.stack([part[side] for part in parts]) for side in (0, 1))
    found = above.mean(axis=1)
    total = int(codes.max()) + 1
    # Sums over the records of each group, [K G].
    x = _sums(above - found[:, None], codes[positive], total)
    y = _sums(below - found[:, None], codes[labels == 0], total)
    m, n = above.shape[1], below.shape[1]
    both = x @ y.T
    covariance = (
        independent[0] / (independent[0] - 1) * (x @ x.T) / m**2
        + independent[1] / (independent[1] - 1) * (y @ y.T) / n**2
    )
    together = len(np.unique(codes))
    if together > 1:
        covariance = covariance + together / (together - 1) * (both + both.T) / (m * n)
    return found, covariance


def difference(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float, float, float]:
    """Difference of two areas on the same records, its standard error, z and two-sided p."""
    found, covariance = areas(labels, np.stack([first, second]), groups)
    apart = float(found[0] - found[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not variance > 0:
        return apart, float("nan"), float("nan"), float("nan")
    from scipy.special import ndtr

    error = float(np.sqrt(variance))
    return apart, error, apart / error, float(2 * ndtr(-abs(apart / error)))


def interval(value: float, variance: float, level: float = 0.95) -> tuple[float, float]:
    """The interval of an area on the logit scale, so that its ends stay in (0, 1).

    NaN for an area of 0 or 1, whose logit is infinite.
    """
    from scipy.special import expit, logit, ndtri

    if not 0 < value < 1 or not variance >= 0:
        return float("nan"), float("nan")
    half = float(ndtri((1 + level) / 2)) * np.sqrt(variance) / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))


def _sums(values: np.ndarray, codes: np.ndarray, total: int) -> np.ndarray:
    return np.stack([np.bincount(codes, row, minlength=total) for row in values])

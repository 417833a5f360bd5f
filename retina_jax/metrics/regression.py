"""Figures of merit of predicted quantities."""

from __future__ import annotations

import numpy as np


def r_squared(values: np.ndarray, predictions: np.ndarray) -> float:
    """1 - (sum of squared errors) / (sum of squared differences of the values to their mean).

    Args:
      values: f[N].
      predictions: f[N].

    Returns:
      At most 1; 0 for the mean of these values as every prediction, below 0 for worse ones. NaN
      where the values are all alike.
    """
    values, predictions = np.asarray(values, np.float64), np.asarray(predictions, np.float64)
    spread = ((values - values.mean()) ** 2).sum() if values.size else 0.0
    return float(1 - ((values - predictions) ** 2).sum() / spread) if spread else float("nan")

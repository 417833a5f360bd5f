"""Figures of grades 0 ... C-1 in their order; `classification` has the quadratic kappa."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import numpy as np

DECODERS = ("argmax", "expected", "median")


def mean_absolute_error(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean distance of predicted grades int[N] from the labels int[N]; NaN without records."""
    apart = _apart(labels, predictions)
    return float(apart.mean()) if apart.size else float("nan")


def within_one(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of the records whose predicted grade is the label or next to it."""
    apart = _apart(labels, predictions)
    return float((apart <= 1).mean()) if apart.size else float("nan")


def at_least(probabilities: np.ndarray, grade: int) -> np.ndarray:
    """P(grade >= `grade`) f64[N] of probabilities f[N C]; 2 asks for referable retinopathy."""
    return np.asarray(probabilities, np.float64)[:, grade:].sum(axis=1)


def expected_grade(probabilities: np.ndarray) -> np.ndarray:
    """Mean grade f64[N] of probabilities f[N C]."""
    probabilities = np.asarray(probabilities, np.float64)
    return probabilities @ np.arange(probabilities.shape[1])


def decode(probabilities: np.ndarray, decoder: str = "argmax") -> np.ndarray:
    """Grades i64[N] of probabilities f[N C].

    Args:
      probabilities: rows that sum to 1.
      decoder: 'argmax', the likeliest grade; 'expected', the mean grade, half rounded up; 'median',
        the first grade that half of the probability reaches.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if decoder == "expected":
        nearest = np.floor(np.nan_to_num(expected_grade(probabilities)) + 0.5)
        return np.clip(nearest, 0, probabilities.shape[1] - 1).astype(np.int64)
    if decoder == "median":
        # Sums of thirds and tenths fall short of a half by a rounding error.
        return (np.cumsum(probabilities, axis=1) >= 0.5 - 1e-12).argmax(axis=1)
    return probabilities.argmax(axis=1)


def _apart(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return np.abs(np.asarray(labels, np.float64) - np.asarray(predictions, np.float64))

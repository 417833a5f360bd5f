"""Confidence intervals by resampling records, or whole patients."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_pipelines.errors import InputError


def _members(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Record indices sorted by group, and where each group starts and how many it has."""
    _, ids, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return np.argsort(ids, kind="stable"), np.cumsum(counts) - counts, counts


def _resample(
    members: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Indices of all records of as many groups as there are, drawn with replacement."""
    order, starts, counts = members
    drawn = rng.integers(len(counts), size=len(counts))
    sizes = counts[drawn]
    offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[np.repeat(starts[drawn], sizes) + offsets]


def interval(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic.

    Args:
      statistic: takes resampled versions of `arrays` and returns a number.
      *arrays: sharing axis 0, the records.
      groups: [N] ids of what is independent, a patient say: records of one group are drawn
        together. None draws single records.
      resamples: how often to draw.
      seed: the seed of the draws; the same seed gives the same interval.
      level: the share of resampled values inside.

    Returns:
      (low, high). Resamples where the statistic is NaN (one that misses a class, say) are left
      out; (NaN, NaN) where they are more than half of all, since the rest would not be typical.

    Raises:
      InputError: if the lengths differ or there is no record.
    """
    arrays = tuple(np.asarray(array) for array in arrays)
    count = len(arrays[0]) if arrays else 0
    groups = np.arange(count) if groups is None else np.asarray(groups)
    lengths = {len(array) for array in (*arrays, groups)}
    if count == 0 or len(lengths) != 1:
        raise InputError(
            f"A bootstrap needs arrays and groups of one length above 0, not {sorted(lengths)}."
        )
    members = _members(groups)
    rng = np.random.default_rng(seed)
    values = np.empty(resamples)
    for i in range(resamples):
        rows = _resample(members, rng)
        values[i] = statistic(*(array[rows] for array in arrays))
    defined = values[~np.isnan(values)]
    if defined.size * 2 < resamples:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

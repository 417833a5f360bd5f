"""Whether two models differ on the same records, and what may be said of several."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from retina_jax.metrics import weighted
from retina_jax.metrics.bootstrap import Interval, Resampling

# A comparison says nothing below so many patients, in all and of each class.
LEAST_GROUPS, LEAST_OF_CLASS = 30, 10


@dataclasses.dataclass(frozen=True)
class Paired:
    """A difference of two models, first minus second.

    Attributes:
      difference: the difference of the figures of all records.
      interval: the interval of the difference; one resample serves both models.
      p: two-sided, from the share of resamples on the other side of 0.
    """

    difference: float
    interval: Interval
    p: float


def paired(
    first: Callable[[np.ndarray], np.ndarray],
    second: Callable[[np.ndarray], np.ndarray],
    groups: np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
    method: str = "bca",
) -> Paired:
    """The difference of two figures of the same records.

    Args:
      first, second: weights f64[b N] of the records -> f64[b], the figure of each model.
      groups: [N], what is independent.
      resamples, seed, method: what `Resampling` takes.
    """

    def apart(weights: np.ndarray) -> np.ndarray:
        return first(weights) - second(weights)

    resampling = Resampling(groups, resamples, seed, method)
    value = float(apart(weighted.ones(len(resampling.codes)))[0])
    return Paired(value, resampling.interval(apart), p_value(resampling.replicates(apart)))


def p_value(differences: np.ndarray) -> float:
    """Two-sided p of bootstrap values f64[B] of a difference; NaN ones are left out."""
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return float("nan")
    rarer = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(defined) + 1)))


def holm(p: Sequence[float]) -> list[float]:
    """p adjusted for their number (Holm 1979), in the order given; NaN ones stay apart."""
    found = np.asarray(p, np.float64)
    usable = np.flatnonzero(~np.isnan(found))
    order = usable[np.argsort(found[usable], kind="stable")]
    steps = (len(order) - np.arange(len(order))) * found[order]
    adjusted = found.copy()
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(value) for value in adjusted]


def corrected_resampled_t(
    differences: Sequence[float], train: int, test: int
) -> tuple[float, float]:
    """t and two-sided p of differences over k random splits (Nadeau and Bengio 2003).

    Splits of one set share records, so that a plain t test is too sure of itself.

    Args:
      differences: one a split.
      train, test: records of the two sides of a split.
    """
    from scipy.special import stdtr

    found = np.asarray(differences, np.float64)
    spread = found.var(ddof=1) if len(found) > 1 else 0.0
    if not spread > 0 or train <= 0:
        return float("nan"), float("nan")
    t = float(found.mean() / np.sqrt((1 / len(found) + test / train) * spread))
    return t, float(2 * stdtr(len(found) - 1, -abs(t)))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact p of which of two models is right more often, where no two records belong together.

    Args:
      first, second: bool[N], whether each model is right.
    """
    from scipy.stats import binomtest  # scipy.stats takes a second to import

    first, second = np.asarray(first, bool), np.asarray(second, bool)
    only = int((first & ~second).sum())
    apart = only + int((second & ~first).sum())
    return float(binomtest(only, apart).pvalue) if apart else 1.0


def enough(labels: np.ndarray, groups: np.ndarray) -> str | None:
    """Why records i[N], 0 / 1 [N C] or f[N] are too few to compare models on; None if not."""
    groups = np.asarray(groups)
    if (count := len(np.unique(groups))) < LEAST_GROUPS:
        return f"A comparison needs {LEAST_GROUPS} patients, but there are {count}."
    labels = np.asarray(labels)
    if labels.dtype.kind == "f":  # a quantity, which has no classes
        return None
    sets = [labels == k for k in np.unique(labels)] if labels.ndim == 1 else [
        side for column in labels.T for side in (column == 1, column == 0)
    ]  # fmt: skip
    fewest = min((len(np.unique(groups[rows])) for rows in sets), default=0)
    if fewest < LEAST_OF_CLASS:
        return f"A comparison needs {LEAST_OF_CLASS} patients of each class, one has {fewest}."
    return None

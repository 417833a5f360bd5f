"""Confidence intervals by resampling whole patients, or whatever is independent."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines.errors import InputError

# Above so many groups BCa costs too much, and differs too little from the percentiles.
MOST_GROUPS = 2000
_ELEMENTS = 2_000_000  # numbers of weights at a time
Statistic = Callable[..., "float | np.ndarray"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A 95 % interval, or one of another level.

    Attributes:
      low, high: its ends; NaN where there is none.
      method: 'bca' or 'percentile', and 'exact' or 'rule of three' at the edge of a figure's range.
      resamples: how often was drawn.
      undefined: in how many of these the figure is not defined; they are left out.
      reason: why there is none, or why it is of percentiles where BCa is not defined; None where
        neither is so, as above MOST_GROUPS, where BCa is not tried.
    """

    low: float
    high: float
    method: str
    resamples: int
    undefined: int = 0
    reason: str | None = None


class Resampling:
    """Draws of groups that several statistics of the same records share.

    Args:
      groups: [N] ids of what is independent, a patient say: its records are drawn together.
      resamples: how often to draw.
      seed: the seed of the draws; the same seed gives the same draws.
      method: 'bca' or 'percentile'.

    Raises:
      InputError: without records, or for another method.
    """

    def __init__(
        self, groups: np.ndarray, resamples: int = 2000, seed: int = 0, method: str = "bca"
    ):
        names, self.codes = np.unique(np.asarray(groups), return_inverse=True)
        self.count, self.resamples, self.seed = len(names), resamples, seed
        self.method = "percentile" if self.count > MOST_GROUPS else method
        if not self.count:
            raise InputError("A bootstrap needs at least one record.")
        if method not in ("bca", "percentile"):
            raise InputError(f"Intervals are made by 'bca' or 'percentile', not by '{method}'.")

    def replicates(self, statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Weights f64[b N] of records -> values f64[b]: f64[resamples], one a bootstrap sample."""
        rng = np.random.default_rng(self.seed)
        found: list[np.ndarray] = []
        for size in _pieces(self.resamples, max(len(self.codes), self.count)):
            drawn = rng.integers(self.count, size=(size, self.count))
            drawn += np.arange(size)[:, None] * self.count
            counts = np.bincount(drawn.ravel(), minlength=size * self.count)
            counts = counts.reshape(size, self.count).astype(np.float64)
            found.append(statistic(counts[:, self.codes]))
        return np.concatenate(found)

    def left_out(self, statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The statistic without each of the groups in turn, f64[G]."""
        found, start = [], 0
        for size in _pieces(self.count, len(self.codes)):
            which = np.arange(start, start + size)[:, None]
            found.append(statistic((self.codes[None, :] != which).astype(np.float64)))
            start += size
        return np.concatenate(found)

    def interval(
        self,
        statistic: Callable[[np.ndarray], np.ndarray],
        level: float = 0.95,
        edge: tuple[str, Sequence[int]] | None = None,
    ) -> Interval:
        """The interval of a statistic of weights.

        Args:
          statistic: weights f64[b N] of the records -> f64[b].
          level: the share of the values inside.
          edge: what holds where the value is 0 or 1, from which no sample differs: 'proportion' or
            'rank', or 'signed' where 0 is no edge, and numbers of groups: a proportion is the mean
            of one among each, of a rank the fewest count.

        Returns:
          The interval; none where the figure is undefined in more than half of the samples, since
          the rest would not be typical.
        """
        value = float(statistic(np.ones((1, len(self.codes))))[0])
        values = self.replicates(statistic)
        defined = values[~np.isnan(values)]
        undefined = self.resamples - len(defined)
        if np.isnan(value) or 2 * undefined > self.resamples or not len(defined):
            reason = "The figure is undefined in more than half of the resamples."
            return Interval(np.nan, np.nan, self.method, self.resamples, undefined, reason)
        if edge and (value == 1 or (value == 0 and edge[0] != "signed")):
            method, low, high = _at_edge(value, *edge, level)
            return Interval(low, high, method, self.resamples, undefined)
        tails, method, reason = np.array([(1 - level) / 2, (1 + level) / 2]), self.method, None
        if method == "bca":
            shares = bca(value, defined, self.left_out(statistic), tails)
            if np.isnan(shares).any():
                method = "percentile"
                reason = "BCa is not defined here, so these are percentiles."
            else:
                tails = shares
        low, high = np.quantile(defined, tails)
        return Interval(float(low), float(high), method, self.resamples, undefined, reason)


def interval(
    statistic: Statistic,
    *arrays: np.ndarray,
    groups: np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    method: str = "bca",
    edge: tuple[str, Sequence[int]] | None = None,
) -> Interval:
    """The bootstrap interval of any statistic; figures of `weighted` are quicker, see `Resampling`.

    Args:
      statistic: takes resampled versions of `arrays` and returns a number.
      *arrays: sharing axis 0, the records.
      groups: [N] ids of what is independent; None draws single records.
      resamples, seed, level, method, edge: what `Resampling` and its `interval` take.

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
    resampling = Resampling(groups, resamples, seed, method)
    return resampling.interval(of_rows(statistic, *arrays), level, edge)


def of_rows(
    statistic: Statistic, *arrays: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:  # fmt: skip
    """A statistic of arrays as one of weights f64[b N]: each row repeated as often as drawn."""

    def of_weights(weights: np.ndarray) -> np.ndarray:
        found = []
        for drawn in weights.astype(np.int64):
            rows = np.repeat(np.arange(len(drawn)), drawn)
            found.append(
                float(statistic(*(array[rows] for array in arrays))) if rows.size else np.nan
            )
        return np.array(found)

    return of_weights


def bca(
    value: float, values: np.ndarray, left_out: np.ndarray, tails: np.ndarray
) -> np.ndarray:  # fmt: skip
    """Shares of bootstrap values below the ends of a BCa interval (Efron 1987).

    Args:
      value: the statistic of the records.
      values: f64[B], of bootstrap samples, none NaN.
      left_out: f64[G], without each group.
      tails: f64[2], the shares below the ends of a percentile interval.

    Returns:
      f64[2]; NaN where it is not defined: all values equal, or all on one side of `value`.
    """
    from scipy.special import ndtr, ndtri

    left_out = left_out[~np.isnan(left_out)]
    below = (values < value).mean() + 0.5 * (values == value).mean()
    if np.ptp(values) == 0 or not 0 < below < 1 or not len(left_out):
        return np.full(2, np.nan)
    away = left_out.mean() - left_out
    spread = np.square(away).sum() ** 1.5
    skew = (away**3).sum() / (6 * spread) if spread > 0 else 0.0
    normal = ndtri(below) + ndtri(tails)
    return ndtr(ndtri(below) + normal / (1 - skew * normal))


def clopper_pearson(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion; (0, 1) without trials."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


def wilson(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion; (0, 1) without trials."""
    from scipy.special import ndtri

    if not count:
        return 0.0, 1.0
    z = float(ndtri((1 + level) / 2))
    share, weight = hits / count, 1 / (1 + z**2 / count)
    middle = weight * (share + z**2 / (2 * count))
    half = weight * z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float(middle - half), float(middle + half)


def _at_edge(
    value: float, kind: str, counts: Sequence[int], level: float
) -> tuple[str, float, float]:  # fmt: skip
    """Method and ends of the interval of a value of 0 or 1."""
    if kind == "proportion":
        least = _least_mean([count for count in counts if count], (1 - level) / 2)
        return ("exact", least, 1.0) if value == 1 else ("exact", 0.0, 1 - least)
    far = min(1.0, 3 / min(counts)) if min(counts) else 1.0
    return ("rule of three", 1 - far, 1.0) if value == 1 else ("rule of three", 0.0, far)


def _least_mean(counts: Sequence[int], tail: float) -> float:
    """The least mean of shares of which all trials, so many of each, succeed in `tail` of cases.

    Of one share the lower end of Clopper and Pearson; of several their mean is least where each is
    in proportion to its trials, up to 1.
    """
    from scipy import optimize

    if not counts:
        return 0.0
    trials = np.asarray(counts, np.float64)

    def excess(log_scale: float) -> float:
        logs = np.minimum(np.log(trials) + log_scale, 0.0)
        return float(trials @ logs - np.log(tail))

    found: Any = optimize.brentq(excess, np.log(tail) - np.log(trials.max()) - 1, 0.0)
    return float(np.minimum(trials * np.exp(found), 1.0).mean())


def _pieces(total: int, width: int) -> list[int]:
    """Sizes of pieces of `total` rows that each hold a bounded number of elements."""
    size = max(1, _ELEMENTS // max(width, 1))
    return [min(size, total - start) for start in range(0, total, size)]

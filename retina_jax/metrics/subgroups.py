"""Figures of groups of patients, what of them may be shown, and how far they lie apart."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from retina_jax.metrics.bootstrap import Resampling

UNKNOWN = "unknown"
LEAST_PATIENTS, LEAST_OF_CLASS, LEAST_FOR_RATE = 20, 10, 5
AGE_EDGES = (40.0, 60.0, 75.0)
# Eyes of adults and children alike, but no slips of the keyboard.
_AGES = (2.0, 110.0)
# A number in the name of a group after the sign of an open band, or none.
_SIGNS = ("<", "", ">")
_NUMBER = re.compile(r"([<>]?)=?(\d+(?:\.\d+)?)")


def age_bands(ages: np.ndarray, edges: Sequence[float] = AGE_EDGES) -> np.ndarray:
    """Names of bands str[N] of ages f[N] in years, '<40', '40-59', ..., '>=75'.

    An age that is missing, or outside 2 to 110 years, is 'unknown'.
    """
    ages = np.asarray(ages, np.float64)
    inner = [f"{low:g}-{high - 1:g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    names = np.array([f"<{edges[0]:g}", *inner, f">={edges[-1]:g}", UNKNOWN])
    known = (ages >= _AGES[0]) & (ages <= _AGES[1])
    bands = np.searchsorted(edges, np.where(known, ages, 0), side="right")
    return names[np.where(known, bands, len(names) - 1)]


@dataclasses.dataclass(frozen=True)
class Size:
    """How many patients a subgroup has, in all and with a record that is positive or negative."""

    patients: int
    positives: int
    negatives: int


def order(name: str) -> tuple[bool, list[Any]]:
    """What names of groups are sorted by: numbers in them as numbers, 'unknown' last.

    So 'camera 9' comes before 'camera 10', and '<40' before '40-59', '60-74' and '>=75'.
    """
    first, *rest = _NUMBER.split(name)
    pieces: list[Any] = [first]
    for sign, number, text in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        pieces += [(float(number), _SIGNS.index(sign)), text]
    return name == UNKNOWN, pieces


def sizes(attribute: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, Size]:
    """Sizes of the subgroups of str[N], by labels 0 / 1 [N] and patients [N]; by their `order`."""
    labels, groups = np.asarray(labels), np.asarray(groups)

    def patients(rows: np.ndarray) -> int:
        return len(np.unique(groups[rows]))

    found: dict[str, Size] = {}
    for name in sorted({str(value) or UNKNOWN for value in attribute}, key=order):
        rows = _members(attribute, name)
        both = (patients(rows & (labels == 1)), patients(rows & (labels == 0)))
        found[name] = Size(patients(rows), *both)
    return found


def suppressed(found: Mapping[str, Size], figure: str) -> set[str]:
    """Which subgroups show no value of a figure.

    Args:
      found: the sizes of all subgroups of an attribute.
      figure: 'rank' (10 patients of either class), 'sensitivity' (5 positive ones),
        'specificity' (5 negative ones) or 'any'; all need 20 patients.

    Returns:
      Names. Where it is exactly one, the next smallest comes along, since it could be subtracted
      from the total otherwise.
    """
    hidden = {name for name, size in found.items() if not _enough(size, figure)}
    if len(hidden) == 1 and len(found) > 1:
        rest = [name for name in found if name not in hidden]
        hidden.add(min(rest, key=lambda name: found[name].patients))
    return hidden


def _enough(size: Size, figure: str) -> bool:
    needed = {
        "rank": min(size.positives, size.negatives) >= LEAST_OF_CLASS,
        "sensitivity": size.positives >= LEAST_FOR_RATE,
        "specificity": size.negatives >= LEAST_FOR_RATE,
    }
    return size.patients >= LEAST_PATIENTS and needed.get(figure, True)


@dataclasses.dataclass(frozen=True)
class Spread:
    """How far subgroups lie apart, 'unknown' aside.

    Attributes:
      worst: the least value, of the subgroup `worst_group`.
      gap: the greatest value minus the least.
      ratio: the least over the greatest.
    """

    worst_group: str | None
    worst: float
    gap: float
    ratio: float


def spread(values: Mapping[str, float]) -> Spread:
    """The spread of values of the subgroups that are shown; NaN where fewer than two have one."""
    known = {k: v for k, v in values.items() if k != UNKNOWN and not np.isnan(v)}
    if len(known) < 2:
        return Spread(None, float("nan"), float("nan"), float("nan"))
    name = min(known, key=lambda key: known[key])
    low, high = known[name], max(known.values())
    return Spread(name, low, high - low, low / high if high else float("nan"))


def spread_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    attribute: np.ndarray,
    names: Sequence[str],
    resampling: Resampling,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of 'worst' and 'gap', which are taken inside each resample.

    Both are biased, since the least of noisy values is too low: see `expected_gap`.

    Args:
      statistic: weights f64[b N] of the records -> f64[b].
      attribute: the subgroup str[N] of each record.
      names: subgroups that are shown.
      resampling: draws of patients.
      level: the share of the values inside.
    """
    rows = [_members(attribute, name).astype(np.float64) for name in names]

    def worst_and_gap(weights: np.ndarray) -> np.ndarray:
        values = np.stack([statistic(weights * mine) for mine in rows])
        return np.stack([values.min(axis=0), np.ptp(values, axis=0)], axis=1)

    drawn = resampling.replicates(worst_and_gap)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends = np.quantile(drawn, tails, axis=0) if len(drawn) else np.full((2, 2), np.nan)
    return {
        name: (float(ends[0, i]), float(ends[1, i])) for i, name in enumerate(("worst", "gap"))
    }  # fmt: skip


def expected_gap(
    statistic: Callable[[np.ndarray], np.ndarray],
    attribute: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    draws: int = 500,
    seed: int = 0,
) -> float:
    """The mean gap where the attribute means nothing: its values permuted over patients.

    Args:
      statistic, attribute, names: what `spread_interval` takes.
      groups: the patient [N] of each record; the attribute of one is that of its first record.
      draws: number of permutations.
      seed: their seed.
    """
    _, first, codes = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    of_patient = np.asarray(attribute)[first]
    rng = np.random.default_rng(seed)
    members = np.stack([_members(of_patient, name) for name in names]).astype(np.float64)
    permuted = np.stack([rng.permutation(len(first)) for _ in range(draws)])
    # Of each draw a weighting for each subgroup.
    values = [statistic(mine[permuted][:, codes]) for mine in members]
    gaps = np.ptp(np.stack(values), axis=0)
    defined = gaps[~np.isnan(gaps)]
    return float(defined.mean()) if len(defined) else float("nan")


def equalised_odds_difference(
    sensitivities: Sequence[float], false_positive_rates: Sequence[float], mean: bool = False
) -> float:
    """The larger range of the two rates over subgroups, or the mean of both ranges."""
    if not len(sensitivities) or np.isnan([*sensitivities, *false_positive_rates]).any():
        return float("nan")
    ranges = np.ptp(sensitivities), np.ptp(false_positive_rates)
    return float(np.mean(ranges) if mean else max(ranges))


def equity_scaled(overall: float, of_groups: Sequence[float], alpha: float = 1.0) -> float:
    """A figure over 1 + alpha times the sum of its distances from subgroups' (FairVision)."""
    return float(overall / (1 + alpha * np.abs(overall - np.asarray(of_groups)).sum()))


def _members(attribute: np.ndarray, name: str) -> np.ndarray:
    """bool[N], whether each value str[N] is this one; '' is 'unknown'."""
    values = np.asarray(attribute, np.str_)
    return np.where(values == "", UNKNOWN, values) == name

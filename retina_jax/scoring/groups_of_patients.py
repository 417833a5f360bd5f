"""Figures of groups of patients, of which small ones are not shown."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retina_jax.metrics import calibration, subgroups, weighted
from retina_jax.metrics.bootstrap import Resampling
from retina_jax.scoring import figures, operating_points
from retina_jax.scoring.predictions import Predictions

_PERMUTATIONS = 500


def subgroups_of(test: Predictions, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Attribute -> its subgroups with their figures, and how far these lie apart.

    Args:
      test: rows of one setting and of test records.
      points: operating points; sensitivity and specificity are those at a single one.

    Returns:
      A suppressed subgroup has its name and 'suppressed' only: no number that would give it away.
    """
    made: dict[str, Any] = {}
    for name, values in test.attributes.items():
        if len(set(values)) > 1:
            made[name] = _of_attribute(test, values, points)
    return made


def _of_attribute(
    test: Predictions, values: np.ndarray, points: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    outcome = _outcome(test)
    sizes = subgroups.sizes(values, outcome, test.group)
    statistic = figures.primary(test)
    ranks = test.labels.ndim == 2 or figures.METRICS[test.about["primary"]].ranks
    hidden = subgroups.suppressed(sizes, "rank" if ranks else "any")
    shown = [name for name in sizes if name not in hidden]
    cells: dict[str, Any] = {name: {"suppressed": True} for name in sizes if name in hidden}
    of_primary: dict[str, float] = {}
    for name in shown:
        rows = np.flatnonzero(values == name)
        part = test.where(rows)
        own = figures.primary(part)
        edge = figures.METRICS[test.about["primary"]].at_edge(part)
        found = operating_points.with_ends(own, Resampling(part.group), edge)
        of_primary[name] = found["value"]
        cells[name] = {
            "patients": sizes[name].patients,
            "primary": found,
            **_at_threshold(part, points, name, sizes),
        }
    spread = subgroups.spread(of_primary)
    result: dict[str, Any] = {"groups": {name: cells[name] for name in sizes}}
    compared = [name for name, value in of_primary.items()
                if name != subgroups.UNKNOWN and not math.isnan(value)]  # fmt: skip
    if spread.worst_group is not None:
        ends_of = subgroups.spread_interval(statistic, values, compared, Resampling(test.group))
        result |= {
            **dataclasses.asdict(spread),
            "worst_interval": ends_of["worst"],
            "gap_interval": ends_of["gap"],
            "gap_expected_by_chance": subgroups.expected_gap(
                statistic, values, test.group, compared, _PERMUTATIONS
            ),
        }
    return result


def _outcome(test: Predictions) -> np.ndarray:
    """1 and 0 [N], by which subgroups are counted: disease, or any class but the most frequent."""
    if test.labels.ndim == 2:
        return (test.labels == 1).any(axis=1).astype(np.int64)
    if len(test.about["classes"]) == 2:
        return test.labels
    return (test.labels != np.bincount(test.labels).argmax()).astype(np.int64)


def _at_threshold(
    part: Predictions,
    points: Sequence[Mapping[str, Any]],
    name: str,
    sizes: Mapping[str, subgroups.Size],
) -> dict[str, Any]:
    """Of two classes: rates at the one threshold, and calibration in the large."""
    if part.probabilities is None or part.labels.ndim == 2 or part.probabilities.shape[1] != 2:
        return {}
    p, labels = part.probabilities[:, 1].astype(np.float64), part.labels
    made: dict[str, Any] = {"in_the_large": calibration.in_the_large(labels, p)}
    threshold = points[0]["value"] if points else math.nan
    if math.isnan(threshold):
        return made
    resampling = Resampling(part.group)
    called = (p >= threshold).astype(np.int64)
    for place, rate in ((1, "sensitivity"), (0, "specificity")):
        if name in subgroups.suppressed(sizes, rate):
            made[rate] = {"suppressed": True}
            continue

        def of(weights: np.ndarray, place: int = place) -> np.ndarray:
            return weighted.recall(weighted.confusion(labels, called, 2, weights))[:, place]

        count = len(np.unique(part.group[labels == place]))
        made[rate] = operating_points.with_ends(of, resampling, ("proportion", [count]))
    return made

"""Thresholds: chosen on validation records by a rule, and then left alone.

The candidates are the distinct scores of the validation records and infinity, which calls nothing.
A record is called positive where its score is the threshold or higher.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from data_pipelines.errors import InputError

_RULE = re.compile(r"(sensitivity>=|specificity>=|fixed:)(\d*\.?\d+)|youden")
RULES = "'sensitivity>=.9', 'specificity>=.95', 'youden' or 'fixed:.5'"


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold, and what it was chosen on.

    Attributes:
      value: the threshold; NaN where the records do not allow the choice.
      rule: how it was chosen.
      positives, negatives: numbers of validation records.
      reason: why it is NaN, or None.
    """

    value: float
    rule: str
    positives: int
    negatives: int
    reason: str | None = None


def choose(
    labels: np.ndarray, scores: np.ndarray, rule: str, share: np.ndarray | None = None
) -> Threshold:  # fmt: skip
    """Chooses a threshold.

    Args:
      labels: int[N] of validation records, 1 for disease, 0 without; of others nothing is known.
      scores: f[N]; records with a score that is NaN are left out.
      rule: 'sensitivity>=.9': the largest threshold with so much sensitivity; 'specificity>=.95':
        of those with so much specificity the one of the greatest sensitivity, of equals the
        largest; 'youden': the greatest sensitivity + specificity - 1, of equals the largest;
        'fixed:.5': this one.
      share: f[N], what a row counts for; 1 / R of a record that has R rows. None for 1 each.

    Raises:
      InputError: for a rule that is none of these.
    """
    kind, bound = parse(rule)
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    known = np.isin(labels, (0, 1)) & ~np.isnan(scores)
    counts = np.ones(len(labels)) if share is None else share
    labels, scores, counts = labels[known], scores[known], counts[known]
    positives, negatives = (round(counts[labels == value].sum()) for value in (1, 0))
    reason = None if kind == "fixed" else _missing(kind, bound, positives, negatives)
    value = math.nan
    if kind == "fixed":
        value = bound
    elif reason is None:
        value = _chosen(kind, bound, *_rates(labels == 1, scores))
    return Threshold(value, rule, positives, negatives, reason)


def rates(
    positive: np.ndarray, scores: np.ndarray, threshold: float
) -> tuple[float | None, float | None]:
    """Sensitivity and specificity of a threshold on records; None where none are of the kind.

    Args:
      positive: bool[N].
      scores: f[N]; records with a score that is NaN are left out, as by `choose`.
      threshold: a record is called where its score is at least this.
    """
    known = ~np.isnan(scores)
    called, positive = scores[known] >= threshold, positive[known]
    parts = (called[positive], ~called[~positive])
    sensitivity, specificity = (float(part.mean()) if part.size else None for part in parts)
    return sensitivity, specificity


def parse(rule: str) -> tuple[str, float]:
    """('sensitivity', 'specificity', 'youden' or 'fixed', its bound) of a rule.

    Raises:
      InputError: for something else.
    """
    found = _RULE.fullmatch(str(rule).replace(" ", ""))
    if not found or (found[1] in ("sensitivity>=", "specificity>=") and float(found[2]) > 1):
        raise InputError(f"A threshold is chosen by {RULES}, not by '{rule}'.")
    return (found[1] or "youden").rstrip(">=:"), float(found[2] or 0)


def _missing(kind: str, bound: float, positives: int, negatives: int) -> str | None:
    """Why no threshold can be chosen, in a sentence."""
    if not positives or not negatives:
        return f"No validation record is {'positive' if not positives else 'negative'}."
    if kind == "specificity":
        # A specificity of .95 is a step of 1 in 20.
        needed = math.ceil(1 / (1 - bound) - 1e-9) if bound < 1 else 1
        if negatives < needed:
            return (
                f"A specificity of {bound:g} needs {needed} negative validation records, but "
                f"there are {negatives}."
            )
    return None


def _rates(member: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates, largest first, with the sensitivity and the specificity of each."""
    candidates = np.concatenate([[np.inf], np.unique(scores)[::-1]])
    # The smallest score at or above a candidate, from the top.
    ascending = [np.sort(scores[rows]) for rows in (member, ~member)]
    called = [len(part) - np.searchsorted(part, candidates, side="left") for part in ascending]
    return candidates, called[0] / len(ascending[0]), 1 - called[1] / len(ascending[1])


def _chosen(
    kind: str, bound: float, candidates: np.ndarray, sensitivity: np.ndarray,
    specificity: np.ndarray,
) -> float:  # fmt: skip
    """The first, and so the largest, of the best candidates."""
    if kind == "sensitivity":
        return float(candidates[np.flatnonzero(sensitivity >= bound - 1e-12)[0]])
    if kind == "specificity":
        value = np.where(specificity >= bound - 1e-12, sensitivity, -1.0)
    else:
        value = np.round(sensitivity + specificity, 12)  # equal sums differ by rounding errors
    return float(candidates[value.argmax()])

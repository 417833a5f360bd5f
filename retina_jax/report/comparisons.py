"""Which differences between runs may be shown, and which of them are more than chance.

Two figures are compared where both are of the same records, which their `test_hash` says. Only the
primary metric of an evaluation is tested: a paired bootstrap by patient, Holm over the runs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.metrics import comparison
from retina_jax.report.records import StageRecord
from retina_jax.report.terminal import number
from retina_jax.scoring import figures
from retina_jax.scoring import records as files
from retina_jax.scoring.predictions import Predictions

_LEVEL = 0.05
DIFFERS, UNKNOWN = "scored on other records", "not known to be scored on the same records"


@dataclasses.dataclass(frozen=True)
class Compared:
    """A run beside the reference, on one evaluation.

    Attributes:
      same: whether both are scored on the same records.
      note: why they are not compared, or ''.
      metric: the primary metric that was tested, or ''.
      difference, low, high: the run minus the reference, with its 95 % interval.
      p, p_holm: p of the paired bootstrap, alone and adjusted for the number of runs, or NaN.
      bold: whether the page may set the primary metric in bold.
    """

    same: bool
    note: str = ""
    metric: str = ""
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    bold: bool = False


def compare(evaluator: str, stages: Sequence[StageRecord | None]) -> list[Compared | None]:
    """Each run beside the first one.

    Args:
      evaluator: the name of the evaluation.
      stages: what each run left; None where it has no such evaluation.

    Returns:
      One a run; None for the first.
    """
    reference = stages[0]
    found = [None, *(_pair(evaluator, reference, stage) for stage in stages[1:])]
    adjusted = comparison.holm([math.nan if one is None else one.p for one in found])
    return [
        one if one is None else _decided(one, p, evaluator, reference, stage)
        for one, p, stage in zip(found, adjusted, stages, strict=True)
    ]


def _pair(evaluator: str, reference: StageRecord | None, stage: StageRecord | None) -> Compared:
    if reference is None or stage is None:
        return Compared(False)
    entries = [one.evaluations.get(evaluator) for one in (reference, stage)]
    known = [_hash(entry) for entry in entries]
    if None in known:
        return Compared(False, UNKNOWN)
    if known[0] != known[1]:
        return Compared(False, f"{DIFFERS}{_counts(evaluator, reference, stage)}")
    try:
        ours, theirs = (
            files.read(Path(one.folder) / str(entry["records_file"]))
            for one, entry in zip((stage, reference), entries, strict=True)
            if entry is not None
        )
    except (InputError, KeyError):
        return Compared(True, "the records of one are not there, so nothing is tested")
    return tested(ours, theirs)


def _counts(evaluator: str, reference: StageRecord, stage: StageRecord) -> str:
    """How many records each has and how many both, ' (120 and 100, 90 of them common)'."""
    try:
        both = [files.read(Path(one.folder) / one.evaluations[evaluator]["records_file"])
                for one in (reference, stage)]  # fmt: skip
    except (InputError, KeyError):
        return ""
    first, second = (set(found.pictures()) for found in both)
    return f" ({len(first)} and {len(second)}, {len(first & second)} of them common)"


def _hash(entry: Mapping[str, Any] | None) -> str | None:
    data = (entry or {}).get("data")
    return data.get("test_hash") if isinstance(data, Mapping) else None


def tested(ours: Predictions, theirs: Predictions) -> Compared:
    """The paired difference of the primary metric, where both have one setting."""
    metric = ours.about.get("primary")
    settings = [part.about["settings"] for part in (ours, theirs)]
    if metric != theirs.about.get("primary") or max(map(len, settings)) > 1:
        return Compared(True, "several settings are not tested")
    ours, theirs = ours.of(settings[0][0]), theirs.of(settings[1][0])
    keys = ("record", "repeat", "group")
    if not all(np.array_equal(getattr(ours, key), getattr(theirs, key)) for key in keys):
        return Compared(True, "their records are not repeated alike, so nothing is tested")
    if reason := comparison.enough(ours.labels, ours.group):
        return Compared(True, reason)
    first, second = figures.primary(ours), figures.primary(theirs)
    found = comparison.paired(first, second, ours.group)
    ends = found.interval
    suffix = f"_{settings[0][0]}" if settings[0][0] else ""
    return Compared(
        True, "", f"{metric}{suffix}", found.difference, ends.low, ends.high, found.p
    )  # fmt: skip


def _decided(
    one: Compared,
    p_holm: float,
    evaluator: str,
    reference: StageRecord | None,
    stage: StageRecord | None,
) -> Compared:
    """Bold where chance would seldom do it, no training data were scored, and it can be seen."""
    if reference is None or stage is None or not one.metric:
        return one
    values = [
        [row.score.value for row in part.entries if (row.evaluator, row.metric) == (
            evaluator, one.metric)] for part in (stage, reference)
    ]  # fmt: skip
    shown = [number(value[0]) for value in values if value]
    seen = evaluator in stage.overlaps or evaluator in reference.overlaps
    bold = p_holm < _LEVEL and not seen and len(shown) == 2 and shown[0] != shown[1]
    return dataclasses.replace(one, p_holm=p_holm, bold=bool(bold))

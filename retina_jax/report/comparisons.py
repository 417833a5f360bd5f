"""Which differences between runs may be shown, and which of them are more than chance.

Two figures are compared where both are of the same records, which their `test_hash` says. Only the
primary metric of an evaluation is tested: a paired bootstrap by patient, Holm over the runs.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.metrics import comparison
from retina_jax.report import from_records
from retina_jax.report.headline import Verdict
from retina_jax.report.tables import number
from retina_jax.scoring import figures
from retina_jax.scoring.predictions import TEST, Predictions

_LEVEL = 0.05
UNKNOWN = "not known to be scored on the same records"


@dataclasses.dataclass(frozen=True)
class Compared:
    """A run beside the reference, on one evaluation.

    Attributes:
      same: whether both are scored on the same records.
      note: why they are not compared or not tested, or on which records they are; or ''.
      value: the primary metric of the run, another than that of its results on shared records.
      difference, low, high: the run minus the reference, with its 95 % interval.
      p, p_holm: p of the paired bootstrap, alone and adjusted for the number of runs, or NaN.
      bold: whether the page may set the primary metric in bold.
      shared: how many records both have, None where that is not known.
    """

    same: bool
    note: str = ""
    value: float = math.nan
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    bold: bool = False
    shared: int | None = None


def compare(verdicts: Sequence[Verdict | None], common: float | None = None) -> list[Compared]:
    """Each run beside the first one that has the evaluation.

    Args:
      verdicts: the evaluation of each run; None where it has no such one.
      common: where records differ, compare on those that both have, if these are at least this
        share of the smaller set; None compares the same records only.

    Returns:
      One a run; the first is compared with itself.

    Raises:
      InputError: too few shared records, or see `from_records.read`.
    """
    reference = next(one for one in verdicts if one is not None)
    read = {
        id(one): from_records.read(one.stage, one.evaluator) for one in verdicts if one is not None
    }
    found = [
        Compared(one is reference, value=math.nan if one is None else one.row.score.value)
        if one is None or one is reference
        else _pair(one, reference, read[id(one)], read[id(reference)], common)
        for one in verdicts
    ]
    adjusted = comparison.holm([one.p for one in found])
    return [
        _decided(one, p, reference, verdict)
        for one, p, verdict in zip(found, adjusted, verdicts, strict=True)
    ]


def _pair(
    one: Verdict,
    reference: Verdict,
    ours: Predictions | None,
    theirs: Predictions | None,
    common: float | None,
) -> Compared:
    known = [test_hash(verdict) for verdict in (one, reference)]
    both = None if ours is None or theirs is None else (ours, theirs)
    value = one.row.score.value
    if "" in known:
        return Compared(False, UNKNOWN, value)
    if known[0] != known[1]:
        return _other_records(one, both, value, common)
    change = value - reference.row.score.value
    if both is None:
        return Compared(True, "no records beside one of the two, so nothing is tested", value,
                        change)  # fmt: skip
    return _tested(*both, Compared(True, "", value, change))


def _other_records(
    one: Verdict, both: tuple[Predictions, Predictions] | None, value: float, common: float | None
) -> Compared:
    if both is None:
        return Compared(False, "scored on other records", value)
    ours, theirs = (part.where(part.split == TEST) for part in both)
    shared = set(_keys(ours)) & set(_keys(theirs))
    sizes = [len(set(part.record)) for part in (theirs, ours)]
    said = f"scored on other records (n {sizes[0]:,}, n {sizes[1]:,}, shared {len(shared):,})"
    if common is None:
        return Compared(False, said, value, shared=len(shared))
    if len(shared) < common * min(sizes) or not shared:
        raise InputError(
            f"'{one.evaluator}' of {one.stage.folder} and of the first run share {len(shared)} of "
            f"{min(sizes)} records, less than {common:.0%}: the rest decides what they show. "
            "Evaluate both on one test set, or give a smaller share as --common=SHARE."
        )
    ours, theirs = (
        part.where(np.array([key in shared for key in _keys(part)])) for part in (ours, theirs)
    )
    note = f"on the {len(shared):,} records that both have"
    return _tested(ours, theirs, Compared(True, note, shared=len(shared)))


def _keys(part: Predictions) -> list[tuple[str, str, str]]:
    """Name, pictures and label of each row."""
    images = [""] * len(part.record) if part.images is None else part.images
    labels = [np.asarray(label).tolist() for label in part.labels]
    return [(str(r), str(i), str(y)) for r, i, y in zip(part.record, images, labels, strict=True)]


def test_hash(verdict: Verdict) -> str:
    """The hash of the records that were scored, or '' in older results."""
    data = verdict.stage.evaluations.get(verdict.evaluator, {}).get("data") or {}
    return str(data.get("test_hash") or "")


def _tested(ours: Predictions, theirs: Predictions, made: Compared) -> Compared:
    """The paired difference of the primary metric, where both have one setting."""
    settings = [part.about["settings"] for part in (ours, theirs)]
    if ours.about.get("primary") != theirs.about.get("primary") or max(map(len, settings)) > 1:
        return dataclasses.replace(made, note="several settings are not tested")
    ours, theirs = ours.of(settings[0][0]), theirs.of(settings[1][0])
    keys = ("record", "repeat")
    if not all(np.array_equal(getattr(ours, key), getattr(theirs, key)) for key in keys):
        return dataclasses.replace(made, note="repeated differently, so nothing is tested")
    first, second = figures.primary(ours), figures.primary(theirs)
    once = np.ones((1, len(ours.record)))
    value, change = float(first(once)[0]), float((first(once) - second(once))[0])
    made = dataclasses.replace(made, value=value, difference=change)
    if reason := comparison.enough(ours.labels, ours.group):
        return dataclasses.replace(made, note=reason)
    found = comparison.paired(first, second, ours.group)
    ends = found.interval
    return dataclasses.replace(made, low=ends.low, high=ends.high, p=found.p)


def _decided(
    one: Compared, p_holm: float, reference: Verdict, verdict: Verdict | None
) -> Compared:  # fmt: skip
    """Bold where chance would seldom do it, no training data were scored, and it can be seen."""
    if verdict is None or math.isnan(one.p):
        return one
    seen = any(part.evaluator in part.stage.overlaps for part in (reference, verdict))
    apart = number(one.value) != number(one.value - one.difference)
    return dataclasses.replace(one, p_holm=p_holm, bold=p_holm < _LEVEL and not seen and apart)

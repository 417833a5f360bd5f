"""What is said of an evaluation first: its one primary metric, and what to be wary of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from retina_jax.report.records import Run, ScoreRow, StageRecord
from retina_jax.report.tables import number, spread, words

# Of evaluations that classify nothing; the first of their figures where none of these is there.
_PRIMARY = ("recall_at_1", "cider_d")
_CAPTIONS = ("bleu_", "cider_d", "meteor", "rouge_l")
_MOST_TIES = 0.01


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One sentence on an evaluation.

    Attributes:
      stage, evaluator: whose it is.
      row: the primary metric.
      name: what the evaluation is called on the page.
      test: the data and the split.
      beside: chance and baseline, as words.
      size: numbers of patients, eyes and images, as words.
      source: whether the test records come from a set that was trained on, or ''.
      flags: what to be wary of.
    """

    stage: StageRecord
    evaluator: str
    row: ScoreRow
    name: str
    test: str
    beside: str
    size: str
    source: str
    flags: tuple[str, ...]

    @property
    def value(self) -> str:
        """The figure, or why there is none."""
        score = self.row.score
        if math.isfinite(score.value):
            return number(score.value)
        return f"not defined: {score.reason}" if score.reason else "not defined"

    @property
    def numbers(self) -> str:
        """The size alone; what it counts as a patient is among the flags."""
        return self.size.split(", each")[0] or "-"

    @property
    def interval(self) -> str:
        """The interval in parentheses, or ''."""
        found = spread(self.row.score)
        return f"({found})" if found else ""


def primary(rows: Sequence[ScoreRow], entry: Mapping[str, Any]) -> ScoreRow:
    """The primary metric of an evaluation: the one it declares, or else that of its kind.

    Args:
      rows: its figures, at least one.
      entry: what `results.json` says of it beside these.
    """
    declared = entry.get("primary")
    for setting in ("", *entry.get("settings", {})) if declared else ():
        wanted = f"{declared}_{setting}" if setting else declared
        for row in rows:
            if row.metric == wanted:
                return row
    fitting = [row for name in _PRIMARY for row in rows if row.metric.endswith(name)]
    return (fitting or list(rows))[0]


def by_evaluator(stage: StageRecord) -> dict[str, list[ScoreRow]]:
    """Evaluations with their figures.

    Last come those of what training began with, those that it chose on, and captions.
    """
    found: dict[str, list[ScoreRow]] = {}
    for row in stage.entries:
        found.setdefault(row.evaluator, []).append(row)

    def place(name: str) -> tuple[bool, bool, bool, bool]:
        entry = stage.evaluations.get(name, {})
        captions = any(row.metric.startswith(_CAPTIONS) for row in found[name])
        start = bool(_spec(stage, name).get("of"))
        return captions, _chosen_on(entry), start, "primary" not in entry

    return {name: found[name] for name in sorted(found, key=place)}


def verdicts(run: Run, named: bool | None = None) -> list[Verdict]:
    """One of each evaluation of a run, of all its stages, those of the last stage first.

    Args:
      run: what it left.
      named: whether names begin with the stage; None where several stages are scored.
    """
    scored = [stage for stage in run.stages if stage.entries]
    made: list[Verdict] = []
    for stage in reversed(scored):  # what the run was made for
        for evaluator, rows in by_evaluator(stage).items():
            with_stage = (len(scored) > 1 if named is None else named) and stage.name
            name = f"{stage.name}: {evaluator}" if with_stage else evaluator
            made.append(_verdict(stage, evaluator, rows, words(name)))
    return made


def _verdict(
    stage: StageRecord, evaluator: str, rows: Sequence[ScoreRow], name: str
) -> Verdict:  # fmt: skip
    entry = stage.evaluations.get(evaluator, {})
    row = primary(rows, entry)
    data = entry.get("data") or {}
    beside = [] if row.score.chance is None else [f"chance {number(row.score.chance)}"]
    beside += _baselines(stage, evaluator, row)
    where = ", ".join(str(part) for part in (data.get("name"), data.get("split")) if part)
    return Verdict(
        stage, evaluator, row, name, where, "; ".join(beside), _size(row, entry),
        _source(stage, evaluator, data), _flags(stage, evaluator, row, entry),
    )  # fmt: skip


def _baselines(stage: StageRecord, evaluator: str, row: ScoreRow) -> list[str]:
    """What another evaluation of the same records has of the same metric."""
    mine = (stage.evaluations.get(evaluator, {}).get("data") or {}).get("test_hash")
    return [
        f"{words(other.evaluator)} {number(other.score.value)}"
        for other in stage.entries
        if mine and other.evaluator != evaluator and other.metric == row.metric
        and (stage.evaluations.get(other.evaluator, {}).get("data") or {}).get("test_hash") == mine
    ]  # fmt: skip


def _size(row: ScoreRow, entry: Mapping[str, Any]) -> str:
    """Patients / eyes / images, as far as they are known; records where they are no images."""
    data = entry.get("data") or {}
    records = data.get("records", row.score.count)
    groups = data.get("groups") if data.get("groups_known") else None
    known = {"patients": groups, **(entry.get("size") or {})}  # older files have no size
    of_patients = entry.get("level") == "patient" and records == known["patients"]
    apart = records != known.get("images") and not of_patients
    known["records"] = records if apart else None
    parts = [f"{known[name]:,} {name}" for name in ("patients", "eyes", "records", "images")
             if isinstance(known.get(name), int)]  # fmt: skip
    one = "each record" if len(parts) > 1 else "each"
    alone = f", {one} counted as a patient" if data.get("groups_known") is False else ""
    return f"{' / '.join(parts)}{alone}"


def _source(stage: StageRecord, evaluator: str, data: Mapping[str, Any]) -> str:
    streams = _mappings(stage.config.get("streams"))
    fitted = _mappings([_spec(stage, evaluator).get("train")])
    trained = {str(part.get("dataset")) for part in (*streams, *fitted)}
    if not streams or not data.get("name"):
        return ""
    if data["name"] in trained:
        return "internal: other records of a set that was trained on"
    return "external: another set than those trained on"


def _spec(stage: StageRecord, evaluator: str) -> Mapping[str, Any]:
    """The options of an evaluator in the config."""
    found = (stage.config.get("evaluators") or {}).get(evaluator)
    return found if isinstance(found, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    several = value.values() if isinstance(value, Mapping) else value or ()
    return [one for one in several if isinstance(one, Mapping)]


def _chosen_on(entry: Mapping[str, Any]) -> bool:
    return (entry.get("data") or {}).get("split") == "validation"


def _flags(
    stage: StageRecord, evaluator: str, row: ScoreRow, entry: Mapping[str, Any]
) -> tuple[str, ...]:
    score, data = row.score, entry.get("data") or {}
    calibration = entry.get("calibration") or {}
    ties = (entry.get("argmax_ties") or 0) > _MOST_TIES * (data.get("records") or math.inf)
    licences = f"{data.get('licence')} {stage.model.get('licence')}".lower()
    within = None not in (score.chance, score.low, score.high) and (
        score.low <= score.chance <= score.high  # type: ignore[operator]
    )
    found = {
        "scored on training data": evaluator in stage.overlaps,
        "chosen on these records": _chosen_on(entry),
        "chance lies within the interval": within,
        "one class predicted": entry.get("classes_predicted") == 1,
        "ties of the highest scores": ties,
        "not calibrated here": "ece" in calibration and calibration.get("method") == "none",
        "patients unknown": data.get("groups_known") is False,
        "non-commercial": "-nc" in licences or "non-commercial" in licences,
    }
    tags = [tag for tag in score.tags if tag != "few events" or "too few" not in score.tags]
    return (*tags, *(name for name, holds in found.items() if holds))

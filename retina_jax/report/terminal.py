"""The results of a run on a terminal: the primary metric of each evaluation, then what fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError
from retina_jax.report import records
from retina_jax.report.headline import by_evaluator, verdicts
from retina_jax.report.records import ScoreRow
from retina_jax.report.tables import number, spread
from retina_jax.types import Score

MOST_LINES = 25
_WIDTH = 100
_HEADER = ("evaluation", "metric", "value", "95 % interval", "chance", "n", "note")
_RIGHT = (False, False, True, True, True, True, False)


def summary(workdir: Path) -> str:
    """Aligned columns for a terminal, at most MOST_LINES lines without a final newline.

    Args:
      workdir: what `records.load` takes.

    Returns:
      What the run is called, the primary metric of each evaluation with numbers of patients, eyes
      and images as far as these are known and what to be wary of, then the other figures as far as
      they fit; figures of captions come last. A value or field that is not there shows as '-'.

    Raises:
      InputError: no run has written there.
    """
    run = records.load(workdir)
    firsts = verdicts(run)
    if not firsts:
        return "There are no results."
    several = len({id(one.stage) for one in firsts}) > 1

    def name(stage: records.StageRecord, evaluator: str) -> str:
        return f"{stage.name}/{evaluator}" if several else evaluator

    rows = [(name(one.stage, one.evaluator), one.row, one.numbers, ", ".join(one.flags))
            for one in firsts]  # fmt: skip
    shown = {id(row) for _, row, *_ in rows}
    rest = [
        (name(stage, evaluator), row, "-" if row.score.count is None else str(row.score.count), "")
        for stage in run.stages
        for evaluator, figures in by_evaluator(stage).items()
        for row in figures
        if id(row) not in shown
    ]
    kept = (rows + rest)[: MOST_LINES - 5]
    lines = _aligned([_HEADER, *(_line(*row) for row in kept)])
    lines.insert(1, "-" * min(_WIDTH, max(len(line) for line in lines)))
    if len(kept) > len(rows):
        lines.insert(2 + len(rows), "")
    if left := len(rows) + len(rest) - len(kept):
        lines.append(f"({left} more figures are on the page and in results.json)")
    return "\n".join([run.name, *lines])


def _line(name: str, row: ScoreRow, size: str, note: str) -> tuple[str, ...]:
    score = row.score
    return (
        name, row.metric, number(score.value, "-"), spread(score, " .. ") or "-",
        number(score.chance, "-"), size, note,
    )  # fmt: skip


def _aligned(
    rows: Sequence[Sequence[str]], right: Sequence[bool] = _RIGHT
) -> list[str]:  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(right))]
    return [
        "  ".join(
            text.rjust(width) if ends else text.ljust(width)
            for text, width, ends in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]


def subgroups(workdir: Path, fields: Sequence[str]) -> str:
    """The primary metric in the subgroups that `results.json` has of these fields, as a table.

    A subgroup that is too small to be shown is named, and nothing else.

    Raises:
      InputError: for a field that no evaluation has.
    """
    rows: list[tuple[str, ...]] = [("evaluation", "subgroup", "value", "95 % interval", "patients")]
    notes: list[str] = []
    known: set[str] = set()
    for stage in records.load(workdir).stages:
        for name, entry in stage.evaluations.items():
            found: Mapping[str, Any] = entry.get("subgroups") or {}
            known |= set(found)
            for field in fields:
                field = "age_band" if field == "age" else field
                if field in found:
                    rows += _cells(name, field, found[field]["groups"])
                    notes += _gap(name, field, entry.get("primary"), found[field])
    asked = {"age_band" if field == "age" else field for field in fields}
    if unknown := sorted(asked - known):
        raise InputError(
            f"{workdir} has no subgroups by '{unknown[0]}', but by "
            f"{', '.join(sorted(known)) or 'nothing'}: score it by python -m retina_jax.evaluate "
            f"--subgroup={unknown[0]}, or there is one group alone."
        )
    lines = _aligned(rows, (False, False, True, True, True))
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*lines, *notes])


def _cells(name: str, field: str, groups: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for group, cell in groups.items():
        if cell.get("suppressed"):
            found.append((name, f"{field} {group}", "too few", "-", "-"))
            continue
        ends = cell["primary"]
        interval = spread(Score(ends["value"], ends["low"], ends["high"]), " .. ")
        found.append((name, f"{field} {group}", number(ends["value"], "-"), interval or "-",
                      str(cell["patients"])))  # fmt: skip
    return found


def _gap(name: str, field: str, metric: Any, found: Mapping[str, Any]) -> list[str]:
    if found.get("gap") is None:
        return []
    low, high = found["gap_interval"]
    return [
        f"{name}, {metric} by {field}: gap {number(found['gap'])} ({number(low)} .. "
        f"{number(high)}), {number(found['gap_expected_by_chance'])} expected of no difference; "
        f"least in {found['worst_group']}"
    ]

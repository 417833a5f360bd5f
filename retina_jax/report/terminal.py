"""The results of a run as a plain-text table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError
from retina_jax.report import records
from retina_jax.types import Score

_HEADER = ("evaluation", "metric", "value", "95 % interval", "chance", "n")
_RIGHT = (False, False, True, True, True, True)


def number(value: float | None, missing: str = "-") -> str:
    """A figure as people read it: three decimals below 10, four significant digits above."""
    if value is None or not math.isfinite(value):
        return missing
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def spread(score: Score, between: str) -> str:
    """The interval of a figure, or else its deviation over repetitions; '' where it has neither."""
    if score.low is not None and score.high is not None:
        return f"{number(score.low)}{between}{number(score.high)}"
    return "" if score.deviation is None else f"± {number(score.deviation)}"


def table(scores: Sequence[Mapping[str, Any]]) -> str:
    """Aligned columns for a terminal: evaluation, metric, value, interval, chance level, count.

    Args:
      scores: rows as in results.json: objects with evaluator, metric, value, and low, high, chance
        and count, any of which may be None. Where they have more than one `stage`, its name leads.

    Returns:
      Lines without a final newline. An undefined value (NaN) and a missing field show as '-';
      unreadable scores are counted in a last line.
    """
    stages = {score.get("stage", "") for score in scores if isinstance(score, Mapping)}
    if len(stages) > 1:
        scores = [
            {**score, "evaluator": f"{score.get('stage', '')}/{score.get('evaluator')}"}
            for score in scores
        ]
    found, bad = records.entries(scores)
    rows: list[tuple[str, ...]] = [_HEADER]
    for entry in found:
        score = entry.score
        rows.append(
            (
                entry.evaluator,
                entry.metric,
                number(score.value),
                spread(score, " .. ") or "-",
                number(score.chance),
                "-" if score.count is None else str(score.count),
            )
        )
    lines = aligned(rows, _RIGHT)
    if bad:
        lines.append(f"({bad} of {len(scores)} scores could not be read)")
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Lines of aligned columns with a rule below the first row, the header.

    Args:
      rows: texts of one length each.
      right: whether a column ends at one place, as numbers do.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(right))]
    lines = [
        "  ".join(
            text.rjust(width) if ends else text.ljust(width)
            for text, width, ends in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return lines


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
    return "\n".join([*aligned(rows, (False, False, True, True, True)), *notes])


def _cells(name: str, field: str, groups: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for group, cell in groups.items():
        if cell.get("suppressed"):
            found.append((name, f"{field} {group}", "too few", "-", "-"))
            continue
        ends = cell["primary"]
        interval = spread(Score(ends["value"], ends["low"], ends["high"]), " .. ")
        found.append((name, f"{field} {group}", number(ends["value"]), interval or "-",
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

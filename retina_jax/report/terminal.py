"""The results of a run on a terminal: the primary metric of each evaluation, then what fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retina_jax.report import records
from retina_jax.report.headline import by_evaluator, verdicts
from retina_jax.report.records import ScoreRow
from retina_jax.report.tables import number, spread

MOST_LINES = 25
_WIDTH = 100
_HEADER = ("evaluation", "metric", "value", "95 % interval", "chance", "n", "note")
_RIGHT = (False, False, True, True, True, True, False)


def summary(workdir: Path) -> str:
    """Aligned columns for a terminal, at most MOST_LINES lines without a final newline.

    Args:
      workdir: what `records.load` takes.

    Returns:
      The primary metric of each evaluation with what to be wary of, then the other figures as far
      as they fit; figures of captions come last. A value or field that is not there shows as '-'.

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

    rows = [(name(one.stage, one.evaluator), one.row, ", ".join(one.flags)) for one in firsts]
    shown = {id(row) for _, row, _ in rows}
    rest = [
        (name(stage, evaluator), row, "")
        for stage in run.stages
        for evaluator, figures in by_evaluator(stage).items()
        for row in figures
        if id(row) not in shown
    ]
    kept = (rows + rest)[: MOST_LINES - 4]
    lines = _aligned([_HEADER, *(_line(*row) for row in kept)])
    lines.insert(1, "-" * min(_WIDTH, max(len(line) for line in lines)))
    if len(kept) > len(rows):
        lines.insert(2 + len(rows), "")
    if left := len(rows) + len(rest) - len(kept):
        lines.append(f"({left} more figures are on the page and in results.json)")
    return "\n".join(lines)


def _line(name: str, row: ScoreRow, note: str) -> tuple[str, ...]:
    score = row.score
    return (
        name, row.metric, number(score.value, "-"), spread(score, " .. ") or "-",
        number(score.chance, "-"), "-" if score.count is None else str(score.count), note,
    )  # fmt: skip


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, _RIGHT, strict=True)
        ).rstrip()
        for row in rows
    ]

"""The results of a run as a plain-text table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, _RIGHT, strict=True)
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(len(line) for line in lines))
    if bad:
        lines.append(f"({bad} of {len(scores)} scores could not be read)")
    return "\n".join(lines)

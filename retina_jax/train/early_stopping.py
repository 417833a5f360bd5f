"""When training ends before its total: nothing was better for a while (`settings.Keep`)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from retina_jax.settings import Keep


def history(workdir: Path, keep: Keep, step: int) -> list[float]:
    """The values of `keep.best` that a run has evaluated up to a step, in their order.

    They are read from `metrics.jsonl`, so that an interrupted run ends where it would have. A value
    that is not finite is the worst one.
    """
    return [] if keep.patience is None else list(_values(workdir, keep, step).values())


def unscored(workdir: Path, keep: Keep, step: int) -> bool:
    """Whether a checkpoint of `step` can be the best of a run that has no value of it."""
    return keep.best is not None and step > 0 and step not in _values(workdir, keep, step)


def _values(workdir: Path, keep: Keep, until: int) -> dict[int, float]:
    """{step: value of `keep.best`} of the rows that a run has written."""
    path = Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return {}
    found: dict[int, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the half-written last line of a killed process
        if keep.best in row and row["step"] <= until:
            found[row["step"]] = worst_if_unknown(row[keep.best])
    return found


def worst_if_unknown(value: float | None) -> float:
    """The value, or minus infinity where it is None or not finite."""
    return value if value is not None and math.isfinite(value) else -math.inf


def over(keep: Keep, values: Sequence[float]) -> bool:
    """Whether the last `keep.patience` of the values are not above all that came before them.

    Values none of which is known, such as a curve of a class that no record is of, end nothing.
    """
    if keep.patience is None or max(values, default=-math.inf) == -math.inf:
        return False
    return len(values) - 1 - values.index(max(values)) >= keep.patience


def reason(workdir: Path, keep: Keep, step: int) -> str:
    """Why a checkpoint of a run that is over at a step is the one that is kept."""
    known = any(value > -math.inf for value in history(workdir, keep, step))
    return f"is the best in {keep.best}" if known else f"is the last: {keep.best} is not defined"

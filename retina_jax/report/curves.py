"""Curves of training: panels of a metric against the step, stage after stage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from retina_jax.metrics import subgroups
from retina_jax.report import charts, records
from retina_jax.report.tables import PageTable, cells, of_curves

_SPEED = ("examples_per_second", "data_wait", "step_seconds", "seconds", "memory", "text_length")
# Shown after the losses: they explain a run, they are not what it optimises.
_NOT_A_LOSS = ("learning_rate", "grad", "param", "norm", "scale", "skipped", "temperature")


def stages(runs: Sequence[records.Run], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Panels of curves, stage after stage; runs share the panel of a metric."""
    names = list(dict.fromkeys(stage.name for run in runs for stage in run.stages))
    found = []
    for place, name in enumerate(names):
        of_name = [
            (index, stage)
            for index, run in enumerate(runs)
            for stage in run.stages
            if stage.name == name
        ]
        training = _keys(of_name, "train/")
        speed = [key for key in training if key.rsplit("/", 1)[-1] in _SPEED]
        # Skipped steps are a notice: a flat line at zero says nothing.
        training = sorted(
            (key for key in training if key not in speed and "skipped" not in key),
            key=_training_order,
        )
        keys = {"evaluation": _keys(of_name, "eval/"), "training": training, "speed": speed}
        panels = {kind: _panels(of_name, every, labels) for kind, every in keys.items()}
        single = [panel for every in panels.values() for panel in every if not panel["svg"]]
        found.append({
            "title": f"Stage {place + 1}: {name}" if name else "Curves",
            **{kind: [one for one in every if one["svg"]] for kind, every in panels.items()},
            "single": _single(single, labels) if single else None,
        })  # fmt: skip
    return found


def _single(panels: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> PageTable:
    """What was logged once, which makes no curve."""
    rows = [(panel["title"], *(dict(panel["last"]).get(run, "–") for run in range(len(labels))))
            for panel in panels]  # fmt: skip
    heads = ("metric", *(labels if len(labels) > 1 else ("value",)))
    return PageTable("Logged once", heads, tuple(cells(*row) for row in rows))


def _keys(stages: Sequence[tuple[int, records.StageRecord]], prefix: str) -> list[str]:
    found = {key for _, stage in stages for key in stage.keys(prefix)}
    return sorted(found, key=subgroups.order)


def _training_order(key: str) -> tuple[bool, bool]:
    return any(word in key for word in _NOT_A_LOSS), key != "train/loss"


def _panels(
    stages: Sequence[tuple[int, records.StageRecord]], keys: Sequence[str], labels: Sequence[str]
) -> list[dict[str, Any]]:
    chances = {
        f"eval/{entry.evaluator}/{entry.metric}": entry.score.chance
        for _, stage in stages
        for entry in stage.entries
    }
    panels, before = [], None
    for key in keys:
        series = [(index, *stage.series(key)) for index, stage in stages]
        last = [(index, f"{values[-1]:.4g}") for index, _, values in series if values]
        if not last or (series == before and key.startswith("train/")):
            continue  # nothing finite, or the only term, which is the loss once more
        if key in chances and all(len(values) < 2 for _, _, values in series):
            continue  # a figure of the results, and no curve
        before = series
        title = re.sub(r"^(train|eval)/", "", key).replace("_", " ").replace("/", " / ")
        panel: dict[str, Any] = {"title": title, "last": last, "svg": "", "says": ""}
        if any(len(values) > 1 for _, _, values in series):  # a single point is a number
            panel["svg"] = charts.curves(
                series, points=key.startswith("eval/"), chance=chances.get(key)
            )
            panel["says"] = "; ".join(
                f"from {values[0]:.4g} at step {steps[0]:.0f} to {values[-1]:.4g} at step "
                f"{steps[-1]:.0f}, between {min(values):.4g} and {max(values):.4g}"
                for _, steps, values in series if values
            )  # fmt: skip
            panel["table"] = of_curves(title, series, labels)
        panels.append(panel)
    return panels

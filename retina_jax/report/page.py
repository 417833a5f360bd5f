"""Assembles the page: what the files say, as plain values for the template."""

from __future__ import annotations

import importlib.resources
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import retina_jax
from data_pipelines import places
from retina_jax.report import charts, comparisons, records
from retina_jax.report.terminal import number, spread
from retina_jax.types import Score

_SPEED = ("examples_per_second", "data_wait", "step_seconds", "seconds", "memory")
_EXAMPLES, _WAIT = "train/examples_per_second", "train/data_wait"
_SKIPPED = "train/skipped_steps"
# Shown after the losses: they explain a run, they are not what it optimises.
_NOT_A_LOSS = ("learning_rate", "grad", "param", "norm", "scale", "skipped", "temperature")


def write(workdirs: Sequence[Path], output: Path) -> Path:
    """Writes one self-contained HTML page about one run, or comparing several.

    The page loads nothing from anywhere: style, drawings and pictures are inline, there is no
    script, and a content security policy forbids the rest. The same files give the same page.

    Args:
      workdirs: work directories of runs; the first is the one that the others are compared with.
      output: the file to write; its directory is made.

    Returns:
      `output`.

    Raises:
      InputError: for a directory in which no run has written.
    """
    runs = [records.load(Path(workdir)) for workdir in workdirs]
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    places.write_whole(output, render(runs))
    return output


def render(runs: Sequence[records.Run]) -> str:
    """The page as HTML text."""
    files = importlib.resources.files("retina_jax.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files.joinpath("page.html").read_text("utf-8"))
    several = len(runs) > 1
    labels = _labels(runs)
    return template.render(
        title=" vs ".join(labels) if several else runs[0].name,
        style=Markup(files.joinpath("page.css").read_text("utf-8")),
        several=several,
        number=number,
        version=retina_jax.__version__,
        runs=[
            _run(index, run, label)
            for index, (run, label) in enumerate(zip(runs, labels, strict=True))
        ],
        results=_results(runs),
        stages=_stages(runs),
        logged=any(stage.rows for run in runs for stage in run.stages),
        configured=any(stage.config for run in runs for stage in run.stages),
        differences=_differences(runs) if several else [],
    )


def _labels(runs: Sequence[records.Run]) -> list[str]:
    """Names that tell the runs apart: the folder is added to a name that two of them have."""
    names = [run.name for run in runs]
    return [f"{run.name} ({run.path})" if names.count(run.name) > 1 else run.name for run in runs]


def _run(index: int, run: records.Run, label: str) -> dict[str, Any]:
    configs = [
        {
            "title": " · ".join(part for part in (label, stage.name, "config.json") if part),
            "text": json.dumps(stage.config, indent=2, ensure_ascii=False, default=str),
        }
        for stage in run.stages
        if stage.config
    ]
    return {
        "index": index,
        "label": label,
        "path": run.path,
        "sentence": _sentence(run),
        "facts": _facts(run),
        "configs": configs,
        "notices": [notice for stage in run.stages for notice in _notices(stage)],
        "gallery": [example for stage in run.stages for example in stage.gallery],
    }


def _notices(stage: records.StageRecord) -> list[str]:
    skipped = stage.series(_SKIPPED)[1]
    if not skipped or not skipped[-1]:
        return list(stage.notices)
    where = f"Stage {stage.name}: " if stage.name else ""
    return [
        *stage.notices,
        f"{where}{skipped[-1]:.0f} steps were skipped because their loss or "
        "gradient was not finite.",
    ]


def _sentence(run: records.Run) -> str:
    """What was trained: the models and terms that the configs name."""
    parts = []
    for stage in run.stages:
        model = " ".join(_names(stage.config.get("model"))) or "a model"
        terms = _names(stage.config.get("objectives"))
        text = f"{model} trained with {', '.join(terms)}" if terms else model
        parts.append(f"{stage.name}: {text}" if stage.name else text)
    return "; then ".join(parts)


def _names(value: Any) -> list[str]:
    """The names of a spec, or of several in a mapping or a list, each once."""
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return [value["name"]]
    several = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | list | tuple):
        return []
    return list(dict.fromkeys(name for item in several for name in _names(item)))


def _facts(run: records.Run) -> list[tuple[str, str]]:
    steps = [stage.step for stage in run.stages if stage.step is not None]
    seconds = sum(stage.seconds for stage in run.stages)
    rate = _mean(run, _EXAMPLES)
    wait = _mean(run, _WAIT)
    return [
        ("steps", " + ".join(f"{step:,}" for step in steps) or "–"),
        ("wall time", _duration(seconds) if seconds else "–"),
        (
            "examples per second",
            "–" if rate is None else f"{rate:,.3g}" if rate < 100 else f"{rate:,.0f}",
        ),
        ("waiting for data", "–" if wait is None else f"{100 * wait:.1f} %"),
    ]


def _mean(run: records.Run, key: str) -> float | None:
    """Mean of a metric over the last stage that logged it, without its first line (compiling)."""
    for stage in reversed(run.stages):
        values = stage.series(key)[1]
        if values:
            kept = values[1:] or values
            return sum(kept) / len(kept)
    return None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _results(runs: Sequence[records.Run]) -> list[dict[str, Any]]:
    """Rows of the results table: every (stage, evaluator, metric) of any run, in file order."""
    # Where each run scores one stage only, runs can be compared whatever that stage is called.
    scored = [[stage for stage in run.stages if stage.entries] for run in runs]
    named = any(len(stages) > 1 for stages in scored)
    tables = [
        {
            (stage.name if named else "", entry.evaluator, entry.metric): entry.score
            for stage in stages
            for entry in stage.entries
        }
        for stages in scored
    ]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    order = {name: place for place, name in enumerate(dict.fromkeys(key[:2] for key in keys))}
    keys.sort(key=lambda key: order[key[:2]])
    compared = {
        key: comparisons.compare(key[1], [_holder(stages, *key, named) for stages in scored])
        for key in order
    }
    rows, before = [], ("", "")
    for stage, evaluator, metric in keys:
        scores = [table.get((stage, evaluator, metric)) for table in tables]
        row = _result_row(scores, metric, compared[stage, evaluator])
        row |= {
            "evaluator": evaluator.replace("_", " "),
            "metric": metric.replace("_", " "),
            "first": not rows or before != (stage, evaluator),
            "stage_head": f"Stage {stage}" if stage and before[0] != stage else "",
        }
        rows.append(row)
        before = (stage, evaluator)
    return rows


def _holder(
    stages: Sequence[records.StageRecord], name: str, evaluator: str, named: bool
) -> records.StageRecord | None:
    """The stage of a run that has an evaluation."""
    for stage in stages:
        mine = any(entry.evaluator == evaluator for entry in stage.entries)
        if mine and (not named or stage.name == name):
            return stage
    return None


def _result_row(
    scores: Sequence[Score | None], metric: str, compared: Sequence[comparisons.Compared | None]
) -> dict[str, Any]:
    drawn = [score for score in scores if score is not None and math.isfinite(score.value)]
    ends = charts.domain(drawn) if drawn else None
    bars = [
        Markup(charts.score_bar(score, ends, index))
        for index, score in enumerate(scores)
        if ends and score in drawn
    ]
    known = [score for score in scores if score is not None]
    counts = [f"{score.count:,}" for score in known if score.count is not None]
    chances = [number(score.chance) for score in known if score.chance is not None]
    return {
        "cells": [
            _cell(score, scores[0], metric, beside)
            for score, beside in zip(scores, compared, strict=True)
        ],
        "bars": bars,
        "ends": [f"{end:.4g}" for end in ends or ()],
        "like_chance": len(scores) == 1 and _like_chance(scores[0]),
        "chance": " / ".join(dict.fromkeys(chances)) or "–",
        "count": " / ".join(dict.fromkeys(counts)) or "–",
    }


def _like_chance(score: Score | None) -> bool:
    return (
        score is not None
        and score.chance is not None
        and score.low is not None
        and score.high is not None
        and score.low <= score.chance <= score.high
    )


def _cell(
    score: Score | None, reference: Score | None, metric: str, compared: comparisons.Compared | None
) -> dict[str, Any]:
    empty = {"value": "–", "interval": "", "delta": "", "apart": False}
    if score is None:
        return empty
    cell = empty | {"value": number(score.value, "undefined"), "interval": spread(score, " – ")}
    if compared is None or reference is None:
        return cell
    if not compared.same:  # a difference between other records means nothing
        return cell | {"delta": compared.note}
    if math.isfinite(score.value) and math.isfinite(reference.value):
        change = score.value - reference.value
        cell["delta"] = f"Δ {'−' if change < 0 else '+'}{number(abs(change))}"
        if metric == compared.metric and math.isfinite(compared.p_holm):
            cell["delta"] += f", p {number(compared.p_holm)}"
            cell["apart"] = compared.bold
    return cell


def _stages(runs: Sequence[records.Run]) -> list[dict[str, Any]]:
    """Panels of curves, stage after stage; runs share the panel of a metric."""
    names = list(dict.fromkeys(stage.name for run in runs for stage in run.stages))
    found = []
    for place, name in enumerate(names):
        stages = [
            (index, stage)
            for index, run in enumerate(runs)
            for stage in run.stages
            if stage.name == name
        ]
        training = _keys(stages, "train/")
        speed = [key for key in training if key.rsplit("/", 1)[-1] in _SPEED]
        # Skipped steps are a notice: a flat line at zero says nothing.
        training = sorted(
            (key for key in training if key not in (*speed, _SKIPPED)), key=_training_order
        )
        title = f"Stage {place + 1}: {name}" if name else "Curves"
        found.append(
            {
                "title": title,
                "evaluation": _panels(stages, _keys(stages, "eval/"), f"s{place}e"),
                "training": _panels(stages, training, f"s{place}t"),
                "speed": _panels(stages, speed, f"s{place}s"),
            }
        )
    return found


def _keys(stages: Sequence[tuple[int, records.StageRecord]], prefix: str) -> list[str]:
    return sorted({key for _, stage in stages for key in stage.keys(prefix)})


def _training_order(key: str) -> tuple[bool, bool, str]:
    return any(word in key for word in _NOT_A_LOSS), key != "train/loss", key


def _panels(
    stages: Sequence[tuple[int, records.StageRecord]], keys: Sequence[str], prefix: str
) -> list[dict[str, Any]]:
    chances = {
        f"eval/{entry.evaluator}/{entry.metric}": entry.score.chance
        for _, stage in stages
        for entry in stage.entries
    }
    panels, before = [], None
    for place, key in enumerate(keys):
        series = [(index, *stage.series(key)) for index, stage in stages]
        last = [(index, f"{values[-1]:.4g}") for index, _, values in series if values]
        if not last or (series == before and key.startswith("train/")):
            continue  # nothing finite, or the only term, which is the loss once more
        before = series
        svg = charts.curves(
            f"{prefix}{place}", series, points=key.startswith("eval/"), chance=chances.get(key)
        )
        title = re.sub(r"^(train|eval)/", "", key).replace("_", " ").replace("/", " / ")
        panels.append({"title": title, "svg": Markup(svg), "last": last})
    return panels


def _differences(runs: Sequence[records.Run]) -> list[tuple[str, list[str]]]:
    """Dotted config keys whose values are not the same in all runs, with the values."""
    flat = [
        {key: value for stage in run.stages for key, value in _flatten(stage.config, stage.name)}
        for run in runs
    ]
    keys = sorted({key for config in flat for key in config})
    rows = [(key, [config.get(key, "–") for config in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flatten(value: Any, prefix: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [
            pair
            for key, item in value.items()
            for pair in _flatten(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, json.dumps(value, ensure_ascii=False, default=str))]

"""What the page shows of single records: curves, reliability of each class, errors to look at.

Read from the per-record files alone. No name of a record or patient leaves this module: a record is
called by the beginning of the hash of its pictures.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from data_pipelines.errors import InputError
from retina_jax.metrics import calibration, weighted
from retina_jax.report.charts import SERIES, Plot
from retina_jax.report.records import StageRecord
from retina_jax.report.tables import Cell, PageTable, figure, number
from retina_jax.scoring import examples, figures
from retina_jax.scoring import records as files
from retina_jax.scoring.predictions import Predictions

_SIDE = (300, 250)
_UNIT = (0.0, 1.0)
_FOUND = (0.5, 0.8, 0.9, 0.95)  # sensitivities at which one names a precision-recall curve
_AT = (0.01, 0.05, 0.1, 0.2, 0.5)  # false-positive rates at which the table names a ROC curve


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A drawing with its title, its numbers in words, a legend of (colour, text), and a table.

    Before each text of the legend is a line of its colour, or one of the `symbols`, 14 pixels wide.
    """

    title: str
    svg: Markup
    says: str
    legend: tuple[tuple[int, str], ...] = ()
    table: PageTable | None = None
    symbols: tuple[Markup, ...] = ()


def read(stage: StageRecord, evaluator: str) -> Predictions | None:
    """The records of an evaluation; None where it names none, or their file is not there.

    Raises:
      InputError: a file of another version, a damaged one, or one of other records.
    """
    entry = stage.evaluations.get(evaluator, {})
    if not entry.get("records_file"):
        return None
    path = stage.folder / str(entry["records_file"])
    if not path.is_file():
        return None
    found = files.read(path)
    if found.test_hash != (entry.get("data") or {}).get("test_hash"):
        raise InputError(f"{path} is not of the records that results.json beside it was made of; "
                         "evaluate again.")  # fmt: skip
    said = {row.metric: row.score.value for row in stage.entries if row.evaluator == evaluator}
    decimals = found.about.get("decimals")  # a mean of rounded figures is rounded once more
    apart = 1e-8 if decimals is None else 10.0**-decimals
    for setting in found.about["settings"]:
        name = "_".join(filter(None, (found.about.get("primary"), setting)))
        part = found.of(setting)
        known = said.get(name, float("nan"))
        if not np.isfinite(known) or not len(part.record):
            continue
        again = figures.primary(part)(weighted.ones(len(part.record)))[0]
        if not np.isclose(known, again, atol=apart):
            raise InputError(f"{path} has another {name} than results.json beside it: it is of "
                             "another model or an earlier evaluation; evaluate again.")  # fmt: skip
    return found


@dataclasses.dataclass(frozen=True)
class _Column:
    """A class or label of test records: labels 0 / 1 [n] that are known, and scores f64[n]."""

    name: str
    labels: np.ndarray
    values: np.ndarray


def _columns(part: Predictions) -> list[_Column]:
    """Class 1 of two; of more, or of labels, the SERIES most frequent."""
    names = part.about["classes"]
    values = examples.values(part)
    found: list[_Column] = []
    for k, name in enumerate(names):
        labels = part.labels[:, k] if part.labels.ndim == 2 else (part.labels == k).astype(int)
        rows = np.flatnonzero(labels >= 0)
        found.append(_Column(str(name), labels[rows], values[rows, k]))
    if len(names) == 2 and part.labels.ndim == 1:
        return found[1:]
    frequent = sorted(found, key=lambda one: -int(one.labels.sum()))[:SERIES]
    return [one for one in found if one in frequent and 0 < one.labels.sum() < len(one.labels)]


def ranking(part: Predictions, points: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """ROC and precision-recall curves; none where scores of several fits are mixed.

    Args:
      part: test records of one setting.
      points: operating points of `results.json`, which are marked.
    """
    once = len(np.unique(part.repeat)) == len(np.unique(part.fold)) == 1
    columns = _columns(part) if once and part.labels.dtype.kind == "i" else []
    columns = [one for one in columns if 0 < one.labels.sum() < len(one.labels)]
    if not columns:
        return []
    roc, both = Plot(_UNIT, _UNIT, _SIDE).chance(_UNIT, _UNIT), Plot(_UNIT, _UNIT, _SIDE)
    marks = {str(point["class"]): point for point in points}
    areas: list[str] = []
    precisions: list[str] = []
    rows: list[tuple[Cell, ...]] = []
    found: list[tuple[Cell, ...]] = []
    for colour, one in enumerate(columns):
        ones = weighted.ones(len(one.labels))
        area = float(weighted.auc(one.labels, one.values, ones)[0])
        average = float(weighted.average_precision(one.labels, one.values, ones)[0])
        hits, calls = _called(one)
        true, share = hits / hits[-1], float(one.labels.mean())
        false, precise = (calls - hits) / (calls[-1] - hits[-1]), hits[1:] / calls[1:]
        roc.line(false, true, colour)
        both.line(true[1:], precise, colour).chance(_UNIT, (share, share))
        said = _marked(roc, both, colour, marks.get(one.name, {}))
        areas.append(f"{one.name}, area {number(area)}{said}")
        precisions.append(f"{one.name}, average {number(average)}, chance {number(share)}")
        rows.append((Cell(one.name), *(figure(float(np.interp(at, false, true))) for at in _AT)))
        # A precision is that of the highest threshold which finds so many.
        found.append((Cell(one.name), *(figure(float(precise[np.argmax(true[1:] >= at)]))
                                        for at in _FOUND)))  # fmt: skip
    count = len(part.about["classes"])
    which = f", the {SERIES} most frequent of {count} classes" if count > SERIES else ""
    table = PageTable("Sensitivity at specificities, read off these records, which is optimistic",
                  ("class", *(f"at {1 - at:g}" for at in _AT)), tuple(rows))  # fmt: skip
    return [
        Drawing(f"ROC: sensitivity against 1 − specificity{which}", roc.svg(), "; ".join(areas),
               tuple(enumerate(areas)), table),
        Drawing(f"Precision against sensitivity{which}", both.svg(), "; ".join(precisions),
               tuple(enumerate(precisions)), PageTable(
                   "Precision where at least this share is found",
                   ("class", *(f"of {share:g} found" for share in _FOUND)),
                   tuple(found))),
    ]  # fmt: skip


def _called(one: _Column) -> tuple[np.ndarray, np.ndarray]:
    """Positives and records above each distinct score downwards, from none to all."""
    order = np.argsort(-one.values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(one.values[order])), len(order) - 1)
    hits = np.cumsum(one.labels[order])[last]
    return np.append(0, hits), np.append(0, last + 1)


def _marked(roc: Plot, both: Plot, colour: int, point: Mapping[str, Any]) -> str:
    """Draws an operating point and says where it lies."""
    found = [(point.get(name) or {}).get("value") for name in ("sensitivity", "specificity", "ppv")]
    if found[0] is None or found[1] is None:
        return ""
    roc.dots([1 - found[1]], [found[0]], colour, ring=True)
    if found[2] is not None:
        both.dots([found[0]], [found[2]], colour, ring=True)
    return (f"; at the operating point sensitivity {number(found[0])}, specificity "
            f"{number(found[1])}")  # fmt: skip


def reliability(part: Predictions, made: Mapping[str, Any]) -> list[Drawing]:
    """Observed shares against probabilities, of the answer as a whole and then of each class.

    Args:
      part: test records of one setting.
      made: 'calibration' of `results.json`.
    """
    part = part.once()  # as the calibration
    if part.probabilities is None or part.labels.ndim != 1 or not made.get("curve"):
        return []
    p = part.probabilities.astype(np.float64)
    two = p.shape[1] == 2
    what = f"probability of {part.about['classes'][1]}" if two else "probability of the answer"
    found = [_reliability(what, made["curve"], p[:, 1] if two else p.max(axis=1))]
    if made.get("after"):
        found.append(_reliability("the same after the temperature", made["after"]["curve"], None))
    for one in _columns(part) if not two else ():
        title = f"probability of {one.name}"
        found.append(_reliability(title, calibration.curve(one.labels, one.values), one.values))
    return found


def _reliability(
    title: str, points: Sequence[Mapping[str, float]], values: np.ndarray | None
) -> Drawing:
    plot = Plot(_UNIT, _UNIT, _SIDE).chance(_UNIT, _UNIT)
    x, y = ([point[name] for point in points] for name in ("predicted", "observed"))
    low, high = ([point[name] for point in points] for name in ("low", "high"))
    if values is not None:  # how often each probability is given, as bars on the axis
        counts, edges = np.histogram(values, bins=20, range=_UNIT)
        middle = (edges[1:] + edges[:-1]) / 2
        plot.bars(middle, np.zeros(20), 0.2 * counts / max(counts.max(), 1), 4)
    plot.bars(x, low, high, 0).dots(x, y, 0)
    rows = tuple(
        (Cell(f"{point['count']:.0f}"), figure(point["predicted"]),
         figure({"value": point["observed"], "low": point["low"], "high": point["high"]}))
        for point in points
    )  # fmt: skip
    table = PageTable(
        f"Reliability: {title}", ("records", "mean probability", "observed share"), rows
    )
    says = "; ".join(f"{number(a)}: {number(b)}" for a, b in zip(x, y, strict=True))
    return Drawing(title, plot.svg(), f"Observed share at each mean probability. {says}", (), table)


def decision_curve(made: Sequence[Mapping[str, Any]], name: str) -> list[Drawing]:
    """Net benefit of acting on a probability, beside acting on all and on nobody.

    Args:
      made: 'decision_curve' of `results.json`; only a single one is drawn.
      name: what is decided, 'refer' for instance.
    """
    if len(made) != 1:
        return []
    keys = ("threshold", "model", "all", "low", "high")
    at, model, everyone, low, high = (np.array(made[0][key], np.float64) for key in keys)
    share = float(everyone.max())
    plot = Plot((0.0, 0.5), (min(-0.05, -share / 4), max(share, 0.05) * 1.1), _SIDE)
    plot.band(at, low, high, 0).line(at, model, 0).line(at, everyone, 1)
    plot.chance((0.0, 0.5), (0.0, 0.0))
    rows = tuple(
        (Cell(f"{at[i]:g}"), figure({"value": model[i], "low": low[i], "high": high[i]}),
         figure(everyone[i])) for i in (0, 4, 9, 19, 29, 49)
    )  # fmt: skip
    table = PageTable(f"Net benefit of '{name}'", ("threshold", "model", "acting on all"), rows)
    says = "; ".join(f"at {row[0].text}: {row[1].text}, all {row[2].text}" for row in rows)
    legend = ((0, f"{name} by the model"), (1, f"{name} everybody; dotted: nobody"))
    return [Drawing(f"Net benefit of '{name}' against the threshold", plot.svg(), says, legend,
                   table)]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ShownRecord:
    """A record as a card: what it is called, said of it, its value, and its picture."""

    name: str
    says: str
    right: bool
    value: str
    image: str | None


class Pictures:
    """Pictures that an evaluation left beside its records, as many as a page may have."""

    def __init__(self, most: int = examples.MOST):
        """So many."""
        self.left = most

    def of(self, stage: StageRecord, name: str) -> str | None:
        """An inline JPEG of a record; None where there is none, or the page has enough."""
        path = stage.folder / examples.FOLDER / f"{name}.jpg"
        if not self.left or not path.is_file():
            return None
        self.left -= 1
        return inline(path.read_bytes())


def inline(jpeg: bytes) -> str:
    """The bytes of a JPEG as an address that a page can hold."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def errors(
    stage: StageRecord, pictures: Pictures, part: Predictions, points: Sequence[Mapping[str, Any]]
) -> list[tuple[str, tuple[ShownRecord, ...]]]:
    """Titles and records of `examples.chosen`.

    Args:
      stage: whose they are.
      pictures: what is left of the page's.
      part: test records of one setting.
      points: operating points of `results.json`.
    """
    return [
        (title, tuple(
            ShownRecord(name := examples.short(part, one.row), one.says, one.right,
                        number(one.value, ""), pictures.of(stage, name))
            for one in found
        )) for title, found in examples.chosen(part, points)
    ]  # fmt: skip

"""Tables of all figures of one run or several, and of what a comparison may say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from data_pipelines.errors import InputError
from retina_jax.report import charts, comparisons
from retina_jax.report.comparisons import Compared
from retina_jax.report.headline import Verdict, verdicts
from retina_jax.report.records import Run
from retina_jax.report.tables import DASH, Cell, PageTable, count, number, signed, spread, words
from retina_jax.types import Score


@dataclasses.dataclass(frozen=True)
class ComparedTask:
    """One evaluation of several runs: a table for each set of records, and what to know of it."""

    name: str
    tables: tuple[PageTable, ...]
    notes: tuple[str, ...]


def every_figure(runs: Sequence[Run], labels: Sequence[str]) -> list[PageTable]:
    """A table of each evaluation of any run, with all its figures."""
    by_run = _by_run(runs)
    made: list[PageTable] = []
    for name in dict.fromkeys(name for found in by_run for name in found):
        scores = [_scores(found.get(name)) for found in by_run]
        metrics = dict.fromkeys(metric for found in scores for metric in found)
        rows = tuple(
            _row(metric, [found.get(metric) for found in scores]) for metric in metrics
        )  # fmt: skip
        values = tuple(labels) if len(runs) > 1 else ("value",)
        heads = ("metric", *values, "on an axis", "chance", "n")
        made.append(PageTable(name, heads, rows))
    return made


def _by_run(runs: Sequence[Run]) -> list[dict[str, Verdict]]:
    """The verdicts of each run by their names."""
    # Where each run scores one stage only, runs can be compared whatever that stage is called.
    named = any(sum(bool(stage.entries) for stage in run.stages) > 1 for run in runs)
    return [{one.name: one for one in verdicts(run, named)} for run in runs]


def _scores(verdict: Verdict | None) -> dict[str, Score]:
    """The primary metric first."""
    if verdict is None:
        return {}
    rows = [row for row in verdict.stage.entries if row.evaluator == verdict.evaluator]
    rows.sort(key=lambda row: row.metric != verdict.row.metric)
    return {row.metric: row.score for row in rows}


def _row(metric: str, scores: Sequence[Score | None]) -> tuple[Cell, ...]:
    known = [score for score in scores if score is not None]
    drawn = [score for score in known if math.isfinite(score.value)]
    ends = charts.domain(drawn) if drawn else None
    bars = Cell("")
    if ends:
        bars = Cell("", drawing=charts.Markup("").join(
            charts.score_bar(score, ends, index) for index, score in enumerate(scores)
            if score in drawn and score is not None), note="–".join(f"{e:.4g}" for e in ends),
        )  # fmt: skip
    chances = dict.fromkeys(number(one.chance) for one in known if one.chance is not None)
    counts = dict.fromkeys(count(one.count) for one in known)
    return (
        Cell(words(metric)), *(_value(score) for score in scores), bars,
        Cell(" / ".join(chances) or "none"), Cell(" / ".join(counts) or DASH),
    )  # fmt: skip


def _value(score: Score | None) -> Cell:
    if score is None:
        return Cell("not evaluated")
    found = spread(score)
    note = f"({found})" if found and not found.startswith("±") else found
    if not math.isfinite(score.value):
        note = score.reason or ""
    return Cell(number(score.value), note)


def compared(
    runs: Sequence[Run], labels: Sequence[str], common: float | None
) -> list[ComparedTask]:
    """The primary metric of each evaluation of several runs.

    Args:
      runs: the first is the reference.
      labels: what they are called.
      common: what `comparisons.compare` takes.

    Raises:
      InputError: no two runs have a record in common, or see `comparisons.compare`.
    """
    by_run = _by_run(runs)
    made: list[ComparedTask] = []
    found: list[Compared] = []
    for name in dict.fromkeys(name for one in by_run for name in one):
        beside = [one.get(name) for one in by_run]
        if sum(one is not None for one in beside) < 2:
            continue
        of_task = comparisons.compare(beside, common)
        found += [one for one, verdict in zip(of_task, beside, strict=True)
                  if verdict is not None and verdict is not _first(beside)]  # fmt: skip
        made.append(_task(name, labels, beside, of_task))
    if found and all(one.shared == 0 for one in found):
        raise InputError(
            f"The runs {', '.join(labels)} have no test record in common, so nothing can be "
            "compared; make a page of each, or evaluate them on one test set."
        )
    return made


def _first(verdicts_of: Sequence[Verdict | None]) -> Verdict:
    return next(one for one in verdicts_of if one is not None)


def _task(
    name: str, labels: Sequence[str], beside: Sequence[Verdict | None], found: Sequence[Compared]
) -> ComparedTask:
    """One table of the runs on the records of the reference, and one for each other test set."""
    reference = _first(beside)
    sets: dict[str, list[int]] = {}
    for index, (verdict, one) in enumerate(zip(beside, found, strict=True)):
        if verdict is not None:
            own = comparisons.test_hash(verdict) or f"unknown {index}"
            sets.setdefault("" if one.same else own, []).append(index)
    tables = [
        _tested(name, labels, beside, found, rows) if not place else _others(labels, beside, rows)
        for place, rows in enumerate(sets.values())
    ]
    of = f"{name}: of {reference.test or 'records that are not named'}, {reference.size}"
    hashes = comparisons.test_hash(reference)
    notes = [f"{of}, test_hash {hashes[:10]}" if hashes else of]
    said = {label: one.note.rstrip(".") for label, one in zip(labels, found, strict=True)}
    notes += [f"{label}: {note}." for label, note in said.items() if note]
    tested = sum(math.isfinite(one.p) for one in found)
    if tested:
        reference_label = labels[list(beside).index(reference)]
        notes.append(
            f"Bold: differs from {reference_label} on these {reference.size} (paired bootstrap, "
            f"Holm over {tested} {'model' if tested == 1 else 'models'}). Not bold does not mean "
            "equal."
        )
    return ComparedTask(name, tuple(tables), tuple(notes))


def _tested(
    name: str,
    labels: Sequence[str],
    beside: Sequence[Verdict | None],
    found: Sequence[Compared],
    rows: Sequence[int],
) -> PageTable:
    metric = words(_first(beside).row.metric)
    size = max((abs(end) for i in rows for end in (found[i].low, found[i].high, found[i].difference)
                if math.isfinite(end)), default=0.0) or 0.1  # fmt: skip
    made: list[tuple[Cell, ...]] = []
    for i in rows:
        verdict, one = beside[i], found[i]
        if verdict is None:
            continue
        value = Cell(number(one.value), _interval(verdict, one), bold=one.bold)
        if verdict is _first(beside):
            made.append((Cell(labels[i], "the reference"), value, *(Cell("") for _ in range(4))))
            continue
        drawing = charts.score_bar(_difference(one), (-1.1 * size, 1.1 * size), i)
        axis = f"{signed(-1.1 * size)} to {signed(1.1 * size)}"
        made.append((
            Cell(labels[i], ", ".join(verdict.flags)), value, Cell(signed(one.difference),
            _signed_ends(one), bold=one.bold), Cell("", axis, drawing=drawing),
            Cell(number(one.p, "not tested")), Cell(number(one.p_holm, "not tested")),
        ))  # fmt: skip
    heads = ("run", metric, "difference", "on an axis", "p", "p, Holm")
    return PageTable(f"{name}: {metric}", heads, tuple(made))


def _interval(verdict: Verdict, one: Compared) -> str:
    """The interval that goes with the value: none where that is of shared records only."""
    return verdict.interval if one.value == verdict.row.score.value else ""


def _others(
    labels: Sequence[str], beside: Sequence[Verdict | None], rows: Sequence[int]
) -> PageTable:
    made = [(Cell(labels[i]), Cell(one.value, one.interval), Cell(one.size)) for i in rows
            if (one := beside[i]) is not None]  # fmt: skip
    first = _first([beside[i] for i in rows])
    caption = f"{first.name}: {words(first.row.metric)} of other records, not compared"
    return PageTable(caption, ("run", words(first.row.metric), "n"), tuple(made))


def _difference(one: Compared) -> Score:
    ends = [end if math.isfinite(end) else None for end in (one.low, one.high)]
    return Score(one.difference if math.isfinite(one.difference) else 0.0, *ends, chance=0.0)


def _signed_ends(one: Compared) -> str:
    return f"({signed(one.low)} to {signed(one.high)})" if math.isfinite(one.low) else ""

"""What the page says of one evaluation, in the order in which it is read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retina_jax.metrics import binary
from retina_jax.report import charts, embedding_map, from_records
from retina_jax.report.from_records import Drawing, Pictures, ShownRecord
from retina_jax.report.headline import Verdict
from retina_jax.report.tables import DASH, Cell, PageTable, cells, count, figure, number, words
from retina_jax.scoring.predictions import Predictions
from retina_jax.types import Score

_PREVALENCES = (0.01, 0.05, 0.2)
_MOST_CLASSES = 12
_RATES = ("sensitivity", "specificity", "ppv", "npv", "called")
# Rates of a class, and why there is none.
_UNDEFINED = {"sensitivity": "no such record", "specificity": "no other record",
              "ppv": "never predicted", "npv": "always predicted",
              "f1": "neither there nor predicted"}  # fmt: skip
# Figures of calibration, and why there is none although records are of two classes.
_NO_SLOPE = "no finite fit: probabilities are all equal or separate the classes"
_UNFITTED = {"slope": _NO_SLOPE, "intercept": _NO_SLOPE, "in_the_large": "no finite fit",
             "observed_over_expected": "no probability above 0"}  # fmt: skip
_OF_TWO = ("slope", "intercept", "in_the_large", "brier_skill")
_ONE_CLASS = "all records are of one class"
# Reasons for which a record that was found is not scored.
_LOST = ("not_selected", "unreadable", "no_label", "duplicate", "ungradable", "out_of_distribution",
         "missing_scores")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Counts of (reference, answer), and for each row its share of the reference.

    Attributes:
      names: names of the classes.
      rows: the number of records of each class, and its counts with shares of them.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[int, tuple[tuple[int, float], ...]], ...]


@dataclasses.dataclass(frozen=True)
class EvaluatedSetting:
    """One setting of an evaluation; most have a single one without a name."""

    name: str
    title: str
    notes: tuple[str, ...]
    points: tuple[PageTable, ...]
    confusion: Confusion | None
    classes: PageTable | None
    ranking: tuple[Drawing, ...]
    calibration: PageTable | None
    untempered: str
    reliability: tuple[Drawing, ...]
    decision: tuple[Drawing, ...]
    subgroups: tuple[tuple[PageTable, str], ...]
    errors: tuple[tuple[str, tuple[ShownRecord, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Section:
    """An evaluation on the page: its verdict, its parts, where its records went, and a map."""

    verdict: Verdict
    file: str
    parts: tuple[EvaluatedSetting, ...]
    flow: tuple[tuple[str, str], ...]
    map: Drawing | None


def section(verdict: Verdict, pictures: Pictures, decision: str = "") -> Section | None:
    """All that is said of an evaluation; None of one that classifies nothing.

    Args:
      verdict: its headline.
      pictures: what is left of the page's.
      decision: what probabilities decide, for a decision curve; '' for none.

    Raises:
      InputError: see `from_records.read`.
    """
    entry = verdict.stage.evaluations.get(verdict.evaluator, {})
    if "task" not in entry:
        return None
    found = from_records.read(verdict.stage, verdict.evaluator)
    settings = entry.get("settings") or {"": entry}
    errors = functools.partial(from_records.errors, verdict.stage, pictures)
    parts = tuple(
        _part(name, made, entry, found, decision, errors) for name, made in settings.items()
    )
    file, placed = str(entry.get("records_file") or ""), found and embedding_map.drawn(found)
    return Section(verdict, file, parts, _flow(entry), placed)


def _part(
    name: str,
    made: Mapping[str, Any],
    entry: Mapping[str, Any],
    found: Predictions | None,
    decision: str,
    errors: Callable[..., Sequence[tuple[str, tuple[ShownRecord, ...]]]],
) -> EvaluatedSetting:
    points: Sequence[Mapping[str, Any]] = made.get("operating_points") or ()
    calibration = made.get("calibration") or {}
    part = None if found is None else found.of(name)
    notes = [] if part is not None else [
        "The file of its records is not here: curves and single errors are not drawn."]  # fmt: skip
    shown: Sequence[Mapping[str, Any]] = made.get("grade_cuts") or points
    notes += dict.fromkeys(str(point["reason"]) for point in shown if point.get("reason"))
    if made.get("repeats"):
        notes.append(f"Counts of the confusion are sums over {made['repeats']} repeats.")
    at_point = points[0].get("confusion") if len(points) == 1 else None
    chosen = any(point.get("chosen_on") for point in points)
    counts = at_point or (None if chosen else made.get("confusion"))
    classes = entry.get("classes") or ()
    likely = part is not None and part.probabilities is not None
    if decision and likely and len(classes) == 2 and "decision_curve" not in made:
        notes.append("results.json has no decision curve: evaluate again for one.")
    quantity = made.get("regression")
    known = (entry.get("data") or {}).get("groups_known") is not False
    return EvaluatedSetting(
        name=words(name),
        title="Agreement with the reference" if quantity else "Operating point and confusion",
        notes=tuple(notes),
        points=_agreement(quantity) if quantity else _points(shown),
        confusion=_confusion(counts, [str(one) for one in classes]) if counts else None,
        classes=_classes(made.get("per_class") or (), bool(points), known),
        ranking=tuple(from_records.ranking(part, points)) if part is not None else (),
        calibration=_calibration(calibration, made.get("per_class") or ()),
        untempered=f"No temperature: {calibration['reason']}" if calibration.get("reason") else "",
        reliability=tuple(from_records.reliability(part, calibration)) if part is not None else (),
        decision=tuple(from_records.decision_curve(made.get("decision_curve") or (), decision))
        if decision else (),
        subgroups=tuple(
            _subgroups(made.get("subgroups") or {}, words(str(entry.get("primary"))), known)
        ),
        errors=tuple(errors(part, points)) if part is not None else (),
    )  # fmt: skip


def _points(points: Sequence[Mapping[str, Any]]) -> tuple[PageTable, ...]:
    known = [point for point in points if point.get("sensitivity")]
    if not known:
        return ()
    areas = "auroc" in known[0]  # of cuts between grades, which are no classes of the table below
    heads = (
        "finding",
        *(["AUROC"] if areas else []),
        "threshold",
        "sensitivity",
        "specificity",
        "positive predictive value",
        "negative predictive value",
        "called",
    )
    rows = tuple(
        (Cell(str(point["class"])), *([figure(point["auroc"])] if areas else []),
         Cell(number(point["value"]), _chosen(point)),
         *(figure(point.get(rate), _UNDEFINED.get(rate, "")) for rate in _RATES))
        for point in known
    )  # fmt: skip
    at = tuple(
        (Cell(str(point["class"])), *(Cell(_predictive(point, p)) for p in _PREVALENCES))
        for point in known
    )
    return (
        PageTable("At the threshold, with 95 % intervals", heads, rows),
        PageTable("Positive / negative predictive value where another share has the finding",
              ("finding", *(f"prevalence {p:g}" for p in _PREVALENCES)), at),
    )  # fmt: skip


def _chosen(point: Mapping[str, Any]) -> str:
    where = " on validation records" if point.get("chosen_on") else ""
    return f"{point.get('rule')}{where}"


def _agreement(made: Mapping[str, Any]) -> tuple[PageTable, ...]:
    """Figures of a quantity."""
    single = {name: value for name, value in made.items() if not isinstance(value, Mapping)}
    row = (Cell("all records"), *(figure(value) for value in single.values()))
    return (PageTable("Of the quantity", ("", *map(words, single)), (row,)),)


def _predictive(point: Mapping[str, Any], prevalence: float) -> str:
    hits, spares = ((point.get(name) or {}).get("value") for name in ("sensitivity", "specificity"))
    if hits is None or spares is None:
        return f"not defined: {_UNDEFINED['sensitivity' if hits is None else 'specificity']}"
    return " / ".join(map(number, binary.predictive_values(hits, spares, prevalence)))


def _confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Confusion:
    """The most frequent classes, and what is left as one."""
    kept = sorted(range(len(counts)), key=lambda k: -sum(counts[k]))[:_MOST_CLASSES]
    groups = [[k] for k in sorted(kept)]
    names = [classes[k] for k in sorted(kept)]
    if len(counts) > _MOST_CLASSES:
        groups.append([k for k in range(len(counts)) if k not in kept])
        names.append("other")
    rows: list[tuple[int, tuple[tuple[int, float], ...]]] = []
    for group in groups:
        found = [sum(counts[i][j] for i in group for j in other) for other in groups]
        total = sum(found)
        rows.append((total, tuple((n, n / total if total else 0.0) for n in found)))
    return Confusion(tuple(names), tuple(rows))


def _classes(
    made: Sequence[Mapping[str, Any]], thresholds: bool, known: bool
) -> PageTable | None:  # fmt: skip
    """A row a class; numbers of patients only where these are known."""
    if not made:
        return None
    heads = ["class", *(["patients"] if known else []), "records", "prevalence", "AUROC", "AP",
             "sensitivity", "specificity", "PPV", "NPV", "F1"]  # fmt: skip
    heads += ["threshold"] if thresholds else []
    heads += ["predicted", "mean p"]
    rows: list[tuple[Cell, ...]] = []
    for one in made:
        called = one.get("predicted") is not None
        rates = [figure(one.get(name), why if called else "no threshold")
                 for name, why in _UNDEFINED.items()]  # fmt: skip
        none = _UNDEFINED["specificity" if one.get("n") else "sensitivity"]
        rates += [Cell(number(one.get("threshold"), "none"))] if thresholds else []
        mean = one.get("mean_probability")
        rows.append((
            Cell(str(one["class"]), ", ".join(one.get("tags") or ())),
            *cells(*([count(one.get("patients"))] if known else []), count(one.get("n"))),
            figure(one.get("prevalence")),
            figure(one.get("auroc"), none), figure(one.get("average_precision"), none), *rates,
            *cells(count(one.get("predicted")), number(mean, DASH)),
        ))  # fmt: skip
    caption = ("Each class against the rest. AUROC: area under the ROC curve, by chance 0.5; AP: "
               "average precision, by chance the prevalence; mean p: mean probability")  # fmt: skip
    return PageTable(caption, tuple(heads), tuple(rows))


def _calibration(
    made: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]
) -> PageTable | None:  # fmt: skip
    """A row of the probabilities as given, and one after a temperature."""
    if "ece" not in made:
        return None
    stages = [("as given", made)]
    if isinstance(made.get("after"), Mapping):
        stages.append((f"temperature {number(made.get('T'))}", made["after"]))
    names = {
        "ece": "expected error", "brier": "Brier score", "brier_multiclass": "Brier score (0–2)",
        "brier_skill": "Brier skill", "log_loss": "log loss", "slope": "slope",
        "intercept": "intercept", "in_the_large": "in the large",
        "observed_over_expected": "observed / expected",
    }  # fmt: skip
    used = [name for name in names if any(name in found for _, found in stages)]
    single = len(classes) > 1 and sum(bool(one.get("n")) for one in classes) < 2
    reasons = {**_UNFITTED, **(dict.fromkeys(_OF_TWO, _ONE_CLASS) if single else {})}

    def cell(name: str, value: Any, perfect: Any) -> Cell:
        if value is not None and name == "ece":
            return Cell(number(value), f"{number(perfect)} if perfect")
        return figure(value, reasons.get(name, "no probability of a known class"))

    rows = tuple(
        (Cell(title, ", ".join(found.get("tags") or ())),
         *(cell(name, found.get(name), found.get("ece_null")) for name in used))
        for title, found in stages
    )  # fmt: skip
    return PageTable(
        "Calibration of the probabilities", ("", *(names[name] for name in used)), rows
    )


def _subgroups(
    made: Mapping[str, Any], metric: str, known: bool
) -> list[tuple[PageTable, str]]:  # fmt: skip
    """A table of each attribute, and a sentence on how far its groups lie apart."""
    tables: list[tuple[PageTable, str]] = []
    for attribute, found in made.items():
        groups: Mapping[str, Mapping[str, Any]] = found["groups"]
        extra = [name for name in ("sensitivity", "specificity", "in_the_large")
                 if any(name in group for group in groups.values())]  # fmt: skip
        scores = {name: Score(**group["primary"]) for name, group in groups.items()
                  if (group.get("primary") or {}).get("value") is not None}  # fmt: skip
        ends = charts.domain(list(scores.values())) if scores else None
        rows: list[tuple[Cell, ...]] = []
        for name, group in groups.items():
            hidden = bool(group.get("suppressed"))
            shown = Cell("")
            if ends and name in scores:
                axis = f"{ends[0]:.4g}–{ends[1]:.4g}"
                shown = Cell("", axis, drawing=charts.score_bar(scores[name], ends))
            rows.append((
                Cell(name), Cell("not shown" if hidden else count(group.get("patients"))),
                Cell("not shown") if hidden else figure(group.get("primary")), shown,
                *(Cell("") if hidden else figure(group.get(key)) for key in extra),
            ))  # fmt: skip
        heads = (
            "group",
            "patients" if known else "records",
            metric,
            "on an axis",
            *(words(name) for name in extra),
        )
        tables.append((PageTable(f"By {words(attribute)}", heads, tuple(rows)), _apart(found)))
    return tables


def _apart(found: Mapping[str, Any]) -> str:
    if not found.get("worst_group"):
        return ""
    ends = [number(end) for end in found.get("gap_interval") or (None, None)]
    chance = found.get("gap_expected_by_chance")
    expected = f"; {number(chance)} is expected of groups that do not differ" if chance else ""
    return (f"Lowest: {found['worst_group']}, {number(found.get('worst'))}. From the lowest to the "
            f"highest {number(found.get('gap'))} ({ends[0]}–{ends[1]}){expected}.")  # fmt: skip


def _flow(entry: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    flow = entry.get("flow") or {}
    lost = [(words(name), f"−{count(flow[name])}") for name in _LOST if flow.get(name)]
    steps = [("found", count(flow.get("found"))), *lost, ("scored", count(flow.get("scored")))]
    return tuple(steps) if flow else ()

"""What classifiers are judged by: a table of figures, and all of them with their intervals."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.metrics import classification, small_samples, weighted
from retina_jax.metrics.bootstrap import Resampling
from retina_jax.scoring import repeats
from retina_jax.scoring.predictions import Predictions
from retina_jax.types import Score

Weighted = Callable[[np.ndarray], np.ndarray]
Edge = tuple[str, Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of records of one class each, or of a quantity.

    Attributes:
      weighted: labels int[N], scores f[N C] and weights f64[B N] -> f64[B], NaN where undefined. Of
        a quantity f[N] and its predictions f[N 1].
      chance: labels and C -> what is expected of scores that know nothing, or None.
      two: whether it is of class 1 of two classes only.
      ranks: whether it compares scores of records, which those of several fits do not share; of
        several folds it is the mean over them.
      edge: what its interval is at 0 and 1, 'proportion' or 'rank', or 'signed', at 1 alone, for
        what may lie below 0; None for nothing special.
      trials: the classes that a proportion is the mean of shares of, () for all of them; None for
        a share of all records.
      quantity: whether it is of a quantity.
      lower: whether less of it is better.
    """

    weighted: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    chance: Callable[[np.ndarray, int], float | None]
    two: bool = False
    ranks: bool = False
    edge: str | None = "rank"
    trials: tuple[int, ...] | None = None
    quantity: bool = False
    lower: bool = False

    def of(self, labels: np.ndarray, scores: np.ndarray) -> float:
        """The figure of labels int[N] and scores f[N C]."""
        return float(self.weighted(labels, scores, weighted.ones(len(labels)))[0])

    def at_edge(self, part: Predictions) -> Edge | None:
        """What `Resampling.interval` is told of the edge, for these rows."""
        if self.edge is None:
            return None
        members = list(_members(part).values())
        if self.edge == "proportion":
            members = None if self.trials is None else [members[k] for k in self.trials] or members
        elif part.labels.ndim == 2:
            members = [part.labels[:, k] == side for k in range(part.labels.shape[1])
                       for side in (0, 1)]  # fmt: skip
        counts = [len(np.unique(part.group[rows])) for rows in members or ()]
        return self.edge, [count for count in counts if count] or [len(np.unique(part.group))]


def _of_counts(statistic: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    def of(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        counts = weighted.confusion(labels, scores.argmax(axis=1), scores.shape[1], weights)
        return statistic(counts)

    return of


def _difference(scores: np.ndarray) -> np.ndarray:
    # Softmax and sigmoid scores alike are decided by which of the two is higher.
    return scores[:, 1].astype(np.float64) - scores[:, 0]


def _auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if scores.shape[1] == 2:
        return weighted.auc(labels == 1, _difference(scores), weights)
    return _macro(weighted.auc, labels, scores, weights)


def _average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if scores.shape[1] == 2:
        return weighted.average_precision(labels == 1, _difference(scores), weights)
    return _macro(weighted.average_precision, labels, scores, weights)


def _macro(
    figure: Callable[..., np.ndarray], labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    each = [figure(labels == k, scores[:, k], weights) for k in range(scores.shape[1])]
    return np.mean(each, axis=0)


def _best_f1(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weighted.f1_at_best_threshold(labels == 1, _difference(scores), weights)


def _r2(values: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weighted.r2(values, scores[:, 0], weights)


def _mean_absolute_error(
    values: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:  # fmt: skip
    return weighted.mean(np.abs(values - scores[:, 0]), weights)


def _error_of_the_median(values: np.ndarray) -> float | None:
    """No constant answer has a smaller mean absolute error."""
    return float(np.mean(np.abs(values - np.median(values)))) if len(values) else None


def _prevalence(labels: np.ndarray, classes: int) -> float:
    return float(np.mean(labels == 1)) if classes == 2 else 1 / classes


METRICS = {
    # A constant answer is right as often as its class occurs.
    "accuracy": Figure(
        _of_counts(weighted.accuracy),
        lambda labels, _: classification.majority_accuracy(labels),
        edge="proportion",
    ),
    "balanced_accuracy": Figure(
        _of_counts(weighted.balanced_accuracy),
        lambda _, classes: classification.chance_balanced_accuracy(classes),
        edge="proportion",
        trials=(),
    ),
    "auc": Figure(_auc, lambda *_: 0.5, ranks=True),
    "average_precision": Figure(_average_precision, _prevalence, ranks=True),
    # Of grades in their order.
    "quadratic_kappa": Figure(_of_counts(weighted.kappa), lambda *_: 0.0, edge="signed"),
    "sensitivity": Figure(_of_counts(lambda counts: weighted.recall(counts)[:, 1]), lambda *_: None,
                          two=True, edge="proportion", trials=(1,)),
    "specificity": Figure(_of_counts(lambda counts: weighted.recall(counts)[:, 0]), lambda *_: None,
                          two=True, edge="proportion", trials=(0,)),
    "f1": Figure(_of_counts(lambda counts: weighted.f1(counts)[:, 1]), lambda *_: None, two=True),
    # The threshold is chosen on the records that are scored (KeepFIT's "AMD").
    "f1_at_best_threshold": Figure(_best_f1, lambda *_: None, two=True),
    # The mean as every prediction explains nothing. Over folds a mean, as Sükei et al. have it.
    "r2": Figure(_r2, lambda *_: 0.0, ranks=True, edge=None, quantity=True),
    "mae": Figure(_mean_absolute_error, lambda values, _: _error_of_the_median(values), edge=None,
                  quantity=True, lower=True),
}  # fmt: skip
# Of each of several labels, and as the mean over them.
_OF_LABELS = {"auc": weighted.auc, "average_precision": weighted.average_precision}
USUAL = ("balanced_accuracy", "auc")
PRIMARY = {"binary": "auc", "multi-class": "balanced_accuracy", "ordinal": "quadratic_kappa",
           "multi-label": "average_precision", "regression": "mae"}  # fmt: skip


def check_metrics(
    owner: str, names: Sequence[str], classes: int, quantity: bool = False
) -> None:  # fmt: skip
    """Raises InputError for a name that is not in METRICS, or a figure of something else.

    Args:
      owner: who asks.
      names: keys of METRICS.
      classes: the number of classes, or of names of a quantity: one.
      quantity: whether a quantity is scored.
    """
    if quantity and classes != 1:
        raise InputError(f"{owner}: a quantity has one name in 'classes', not {classes}.")
    for name in names:
        if name not in METRICS:
            raise InputError(f"{owner}: there is no metric '{name}'; known: {', '.join(METRICS)}.")
        if METRICS[name].quantity != quantity:
            what = ("classes", "a quantity") if quantity else ("a quantity", "classes")
            fitting = ", ".join(key for key, one in METRICS.items() if one.quantity == quantity)
            raise InputError(
                f"{owner}: '{name}' is of {what[0]}, the targets are {what[1]}; use {fitting}."
            )
        if METRICS[name].two and classes != 2:
            raise InputError(f"{owner}: '{name}' is of two classes, but there are {classes}.")


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Raises InputError unless labels fit.

    Args:
      labels: int[N] in [0, classes); [N C] of as many names; or f[N], a quantity, all finite.
      classes: the number of names.
    """
    if labels.dtype.kind == "f" and labels.ndim == 1:
        if missing := int((~np.isfinite(labels)).sum()):
            raise InputError(
                f"{missing} of {len(labels)} records have no number as target; leave them out."
            )
        return
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise InputError(
                f"The records have {labels.shape[1]} labels and {classes} names; give one each."
            )
        return
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        raise InputError(
            f"Labels run from {labels.min()} to {labels.max()} for {classes} classes; "
            "name as many classes as there are labels."
        )


def task(labels: np.ndarray, classes: int, metrics: Sequence[str]) -> str:
    """'multi-label', 'regression', 'binary', 'ordinal' (kappa is asked for) or 'multi-class'."""
    if labels.ndim == 2:
        return "multi-label"
    if labels.dtype.kind == "f":
        return "regression"
    if classes == 2:
        return "binary"
    return "ordinal" if "quadratic_kappa" in metrics else "multi-class"


def scores(found: Predictions) -> dict[str, Score]:
    """All figures of predictions: `metrics` of their `about`, or of several labels those of each.

    A figure of a setting is 'auc_5_shots'; of several repeats it is the mean over them, whose
    interval resamples patients jointly in all, and has a deviation. Figures that compare scores are
    means over folds, since scores of two fits are not on one scale.
    """
    figures: dict[str, Score] = {}
    for setting in found.about["settings"]:
        part = found.of(setting)
        suffix = f"_{setting}" if setting else ""
        made = _of_labels(part) if part.labels.ndim == 2 else _of_classes(part)
        figures |= {f"{name}{suffix}": score for name, score in made.items()}
    return figures


def _of_classes(part: Predictions) -> dict[str, Score]:
    classes = len(part.about["classes"])
    members = _members(part)
    sought = part.labels == 1 if len(members) == 2 else None
    made: dict[str, Score] = {}
    for name in part.about["metrics"]:
        figure = METRICS[name]
        statistic = repeats.figures(part, figure.weighted, figure.ranks)
        chances = [figure.chance(part.labels[rows], classes) for rows in repeats.rows(part)]
        known = [chance for chance in chances if chance is not None]
        chance = float(np.mean(known)) if known else None
        made[name] = _score(part, statistic, members, chance, figure.at_edge(part), sought)
    return made


def _of_labels(part: Predictions) -> dict[str, Score]:
    made: dict[str, Score] = {}
    names = part.about["classes"]
    known = part.labels >= 0
    prevalence = np.sum(part.labels == 1, axis=0) / np.maximum(known.sum(axis=0), 1)
    for metric in _OF_LABELS:
        chance = np.full(len(names), 0.5) if metric == "auc" else prevalence

        def of(columns: Sequence[int], metric: str = metric) -> Callable[..., np.ndarray]:
            return lambda labels, values, weights: macro_of_labels(
                metric, labels[:, columns], values[:, columns], weights
            )

        statistic = repeats.figures(part, of(list(range(len(names)))), ranks=True)
        edge = METRICS[metric].at_edge(part)
        made[metric] = _score(part, statistic, _members(part), float(chance.mean()), edge)
        for k, label in enumerate(names):
            statistic = repeats.figures(part, of([k]), ranks=True)
            own = part.labels[:, k]
            sides = {f"the label '{label}'": own == 1, f"none of the label '{label}'": own == 0}
            edge = "rank", [len(np.unique(part.group[rows])) for rows in sides.values()]
            score = _score(part, statistic, sides, float(chance[k]), edge, own == 1)
            score = dataclasses.replace(score, count=_count(part, known[:, k]))
            made[f"{metric}_{label.replace(' ', '_')}"] = score
    return made


def primary(part: Predictions) -> Weighted:
    """The primary metric of the rows of one setting as a function of weights f64[B N]."""
    name = part.about["primary"]
    if part.labels.ndim == 2:
        statistic = repeats.figures(part, partial(macro_of_labels, name), ranks=True)
    else:
        statistic = repeats.figures(part, METRICS[name].weighted, METRICS[name].ranks)
    return lambda weights: statistic(weights).mean(axis=1)


def macro_of_labels(
    name: str, labels: np.ndarray, values: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Mean over labels of 'auc' or 'average_precision', f64[B].

    Args:
      name: one of the two.
      labels: 0 / 1 [N C], -1 where not known.
      values: scores f64[N C].
      weights: f64[B N].
    """
    figure, columns = _OF_LABELS[name], range(labels.shape[1])
    return np.mean([figure(labels[:, k], values[:, k], weights) for k in columns], axis=0)


def _members(part: Predictions) -> dict[str, np.ndarray]:
    """What a record may be of -> bool[N], which are; {} of a quantity."""
    if part.labels.dtype.kind == "f":
        return {}
    names = part.about["classes"]
    if part.labels.ndim == 2:
        return {f"the label '{name}'": part.labels[:, k] == 1 for k, name in enumerate(names)}
    return {f"class {name}": part.labels == k for k, name in enumerate(names)}


def _count(part: Predictions, rows: np.ndarray | None = None) -> int:
    count = len(part.record) if rows is None else int(rows.sum())
    return round(count / part.repeats)


def _score(
    part: Predictions,
    of_repeats: Weighted,
    members: Mapping[str, np.ndarray],
    chance: float | None,
    edge: Edge | None,
    sought: np.ndarray | None = None,
) -> Score:
    """A figure with its interval, unless there are too few patients for one.

    Args:
      part: rows of one setting.
      of_repeats: what `repeats.figures` returns.
      members: what `_members` returns.
      chance: that of models which know nothing.
      edge: what `Figure.at_edge` returns.
      sought: the rows that have what is looked for, bool[N], where there are two outcomes.
    """
    decimals, resampling = part.about.get("decimals"), Resampling(part.group)

    def mean(weights: np.ndarray) -> np.ndarray:
        found = of_repeats(weights).mean(axis=1)
        return found if decimals is None else np.round(found, decimals)

    once = weighted.ones(len(part.record))
    value, each = float(mean(once)[0]), of_repeats(once)[0]
    tags = list(small_samples.tags(list(members.values()), part.group, part.share))
    counts: dict[str, Any] = {
        "chance": chance,
        "count": _count(part),
        "groups": resampling.count,
        "positives": None if sought is None else _count(part, sought),
        "deviation": float(np.std(each, ddof=1)) if len(each) > 1 else None,
    }
    reason = _undefined(members) if np.isnan(value) else None
    if "no value" in tags:
        reason, value = f"There are {resampling.count} patients.", float("nan")
    if reason or "too few" in tags:
        reason = reason or "There are too few patients for an interval."
        return Score(value, **counts, reason=reason, tags=tuple(tags))
    ends = resampling.interval(mean, edge=edge)
    if ends.undefined > 0.1 * ends.resamples:
        tags.append("interval unstable")
    return Score(
        value,
        None if np.isnan(ends.low) else ends.low,
        None if np.isnan(ends.high) else ends.high,
        **counts,
        method=f"{ends.method}-{'patient' if part.about.get('groups_known') else 'image'}",
        resamples=ends.resamples,
        undefined_resamples=ends.undefined,
        reason=ends.reason,
        tags=tuple(tags),
    )


def _undefined(members: Mapping[str, np.ndarray]) -> str:
    """Why a figure is not defined."""
    for what, rows in members.items():
        if not rows.any():
            return f"No record has {what}."
    return "The figure is not defined for these records."

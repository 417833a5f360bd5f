"""What classifiers are judged by: a table of figures, and all of them with their intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.evals.encoder import with_interval
from retina_jax.metrics import classification, regression
from retina_jax.types import Score


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of records of one class each, or of a quantity.

    Attributes:
      of: labels int[N] and scores f[N C] -> the figure; NaN where it is undefined. Of a quantity
        f[N] and its predictions f[N 1].
      chance: labels and C -> what is expected of scores that know nothing, or None.
      two: whether it is of class 1 of two classes only.
      quantity: whether it is of a quantity.
    """

    of: Callable[[np.ndarray, np.ndarray], float]
    chance: Callable[[np.ndarray, int], float | None]
    two: bool = False
    quantity: bool = False


def _of_classes(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Callable:
    return lambda labels, scores: statistic(labels, scores.argmax(axis=1))


def _kappa(labels: np.ndarray, scores: np.ndarray) -> float:
    return classification.quadratic_kappa(labels, scores.argmax(axis=1), scores.shape[1])


def _r_squared(values: np.ndarray, scores: np.ndarray) -> float:
    return regression.r2(values, scores[:, 0])


def _best_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    return classification.f1_at_best_threshold(labels, scores[:, 1] - scores[:, 0])


METRICS = {
    # A constant answer is right as often as its class occurs.
    "accuracy": Figure(
        _of_classes(classification.accuracy),
        lambda labels, _: classification.majority_accuracy(labels),
    ),
    "balanced_accuracy": Figure(
        _of_classes(classification.balanced_accuracy),
        lambda _, classes: classification.chance_balanced_accuracy(classes),
    ),
    "auc": Figure(classification.auc, lambda *_: 0.5),
    # Of grades in their order.
    "quadratic_kappa": Figure(_kappa, lambda *_: 0.0),
    "f1": Figure(_of_classes(classification.f1), lambda *_: None, two=True),
    # The threshold is chosen on the records that are scored (KeepFIT's "AMD").
    "f1_at_best_threshold": Figure(_best_f1, lambda *_: None, two=True),
    # The mean as every prediction explains nothing.
    "r2": Figure(_r_squared, lambda *_: 0.0, quantity=True),
}
USUAL = ("balanced_accuracy", "auc")


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
    """Raises InputError unless labels int[N] are in [0, classes), and quantities f[N] are there."""
    if labels.dtype.kind == "f":
        if missing := int((~np.isfinite(labels)).sum()):
            raise InputError(
                f"{missing} of {len(labels)} records have no number as target; leave them out."
            )
        return
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"Labels run from {labels.min()} to {labels.max()} for {classes} classes; "
            "name as many classes as there are labels."
        )


def class_scores(
    labels: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    patients: Sequence[str],
    metrics: Sequence[str] = USUAL,
) -> dict[str, Score]:
    """Figures of scores f[N C], with intervals over patients [N].

    For labels i[N], one class a record, and quantities f[N] with scores f[N 1]: `metrics`, keys of
    METRICS. For 0 / 1 [N C], several labels a record: AUC and average precision, their means over
    the labels and those of each label, 'auc_glaucoma' and so on.
    """
    if labels.ndim == 2:
        return _label_scores(labels, scores, classes, patients)
    check_labels(labels, len(classes))
    return {
        name: with_interval(
            METRICS[name].of,
            labels,
            scores,
            patients=patients,
            chance=METRICS[name].chance(labels, len(classes)),
        )
        for name in metrics
    }


def _label_scores(
    labels: np.ndarray, scores: np.ndarray, classes: Sequence[str], patients: Sequence[str]
) -> dict[str, Score]:
    if labels.shape[1] != len(classes):
        raise InputError(
            f"The records have {labels.shape[1]} labels and {len(classes)} names; give one each."
        )
    metrics = {
        "auc": (classification.auc_per_label, np.full(len(classes), 0.5)),
        "average_precision": (classification.average_precision_per_label, labels.mean(axis=0)),
    }
    found = {}
    for name, (figure, chance) in metrics.items():

        def mean(labels: np.ndarray, scores: np.ndarray, figure: Callable = figure) -> float:
            return float(figure(labels, scores).mean())

        found[name] = with_interval(
            mean, labels, scores, patients=patients, chance=float(chance.mean())
        )
        for i, label in enumerate(classes):
            column = slice(i, i + 1)
            found[f"{name}_{label.replace(' ', '_')}"] = with_interval(
                mean,
                labels[:, column],
                scores[:, column],
                patients=patients,
                chance=float(chance[i]),
            )
    return found

"""What `results.json` says of an evaluation beside its figures, from the same predictions."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from retina_jax.metrics import (
    binary,
    calibration,
    classification,
    operating_point,
    regression,
    small_samples,
    weighted,
)
from retina_jax.metrics.bootstrap import Interval, Resampling
from retina_jax.scoring import groups_of_patients
from retina_jax.scoring.predictions import TEST, VALIDATION, Predictions

# Fewer validation records with a label do not choose its threshold.
_LEAST_POSITIVES = 10
_KEPT = ("task", "primary", "level", "classes", "protocol")


def evaluation(found: Predictions) -> dict[str, Any]:
    """An entry of 'evaluations' in `results.json`.

    Args:
      found: all rows, with the hashes of their pictures.

    Returns:
      What `json` writes, with None for what is not defined: task, data, flow, and for each setting
      the confusion matrix, a table of the classes, operating points, calibration and subgroups. A
      single setting that has no name stands at the top.
    """
    about = found.about
    made: dict[str, Any] = {name: about[name] for name in _KEPT if name in about}
    once = len(set(found.record[found.split == TEST]))
    made["data"] = {
        "name": about.get("data"),
        "split": about.get("data_split"),
        "test_hash": found.test_hash,
        "images_hash": found.images_hash,
        "split_hash": found.split_hash(),
        "records": once,
        "groups": len(set(found.group[found.split == TEST])),
        "groups_known": about.get("groups_known"),
    }
    made["flow"] = {
        "found": about.get("found"),
        "missing_scores": about.get("missing_scores", 0),
        "scored": once,
    }
    settings = {name: _of_setting(found, name) for name in about["settings"]}
    made |= settings.pop("", {})
    if settings:
        made["settings"] = settings
    return plain(made)


def plain(value: Any) -> Any:
    """The same for JSON: no numpy values, and None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def _of_setting(found: Predictions, setting: str) -> dict[str, Any]:
    test, validation = found.of(setting), found.of(setting, VALIDATION)
    if test.about.get("task") == "regression":
        return {"regression": regression.figures(test.labels, test.scores[:, 0])}
    points = _operating_points(test, validation)
    made: dict[str, Any] = {"operating_points": points, "per_class": _per_class(test, points)}
    if test.labels.ndim == 1:
        calls, classes = test.scores.argmax(axis=1), len(test.about["classes"])
        made["confusion"] = classification.confusion_matrix(test.labels, calls, classes)
        made["argmax_ties"] = classification.tied_tops(test.scores)
        made["classes_predicted"] = len(np.unique(calls))
    made["calibration"] = _calibration(test, validation)
    if len(found.about["settings"]) == 1:
        made["subgroups"] = groups_of_patients.subgroups_of(test, points)
    return made


def _columns(part: Predictions) -> list[tuple[int, str, np.ndarray, np.ndarray]]:
    """Of each class or label: its number, name, labels 1 / 0 / -1 [N] and what ranks it f64[N]."""
    names = part.about["classes"]
    values = part.scores if part.probabilities is None else part.probabilities
    several = part.labels.ndim == 2
    return [
        (k, name, part.labels[:, k] if several else (part.labels == k).astype(np.int64),
         values[:, k].astype(np.float64))
        for k, name in enumerate(names)
    ]  # fmt: skip


def _operating_points(test: Predictions, validation: Predictions) -> list[dict[str, Any]]:
    """Thresholds of class 1 of two, or of each of several labels, and what they do on test."""
    task = test.about.get("task")
    if task not in ("binary", "multi-label"):
        return []
    chosen = dict(enumerate(_columns(validation))) if len(validation.record) else {}
    made: list[dict[str, Any]] = []
    for k, name, labels, values in _columns(test):
        if task == "binary" and k == 0:
            continue
        point = _threshold(test, chosen.get(k))
        entry: dict[str, Any] = {
            "class": name,
            "value": point.value,
            "rule": point.rule,
            "chosen_on": validation.split_hash() if chosen and point.reason is None else None,
            "positives": point.positives,
            "negatives": point.negatives,
            "reason": point.reason,
        }
        if math.isfinite(point.value):
            entry |= _at(test, labels, values, point.value)
        made.append(entry)
    return made


def _threshold(
    test: Predictions, validation: tuple[int, str, np.ndarray, np.ndarray] | None
) -> operating_point.Threshold:
    """The one that validation chooses; without it .5 of a probability, none of another score."""
    halfway = 0.5 if test.probabilities is not None else float("nan")
    if validation is None:
        reason = "There are no validation records: .5 is not chosen for any purpose."
        return operating_point.Threshold(halfway, "fixed:.5", 0, 0, reason)
    _, _, labels, values = validation
    if test.labels.ndim == 2 and (found := int((labels == 1).sum())) < _LEAST_POSITIVES:
        reason = (
            f"{found} validation records have the label; {_LEAST_POSITIVES} choose a threshold."
        )
        return operating_point.Threshold(
            halfway, "fixed:.5", found, int((labels == 0).sum()), reason
        )
    return operating_point.choose(labels, values, test.about.get("operating_point", "youden"))


def _at(
    test: Predictions, labels: np.ndarray, values: np.ndarray, threshold: float
) -> dict[str, Any]:
    """What a threshold does on test records, with intervals that take it as given."""
    known = np.flatnonzero(labels >= 0)
    labels, called = labels[known], (values[known] >= threshold).astype(np.int64)
    if not len(known):
        return {}
    resampling = Resampling(test.group[known])
    figures: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "sensitivity": lambda counts: weighted.recall(counts)[:, 1],
        "specificity": lambda counts: weighted.specificity(counts)[:, 1],
        "ppv": lambda counts: weighted.precision(counts)[:, 1],
        "npv": lambda counts: weighted.negative_predictive_value(counts)[:, 1],
        "called": lambda counts: weighted.ratio(counts[:, :, 1].sum(1), counts.sum((1, 2))),
    }
    of = {"sensitivity": labels == 1, "specificity": labels == 0, "ppv": called == 1,
          "npv": called == 0, "called": labels >= 0}  # fmt: skip
    made: dict[str, Any] = {}
    for name, figure in figures.items():

        def statistic(weights: np.ndarray, figure: Any = figure) -> np.ndarray:
            return figure(weighted.confusion(labels, called, 2, weights))

        count = len(np.unique(test.group[known][of[name]]))
        made[name] = with_ends(statistic, resampling, ("proportion", count))
    made["confusion"] = classification.confusion_matrix(labels, called, 2)
    return made


def with_ends(
    statistic: Callable[[np.ndarray], np.ndarray], resampling: Resampling, edge: tuple[str, int]
) -> dict[str, Any]:
    """A value with the ends of its interval."""
    value = float(statistic(np.ones((1, len(resampling.codes))))[0])
    ends: Interval = resampling.interval(statistic, edge=edge)
    return {"value": value, "low": ends.low, "high": ends.high}


def alone(
    statistic: Callable[[np.ndarray], np.ndarray], resampling: Resampling, edge: tuple[str, int]
) -> dict[str, Any]:
    """A value of too few patients for an interval."""
    del edge
    value = float(statistic(np.ones((1, len(resampling.codes))))[0])
    return {"value": value, "low": None, "high": None}


def _per_class(test: Predictions, points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    thresholds = {point["class"]: point["value"] for point in points}
    calls = test.scores.argmax(axis=1)
    resampling = Resampling(test.group)
    made: list[dict[str, Any]] = []
    for k, name, labels, values in _columns(test):
        known = labels >= 0
        threshold = thresholds.get(name)
        called = calls == k if test.labels.ndim == 1 and threshold is None else (
            values >= (threshold if threshold is not None else math.inf))  # fmt: skip
        counts = weighted.confusion(
            labels, called.astype(np.int64), 2, known[None, :].astype(np.float64)
        )
        fewest = min(len(np.unique(test.group[labels == side])) for side in (0, 1))
        tags = small_samples.tags([labels == 1, labels == 0], test.group)
        of_class = alone if "too few" in tags else with_ends

        def auc(weights: np.ndarray, y: Any = labels, s: Any = values) -> np.ndarray:
            return weighted.auc(y, s, weights)

        def precision(weights: np.ndarray, y: Any = labels, s: Any = values) -> np.ndarray:
            return weighted.average_precision(y, s, weights)

        made.append({
            "class": name,
            "patients": len(np.unique(test.group[labels == 1])),
            "n": int((labels == 1).sum()),
            "known": int(known.sum()),
            "prevalence": float((labels == 1).sum() / max(known.sum(), 1)),
            "auroc": of_class(auc, resampling, ("rank", fewest)),
            "average_precision": of_class(precision, resampling, ("rank", fewest)),
            "sensitivity": weighted.recall(counts)[0, 1],
            "specificity": weighted.specificity(counts)[0, 1],
            "ppv": weighted.precision(counts)[0, 1],
            "npv": weighted.negative_predictive_value(counts)[0, 1],
            "f1": weighted.f1(counts)[0, 1],
            "threshold": threshold,
            "predicted": int(called[known].sum()),
            "tags": tags,
            "mean_probability": None if test.probabilities is None or not known.any() else float(
                values[known].mean()),
        })  # fmt: skip
    return made


def _calibration(test: Predictions, validation: Predictions) -> dict[str, Any]:
    """Of probabilities of one class a record: error beside its null, scores, slope, temperature."""
    if test.probabilities is None or test.labels.ndim == 2:
        return {"method": "none", "reason": "There are no probabilities of one class a record."}
    made: dict[str, Any] = _calibrated(test.labels, test.probabilities.astype(np.float64))
    if not len(validation.record) or validation.probabilities is None:
        return {"method": "none", "reason": "There are no validation records.", **made}
    if reason := calibration.enough_for_temperature(validation.labels, validation.group):
        return {"method": "none", "reason": reason, **made}
    fitted = calibration.fit_temperature(_logits(validation.probabilities), validation.labels)
    after = tempered(test.probabilities, fitted.value)
    return {
        "method": "temperature",
        "T": fitted.value,
        "fitted_on": validation.split_hash(),
        "n": fitted.count,
        "nll_before": fitted.nll_before,
        "nll_after": fitted.nll_after,
        **made,
        "after": _calibrated(test.labels, after),
    }


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities f64[N C] at a temperature."""
    return np.exp(calibration.log_softmax(_logits(probabilities) / temperature))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.clip(probabilities.astype(np.float64), 1e-12, 1.0))


def _calibrated(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    two = probabilities.shape[1] == 2
    sure = probabilities[:, 1] if two else probabilities.max(axis=1)
    truth = labels if two else (probabilities.argmax(axis=1) == labels).astype(np.int64)
    error = calibration.expected_calibration_error(truth, sure)
    null, limit = calibration.null_error(sure)
    made: dict[str, Any] = {
        "ece": error,
        "ece_null": null,
        "ece_null_95": limit,
        "bins": calibration.bins(len(labels)),
        "tags": ["not distinguishable from perfect"] if error <= limit else [],
        "log_loss": classification.log_loss(labels, probabilities),
        "curve": calibration.curve(truth, sure),
    }
    if not two:
        made["brier_multiclass"] = classification.brier_multiclass(labels, probabilities)
        made["classwise_ece"] = calibration.classwise_errors(labels, probabilities)
        return made
    slope, intercept = calibration.slope(labels, sure)
    return made | {
        "brier": binary.brier(labels, sure),
        "brier_skill": binary.brier_skill(labels, sure),
        "slope": slope,
        "intercept": intercept,
        "in_the_large": calibration.in_the_large(labels, sure),
        "observed_over_expected": calibration.observed_over_expected(labels, sure),
    }

"""What `results.json` says of an evaluation beside its figures, from the same predictions."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retina_jax.metrics import (
    binary,
    calibration,
    classification,
    regression,
    small_samples,
    weighted,
)
from retina_jax.scoring import groups_of_patients, operating_points
from retina_jax.scoring.predictions import TEST, VALIDATION, Predictions

SALIENCY = "saliency_control"  # of an entry: the verdict of a study of maps, if there was one
_KEPT = ("task", "primary", "level", "classes", "protocol")


def evaluation(found: Predictions) -> dict[str, Any]:
    """An entry of 'evaluations' in `results.json`.

    Args:
      found: all rows, with the hashes of their pictures.

    Returns:
      What `json` writes, with None for what is not defined: task, data, size, flow, and for each
      setting the confusion matrix, a table of the classes, operating points, calibration and
      subgroups. A single setting that has no name stands at the top.
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
        "preparation": about.get("preparation"),
    }
    made["size"] = found.sizes()
    left_out = about.get("left_out", 0)  # is not in older files
    made["flow"] = {
        "found": about["found"] + left_out if "found" in about else None,
        **({"not_selected": left_out} if left_out else {}),
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
    points = operating_points.points(test, validation)
    made: dict[str, Any] = {"operating_points": points, "per_class": per_class(test, points)}
    if test.repeats > 1:
        made["repeats"] = test.repeats  # over which matrices of confusion are sums
    if cuts := operating_points.grade_cuts(test, validation):
        made["grade_cuts"] = cuts
    if test.labels.ndim == 1:
        calls, classes = test.scores.argmax(axis=1), len(test.about["classes"])
        made["confusion"] = classification.confusion_matrix(test.labels, calls, classes)
        made["argmax_ties"] = classification.tied_tops(test.scores)
        made["classes_predicted"] = len(np.unique(calls))
    # Repeats are no further records.
    made["calibration"] = fitted = _calibration(test.once(), validation.once())
    if curves := operating_points.decision_curves(test.once(), fitted.get("T")):
        made["decision_curve"] = curves
    if len(found.about["settings"]) == 1:
        made["subgroups"] = groups_of_patients.subgroups_of(test, points)
    return made


def per_class(test: Predictions, points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table of the classes, or labels, of test records, each against the rest.

    Args:
      test: rows of one setting.
      points: operating points with the thresholds of classes, or none.
    """
    thresholds = {point["class"]: point["value"] for point in points}
    made: list[dict[str, Any]] = []
    share = test.share
    for k, name, labels, values in operating_points.columns(test):
        known = labels >= 0
        called = _called(test, k, thresholds)
        decided = known if called is not None else np.zeros_like(known)
        counts = weighted.confusion(
            labels, np.zeros_like(labels) if called is None else called.astype(np.int64), 2,
            decided[None, :].astype(np.float64),
        )  # fmt: skip
        area, precision = (
            operating_points.ranked(of, test, labels, values)
            for of in (weighted.auc, weighted.average_precision)
        )
        made.append({
            "class": name,
            "patients": len(np.unique(test.group[labels == 1])),
            "n": round(share[labels == 1].sum()),
            "known": round(share[known].sum()),
            "prevalence": float(share[labels == 1].sum() / max(share[known].sum(), 1)),
            "auroc": area,
            "average_precision": precision,
            "sensitivity": weighted.recall(counts)[0, 1],
            "specificity": weighted.specificity(counts)[0, 1],
            "ppv": weighted.precision(counts)[0, 1],
            "npv": weighted.negative_predictive_value(counts)[0, 1],
            "f1": weighted.f1(counts)[0, 1],
            "threshold": thresholds.get(name),
            "predicted": None if called is None else round(share[called & known].sum()),
            "tags": small_samples.tags([labels == 1, labels == 0], test.group, share),
            "mean_probability": None if test.probabilities is None or not known.any() else float(
                values[known].mean()),
        })  # fmt: skip
    return made


def _called(test: Predictions, k: int, thresholds: Mapping[str, float]) -> np.ndarray | None:
    """bool[N], which rows are called class or label k; None where nothing decides."""
    names = test.about["classes"]
    values = test.scores if test.probabilities is None else test.probabilities
    own = thresholds.get(names[k], math.nan)
    if not math.isnan(own):
        return values[:, k].astype(np.float64) >= own
    if test.labels.ndim == 2:
        return None
    if len(names) == 2 and not math.isnan(other := thresholds.get(names[1], math.nan)):
        return values[:, 1].astype(np.float64) < other
    return test.scores.argmax(axis=1) == k


def _calibration(test: Predictions, validation: Predictions) -> dict[str, Any]:
    """Of probabilities of one class a record: error beside its null, scores, slope, temperature."""
    if test.probabilities is None or test.labels.ndim == 2:
        return {"method": "none", "reason": "There are no probabilities of one class a record."}
    made: dict[str, Any] = _calibrated(test.labels, test.probabilities.astype(np.float64))
    if not len(validation.record) or validation.probabilities is None:
        return {"method": "none", "reason": "There are no validation records.", **made}
    classes = validation.probabilities.shape[1]
    if reason := calibration.enough_for_temperature(validation.labels, validation.group, classes):
        return {"method": "none", "reason": reason, **made}
    fitted = calibration.fit_temperature(
        operating_points.logits(validation.probabilities), validation.labels
    )
    after = operating_points.tempered(test.probabilities, fitted.value)
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

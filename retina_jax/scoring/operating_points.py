"""Thresholds that validation records choose, what they do on test, and what that is worth."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from retina_jax.metrics import (
    calibration,
    classification,
    decisions,
    operating_point,
    ordinal,
    small_samples,
    weighted,
)
from retina_jax.metrics.bootstrap import Interval, Resampling, of_rows
from retina_jax.scoring import repeats
from retina_jax.scoring.figures import Edge
from retina_jax.scoring.predictions import Predictions

# Fewer validation records with a label do not choose its threshold.
_LEAST_POSITIVES = 10
# Draws of thresholds: each sorts all validation records.
_DRAWS = 1000
_Column = tuple[int, str, np.ndarray, np.ndarray]


def columns(part: Predictions) -> list[_Column]:
    """Of each class or label: its number, name, labels 1 / 0 / -1 [N] and what ranks it f64[N]."""
    names = part.about["classes"]
    values = part.scores if part.probabilities is None else part.probabilities
    several = part.labels.ndim == 2
    return [
        (k, name, part.labels[:, k] if several else (part.labels == k).astype(np.int64),
         values[:, k].astype(np.float64))
        for k, name in enumerate(names)
    ]  # fmt: skip


def _cuts(part: Predictions) -> list[_Column]:
    """As `columns`, of at least the second grade, the third, and so on."""
    names, p = part.about["classes"], part.probabilities
    return [] if p is None else [
        (k, f"at least {names[k]}", (part.labels >= k).astype(np.int64), ordinal.at_least(p, k))
        for k in range(1, len(names))
    ]  # fmt: skip


def points(test: Predictions, validation: Predictions) -> list[dict[str, Any]]:
    """Thresholds of class 1 of two, or of each of several labels, and what they do on test."""
    task = test.about.get("task")
    if task not in ("binary", "multi-label"):
        return []
    first = 1 if task == "binary" else 0
    return _points(test, validation, columns(test)[first:], columns(validation)[first:])


def grade_cuts(test: Predictions, validation: Predictions) -> list[dict[str, Any]]:
    """The same of the probability of at least each grade but the first, with its area.

    The likeliest of five grades does not say whom to refer: 0 may be the likeliest while the grades
    from 2 on have most of the probability together.
    """
    if test.about.get("task") != "ordinal":
        return []
    cuts = _cuts(test)
    made = _points(test, validation, cuts, _cuts(validation))
    for entry, (_, _, labels, values) in zip(made, cuts, strict=True):
        entry["auroc"] = ranked(weighted.auc, test, labels, values)
    return made


def _points(
    test: Predictions, validation: Predictions, found: Sequence[_Column], choose: Sequence[_Column]
) -> list[dict[str, Any]]:
    """Of columns `found` of test records, by thresholds that those of validation records choose."""
    there = len(validation.record) > 0
    chosen: dict[int, Sequence[Any]] = {k: column for k, *column in choose} if there else {}
    made: list[dict[str, Any]] = []
    for k, name, labels, values in found:
        point = _threshold(test, chosen.get(k), validation.share)
        nothing = (
            "No threshold is better than to call nothing." if math.isinf(point.value) else None
        )
        entry: dict[str, Any] = {
            "class": name,
            "value": point.value,
            "rule": point.rule,
            "chosen_on": validation.split_hash() if chosen and point.reason is None else None,
            "positives": point.positives,
            "negatives": point.negatives,
            "reason": point.reason or nothing,
        }
        if not math.isnan(point.value):
            entry |= _at(test, labels, values, point.value)
        if test.about.get("threshold_uncertainty") and chosen and point.reason is None:
            own, scores = chosen[k][1:]
            entry["threshold_uncertainty"] = _uncertain(
                (test.group, labels, values),
                (validation.group, own, scores, validation.share),
                point.rule,
            )
        made.append(entry)
    return made


def _threshold(
    test: Predictions, validation: Sequence[Any] | None, share: np.ndarray
) -> operating_point.Threshold:
    """The one that validation chooses; without it .5 of a probability, none of another score."""
    likely = test.probabilities is not None
    halfway, rule = (0.5, "fixed:.5") if likely else (math.nan, "none")
    if validation is None:
        then = ".5 is not chosen for any purpose." if likely else "no threshold is chosen."
        reason = f"There are no validation records: {then}"
        return operating_point.Threshold(halfway, rule, 0, 0, reason)
    name, labels, values = validation
    found, others = (round(share[labels == value].sum()) for value in (1, 0))
    if test.labels.ndim == 2 and found < _LEAST_POSITIVES:
        reason = f"{found} validation records have '{name}'; {_LEAST_POSITIVES} choose a threshold."
        return operating_point.Threshold(halfway, rule, found, others, reason)
    rule = test.about.get("operating_point", "youden")
    return operating_point.choose(labels, values, rule, share)


def _at(
    test: Predictions, labels: np.ndarray, values: np.ndarray, threshold: float
) -> dict[str, Any]:
    """What a threshold does on test records, with intervals that take it as given."""
    known = np.flatnonzero(labels >= 0)
    labels, called = labels[known], (values[known] >= threshold).astype(np.int64)
    if not len(known):
        return {}
    resampling = Resampling(test.group[known])
    rates: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "sensitivity": lambda counts: weighted.recall(counts)[:, 1],
        "specificity": lambda counts: weighted.specificity(counts)[:, 1],
        "ppv": lambda counts: weighted.precision(counts)[:, 1],
        "npv": lambda counts: weighted.negative_predictive_value(counts)[:, 1],
        "called": lambda counts: weighted.ratio(counts[:, :, 1].sum(1), counts.sum((1, 2))),
    }
    of = {"sensitivity": labels == 1, "specificity": labels == 0, "ppv": called == 1,
          "npv": called == 0, "called": labels >= 0}  # fmt: skip
    made: dict[str, Any] = {}
    for name, figure in rates.items():

        def statistic(weights: np.ndarray, figure: Any = figure) -> np.ndarray:
            return figure(weighted.confusion(labels, called, 2, weights))

        count = len(np.unique(test.group[known][of[name]]))
        made[name] = with_ends(statistic, resampling, ("proportion", [count]))
    made["confusion"] = classification.confusion_matrix(labels, called, 2)
    return made


def _uncertain(
    test: tuple[np.ndarray, np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    rule: str,
) -> dict[str, Any]:
    """Percentile intervals where the threshold is chosen anew on drawn validation patients.

    Both sides, the patients, labels and values of records, of validation their `share` too, are
    drawn at once: validation patients choose, test patients are judged. Draws that choose no
    threshold are left out and counted.
    """
    group, labels, values = test
    of_validation, own, scores, share = validation

    def chosen(truth: np.ndarray, found: np.ndarray, counts: np.ndarray) -> float:
        return operating_point.choose(truth, found, rule, counts).value

    thresholds = Resampling(of_validation, _DRAWS).replicates(of_rows(chosen, own, scores, share))
    number = iter(thresholds)  # that of each draw of test patients, in turn

    def rates(weights: np.ndarray) -> np.ndarray:
        drawn: list[np.ndarray] = []
        for weight in weights * (labels >= 0):
            threshold = next(number)
            called = (values >= threshold).astype(np.int64)
            counts = weighted.confusion(np.maximum(labels, 0), called, 2, weight[None])
            rate = weighted.recall(counts)[0]
            positive = weighted.ratio(counts[:, :, 1].sum(1), counts.sum((1, 2)))[0]
            row = np.array([rate[1], rate[0], positive])
            drawn.append(np.full(3, np.nan) if np.isnan(threshold) else row)
        return np.stack(drawn)

    found = Resampling(group, _DRAWS, seed=1).replicates(rates)
    known = ~np.isnan(found).any(axis=1)
    made: dict[str, Any] = {"resamples": _DRAWS, "undefined_resamples": int((~known).sum())}
    if 2 * known.sum() < _DRAWS:
        return made | {"reason": "The figure is undefined in more than half of the resamples."}
    columns_of = (*found[known].T, thresholds[known])
    for name, drawn in zip(("sensitivity", "specificity", "called", "value"), columns_of,
                           strict=True):  # fmt: skip
        # Infinity, which calls nothing, is no number of JSON.
        low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
        made[name] = {"low": float(low), "high": float(high)}
    return made


def ranked(
    figure: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    part: Predictions,
    labels: np.ndarray,
    values: np.ndarray,
) -> dict[str, Any]:
    """`figure` of labels 1 / 0 / -1 [N] and what ranks them, without ends for too few patients.

    Scores of different fits are not on one scale: it is the mean over the folds and repeats of
    `part`, whose rows these are.
    """

    def of(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return figure(labels, scores[:, 0], weights)

    own = dataclasses.replace(part, labels=labels, scores=values[:, None]).told(decimals=None)
    each = repeats.figures(own, of, ranks=True)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return each(weights).mean(axis=1)

    sides = [labels == 1, labels == 0]
    if "too few" in small_samples.tags(sides, part.group, part.share):
        alone = statistic(np.ones((1, len(labels))))[0]
        return {"value": float(alone), "low": None, "high": None}
    counts = [len(np.unique(part.group[side])) for side in sides]
    return with_ends(statistic, Resampling(part.group), ("rank", counts))


def with_ends(
    statistic: Callable[[np.ndarray], np.ndarray], resampling: Resampling, edge: Edge | None
) -> dict[str, Any]:
    """A value with the ends of its interval."""
    value = float(statistic(np.ones((1, len(resampling.codes))))[0])
    ends: Interval = resampling.interval(statistic, edge=edge)
    return {"value": value, "low": ends.low, "high": ends.high}


def decision_curves(test: Predictions, temperature: float | None) -> list[dict[str, Any]]:
    """Net benefit by threshold of class 1 of two, or of each of several labels, as columns.

    Args:
      test: rows of one setting and of test records.
      temperature: that of its probabilities, fitted on validation, or None.

    Returns:
      One a class with 'threshold', 'model' with its 95 % band 'low' and 'high' by patient, 'all',
      'standardised' (by the prevalence; acting on nobody is 0), and 'calibrated': without that the
      thresholds are no risks. [] of anything without probabilities.
    """
    task = test.about.get("task")
    if test.probabilities is None or task not in ("binary", "multi-label"):
        return []
    if temperature is not None:
        test = dataclasses.replace(test, probabilities=tempered(test.probabilities, temperature))
    made: list[dict[str, Any]] = []
    for k, name, labels, values in columns(test):
        known = np.flatnonzero(labels >= 0)
        if (task == "binary" and k == 0) or not len(known):
            continue
        labels, values = labels[known], values[known]
        curve = decisions.decision_curve(labels, values)
        resampling = Resampling(test.group[known], method="percentile")
        drawn = resampling.replicates(decisions.of_weights(labels, values))
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        by_name = {key: [point[key] for point in curve] for key in curve[0]}
        made.append({"class": name, "calibrated": temperature is not None, **by_name,
                     "low": low, "high": high})  # fmt: skip
    return made


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities f64[N C] at a temperature."""
    return np.exp(calibration.log_softmax(logits(probabilities) / temperature))


def logits(probabilities: np.ndarray) -> np.ndarray:
    """Their logarithms f64[N C], of which a softmax makes them again."""
    return np.log(np.clip(probabilities.astype(np.float64), 1e-12, 1.0))

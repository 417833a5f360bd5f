"""Whether what was trained is better than what it started from, on the records it was chosen on."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from retina_jax.metrics import comparison
from retina_jax.scoring.figures import METRICS, macro_of_labels
from retina_jax.scoring.predictions import VALIDATION, Predictions
from retina_jax.types import Results


def sentences(
    specs: Mapping[str, Mapping[str, Any]], results: Mapping[str, Results]
) -> Iterator[str]:
    """What `sentence` says of each evaluator of the model beside each of another one.

    Args:
      specs: evaluator -> its options; `of` names another model, such as the start.
      results: evaluator -> what it returned.
    """
    said = {name: found.predictions for name, found in results.items() if found.predictions}
    for name, other in itertools.product(said, said):
        if not specs[name].get("of") and specs[other].get("of"):
            if line := sentence(said[name], said[other], (name, other)):
                yield line


def sentence(trained: Predictions, start: Predictions, names: tuple[str, str]) -> str:
    """What a paired test over the same validation records says.

    Args:
      trained, start: predictions with rows of validation records.
      names: what the two evaluators are called.

    Returns:
      One sentence; '' where they have no validation records in common, or another set of classes.
    """
    first, second = (found.of("", VALIDATION).sorted() for found in (trained, start))
    same = np.array_equal(first.record, second.record) and len(first.record) > 1
    if not same or list(trained.about["classes"]) != list(start.about["classes"]):
        return ""
    if reason := comparison.enough(first.labels, first.group):
        return f"'{names[0]}' and '{names[1]}' are not compared on validation records. {reason}"
    metric = trained.about["primary"]
    found = comparison.paired(figure(first, metric), figure(second, metric), first.group)
    better = (found.difference < 0) if METRICS[metric].lower else (found.difference > 0)
    verdict = (
        "so training made it better there"
        if better and found.p < 0.05
        else "so it is not shown that training made it better"
    )
    return (
        f"On {len(first.record)} validation records '{names[0]}' has {metric.replace('_', ' ')} "
        f"{found.difference:+.3f} ({found.interval.low:+.3f} to {found.interval.high:+.3f}, p "
        f"{found.p:.2f}) beside '{names[1]}', {verdict}."
    )


def figure(found: Predictions, metric: str) -> Callable[[np.ndarray], np.ndarray]:
    """Weights f64[B N] of the records -> the figure, f64[B]."""
    scores = found.scores.astype(np.float64)
    if found.labels.ndim == 2:
        return lambda weights: macro_of_labels(metric, found.labels, scores, weights)
    return lambda weights: METRICS[metric].weighted(found.labels, scores, weights)

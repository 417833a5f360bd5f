"""What evaluators that classify have in common: from what was said of records to results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retina_jax.metrics import operating_point
from retina_jax.scoring import figures, predictions
from retina_jax.types import Results

VALIDATION = predictions.VALIDATION
_logger = logging.getLogger(__name__)


def about(evaluator: Any, labels: np.ndarray, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What figures depend on beside the scores, as JSON holds it.

    Args:
      evaluator: has 'classes', 'metrics' and 'image', and perhaps 'operating_point'.
      labels: i[N], 0 / 1 [N C], or f[N], a quantity.
      protocol: a name and options.

    Raises:
      InputError: labels that are not those of the classes, or a rule that chooses no threshold.
    """
    classes, metrics = list(evaluator.classes), list(evaluator.metrics)
    figures.check_labels(labels, len(classes))
    kind = figures.task(labels, len(classes), metrics)
    rule = getattr(evaluator, "operating_point", "youden")
    operating_point.parse(rule)
    primary = figures.PRIMARY[kind]
    return {
        "classes": classes,
        "metrics": metrics,
        "task": kind,
        "primary": primary if primary in metrics or kind == "multi-label" else metrics[0],
        "level": "patient" if evaluator.image == "eyes" else "image",
        "protocol": dict(protocol),
        "operating_point": rule,
        "threshold_uncertainty": bool(getattr(evaluator, "threshold_uncertainty", False)),
    }


def classified(parts: Sequence[predictions.Predictions]) -> Results:
    """Results of what was said of test records, and perhaps of validation records."""
    found = predictions.joined(parts)
    for setting in found.about["settings"]:
        said = found.of(setting)
        if (
            said.labels.dtype.kind == "i"
            and said.labels.ndim == 1
            and len(said.labels) > 1 < len(np.unique(said.labels))
        ):
            if len(called := np.unique(said.scores.argmax(axis=1))) == 1:
                _logger.warning(
                    "All %d records%s are called '%s': the figures are those of a constant answer.",
                    len(said.labels), f" ({setting})" if setting else "",
                    found.about["classes"][int(called[0])],
                )  # fmt: skip
    return Results(figures.scores(found), predictions=found)

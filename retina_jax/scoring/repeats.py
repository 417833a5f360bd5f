"""Figures of records that are scored again and again, and by the fits of several folds."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from retina_jax.metrics import weighted
from retina_jax.scoring.predictions import Predictions


def rows(part: Predictions) -> list[np.ndarray]:
    """Those of each repeat, int[n]."""
    return [np.flatnonzero(part.repeat == number) for number in np.unique(part.repeat)]


def figures(
    part: Predictions, figure: Callable[..., np.ndarray], ranks: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """Weights f64[B N] -> the figure of each repeat, of `ranks` the mean over folds, f64[B R]."""
    decimals = part.about.get("decimals")
    pieces = [
        [own[part.fold[own] == fold] for fold in np.unique(part.fold[own])] if ranks else [own]
        for own in rows(part)
    ]
    values = part.scores.astype(np.float64)

    def of(weights: np.ndarray) -> np.ndarray:
        each = [
            _mean_of_known([figure(part.labels[r], values[r], weights[:, r]) for r in folds])
            for folds in pieces
        ]
        found = np.stack(each, axis=1)
        return found if decimals is None else np.round(found, decimals)

    return of


def _mean_of_known(values: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over folds where a figure is defined, f64[B]; NaN where it is in none."""
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    return weighted.ratio(np.where(known, stacked, 0.0).sum(axis=0), known.sum(axis=0))

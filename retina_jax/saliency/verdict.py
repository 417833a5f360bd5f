"""Whether maps find masks better than controls do; if not, they are not shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from retina_jax.metrics import comparison, weighted
from retina_jax.metrics.bootstrap import interval

_LEVEL = 0.05
# What a map has to beat, and how a sentence calls it.
CONTROLS = {
    "random_weights": "those of the same model with random weights do",
    "prior": "a spot in the middle does",
    "edges": "the edges of the picture do",
    "mean_map": "the mean map of the other pictures does",
}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the controls say of maps.

    Attributes:
      lift, low, high: mean lift of the maps over pictures, its interval by patient.
      controls: control -> (mean lift, difference of the maps to it, p after Holm).
      similarity: mean structural similarity of maps with those of random weights.
      chance_similarity: that of maps of different pictures, which it has to stay below.
      count: pictures.
      passes: whether maps may be shown.
      sentence: what is said instead where they may not.
      cascade: what was random, from the head downwards -> (mean lift of those maps, their
        similarity to the maps of the model). The last step is all.
    """

    lift: float
    low: float
    high: float
    controls: Mapping[str, tuple[float, float, float]]
    similarity: float
    chance_similarity: float
    count: int
    passes: bool
    sentence: str
    cascade: Mapping[str, tuple[float, float]]


def judge(
    lifts: np.ndarray,
    controls: Mapping[str, np.ndarray],
    groups: np.ndarray,
    cascade: Mapping[str, tuple[float, float]],
    chance_similarity: float,
) -> Judgement:
    """Compares lifts f[N] with those of each control f[N], paired by picture, over `groups` [N].

    Maps pass if they are better than each control (p < .05 after Holm's adjustment) and less like
    those of random weights than maps of different pictures are like each other, with all weights
    random and one step before, when the lowest layers are still those of the model.
    """
    found = {name: against(lifts, values, groups) for name, values in controls.items()}
    adjusted = comparison.holm([p for _, _, p in found.values()])
    told = {
        name: (mean, difference, p)
        for (name, (mean, difference, _)), p in zip(found.items(), adjusted, strict=True)
    }
    sentence = ""
    for name, (_, difference, p) in told.items():
        if not (difference > 0 and p < _LEVEL):
            sentence = _not_better(CONTROLS[name])
            break
    alike = [similarity for _, similarity in cascade.values()][-2:]
    if not sentence and not max(alike) < chance_similarity:
        sentence = (
            "The maps of this model are as like those of random weights as maps of different "
            "pictures are like each other; they are not shown."
        )
    ends = interval(np.mean, lifts, groups=groups)
    return Judgement(
        float(np.mean(lifts)), ends.low, ends.high, told, alike[-1], chance_similarity,
        len(lifts), not sentence, sentence, dict(cascade),
    )  # fmt: skip


def _not_better(control: str) -> str:
    return (
        f"The maps of this model do not find the lesions better than {control}; they are not shown."
    )


def against(lifts: np.ndarray, other: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """The mean of `other` f[N], how much more the mean of `lifts` f[N] is, and its p, by group."""
    first, second = (
        lambda weights, values=values: weighted.mean(values, weights) for values in (lifts, other)
    )
    paired = comparison.paired(first, second, groups)
    return float(np.mean(other)), paired.difference, paired.p


def mean_of_others(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each of maps f[H W] the mean of all others."""
    total = np.sum(maps, axis=0)
    return [(total - one) / max(len(maps) - 1, 1) for one in maps]

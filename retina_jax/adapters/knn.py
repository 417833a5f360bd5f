"""The labels of the nearest records: a probe of frozen features that fits nothing."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.out_of_distribution import unit

_ROWS = 1024  # compared at a time


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Records with labels, among which others find their nearest by cosine similarity.

    A neighbour counts exp(similarity / temperature), as in DINO (Caron et al. 2021).

    Attributes:
      features: f32[N F], unit vectors.
      targets: f64[N C], 0 or 1; NaN where a label is not known, which counts for nothing.
      groups: [N], the patient of each.
      count: how many neighbours are asked.
      temperature: how quickly farther ones count less.
    """

    features: np.ndarray
    targets: np.ndarray
    groups: np.ndarray
    count: int
    temperature: float = 0.07

    def probabilities(self, features: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
        """Weighted shares of the labels among the neighbours, f64[M C].

        Args:
          features: f[M F].
          groups: [M], whose own records are no neighbours; None where nobody's are stored.
        """
        asked, found = unit(features), []
        for start in range(0, len(asked), _ROWS):
            rows = slice(start, start + _ROWS)
            similarity = np.asarray(asked[rows] @ self.features.T, np.float64)
            if groups is not None:
                similarity[np.asarray(groups)[rows, None] == self.groups[None, :]] = -np.inf
            found.append(self._votes(similarity))
        return np.concatenate(found) if found else np.zeros((0, self.targets.shape[1]))

    def _votes(self, similarity: np.ndarray) -> np.ndarray:
        """f64[M N] -> f64[M C]; a label that no neighbour tells has its share of all records."""
        count = min(self.count, similarity.shape[1])
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        of = np.take_along_axis(similarity, nearest, axis=1)
        weights = np.exp((of - of.max(axis=1, keepdims=True)) / self.temperature)[..., None]
        targets = self.targets[nearest]
        told = (weights * ~np.isnan(targets)).sum(axis=1)
        votes = (weights * np.nan_to_num(targets)).sum(axis=1)
        usual = np.broadcast_to(shares(self.targets), votes.shape)
        return np.divide(votes, told, out=usual.copy(), where=told > 0)


def fit(
    features: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray,
    *,
    most: int = 20,
    temperature: float = 0.07,
) -> Neighbours:
    """Stores records; as many are asked as the rarest label has, at most `most`.

    Args:
      features: f[N F].
      targets: f64[N C], see `Neighbours`.
      groups: [N], the patient of each record.
      most: the most neighbours that are asked.
      temperature: how quickly farther ones count less.

    Raises:
      InputError: if lengths differ, a number is not finite, or no record has one of the labels.
    """
    features, targets = np.asarray(features), np.asarray(targets, np.float64)
    if not (len(features) == len(targets) == len(groups)) or not np.isfinite(features).all():
        raise InputError(
            f"Neighbours need finite features ({len(features)} rows), labels ({len(targets)}) and "
            f"patients ({len(groups)}) of the same records."
        )
    each = np.nansum(targets, axis=0)
    if not len(each) or not (present := each[each > 0]).size:
        raise InputError(f"None of the {len(features)} records has a label that neighbours share.")
    count = int(min(most, present.min()))
    return Neighbours(unit(features), targets, np.asarray(groups), count, temperature)


def shares(targets: np.ndarray) -> np.ndarray:
    """The share of each label among the records f64[N C] of which it is known; 0 where of none."""
    known = ~np.isnan(targets)
    return np.nansum(targets, axis=0) / np.maximum(known.sum(axis=0), 1)

"""Whether a picture is like those a model was trained on: a smoke detector, and no proof.

Fitted on what the tower pools of training pictures, as unit vectors; the threshold is the 99th
percentile over validation pictures. Passing it proves nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from data_pipelines.errors import InputError

MOST, PERCENTILE = 20_000, 99.0
_ROWS = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Nearest:
    """The cosine distance to the k-th nearest training vector (Sun et al. 2022).

    Attributes:
      threshold: a distance above it is out of distribution.
      vectors: float16 [N F], unit vectors of training pictures.
      k: which of the nearest counts.
    """

    threshold: float
    vectors: np.ndarray
    k: int = 10

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Distances float32 [B] of pooled features f[B F]; NaN of a row with a NaN."""
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(features), _ROWS):
            likeness = unit(features[start : start + _ROWS]) @ self._single.T
            broken = np.isnan(likeness).any(axis=1)
            kth = np.partition(likeness, len(self.vectors) - self.k, axis=1)[:, -self.k]
            found.append(np.where(broken, np.nan, 1 - kth).astype(np.float32))
        return np.concatenate(found)

    @functools.cached_property
    def _single(self) -> np.ndarray:
        return self.vectors.astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Mahalanobis:
    """The squared Mahalanobis distance to the nearest class mean (Lee et al. 2018).

    Attributes:
      threshold: a distance above it is out of distribution.
      means: float32 [C F].
      precision: float32 [F F], the inverse of the covariance that the classes share.
    """

    threshold: float
    means: np.ndarray
    precision: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Squared distances float32 [B] of pooled features f[B F]; NaN of a row with a NaN."""
        return _squared(unit(features), self.means, self.precision).min(axis=1).astype(np.float32)


Familiar = Nearest | Mahalanobis


def unit(features: np.ndarray) -> np.ndarray:
    """Rows f[B F] at length one in float32; a row of zeros stays."""
    rows = np.asarray(features, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def nearest(
    train: np.ndarray, validation: np.ndarray, k: int = 10, most: int = MOST, seed: int = 0
) -> Nearest:
    """Fits `Nearest`.

    Args:
      train, validation: pooled features f[N F] and f[M F] of different patients.
      k: which of the nearest counts; fewer training vectors are all counted.
      most: training vectors that are kept, drawn without replacement.
      seed: the seed of that draw.

    Raises:
      InputError: for no vectors, or vectors that are not finite.
    """
    _check(train, validation)
    kept = np.arange(len(train))
    if len(train) > most:
        kept = np.sort(np.random.default_rng(seed).choice(len(train), most, replace=False))
    found = Nearest(0.0, unit(train[kept]).astype(np.float16), min(k, len(kept)))
    return dataclasses.replace(found, threshold=_threshold(found.scores(validation)))


def mahalanobis(
    train: np.ndarray, validation: np.ndarray, labels: np.ndarray, shrinkage: float = 1e-3
) -> Mahalanobis:
    """Fits `Mahalanobis`.

    Args:
      train, validation: pooled features f[N F] and f[M F] of different patients.
      labels: the class of each of `train`, int [N].
      shrinkage: the share of the mean variance that is mixed into the covariance.

    Raises:
      InputError: for no vectors, or vectors that are not finite.
    """
    _check(train, validation)
    means, precision = gaussian(unit(train), labels, shrinkage)
    found = Mahalanobis(0.0, means.astype(np.float32), precision.astype(np.float32))
    return dataclasses.replace(found, threshold=_threshold(found.scores(validation)))


def gaussian(
    rows: np.ndarray, labels: np.ndarray, shrinkage: float
) -> tuple[np.ndarray, np.ndarray]:
    """Class means float64 [C F] and the inverse of the shared population covariance [F F]."""
    rows = np.asarray(rows, np.float64)
    classes, index = np.unique(labels, return_inverse=True)
    means = np.stack([rows[index == i].mean(axis=0) for i in range(len(classes))])
    covariance = np.cov((rows - means[index]).T, bias=True)
    covariance = np.atleast_2d(covariance)
    mean_variance = np.trace(covariance) / len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * mean_variance * np.eye(len(covariance))
    return means, np.linalg.pinv(shrunk, hermitian=True)


def _squared(rows: np.ndarray, means: np.ndarray, precision: np.ndarray) -> np.ndarray:
    away = rows[:, None].astype(np.float64) - means
    return np.einsum("bcf,fg,bcg->bc", away, precision.astype(np.float64), away, optimize=True)


def _softmax(logits: np.ndarray) -> np.ndarray:
    return special.softmax(np.asarray(logits, np.float64), axis=-1)


def max_softmax(logits: np.ndarray) -> np.ndarray:
    """The greatest probability, float64 [B]; low where a model is unsure."""
    return _softmax(logits).max(axis=-1)


def energy(logits: np.ndarray) -> np.ndarray:
    """-log sum exp of the scores, float64 [B]; high where they are all small (Liu et al. 2020)."""
    return -special.logsumexp(np.asarray(logits, np.float64), axis=-1)


def entropy(logits: np.ndarray) -> np.ndarray:
    """The entropy of the softmax in nats, float64 [B]."""
    return special.entr(_softmax(logits)).sum(axis=-1)


def to_bytes(familiar: Familiar) -> bytes:
    """An .npz file, the same bytes of the same statistics."""
    stream = io.BytesIO()
    arrays: dict[str, Any] = {
        field.name: np.asarray(getattr(familiar, field.name))
        for field in dataclasses.fields(familiar)
    }
    np.savez(stream, **arrays)
    return stream.getvalue()


def read(path: Path) -> Familiar:
    """The statistics that `to_bytes` made a file of.

    Raises:
      InputError: for a file that holds none.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        threshold = float(found.pop("threshold"))
        if "vectors" in found:
            kept = Nearest(threshold, found["vectors"], int(found["k"]))
            sound = kept.vectors.ndim == 2 and 1 <= kept.k <= len(kept.vectors)
        else:
            kept = Mahalanobis(threshold, **found)
            sound = kept.means.ndim == 2 and kept.precision.shape == 2 * kept.means.shape[1:]
    except Exception as error:  # noqa: BLE001 (NumPy raises a dozen kinds over damaged files)
        raise InputError(f"{path} is damaged ({type(error).__name__}); get it again.") from None
    if not sound:
        raise InputError(f"{path} holds arrays that do not fit each other; get it again.")
    return kept


def _check(*features: np.ndarray) -> None:
    for rows in features:
        if not len(rows) or not np.isfinite(rows).all():
            raise InputError(
                "What is in distribution is fitted on finite features of training and of "
                f"validation pictures; got {len(rows)} rows, "
                f"{int((~np.isfinite(rows)).any(axis=-1).sum())} of them with NaN or infinity."
            )


def _threshold(scores: np.ndarray) -> float:
    return float(np.percentile(scores.astype(np.float64), PERCENTILE))

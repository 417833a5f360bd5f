"""Ridge regression of a quantity on frozen features, whose penalty groups choose."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.errors import InputError

# Of standardised features and a centred quantity: from none to one that leaves the mean alone.
_PENALTIES = np.logspace(-1, 6, 15)


@dataclasses.dataclass(frozen=True)
class FittedRidge:
    """A fitted ridge regression; `model` is the scikit-learn pipeline."""

    model: Any

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Predicted quantities: f[N F] -> f64[N 1]."""
        return self.model.predict(np.asarray(features, np.float64))[:, None]

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Kernel f64[F 1] and bias f64[1] that give the same of features as they come."""
        scaler, last = self.model[0], self.model[-1]
        kernel = (last.coef_ / scaler.scale_)[:, None]
        return kernel, np.atleast_1d(last.intercept_ - scaler.mean_ @ kernel)


def fit_by_groups(
    features: np.ndarray, values: np.ndarray, groups: np.ndarray, *, folds: int = 5, seed: int = 0
) -> FittedRidge:
    """Fits a quantity on standardised features; the penalty has the least squared error over folds.

    Args:
      features: f[N F].
      values: f[N], finite.
      groups: [N], the patient of each record; a fold has all records of a group.
      folds: at most as many; fewer where there are fewer groups.
      seed: the seed that folds are drawn with.

    Returns:
      The regression, fitted on all records.

    Raises:
      InputError: if there are fewer than two groups, lengths differ or a number is not finite.
    """
    # Two seconds that programs which fit no probe can spare.
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, values = np.asarray(features, np.float64), np.asarray(values, np.float64)
    folds = min(folds, len(set(groups)))
    finite = np.isfinite(features).all() and np.isfinite(values).all()
    if folds < 2 or not (finite and len(features) == len(values) == len(groups)):
        raise InputError(
            f"A ridge regression needs records of two patients or more ({len(set(groups))} here), "
            f"each with finite features ({len(features)} rows) and a finite value "
            f"({int(np.isfinite(values).sum())} of {len(values)})."
        )
    # All penalties in one fit: Ridge has one for each column of what it predicts.
    several = make_pipeline(StandardScaler(), Ridge().set_params(alpha=_PENALTIES))
    wanted = np.tile(values[:, None], len(_PENALTIES))
    errors = []
    splits = GroupKFold(folds, shuffle=True, random_state=seed)
    for fitted, held in splits.split(features, groups=groups):
        several.fit(features[fitted], wanted[fitted])
        # Of one penalty there is no second axis.
        found = several.predict(features[held]).reshape(len(held), -1)
        errors.append(np.mean((found - wanted[held]) ** 2, axis=0))
    best = _PENALTIES[int(np.argmin(np.mean(errors, axis=0)))]
    return FittedRidge(make_pipeline(StandardScaler(), Ridge(alpha=best)).fit(features, values))

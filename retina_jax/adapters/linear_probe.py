"""Logistic regression on frozen features, as FLAIR and KeepFIT evaluate."""

from __future__ import annotations

import dataclasses

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipelines.errors import InputError


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
      model: the scikit-learn classifier.
      present: int[K], the classes it was fitted on, in increasing order.
      classes: number of classes of the task.
      converged: whether the solver finished within its iterations.
    """

    model: object
    present: np.ndarray
    classes: int
    converged: bool

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The likeliest class of each row: f[N F] -> i64[N]."""
        return self.predict_proba(features).argmax(axis=1)

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities: f[N F] -> f64[N classes]; 0 for a class it was not fitted on."""
        probabilities = np.zeros((len(features), self.classes))
        probabilities[:, self.present] = self.model.predict_proba(_checked(features))
        return probabilities


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    C: float = 0.316,
    balanced: bool = True,
    max_iter: int = 1000,
    standardize: bool = False,
    classes: int | None = None,
) -> LinearProbe:
    """Fits a linear classifier by L2-regularised logistic regression (solver L-BFGS).

    The defaults are FLAIR's protocol (flair/transferability/modeling/adapters.py): the penalty
    was chosen for its un-normalised 2048 features.

    Args:
      features: f[N F], what the model's `features` returns.
      labels: int[N] in [0, classes).
      C: inverse strength of the penalty.
      balanced: weigh records inversely to the frequency of their class.
      max_iter: bound on the solver's iterations.
      standardize: bring each feature to zero mean and unit variance on these records first, which
        makes one penalty fit features of any scale; the published protocol does not.
      classes: number of classes of the task, for probabilities of classes that no record here
        has; None for the largest label plus one.

    Returns:
      The fitted probe.

    Raises:
      InputError: if there are fewer than two classes, lengths differ or a feature is not finite.
    """
    features, labels = _checked(features), np.asarray(labels, np.int64)
    if len(features) != len(labels):
        raise InputError(f"There are {len(features)} rows of features and {len(labels)} labels.")
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(
            f"A linear probe needs records of two classes or more, but got {len(labels)} records "
            f"of class {present.tolist()}."
        )
    count = int(present[-1]) + 1 if classes is None else classes
    if present[0] < 0 or present[-1] >= count:
        raise InputError(f"The labels {present.tolist()} are not all in [0, {count}).")
    regression = LogisticRegression(
        C=C, max_iter=max_iter, class_weight="balanced" if balanced else None, random_state=0
    )
    model = make_pipeline(StandardScaler(), regression) if standardize else regression
    model.fit(features, labels)
    return LinearProbe(model, present, count, bool(np.all(regression.n_iter_ < max_iter)))


def _checked(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise InputError(
            f"A linear probe needs finite features [records, features], not an array "
            f"{features.shape} with {int((~np.isfinite(features)).sum())} values that are not."
        )
    return features

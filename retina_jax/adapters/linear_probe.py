"""Logistic regression on frozen features: FLAIR's, and one whose penalty patients choose."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.errors import InputError

# What `fit_by_groups` chooses C from, and takes where it cannot choose.
_PENALTIES, _PENALTY = np.logspace(-6, 2, 9), 1e-2


@dataclasses.dataclass(frozen=True)
class FittedProbe:
    """A fitted probe, for one class a record or several labels.

    Attributes:
      model: the scikit-learn classifier.
      present: int[K], the classes or labels it was fitted on, in increasing order.
      classes: number of classes or labels of the task.
      converged: whether the solver finished within its iterations.
      shares: f64[K] of the records that it was fitted on that are of each class, where a decision
        divides by them (`scores`); None where it does not.
    """

    model: Any
    present: np.ndarray
    classes: int
    converged: bool
    shares: np.ndarray | None = None

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Probabilities over the shares of the classes: f[N F] -> f64[N classes].

        Their largest one is the decision that does best where all classes count alike, as in
        balanced accuracy; each class ranks the records as its probabilities do.
        """
        probabilities = self.predict_proba(features)
        if self.shares is not None:
            probabilities[:, self.present] /= self.shares
        return probabilities

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Kernel f64[F C] and bias f64[C] of a head with the scores of this probe on raw features.

        A class that it was not fitted on has a bias of -20.
        """
        scaler, last = (self.model[0], self.model[-1])
        if hasattr(last, "estimators_"):
            weights = np.concatenate([one.coef_ for one in last.estimators_])
            bias = np.concatenate([one.intercept_ for one in last.estimators_])
        else:
            weights, bias = last.coef_, last.intercept_
            if len(weights) == 1:
                weights, bias = (np.concatenate([-x / 2, x / 2]) for x in (weights, bias))
        weights = weights / scaler.scale_
        bias = bias - weights @ scaler.mean_
        kernel = np.zeros((weights.shape[1], self.classes))
        offsets = np.full(self.classes, -20.0)
        kernel[:, self.present], offsets[self.present] = weights.T, bias
        return kernel, offsets

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities: f[N F] -> f64[N classes]; 0 for a class or label it was not fitted on."""
        probabilities = np.zeros((len(features), self.classes))
        found = self.model.predict_proba(_checked(features))
        if isinstance(found, list):  # of several labels, each with its absence and its presence
            found = np.stack([both[:, 1] for both in found], axis=1)
        probabilities[:, self.present] = found
        return probabilities


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    C: float = 0.316,
    balanced: bool = True,
    max_iter: int = 1000,
    standardize: bool = False,
    classes: int | None = None,
) -> FittedProbe:
    """Fits a linear classifier by L2-regularised logistic regression (solver L-BFGS).

    The defaults are FLAIR's protocol (flair/transferability/modeling/adapters.py): the penalty
    was chosen for its un-normalised 2048 features.

    Args:
      features: f[N F], what the model's `features` returns.
      labels: int[N] in [0, classes), one class a record; or bool or 0 / 1 [N classes], several
        labels, each of which has a regression of its own. A label that no record or every record
        has is not fitted.
      C: inverse strength of the penalty.
      balanced: weigh records inversely to the frequency of their class, or for each label of
        those with and without it.
      max_iter: bound on the solver's iterations.
      standardize: bring each feature to zero mean and unit variance on these records first, which
        makes one penalty fit features of any scale; the published protocol does not.
      classes: number of classes of the task, for probabilities of classes that no record here
        has; None for the largest label plus one. Several labels have as many as columns.

    Returns:
      The fitted probe.

    Raises:
      InputError: if there are fewer than two classes or no label to fit, lengths differ or a
        feature is not finite.
    """
    # Two seconds that programs which fit no probe can spare.
    from sklearn.linear_model import LogisticRegression
    from sklearn.multioutput import MultiOutputClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = _checked(features), np.asarray(labels)
    if len(features) != len(labels):
        raise InputError(f"There are {len(features)} rows of features and {len(labels)} labels.")
    several = labels.ndim == 2
    present, count = (_varying if several else _present)(labels, classes)
    labels = labels.astype(np.int64)
    regression = LogisticRegression(
        C=C, max_iter=max_iter, class_weight="balanced" if balanced else None, random_state=0
    )
    last: Any = MultiOutputClassifier(regression) if several else regression
    model = make_pipeline(StandardScaler(), last) if standardize else last
    model.fit(features, labels[:, present] if several else labels)
    solved = last.estimators_ if several else [last]
    converged = all(np.all(one.n_iter_ < max_iter) for one in solved)
    return FittedProbe(model, present, count, converged)


def fit_by_groups(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    classes: int | None = None,
    folds: int = 5,
    seed: int = 0,
) -> FittedProbe:
    """Fits a logistic regression on standardised features, whose penalty groups choose.

    A fixed penalty suits one scale of features and one number of records: with FLAIR's, features
    of small scale give every record the same class. C is the smallest one whose log loss, over
    folds that keep each group in one, is within a standard error of the best (Breiman et al. 1984,
    section 3.4.3). Classes are not weighted, which would distort probabilities; `scores` decides.

    Args:
      features: f[N F].
      labels: int[N] in [0, classes), one class a record.
      groups: [N], the patient of each record.
      classes: the same as in `fit`.
      folds: at most as many; fewer where the rarest class has fewer groups. Where it has one, C is
        0.01.
      seed: the seed that folds are drawn with.

    Returns:
      The probe, fitted on all records.

    Raises:
      InputError: as `fit`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = _checked(features), np.asarray(labels)
    if not len(features) == len(labels) == len(groups):
        raise InputError(
            f"There are {len(features)} rows of features, {len(labels)} labels and {len(groups)} "
            "groups."
        )
    present, count = _present(labels, classes)
    labels = labels.astype(np.int64)
    folds = min(folds, *(len(set(groups[labels == k])) for k in present))
    C = _penalty(features, labels, groups, folds, seed) if folds > 1 else _PENALTY
    last = LogisticRegression(C=C, max_iter=5000, tol=1e-6, random_state=seed)
    model = make_pipeline(StandardScaler(), last).fit(features, labels)
    shares = np.array([(labels == k).mean() for k in present])
    return FittedProbe(model, present, count, bool(np.all(last.n_iter_ < 5000)), shares)


def _penalty(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, folds: int, seed: int
) -> float:
    """The smallest C whose log loss is within a standard error of the best; see `fit_by_groups`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.preprocessing import StandardScaler

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = []
    for fitted, held_out in splitter.split(features, labels, groups):
        if len(set(labels[fitted])) < len(set(labels)):
            continue  # it could not tell of the class that it has not seen
        scaler = StandardScaler().fit(features[fitted])
        x, unseen = (scaler.transform(features[rows]) for rows in (fitted, held_out))
        regression = LogisticRegression(max_iter=1000, random_state=seed, warm_start=True)
        parts.append((regression, x, labels[fitted], unseen, labels[held_out]))
    if len(parts) < 2:
        return _PENALTY
    losses: list[list[float]] = []
    for C in _PENALTIES:
        losses.append([
            log_loss(truth, regression.set_params(C=C).fit(x, y).predict_proba(unseen),
                     labels=regression.classes_)
            for regression, x, y, unseen, truth in parts
        ])  # fmt: skip
        best = int(np.mean(losses, axis=1).argmin())
        if len(losses) > best + 2:
            break  # weaker penalties only take longer: the loss has one valley
    means = np.mean(losses, axis=1)
    error = np.std(losses[best], ddof=1) / np.sqrt(len(parts))
    return float(_PENALTIES[np.flatnonzero(means <= means[best] + error)[0]])


def _present(labels: np.ndarray, classes: int | None) -> tuple[np.ndarray, int]:
    """The classes that records int[N] have, and how many there are in all."""
    present = np.unique(labels.astype(np.int64))
    if len(present) < 2:
        raise InputError(
            f"A linear probe needs records of two classes or more, but got {len(labels)} records "
            f"of class {present.tolist()}."
        )
    count = int(present[-1]) + 1 if classes is None else classes
    if present[0] < 0 or present[-1] >= count:
        raise InputError(f"The labels {present.tolist()} are not all in [0, {count}).")
    return present, count


def _varying(labels: np.ndarray, classes: int | None) -> tuple[np.ndarray, int]:
    """The columns of 0 / 1 [N C] that some records have and some do not, and C."""
    if classes not in (None, labels.shape[1]) or not np.isin(labels, (0, 1)).all():
        raise InputError(
            f"Several labels a record are 0 or 1, one column for each of {classes} names; got "
            f"{labels.shape[1]} columns from {labels.min()} to {labels.max()}."
        )
    present = np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))
    if not len(present):
        raise InputError(
            f"A linear probe needs a label that only some of the {len(labels)} records have."
        )
    return present, labels.shape[1]


def _checked(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise InputError(
            f"A linear probe needs finite features [records, features], not an array "
            f"{features.shape} with {int((~np.isfinite(features)).sum())} values that are not."
        )
    return features

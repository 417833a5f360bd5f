"""Logistic regression on frozen features: FLAIR's, and one whose penalty patients choose."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import InputError

# What `fit_by_groups` chooses C from, and takes where it cannot choose.
_PENALTIES, _PENALTY = np.logspace(-6, 2, 9), 1e-2
# Of its last solver; the usual tolerance, 1e-4, may end before the first step.
_SOLVER = {"max_iter": 5000, "tol": 1e-6}
# The logit of a class that a probe knows nothing of, in a head: as good as never.
_NEVER = -30.0


@dataclasses.dataclass(frozen=True)
class FittedProbe:
    """A fitted probe, for one class a record or several labels: a linear map of raw features.

    Attributes:
      kernel: f64[F K]; what standardising does to features is part of it.
      bias: f64[K].
      present: int[K], the classes or labels it was fitted on, in increasing order.
      classes: number of classes or labels of the task.
      converged: whether the solver took a step and finished within its iterations.
      several: whether records may have several labels, each with a probability of its own.
      penalties: the C of each regression; one for all classes, or one a label.
      shares: f64[K] of the records that it was fitted on that are of each class, where a decision
        divides by them (`scores`); None where it does not.
      skipped_folds: folds that had no part in the choice of C, as they missed a class.
    """

    kernel: np.ndarray
    bias: np.ndarray
    present: np.ndarray
    classes: int
    converged: bool
    several: bool = False
    penalties: tuple[float, ...] = ()
    shares: np.ndarray | None = None
    skipped_folds: int = 0

    def scores(self, features: np.ndarray) -> np.ndarray:
        """What decides: f[N F] -> f64[N classes].

        Where `shares` are known: probabilities over the shares of the classes, whose largest one is
        the decision that does best where all classes count alike, as in balanced accuracy; of
        several labels, the probability where half of all records had the label. Each class ranks
        the records as its probabilities do.
        """
        probabilities = self.predict_proba(features)
        if self.shares is None:
            return probabilities
        found = probabilities[:, self.present]
        if self.several:
            yes, no = found / self.shares, (1 - found) / (1 - self.shares)
            probabilities[:, self.present] = yes / (yes + no)
        else:
            probabilities[:, self.present] = found / self.shares
        return probabilities

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities: f[N F] -> f64[N classes]; 0 for a class or label it was not fitted on."""
        from scipy.special import expit, softmax

        logits = _checked(features) @ self.kernel + self.bias
        probabilities = np.zeros((len(logits), self.classes))
        probabilities[:, self.present] = expit(logits) if self.several else softmax(logits, axis=1)
        return probabilities

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """The probe as a head: kernel f64[F classes] and bias f64[classes] of its logits.

        A softmax of them, or a sigmoid of each where there are several labels, is `predict_proba`;
        a class that it was not fitted on has a logit of -30.
        """
        kernel = np.zeros((self.kernel.shape[0], self.classes))
        bias = np.full(self.classes, _NEVER)
        kernel[:, self.present], bias[self.present] = self.kernel, self.bias
        return kernel, bias

    def save(self, folder: Path, names: Sequence[str]) -> None:
        """Writes `probe.npz` and `probe.json`, which also has the names of the classes."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"kernel": self.kernel, "bias": self.bias, "present": self.present}
        if self.shares is not None:
            arrays["shares"] = self.shares
        np.savez(folder / "probe.npz", **arrays)
        kept = ("classes", "converged", "several", "penalties", "skipped_folds")
        about = {"names": list(names), **{name: getattr(self, name) for name in kept}}
        (folder / "probe.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> tuple[FittedProbe, tuple[str, ...]]:
    """The probe that `FittedProbe.save` wrote, and the names of its classes.

    Raises:
      InputError: for a folder without one, or with a damaged one.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "probe.json").read_text("utf-8"))
        with np.load(folder / "probe.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        names = tuple(about.pop("names"))
        about["penalties"] = tuple(about["penalties"])
        return FittedProbe(**arrays, **about), names
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no probe that can be read ({error}).") from None


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
        labels, each of which has a regression of its own, from which -1 or NaN leaves a record out.
        A label that no record or every record has is not fitted.
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
    features, labels, present, count = _usable(features, labels, classes)
    options = {"max_iter": max_iter, "class_weight": "balanced" if balanced else None}
    parts = [
        _regression(features[rows], of, {"C": C, **options}, standardize)
        for rows, of in _tasks(labels, present)
    ]
    return _joined(parts, [C] * len(parts), present, count, labels.ndim == 2)


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
      labels: the same as in `fit`; each of several labels has a C of its own.
      groups: [N], the patient of each record.
      classes: the same as in `fit`.
      folds: at most as many; fewer where the rarest class has fewer groups. Where it has one, C is
        0.01.
      seed: the seed that folds are drawn with.

    Returns:
      The probe, fitted on all records.

    Raises:
      InputError: the same as `fit`.
    """
    groups = np.asarray(groups)
    if not len(features) == len(labels) == len(groups):
        raise InputError(
            f"There are {len(features)} rows of features, {len(labels)} labels and {len(groups)} "
            "groups."
        )
    features, labels, present, count = _usable(features, labels, classes)
    parts, penalties, shares, skipped = [], [], [], 0
    for rows, of in _tasks(labels, present):
        C, missed = _penalty(features[rows], of, groups[rows], folds, seed)
        parts.append(_regression(features[rows], of, {"C": C, **_SOLVER}, standardize=True))
        penalties.append(C)
        skipped += missed
        shares.append([(of == k).mean() for k in np.unique(of)])
    several = labels.ndim == 2
    of_classes = np.array([share[1] for share in shares] if several else shares[0])
    probe = _joined(parts, penalties, present, count, several)
    return dataclasses.replace(probe, shares=of_classes, skipped_folds=skipped)


def _tasks(labels: np.ndarray, present: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and labels of each regression: one of all classes, or one for each of several labels."""
    if labels.ndim == 1:
        return [(np.arange(len(labels)), labels)]
    known = [np.flatnonzero(labels[:, k] >= 0) for k in present]
    return [(rows, labels[rows, k]) for rows, k in zip(known, present, strict=True)]


def _regression(
    features: np.ndarray, labels: np.ndarray, options: dict[str, Any], standardize: bool
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Kernel f64[F K], one column for two classes, bias f64[K], and whether it converged."""
    # Two seconds that programs which fit no probe can spare.
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    mean, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
    if standardize:
        scaler: Any = StandardScaler().fit(features)
        mean, scale = scaler.mean_, scaler.scale_
    last: Any = LogisticRegression(random_state=0, **options)
    last.fit((features - mean) / scale, labels)
    kernel = last.coef_.T / scale[:, None]
    # At 0 iterations it gave up before the first step, which scikit-learn does not warn of.
    converged = bool(np.all((last.n_iter_ > 0) & (last.n_iter_ < last.max_iter)))
    return kernel, last.intercept_ - mean @ kernel, converged


def _joined(
    parts: Sequence[tuple[np.ndarray, np.ndarray, bool]],
    penalties: Sequence[float],
    present: np.ndarray,
    count: int,
    several: bool,
) -> FittedProbe:
    kernel = np.concatenate([part[0] for part in parts], axis=1)
    bias = np.concatenate([part[1] for part in parts])
    if not several and len(present) == 2:  # the logit of the second class over the first
        kernel, bias = np.concatenate([-kernel, kernel], 1) / 2, np.concatenate([-bias, bias]) / 2
    converged = all(part[2] for part in parts)
    return FittedProbe(kernel, bias, present, count, converged, several, tuple(penalties))


def _penalty(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, folds: int, seed: int
) -> tuple[float, int]:
    """The smallest C within a standard error of the best, and the folds that were skipped."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.preprocessing import StandardScaler

    folds = min(folds, *(len(set(groups[labels == k])) for k in np.unique(labels)))
    if folds < 2:
        return _PENALTY, 0
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts, skipped = [], 0
    for fitted, held_out in splitter.split(features, labels, groups):
        if len(set(labels[fitted])) < len(set(labels)) or not len(held_out):
            skipped += 1  # it could not tell of the class that it has not seen
            continue
        scaler = StandardScaler().fit(features[fitted])
        x, unseen = (scaler.transform(features[rows]) for rows in (fitted, held_out))
        # To rank penalties the usual tolerance does, now that features have unit scale.
        regression = LogisticRegression(max_iter=1000, random_state=seed, warm_start=True)
        parts.append((regression, x, labels[fitted], unseen, labels[held_out]))
    if len(parts) < 2:
        return _PENALTY, skipped
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
    return float(_PENALTIES[np.flatnonzero(means <= means[best] + error)[0]]), skipped


def _usable(
    features: np.ndarray, labels: np.ndarray, classes: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Features f64[N F], labels i64, the classes or labels to fit, and how many there are."""
    # A label that nobody looked for is NaN in a batch.
    features, labels = _checked(features), np.nan_to_num(np.asarray(labels), nan=-1)
    if len(features) != len(labels):
        raise InputError(f"There are {len(features)} rows of features and {len(labels)} labels.")
    present, count = (_varying if labels.ndim == 2 else _present)(labels, classes)
    return features, labels.astype(np.int64), present, count


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
    if classes not in (None, labels.shape[1]) or not np.isin(labels, (-1, 0, 1)).all():
        raise InputError(
            f"Several labels a record are 0 or 1, one column for each of {classes} names; got "
            f"{labels.shape[1]} columns from {labels.min()} to {labels.max()}."
        )
    present = np.flatnonzero((labels == 1).any(axis=0) & (labels == 0).any(axis=0))
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

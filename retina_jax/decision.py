"""From the scores of a head to what is decided: what a classifier's folder carries for that.

Everything is a pure function of arrays, and plain data that `config.json` of a model's folder holds
under the key `decision`. Scores are those of a head, f[B C] for C classes; probabilities are
float32, as they are stored, and compared in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from data_pipelines.errors import InputError

TASKS = ("single", "multi", "ordinal", "regression")
RULES = ("plain", "balanced")
METHODS = ("none", "temperature")
# What is said where a model stores no threshold that was chosen for something.
NO_OPERATING_POINT = "threshold .5, not chosen for any purpose"


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """A threshold that was chosen on validation records.

    Attributes:
      value: the threshold: a record is positive where its score is at least this.
      labels: the classes whose score it is for. Probabilities of classes that exclude each other
        are added, ('severe', 'proliferative') for instance; of other labels the greatest counts.
      rule: how it was chosen: 'sensitivity>=0.9', 'specificity>=0.95', 'youden' or 'fixed'.
      chosen_on: the hash of the split it was chosen on; None where that is not known.
      n_pos, n_neg: numbers of positive and negative records it was chosen on.
      sensitivity, specificity: what it has on those records; None where that is not known.
    """

    value: float
    labels: tuple[str, ...]
    rule: str = "fixed"
    chosen_on: str | None = None
    n_pos: int = 0
    n_neg: int = 0
    sensitivity: float | None = None
    specificity: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1 or not self.labels:
            raise InputError(
                f"An operating point is a threshold in 0..1 of named classes, got {self.value} of "
                f"{list(self.labels)}."
            )


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How scores were made probabilities that can be believed.

    Attributes:
      method: 'none', or 'temperature': scores are divided by `T` (Guo et al. 2017).
      T: the temperature; of labels that do not exclude each other one for each.
      fitted_on: the hash of the split it was fitted on; None where that is not known.
      n: number of records it was fitted on.
      nll_before, nll_after: the mean negative log likelihood there.
    """

    method: str = "none"
    T: float | tuple[float, ...] = 1.0
    fitted_on: str | None = None
    n: int = 0
    nll_before: float | None = None
    nll_after: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"A calibration is one of {METHODS}, got '{self.method}'.")
        if not np.all(np.asarray(self.T, np.float64) > 0):
            raise InputError(f"A temperature is above 0, got {self.T}.")


@dataclasses.dataclass(frozen=True)
class Decision:
    """How a classifier decides. The default is softmax, the most likely class, no threshold.

    Attributes:
      task: 'single' for classes that exclude each other, 'ordinal' for such grades in order,
        'multi' for labels of which a record may have any number, 'regression' for numbers.
      rule: 'plain' calls the class of the greatest probability, 'balanced' that whose probability
        is greatest by its share in training, `prior`.
      prior: shares of the classes, or labels, in training; () where they are not known.
      parts: numbers of consecutive classes that exclude each other, as in
        `objectives.classification`; () for all.
      thresholds: the threshold of each label of 'multi'; () for .5 each, or for the prior of each
        where the rule is 'balanced'.
      operating_points: name -> threshold that was chosen for a purpose.
      calibration: how scores become probabilities.
    """

    task: str = "single"
    rule: str = "plain"
    prior: tuple[float, ...] = ()
    parts: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    operating_points: Mapping[str, OperatingPoint] = dataclasses.field(default_factory=dict)
    calibration: Calibration = Calibration()

    def __post_init__(self) -> None:
        for what, given, known in (("task", self.task, TASKS), ("rule", self.rule, RULES)):
            if given not in known:
                raise InputError(f"The {what} of a decision is one of {known}, got '{given}'.")
        if self.rule == "balanced" and (not self.prior or min(self.prior) <= 0):
            raise InputError(
                "The rule 'balanced' divides by the share of each class in training, which is "
                f"above 0, got {list(self.prior)}."
            )
        if self.task == "multi" and self.parts:
            raise InputError("Labels of the task 'multi' do not exclude each other: no 'parts'.")

    def check(self, classes: Sequence[str]) -> None:
        """Raises InputError unless everything is of these classes."""
        counts = {
            "prior": len(self.prior),
            "parts": sum(self.parts),
            "thresholds": len(self.thresholds),
            "calibration.T": np.size(self.calibration.T) if np.ndim(self.calibration.T) else 0,
        }
        for name, count in counts.items():
            if count not in (0, len(classes)):
                raise InputError(
                    f"'{name}' of the decision is of {count} classes, the model has {len(classes)}."
                )
        for name, point in self.operating_points.items():
            if unknown := sorted(set(point.labels) - set(classes)):
                raise InputError(
                    f"The operating point '{name}' is of '{unknown[0]}', which is no class of the "
                    f"model; these are {', '.join(classes)}."
                )

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities float32 [B C] of the scores of a head, f[B C].

        Softmax within each part, the logistic function for 'multi', after the calibration. Numbers
        of a 'regression' stay as they are. A row with a NaN is NaN within that part.
        """
        scores = np.asarray(logits, np.float64)
        if self.task == "regression":
            return scores.astype(np.float32)
        scores = scores / np.asarray(self.calibration.T, np.float64)
        if self.task == "multi":
            return special.expit(scores).astype(np.float32)
        parts = [special.softmax(scores[:, part], axis=1) for part in self._slices(scores.shape[1])]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Which classes are called, bool [B C]: one of each part, or labels over their thresholds.

        Of equal ones the first is called, and of a row with a NaN none in that part. Nothing is
        called of a 'regression'.
        """
        given = np.asarray(probabilities, np.float32).astype(np.float64)
        called = np.zeros(given.shape, bool)
        if self.task == "multi":
            own = self.prior if self.rule == "balanced" else (0.5,)
            called = given >= np.asarray(self.thresholds or own, np.float64)
        elif self.task != "regression":
            weighted = given / np.asarray(self.prior) if self.rule == "balanced" else given
            for part in self._slices(given.shape[1]):
                whole = np.flatnonzero(~np.isnan(weighted[:, part]).any(axis=1))
                called[whole, part.start + weighted[whole, part].argmax(axis=1)] = True
        return called

    def score(
        self, probabilities: np.ndarray, classes: Sequence[str], labels: Sequence[str]
    ) -> np.ndarray:
        """What an operating point of `labels` is compared with, float32 [B]; see its `labels`.

        Args:
          probabilities: f32[B C].
          classes: their names.
          labels: some of them.
        """
        of = probabilities[:, [list(classes).index(name) for name in labels]]
        if self.task == "multi":
            return of.max(axis=1)
        return of.astype(np.float64).sum(axis=1).astype(np.float32)

    def _slices(self, classes: int) -> list[slice]:
        ends = np.cumsum(self.parts or (classes,)).tolist()
        return [slice(end - n, end) for end, n in zip(ends, self.parts or (classes,), strict=True)]


def from_json(stored: Mapping[str, Any] | None) -> Decision | None:
    """The decision that `dataclasses.asdict` made plain data of; None of None.

    Raises:
      InputError: for what is no decision, or has fields that this library does not know.
    """
    if stored is None:
        return None
    try:
        points = {
            str(name): OperatingPoint(**{**point, "labels": tuple(point["labels"])})
            for name, point in stored.get("operating_points", {}).items()
        }
        fitted = dict(stored.get("calibration", {}))
        if isinstance(fitted.get("T"), list | tuple):
            fitted["T"] = tuple(fitted["T"])
        lists = {name: tuple(stored.get(name, ())) for name in ("prior", "parts", "thresholds")}
        known = {"operating_points": points, "calibration": Calibration(**fitted), **lists}
        return Decision(**{**stored, **known})
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The decision of the model cannot be read ({error}): it is damaged, or of a later "
            "version of this library."
        ) from None

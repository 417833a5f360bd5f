"""Linear probing: logistic regression on frozen features."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.text.texts import distinct
from retina_jax.adapters import linear_probe, ridge
from retina_jax.evals import folds as cross_validation
from retina_jax.evals.classified import VALIDATION, about, classified
from retina_jax.evals.encoder import Encoder, Need, bootstrap_groups, part, refuse_shared_patients
from retina_jax.scoring.figures import USUAL, check_labels, check_metrics
from retina_jax.scoring.predictions import TEST, Predictions, of_records
from retina_jax.types import Results, TrainState

_RETFOUND_GREEN = {"C": 1.0, "balanced": False, "max_iter": 20000, "standardize": True}
PROTOCOLS = ("grouped", "flair", "retfound_green")
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A linear probe of features before the projection, not normalised.

    Attributes:
      encoder: runs the model.
      train: records with the batch keys `image` and `labels`.
      classes: names in the order of the labels, or the one name of a quantity.
      test: records to score, none of a patient in `train`; None to cross-validate over `train`.
      validation: records that thresholds are chosen on, none of a patient in the others, or None.
      folds: the number of folds of the cross-validation, which keeps each patient in one fold.
      protocol: 'grouped': features are standardised, the penalty is chosen by cross-validation over
        patients and the decision corrects for how frequent classes are
        (`adapters.linear_probe.fit_by_groups`); 'flair', its linear probe, which weighs classes and
        has one penalty for features of every scale; or 'retfound_green': standardised, C = 1.
      decision: 'balanced', the decision of 'grouped' that serves balanced accuracy, or 'plain', the
        most likely class.
      C: inverse strength of the L2 penalty of 'flair' (published: 0.316).
      standardize: bring features to zero mean and unit variance of the training part first, with
        'flair', which does not.
      operating_point: the rule that chooses thresholds, see `metrics.operating_point.choose`.
      threshold_uncertainty: tell intervals of its figures too where it is chosen anew on drawn
        validation patients; the others take it as given.
      image: the batch key that is classified: 'image', or 'eyes' for patients, whose features are
        those of the left and of the right eye.
      labels: 'label' where a record is of one class; 'labels' where it may have several, each of
        which has a regression of its own; or 'target', a quantity, for a ridge regression whose
        penalty is chosen by cross-validation over patients (`adapters.ridge`).
      metrics: keys of METRICS, where a record is of one class or has a quantity.
    """

    encoder: Encoder
    train: EvalData
    classes: Sequence[str]
    test: EvalData | None = None
    validation: EvalData | None = None
    folds: int = 5
    C: float = 0.316
    standardize: bool = False
    protocol: str = "grouped"
    decision: str = "balanced"
    operating_point: str = "youden"
    threshold_uncertainty: bool = False
    image: str = "image"
    labels: str = "label"
    metrics: Sequence[str] = USUAL

    def __post_init__(self) -> None:
        distinct(self.classes, "classes")
        check_metrics(
            "linear_probe", self.metrics, len(self.classes), self.labels == "target"
        )  # fmt: skip
        if self.protocol not in PROTOCOLS or self.decision not in ("balanced", "plain"):
            raise InputError(
                f"linear_probe: 'protocol' is one of {PROTOCOLS} and 'decision' 'balanced' or "
                f"'plain', not '{self.protocol}' and '{self.decision}'."
            )
        if self.protocol != "flair" and (self.standardize or self.C != 0.316):
            raise InputError("linear_probe: 'C' and 'standardize' are options of protocol='flair'.")
        if self.validation is not None and self.test is None:
            raise InputError("linear_probe: give 'test' beside 'validation'.")

    def _features(self, state: TrainState, data: EvalData) -> tuple[np.ndarray, np.ndarray]:
        encoded = self.encoder.encode_dataset(state, data, "features", [self.image], [self.labels])
        check_labels(encoded[self.labels], len(self.classes))
        return encoded[self.image], encoded[self.labels]

    def _fit(
        self, features: np.ndarray, labels: np.ndarray, patients: np.ndarray
    ) -> linear_probe.FittedProbe | ridge.FittedRidge:
        if self.labels == "target":
            return ridge.fit_by_groups(features, labels, patients)
        classes = len(self.classes)
        if self.protocol == "grouped":
            probe = linear_probe.fit_by_groups(features, labels, patients, classes=classes)
            if self.decision == "plain":
                probe = dataclasses.replace(probe, shares=None)
        else:
            flair = {"C": self.C, "standardize": self.standardize}
            options = flair if self.protocol == "flair" else _RETFOUND_GREEN
            probe = linear_probe.fit(features, labels, classes=classes, **options)
        if not probe.converged:
            _logger.warning(
                "A linear probe did not converge: its features may be too small for this protocol; "
                "protocol='grouped' standardises them."
            )
        if probe.skipped_folds:
            _logger.warning(
                "%d folds missed a class and had no part in the choice of a penalty.",
                probe.skipped_folds,
            )
        return probe

    def _said(
        self, probe: linear_probe.FittedProbe | ridge.FittedRidge, features: np.ndarray,
        labels: np.ndarray, data: EvalData, fold: int = -1, split: str = TEST,
    ) -> Predictions:  # fmt: skip
        """What a probe says of the records of `data`."""
        named: dict[str, Any] = {"split": split, "fold": np.full(len(labels), fold)}
        if isinstance(probe, linear_probe.FittedProbe):
            named["probabilities"] = probe.predict_proba(features)
        told = about(self, labels, {"name": self.protocol, "options": self._options()})
        return of_records(data.source, labels, probe.scores(features), told, **named)

    def _cross_validated(
        self, features: np.ndarray, labels: np.ndarray, patients: np.ndarray
    ) -> list[Predictions]:
        """What is said of the records of each fold."""
        found = []
        divided = cross_validation.by_patient("A linear probe", labels, patients, self.folds)
        for fold, (fitted, out) in enumerate(divided):
            probe = self._fit(features[fitted], labels[fitted], patients[fitted])
            held_out = part(self.train, out)
            found.append(self._said(probe, features[out], labels[out], held_out, fold))
        return found

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        every = (self.train, self.validation, self.test)
        parts = [data for data in every if data is not None]
        return [Need(data, ["features"], [self.image], [self.labels]) for data in parts]

    def run(self, state: TrainState) -> Results:
        """What `classified` has of `test`, or of all folds."""
        scored = {TEST: self.test, VALIDATION: self.validation}
        refuse_shared_patients("A linear probe", train=self.train, **scored)
        features, labels = self._features(state, self.train)
        patients = bootstrap_groups(self.train.source.column("patient"))
        if self.test is None:
            return classified(self._cross_validated(features, labels, patients))
        probe = self._fit(features, labels, patients)
        return classified([
            self._said(probe, *self._features(state, data), data, split=split)
            for split, data in scored.items()
            if data is not None
        ])  # fmt: skip

    def _options(self) -> dict[str, Any]:
        if self.labels == "target":
            return {}
        if self.protocol == "grouped":
            return {"decision": self.decision}
        flair = {"C": self.C, "standardize": self.standardize}
        return flair if self.protocol == "flair" else _RETFOUND_GREEN

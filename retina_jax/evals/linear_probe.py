"""Linear probing: logistic regression, or ridge regression of a quantity, on frozen features."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.text.texts import distinct
from retina_jax.adapters import linear_probe, ridge
from retina_jax.evals import few_shot_splits as repeating
from retina_jax.evals import folds as cross_validation
from retina_jax.evals.encoder import Encoder, Need, bootstrap_groups, refuse_shared_patients
from retina_jax.evals.metrics_table import USUAL, check_labels, check_metrics, class_scores
from retina_jax.types import Results, Score, TrainState

PROTOCOLS = ("flair", "by_patient")
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A linear probe of features before the projection, not normalised.

    Attributes:
      encoder: runs the model.
      train: records with the batch keys `image` and `labels`.
      classes: names in the order of the labels, or the one name of a quantity.
      test: records to score, none of a patient in `train`; None to cross-validate over `train`.
      folds: the number of folds of the cross-validation, which keeps each patient in one fold.
      fold_means: whether figures of a cross-validation are means over the folds, as published for
        fundus and OCT, rather than those of all held-out records together.
      protocol: 'flair', its linear probe, which weighs classes and has one penalty for features of
        every scale; or 'by_patient': features are standardised, the penalty is chosen by
        cross-validation over patients and the decision corrects for how frequent classes are
        (`adapters.linear_probe.fit_by_groups`). Several labels a record are for 'flair'.
      C: inverse strength of the L2 penalty (FLAIR: 0.316); not of 'by_patient'.
      standardize: bring features to zero mean and unit variance of the training part first; FLAIR
        does not.
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
    folds: int = 5
    fold_means: bool = False
    C: float = 0.316
    standardize: bool = False
    protocol: str = "flair"
    image: str = "image"
    labels: str = "label"
    metrics: Sequence[str] = USUAL

    def __post_init__(self) -> None:
        distinct(self.classes, "classes")
        quantity = self.labels == "target"
        check_metrics("linear_probe", self.metrics, len(self.classes), quantity)
        several = self.labels == "labels" and self.protocol == "by_patient"
        if self.fold_means and (self.test is not None or self.labels == "labels"):
            raise InputError(
                "linear_probe: 'fold_means' is for a cross-validation (no 'test') of one class a "
                "record or of a quantity."
            )
        if self.protocol not in PROTOCOLS or several:
            raise InputError(
                f"linear_probe: 'protocol' is one of {PROTOCOLS}, with several labels a record "
                f"'flair', not '{self.protocol}'."
            )

    def _features(self, state: TrainState, data: EvalData) -> tuple[np.ndarray, np.ndarray]:
        encoded = self.encoder.encode_dataset(state, data, "features", [self.image], [self.labels])
        if self.labels == "target":
            check_labels(encoded["target"], 1)
        return encoded[self.image], encoded[self.labels]

    def _fit(
        self, features: np.ndarray, labels: np.ndarray, patients: np.ndarray
    ) -> linear_probe.FittedProbe | ridge.FittedRidge:
        if self.labels == "target":
            return ridge.fit_by_groups(features, labels, patients)
        classes = len(self.classes)
        if self.protocol == "by_patient":
            probe = linear_probe.fit_by_groups(features, labels, patients, classes=classes)
        else:
            probe = linear_probe.fit(
                features, labels, C=self.C, standardize=self.standardize, classes=classes
            )
        if not probe.converged:
            _logger.warning("A linear probe did not converge; standardize, or lower C.")
        return probe

    def _cross_validated(self, features: np.ndarray, labels: np.ndarray) -> dict[str, Score]:
        names = self.train.source.column("patient")
        patients = bootstrap_groups(names)
        scores = np.zeros((len(labels), len(self.classes)))
        held_out = []
        for fitted, rows in cross_validation.by_patient(
            "A linear probe", labels, patients, self.folds
        ):
            probe = self._fit(features[fitted], labels[fitted], patients[fitted])
            scores[rows] = probe.scores(features[rows])
            held_out.append(repeating.Repeat(labels[rows], scores[rows], patients[rows]))
        if self.fold_means:
            return cross_validation.mean_scores(held_out, self.metrics)
        return class_scores(labels, scores, self.classes, names, self.metrics)

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        parts = [data for data in (self.train, self.test) if data is not None]
        return [Need(data, ["features"], [self.image], [self.labels]) for data in parts]

    def run(self, state: TrainState) -> Results:
        """`class_scores` on `test`, or over all folds, or their means over the folds."""
        features, labels = self._features(state, self.train)
        if self.test is None:
            return Results(self._cross_validated(features, labels))
        refuse_shared_patients("A linear probe", train=self.train, test=self.test)
        groups = bootstrap_groups(self.train.source.column("patient"))
        probe = self._fit(features, labels, groups)
        features, labels = self._features(state, self.test)
        patients = self.test.source.column("patient")
        scores = probe.scores(features)
        return Results(class_scores(labels, scores, self.classes, patients, self.metrics))

"""Linear probing: logistic regression on frozen features."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.text.texts import distinct
from retina_jax.adapters import linear_probe
from retina_jax.evals.encoder import Encoder, Need, bootstrap_groups, refuse_shared_patients
from retina_jax.evals.metrics_table import USUAL, check_metrics, class_scores
from retina_jax.types import Results, TrainState

PROTOCOLS = ("flair", "by_patient")
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A linear probe of features before the projection, not normalised.

    Attributes:
      encoder: runs the model.
      train: records with the batch keys `image` and `labels`.
      classes: names in the order of the labels.
      test: records to score, none of a patient in `train`; None to cross-validate over `train`.
      folds: the number of folds of the cross-validation, which keeps each patient in one fold.
      protocol: 'flair', its linear probe, which weighs classes and has one penalty for features of
        every scale; or 'by_patient': features are standardised, the penalty is chosen by
        cross-validation over patients and the decision corrects for how frequent classes are
        (`adapters.linear_probe.fit_by_groups`). Several labels a record are for 'flair'.
      C: inverse strength of the L2 penalty (FLAIR: 0.316); not of 'by_patient'.
      standardize: bring features to zero mean and unit variance of the training part first; FLAIR
        does not.
      image: the batch key that is classified: 'image', or 'eyes' for patients, whose features are
        those of the left and of the right eye.
      labels: 'label' where a record is of one class, 'labels' where it may have several; each of
        these has a regression of its own.
      metrics: keys of METRICS, where a record is of one class.
    """

    encoder: Encoder
    train: EvalData
    classes: Sequence[str]
    test: EvalData | None = None
    folds: int = 5
    C: float = 0.316
    standardize: bool = False
    protocol: str = "flair"
    image: str = "image"
    labels: str = "label"
    metrics: Sequence[str] = USUAL

    def __post_init__(self) -> None:
        distinct(self.classes, "classes")
        check_metrics("linear_probe", self.metrics, len(self.classes))
        several = self.labels == "labels" and self.protocol == "by_patient"
        if self.protocol not in PROTOCOLS or several:
            raise InputError(
                f"linear_probe: 'protocol' is one of {PROTOCOLS}, with several labels a record "
                f"'flair', not '{self.protocol}'."
            )

    def _features(self, state: TrainState, data: EvalData) -> tuple[np.ndarray, np.ndarray]:
        encoded = self.encoder.encode_dataset(state, data, "features", [self.image], [self.labels])
        return encoded[self.image], encoded[self.labels]

    def _fit(
        self, features: np.ndarray, labels: np.ndarray, patients: np.ndarray
    ) -> linear_probe.FittedProbe:
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

    def _cross_validated(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        # A second that --help can spare.
        from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

        patients = bootstrap_groups(self.train.source.column("patient"))
        scores = np.zeros((len(labels), len(self.classes)))
        try:
            if len(set(patients)) < self.folds:  # older scikit-learn makes empty folds of it
                raise ValueError("there are fewer patients than folds.")
            kind = GroupKFold if labels.ndim == 2 else StratifiedGroupKFold
            splitter = kind(self.folds, shuffle=True, random_state=0)
            folds = list(splitter.split(features, labels, patients))
        except ValueError as error:
            raise InputError(
                f"A linear probe cannot cross-validate {len(labels)} records of "
                f"{len(set(patients))} patients in {self.folds} folds: {error}"
            ) from None
        for fitted, held_out in folds:
            probe = self._fit(features[fitted], labels[fitted], patients[fitted])
            scores[held_out] = probe.scores(features[held_out])
        return scores

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        parts = [data for data in (self.train, self.test) if data is not None]
        return [Need(data, ["features"], [self.image], [self.labels]) for data in parts]

    def run(self, state: TrainState) -> Results:
        """`class_scores` on `test`, or over all folds."""
        features, labels = self._features(state, self.train)
        scored_on = self.train if self.test is None else self.test
        if self.test is None:
            scores = self._cross_validated(features, labels)
        else:
            refuse_shared_patients("A linear probe", train=self.train, test=self.test)
            groups = bootstrap_groups(self.train.source.column("patient"))
            probe = self._fit(features, labels, groups)
            features, labels = self._features(state, self.test)
            scores = probe.scores(features)
        patients = scored_on.source.column("patient")
        return Results(class_scores(labels, scores, self.classes, patients, self.metrics))

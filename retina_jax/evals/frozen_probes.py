"""Probes of a frozen model: what all have in common, nearest records, and attention over tokens.

The linear one is in `linear_probe`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.text.texts import distinct
from retina_jax.adapters import attentive, knn, plane
from retina_jax.evals import few_shot_splits
from retina_jax.evals import folds as cross_validation
from retina_jax.evals.classified import VALIDATION, about, classified
from retina_jax.evals.encoder import Encoder, Need, bootstrap_groups, part, refuse_shared_patients
from retina_jax.scoring.figures import USUAL, check_labels, check_metrics
from retina_jax.scoring.predictions import TEST, Predictions, of_records
from retina_jax.types import Results, TrainState

DECISIONS = ("balanced", "plain")


# What a probe says of records: scores f64[N C], and probabilities f64[N C], or None of a quantity.
Said = tuple[np.ndarray, np.ndarray | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenProbe:
    """What probes of frozen features have in common.

    Attributes:
      encoder: runs the model.
      train: records with the batch keys `image` and `labels`.
      classes: names in the order of the labels.
      test: records to score, none of a patient in `train`; None for those of `train`, each by the
        records of other patients.
      validation: records that thresholds are chosen on, none of a patient in the others, or None.
      folds: the number of folds of the cross-validation, which keeps each patient in one fold.
      decision: 'balanced' decides for the largest probability over the share of a class in
        training, which serves balanced accuracy, or 'plain' for the largest probability.
      operating_point: the rule that chooses thresholds, see `metrics.operating_point.choose`.
      threshold_uncertainty: tell intervals of its figures too where it is chosen anew on drawn
        validation patients; the others take it as given.
      image: the batch key that is classified.
      labels: one of `kinds`: 'label' where a record is of one class, 'labels' where it may have
        several, or 'target', a quantity, which has one name in `classes`.
      metrics: keys of METRICS, where a record is of one class or has a quantity.
      seed: the seed of the folds, and of what is drawn.
    """

    method: ClassVar[str] = "features"
    name: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ("label", "labels")

    encoder: Encoder
    train: EvalData
    classes: Sequence[str]
    test: EvalData | None = None
    validation: EvalData | None = None
    folds: int = 5
    decision: str = "balanced"
    operating_point: str = "youden"
    threshold_uncertainty: bool = False
    image: str = "image"
    labels: str = "label"
    metrics: Sequence[str] = USUAL
    seed: int = 0

    def __post_init__(self) -> None:
        distinct(self.classes, "classes")
        if self.labels not in self.kinds or self.decision not in DECISIONS:
            raise InputError(
                f"{self.name}: 'labels' is one of {self.kinds} and 'decision' one of {DECISIONS}, "
                f"not '{self.labels}' and '{self.decision}'."
            )
        check_metrics(self.name, self.metrics, len(self.classes), self.labels == "target")
        if self.validation is not None and self.test is None:
            raise InputError(f"{self.name}: give 'test' beside 'validation'.")

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        every = (self.train, self.validation, self.test)
        return [Need(data, [self.method], [self.image], [self.labels])
                for data in every if data is not None]  # fmt: skip

    def run(self, state: TrainState) -> Results:
        """What `classified` has of `test`, or of all folds."""
        scored = {TEST: self.test, VALIDATION: self.validation}
        refuse_shared_patients(f"The probe '{self.name}'", train=self.train, **scored)
        features, labels = self._encoded(state, self.train)
        groups = bootstrap_groups(self.train.source.column("patient"))
        if self.test is None:
            return classified(self._held_out(features, labels, groups))
        probe = self._fit(features, labels, groups)
        return classified([
            self._said(probe, *self._encoded(state, data), labels, data, split=split)
            for split, data in scored.items()
            if data is not None
        ])  # fmt: skip

    def _held_out(
        self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray
    ) -> list[Predictions]:
        """What is said of the records of each fold by what was fitted on the others."""
        owner = f"The probe '{self.name}'"
        divided = cross_validation.by_patient(owner, labels, groups, self.folds, self.seed)
        return [
            self._said(self._fit(features[rows], labels[rows], groups[rows]), features[out],
                       labels[out], labels[rows], part(self.train, out), fold=fold)
            for fold, (rows, out) in enumerate(divided)
        ]  # fmt: skip

    def _encoded(self, state: TrainState, data: EvalData) -> tuple[np.ndarray, np.ndarray]:
        """Features f[N ...], and labels i[N], or f[N C] with NaN where one is not known."""
        found = self.encoder.encode_dataset(state, data, self.method, [self.image], [self.labels])
        check_labels(found[self.labels], len(self.classes))
        return found[self.image], found[self.labels]

    def _targets(self, labels: np.ndarray) -> np.ndarray:
        """f64[N C], 0 or 1; NaN where nobody said."""
        if labels.ndim == 2:
            return np.where(labels < 0, np.nan, labels.astype(np.float64))
        return np.equal(labels[:, None], np.arange(len(self.classes))).astype(np.float64)

    def _fit(self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Any:
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        raise NotImplementedError

    def _protocol(self) -> dict[str, Any]:
        """What is told of how the probe was fitted."""
        return {"name": self.name, "options": {"decision": self.decision, **self._options()}}

    def _scores(self, probe: Any, features: np.ndarray, trained: np.ndarray) -> Said:
        """What a probe, fitted on the labels `trained`, says of records."""
        probabilities = probe.probabilities(features)
        if self.decision != "balanced" or trained.ndim == 2:
            return probabilities, probabilities
        share = knn.shares(self._targets(trained))
        # A class that no record was fitted on has no share and no probability.
        return probabilities / np.where(share > 0, share, 1), probabilities

    def _placed(self, features: np.ndarray) -> plane.Placed | None:
        """Where test records lie in a plane, which is not told of every probe."""
        del features
        return None

    def _said(
        self, probe: Any, features: np.ndarray, labels: np.ndarray, trained: np.ndarray,
        data: EvalData, fold: int = -1, split: str = TEST,
    ) -> Predictions:  # fmt: skip
        """What is said of the records of `data` by what was fitted on the labels `trained`."""
        scores, probabilities = self._scores(probe, features, trained)
        told, places = about(self, labels, self._protocol()), None
        whole = self.test is not None and split == TEST  # and no part of it, as a fold is
        if whole and (placed := self._placed(features)) is not None:
            places, told["place_variance"] = placed
        return of_records(
            data.source, labels, scores, told, probabilities=probabilities, places=places,
            fold=np.full(len(labels), fold), split=split,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _OfOthers:
    """Neighbours of the stored records themselves, each among those of other patients."""

    probe: knn.Neighbours
    groups: np.ndarray

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """f64[N C] of the features of all of them."""
        return self.probe.probabilities(features, self.groups)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KNN(FrozenProbe):
    """The classes of the nearest training records, by cosine similarity of what the tower pools.

    Attributes:
      neighbours: how many are asked, and no more than the rarest class has records.
      temperature: how quickly farther ones count less (`adapters.knn`).
    """

    name: ClassVar[str] = "knn"

    neighbours: int = 20
    temperature: float = 0.07

    def _fit(self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> knn.Neighbours:
        options = {"most": self.neighbours, "temperature": self.temperature}
        return knn.fit(features, self._targets(labels), groups, **options)

    def _held_out(
        self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray
    ) -> list[Predictions]:
        """Of each record by all those of other patients; nothing is fitted, so without folds."""
        probe = _OfOthers(self._fit(features, labels, groups), groups)
        return [self._said(probe, features, labels, labels, self.train)]

    def _options(self) -> dict[str, Any]:
        return {"neighbours": self.neighbours, "temperature": self.temperature}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attentive(FrozenProbe):
    """A few learned queries that pool the tokens of a frozen tower, and a linear head.

    A fifth of the training patients is set apart to choose when to stop.

    Attributes:
      queries: how many (`adapters.attentive`); they divide the width of the tokens.
      epochs: the most epochs of training.
    """

    method: ClassVar[str] = "tokens"
    name: ClassVar[str] = "attentive"

    queries: int = 4
    epochs: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image == "eyes":
            raise InputError("attentive: a patient has no tokens of its own; score pictures.")

    def _fit(
        self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray
    ) -> attentive.AttentiveProbe:
        several = labels.ndim == 2
        # Of several labels only the number of records counts.
        strata = np.zeros(len(labels), np.int64) if several else labels
        apart = np.zeros(len(labels), bool)
        apart[few_shot_splits.held_out(strata, groups, 5, self.seed)[1]] = True
        return attentive.fit(
            features, self._targets(labels), apart, several=several, queries=self.queries,
            epochs=self.epochs, seed=self.seed,
        )  # fmt: skip

    def _options(self) -> dict[str, Any]:
        return {"queries": self.queries, "epochs": self.epochs}

"""What the head of a classifier says of records, and evaluators of a model that is not trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.text.texts import distinct
from retina_jax.decision import Decision
from retina_jax.evals.classified import VALIDATION, about, classified
from retina_jax.evals.encoder import Encoder, Need, refuse_shared_patients
from retina_jax.metrics import calibration
from retina_jax.scoring.figures import USUAL, check_metrics
from retina_jax.scoring.predictions import Predictions, of_records
from retina_jax.types import Evaluator, Results, TrainState


@dataclasses.dataclass(frozen=True)
class Head:
    """The scores of a model's own head, such as that of `tower` with classes.

    Attributes:
      encoder: runs the model.
      data: records with the batch keys `image` and `labels`.
      classes: names in the order of the labels; all that the head scores, or a part of them.
      first: the place of the first of them among all that the head scores, where they are a part.
      validation: records that thresholds and a temperature are chosen on, none of a patient in
        `data`, or None.
      prior: the share of each class in training, by which the probabilities of classes that exclude
        each other are divided: the decision that does best where all classes count alike, as in
        balanced accuracy. None decides for the most likely class.
      unit: the mean and the deviation of a quantity, in whose unit the head answers; None where it
        answers in that of the targets.
      image: the batch key that is classified.
      labels: 'label' where a record is of one class, 'labels' where it may have several, 'target'
        for a quantity, which has one name in `classes`.
      metrics: keys of METRICS, where a record is of one class.
      operating_point: the rule that chooses a threshold, see `metrics.operating_point.choose`.
      threshold_uncertainty: tell intervals of its figures too where it is chosen anew on drawn
        validation patients; the others take it as given.
    """

    encoder: Encoder
    data: EvalData
    classes: Sequence[str]
    first: int | None = None
    validation: EvalData | None = None
    prior: Sequence[float] | None = None
    unit: Sequence[float] | None = None
    image: str = "image"
    labels: str = "label"
    metrics: Sequence[str] = USUAL
    operating_point: str = "youden"
    threshold_uncertainty: bool = False

    def __post_init__(self) -> None:
        distinct(self.classes, "classes")
        check_metrics("head", self.metrics, len(self.classes), self.labels == "target")
        if self.prior is not None and len(self.prior) != len(self.classes):
            raise InputError(
                f"head: 'prior' is of {len(self.prior)} classes, and there are "
                f"{len(self.classes)}; give one share for each."
            )

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        parts = [data for data in (self.data, self.validation) if data is not None]
        return [Need(data, ["classify"], [self.image], [self.labels]) for data in parts]

    def run(self, state: TrainState) -> Results:
        """What `classified` has."""
        refuse_shared_patients("A head", test=self.data, validation=self.validation)
        parts = [self._said(state, self.data)]
        if self.validation is not None:
            parts.append(self._said(state, self.validation, VALIDATION))
        return classified(parts)

    def _said(self, state: TrainState, data: EvalData, split: str = "test") -> Predictions:
        found = self.encoder.encode_dataset(state, data, "classify", [self.image], [self.labels])
        labels, logits = found[self.labels], np.asarray(found["logits"], np.float64)
        first, count = self.first or 0, len(self.classes)
        if first + count > logits.shape[1] or (self.first is None and count < logits.shape[1]):
            raise InputError(
                f"head: the model scores {logits.shape[1]} classes and {count} are named, from "
                f"place {first} on; name as many, or say by 'first' where those of a part begin."
            )
        logits = logits[:, first : first + count]
        if self.labels == "target":
            mean, deviation = self.unit or (0.0, 1.0)
            told = about(self, labels, {"name": "head"})
            return of_records(data.source, labels, deviation * logits + mean, told, split=split)
        task = "single"
        if labels.ndim == 2:
            task, labels = "multi", np.where(np.isnan(labels), -1, labels).astype(np.int64)
        options = {"probabilities": Decision(task).probabilities(logits), "split": split}
        if task == "single":  # a softmax leaves open what is added to all logits of a record
            prior = np.ones(len(self.classes)) if self.prior is None else self.prior
            logits = calibration.log_softmax(logits) - np.log(np.asarray(prior, np.float64))
        decision = "plain" if self.prior is None else "balanced"
        told = about(self, labels, {"name": "head", "options": {"decision": decision}})
        return of_records(data.source, labels, logits, told, **options)


@dataclasses.dataclass(frozen=True)
class OfAnotherModel:
    """An evaluator of a model beside the one that is trained, such as the one it starts from.

    Attributes:
      evaluator: built with the encoder of that model.
      read: returns that model's state; called when it is first evaluated.
    """

    evaluator: Evaluator
    read: Callable[[], TrainState]

    @property
    def encoder(self) -> Encoder:
        """The encoder of that model."""
        return self.evaluator.encoder

    def needs(self) -> list[Need]:
        """Nothing of the model that is trained."""
        return []

    def run(self, state: TrainState) -> Results:
        """The results of that model, which stay the same."""
        del state
        return self._results

    @functools.cached_property
    def _results(self) -> Results:
        found = self.evaluator.run(self.read())
        if found.predictions is None:
            return found
        return dataclasses.replace(found, predictions=found.predictions.told(of="another model"))

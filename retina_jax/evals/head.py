"""What the head of a classifier says of records, and evaluators of a model that is not trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.text.texts import distinct
from retina_jax.evals.encoder import Encoder, Need
from retina_jax.evals.metrics_table import USUAL, check_metrics, class_scores
from retina_jax.types import Evaluator, Results, TrainState


@dataclasses.dataclass(frozen=True)
class Head:
    """The scores of a model's own head, such as that of `tower` with classes.

    Attributes:
      encoder: runs the model.
      data: records with the batch keys `image` and `labels`.
      classes: names in the order of the labels; all that the head scores.
      prior: the share of each class in training, by which the probabilities of classes that exclude
        each other are divided: the decision that does best where all classes count alike, as in
        balanced accuracy. None decides for the most likely class.
      image: the batch key that is classified.
      labels: 'label' where a record is of one class, 'labels' where it may have several.
      metrics: keys of METRICS, where a record is of one class.
    """

    encoder: Encoder
    data: EvalData
    classes: Sequence[str]
    prior: Sequence[float] | None = None
    image: str = "image"
    labels: str = "label"
    metrics: Sequence[str] = USUAL

    def __post_init__(self) -> None:
        distinct(self.classes, "classes")
        check_metrics("head", self.metrics, len(self.classes))
        if self.prior is not None and len(self.prior) != len(self.classes):
            raise InputError(
                f"head: 'prior' is of {len(self.prior)} classes, and there are "
                f"{len(self.classes)}; give one share for each."
            )

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        return [Need(self.data, ["classify"], [self.image], [self.labels])]

    def run(self, state: TrainState) -> Results:
        """What `class_scores` has."""
        found = self.encoder.encode_dataset(
            state, self.data, "classify", [self.image], [self.labels]
        )
        labels, scores = found[self.labels], np.float64(found["logits"])
        if scores.shape[1] != len(self.classes):
            raise InputError(
                f"head: the model scores {scores.shape[1]} classes and {len(self.classes)} are "
                "named; name as many."
            )
        if labels.ndim == 1 and self.prior is not None:
            scores = scores - np.log(np.asarray(self.prior, np.float64))
        patients = self.data.source.column("patient")
        return Results(class_scores(labels, scores, self.classes, patients, self.metrics))


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
        return self.evaluator.run(self.read())

"""Fine-tuning: a copy of the tower with a linear head, trained on a few records or on all.

For figures of protocols that repeat it; its models are gone afterwards. A classifier to keep is a
run of its own (configs/classifier.py), with the same step, loss and loop.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_pipelines import pipelines
from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.text.texts import distinct
from data_pipelines.transforms import TRANSFORMS
from retina_jax import distributed
from retina_jax.build import build
from retina_jax.evals import few_shot_splits as repeating
from retina_jax.evals import folds as cross_validation
from retina_jax.evals import quantities
from retina_jax.evals.classified import VALIDATION, about, classified
from retina_jax.evals.encoder import Encoder, Need, bootstrap_groups, part, refuse_shared_patients
from retina_jax.metrics import calibration
from retina_jax.models.layers import head_linear
from retina_jax.objectives.classification import Classification
from retina_jax.scoring.figures import METRICS, USUAL, check_labels, check_metrics
from retina_jax.scoring.predictions import Predictions, of_records
from retina_jax.train import loop, schedule, sharding
from retina_jax.train import optimizer as optimizers
from retina_jax.train.frozen import Frozen
from retina_jax.train.step import StepFn, compose, make_step
from retina_jax.types import Array, Batch, Metrics, Outputs, Results, TrainState

_logger = logging.getLogger(__name__)
# FLAIR's augmentation of photographs.
AUGMENT = ({"name": "random_flip"}, {"name": "random_affine"}, {"name": "color_jitter"})


class Classifier(nn.Module):
    """A linear map of what a model pools; parameters `model` and `head`.

    Batch statistics stay those of the pre-training, and no dropout is active: a few records of each
    class would tell little about either.

    Attributes:
      model: a model with a method `features`.
      key: the key of the batch that is classified.
      classes: number of classes C.
    """

    model: nn.Module
    key: str
    classes: int

    def setup(self) -> None:
        """Creates the head, which begins at zero."""
        self.head = head_linear(self.classes, kernel_init=nn.initializers.zeros)

    def __call__(self, batch: Batch, train: bool = False) -> Outputs:
        """`logits` f32[B C]."""
        del train
        known = tuple(LOSSES)
        return self.classify({name: x for name, x in batch.items() if not name.startswith(known)})

    def classify(self, batch: Batch) -> dict[str, Array]:
        """`logits` f32[B C] of a batch without labels."""
        features = self.model.features(batch)
        if self.key not in features:
            others = f", but for {sorted(features)}" if features else ""
            raise InputError(f"finetune: the model has no tower for '{self.key}'{others}.")
        return {"logits": self.head(features[self.key].astype(jnp.float32))}


# What the head learns of which batch key.
LOSSES = {"label": Classification(), "target": quantities.squared_error}


@dataclasses.dataclass(frozen=True)
class FineTune:
    """Trains a copy of the tower and a head, keeps what is best on validation, scores it on test.

    Attributes:
      encoder: runs the model.
      train: records with the batch keys `image` and `labels`, of which shots are drawn.
      classes: names in the order of the labels, or the one name of a quantity.
      test: records to score, none of a patient in `train`; None to cross-validate over `train`.
      validation: records to choose on, none of a patient in the others; None sets a fifth of the
        patients of `train` apart, and chooses on as many records of each class as are trained on,
        if there are so many, or, where `shots` are shares, on all that are apart.
      shots: numbers of records of each class, each of another patient where there are enough, or
        shares of a class: 1.0 for all.
      repeats: the number of repetitions of drawing, training and scoring.
      seed: the seed of the draws and of the order.
      learning_rates: highest ones, each tried; a tenth of the steps warms up, then half a cosine.
      rules: the rules of `optimizer.make`; parameters are `model/...` and `head/...`.
      weight_decay, clip: the weight decay and the largest norm of a gradient, of AdamW.
      steps: the number of steps of each training.
      checks: how often it is validated, evenly spaced; what is best is kept.
      batch_size: records of a step, drawn again and again.
      augment: random transforms of training, after those of `train`.
      metrics: keys of METRICS; the first one chooses, by its best value, then the lower loss.
      operating_point: the rule that chooses a threshold on the validation records, see
        `metrics.operating_point.choose`.
      threshold_uncertainty: tell intervals of its figures too where it is chosen anew on drawn
        validation patients; the others take it as given.
      image: the batch key that is classified.
      labels: 'label', the class of a record, or 'target', a quantity, whose shots are shares.
      folds: the number of folds of the cross-validation, which keeps each patient in one fold.
    """

    encoder: Encoder
    train: EvalData
    classes: Sequence[str]
    test: EvalData | None = None
    validation: EvalData | None = None
    shots: Sequence[int | float] = (1.0,)
    repeats: int = 1
    seed: int = 0
    learning_rates: Sequence[float] = (1e-4,)
    rules: optimizers.Rules = (("head/.*", {"learning_rate": 10.0}), (".*", {}))
    weight_decay: float = 0.01
    clip: float = 1.0
    steps: int = 500
    checks: int = 10
    batch_size: int = 32
    augment: Sequence[Mapping[str, Any]] = AUGMENT
    metrics: Sequence[str] = USUAL
    operating_point: str = "youden"
    threshold_uncertainty: bool = False
    image: str = "image"
    labels: str = "label"
    folds: int = 5

    def __post_init__(self) -> None:
        distinct(self.classes, "classes")
        if self.labels not in LOSSES:
            raise InputError(f"finetune: 'labels' is one of {list(LOSSES)}, not '{self.labels}'.")
        quantity = self.labels == "target"
        check_metrics("finetune", self.metrics, len(self.classes), quantity)
        repeating.check_shots("finetune", self.shots, len(self.classes), self.repeats, quantity)
        if self.batch_size < 1 or self.batch_size % self.encoder.mesh.size:
            raise InputError(
                f"finetune: the batch of {self.batch_size} does not divide over "
                f"{self.encoder.mesh.size} devices; use a multiple of {self.encoder.mesh.size}."
            )
        if not (1 <= self.checks <= self.steps and self.learning_rates and self.metrics):
            raise InputError(
                "finetune needs a learning rate, a figure, and 'checks' between 1 and 'steps'."
            )

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        parts = [data for data in (self.train, self.validation, self.test) if data is not None]
        return [Need(data, ["features"], [self.image], [self.labels]) for data in parts]

    def run(self, state: TrainState) -> Results:
        """'balanced_accuracy_5_shots' or '..._100_percent' and so on: means over the repeats."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        refuse_shared_patients("Fine-tuning", **parts)
        labels = self.encoder.encode_dataset(
            state, self.train, "features", [self.image], [self.labels]
        )[self.labels]
        check_labels(labels, len(self.classes))
        trainer = _Trainer(self, state)
        found: list[Predictions] = []
        for shot in self.shots:
            for number in range(self.repeats):
                found += self._repeat(trainer, labels, shot, number)
        return classified(found)

    def _repeat(
        self, trainer: _Trainer, labels: np.ndarray, shot: int | float, number: int
    ) -> Iterator[Predictions]:
        """What is said of the records of `test` and validation, or of each fold those held out."""
        everyone, seed = bootstrap_groups(self.train.source.column("patient")), self.seed + number
        if self.test is not None:
            parts = [(-1, np.arange(len(labels)), self.test)]
        else:
            divided = cross_validation.by_patient("Fine-tuning", labels, everyone, self.folds, seed)
            parts = [(k, rows, part(self.train, out)) for k, (rows, out) in enumerate(divided)]
        for fold, rows, test in parts:
            fitted, apart = self._rows(labels[rows], everyone[rows], shot, number)
            validation = self.validation or part(self.train, rows[apart])
            scored = {"test": test} if fold >= 0 else {"test": test, VALIDATION: validation}
            unit = quantities.unit(labels[rows[fitted]]) if self.labels == "target" else None
            best = trainer.best(rows[fitted], validation, seed, unit)
            for split, data in scored.items():
                named = {"setting": repeating.named(shot), "repeat": number, "split": split}
                yield self._said(*trainer.scored(best, data, unit), data, fold, **named)

    def _said(
        self, labels: np.ndarray, scores: np.ndarray, data: EvalData, fold: int, **named: Any
    ) -> Predictions:
        options = {"steps": self.steps, "learning_rates": list(self.learning_rates)}
        told = about(self, labels, {"name": "fine-tuning", "options": options})
        if self.labels == "label":
            scores = calibration.log_softmax(scores)
            named["probabilities"] = np.exp(scores)
        folds = np.full(len(labels), fold)
        return of_records(data.source, labels, scores, told, fold=folds, **named)

    def _rows(
        self, labels: np.ndarray, patients: np.ndarray, shot: int | float, number: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which of these records to train on, and which to choose on without `validation`."""
        count, seed = len(self.classes), (self.seed, number)
        if self.labels == "target":  # of no class, or of one
            labels = np.zeros(len(labels), np.int64)
        if self.validation is not None:
            return repeating.draw(labels, patients, shot, seed, count), np.zeros(0, np.int64)
        stays, apart = repeating.held_out(labels, patients, 5, self.seed + number)
        fitted = stays[repeating.draw(labels[stays], patients[stays], shot, seed, count)]
        if isinstance(shot, int):
            few = repeating.draw(labels[apart], patients[apart], shot, seed, count, at_most=True)
            apart = apart[few]
        return fitted, apart


class _Trainer:
    """Trainings that share their compiled functions."""

    def __init__(self, settings: FineTune, state: TrainState):
        self._settings, self._pretrained = settings, state
        encoder = settings.encoder
        model = Classifier(encoder.model, settings.image, len(settings.classes))
        self._encoder = Encoder(model, encoder.mesh, encoder.flip)
        self._mesh = encoder.mesh
        self._frozen = Frozen(settings.rules)
        self._loss = compose(model, (LOSSES[settings.labels],), {}, frozen=self._frozen)
        example = {k: v for k, v in settings.train.example().items() if not k.startswith("_")}
        # What the tower needs of the parameters, and no other tower's.
        self._shapes = jax.eval_shape(model.init, jax.random.key(0), example)
        self._steps: dict[float, StepFn] = {}
        self._begins: dict[float, Callable[[Any, Any], TrainState]] = {}

    def _optimizer(self, rate: float) -> optax.GradientTransformation:
        settings = self._settings
        warm = max(1, settings.steps // 10)
        spec = {"name": "adamw", "weight_decay": settings.weight_decay}
        curve = schedule.cosine(peak=rate, total=settings.steps, warmup=warm)
        return optimizers.make(spec, curve, clip=settings.clip, rules=settings.rules)

    def _start(self, rate: float) -> TrainState:
        """The pre-trained tower, copied, and a head of zeros."""
        shapes, state = self._shapes, self._pretrained
        head = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes["params"]["head"])
        model = {name: state.params[name] for name in shapes["params"]["model"]}
        kept = {
            kind: {"model": {name: state.model_state[kind][name] for name in tree["model"]}}
            for kind, tree in shapes.items()
            if kind != "params"
        }
        # Steps give away the memory of the state, and this one's belongs to who asks.
        params, kept = jax.tree.map(jnp.copy, ({"model": model, "head": head}, kept))
        return self._begin(rate, params, kept)(params, kept)

    def _begin(self, rate: float, params: Any, kept: Any) -> Callable[[Any, Any], TrainState]:
        """Parameters and batch statistics -> the state before the first step."""

        def make(params: Any, kept: Any) -> TrainState:
            step, skipped = jnp.zeros((), jnp.int32), jnp.zeros(2, jnp.int32)
            return TrainState(step, params, kept, self._optimizer(rate).init(params), skipped)

        if rate not in self._begins:
            shardings = sharding.parameters(jax.eval_shape(make, params, kept), self._mesh)
            self._begins[rate] = jax.jit(make, out_shardings=shardings)
        return self._begins[rate]

    def _step(self, rate: float, state: TrainState) -> StepFn:
        if rate not in self._steps:
            step = make_step(self._loss, self._optimizer(rate), self._frozen)
            shardings = sharding.parameters(state, self._mesh)
            self._steps[rate] = loop.jitted(step, shardings, self._mesh)
        return self._steps[rate]

    def best(
        self, rows: np.ndarray, validation: EvalData, seed: int, unit: quantities.Unit | None
    ) -> TrainState:
        """The state that is best on `validation`, over all learning rates and checks.

        Args:
          rows: the records of `train` to train on.
          validation: the records to choose on.
          seed: the seed of the order.
          unit: that in which the head learns a quantity; None for classes.
        """
        settings = self._settings
        found: tuple[tuple[float, float], TrainState] | None = None
        checked = {
            round(settings.steps * (i + 1) / settings.checks) for i in range(settings.checks)
        }

        def checks(step: int, state: TrainState, metrics: Metrics) -> bool:
            nonlocal found
            del metrics
            if step in checked:
                value = self._value(state, validation, unit)
                if found is None or value > found[0]:
                    found = value, jax.tree.map(jnp.copy, state.replace(opt_state=()))
                _logger.info(
                    "Fine-tuning on %d records at %g, step %d: %s %.4f, loss %.4f on validation.",
                    len(rows), rate, step, settings.metrics[0],
                    -value[0] if METRICS[settings.metrics[0]].lower else value[0], -value[1],
                )  # fmt: skip
            return False

        rng, data = jax.random.key(seed), self._data(rows, seed, unit)
        for rate in settings.learning_rates:
            state = self._start(rate)
            step = self._step(rate, state)
            with data.batches(0, settings.steps) as batches:
                placed = (sharding.put(b, self._mesh) for b in batches)
                loop.fit(lambda s, b, step=step: step(s, b, rng), state, placed, checks)
        assert found is not None  # the last step is checked
        return found[1]

    def _data(
        self, rows: np.ndarray, seed: int, unit: quantities.Unit | None
    ) -> pipelines.TrainData:  # fmt: skip
        """Batches of these rows of the training records, augmented."""
        settings = self._settings
        added = tuple(build(TRANSFORMS, spec) for spec in settings.augment)
        stream = pipelines.Stream(
            settings.train.source.subset(rows),
            (*settings.train.transforms, *([unit] if unit else ()), *added),
            settings.batch_size,
        )
        return pipelines.train({"": stream}, seed=seed, **distributed.share())

    def _value(
        self, state: TrainState, data: EvalData, unit: quantities.Unit | None
    ) -> tuple[float, float]:  # fmt: skip
        """The figure that chooses, higher where better, and minus the loss, between equal ones."""
        labels, scores = self.scored(state, data, unit)
        figure = METRICS[self._settings.metrics[0]]
        value = figure.of(labels, scores) * (-1 if figure.lower else 1)
        if unit is None:
            loss = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        else:
            loss = (scores[:, 0] - labels) ** 2
        return (-np.inf if np.isnan(value) else value), -float(loss.mean())

    def scored(
        self, state: TrainState, data: EvalData, unit: quantities.Unit | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels int[N] and logits f32[N C], or a quantity f32[N] and its prediction f32[N 1]."""
        key = self._settings.labels
        found = self._encoder.encode_dataset(
            state, data, "classify", [self._settings.image], [key]
        )  # fmt: skip
        check_labels(found[key], len(self._settings.classes))
        return found[key], found["logits"] if unit is None else unit.back(found["logits"])

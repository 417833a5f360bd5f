"""The types that the layers share; the names of batches and outputs are in docs/architecture.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import flax.linen as nn
import flax.struct
import jax
import numpy as np
import optax

from retina_jax.build import Call
from retina_jax.settings import Settings

Array = jax.Array
Scalar = jax.Array
Device = Any  # a jax.Device, which pyright takes for a value
Rng = jax.Array  # a typed key of jax.random.key
Params = Mapping[str, Any]
ModelState = Mapping[str, Any]  # mutable collections of the model, e.g. {'batch_stats': ...}
Batch = Mapping[str, Any]  # arrays sharing axis 0; several streams nest exactly once
Outputs = Mapping[str, Any]  # what model.__call__(batch, train) returns
Metrics = dict[str, Scalar]

Term = Callable[[Outputs, Batch], dict[str, Scalar]]
LossFn = Callable[[Params, ModelState, Batch, Rng], tuple[Scalar, tuple[Metrics, ModelState]]]


class TrainState(flax.struct.PyTreeNode):
    """All that a run needs to go on; batch k and its randomness follow from (seed, step).

    Attributes:
      step: i32[], number of batches consumed.
      params: float32 parameters.
      model_state: other collections of the model (BatchNorm statistics), possibly empty.
      opt_state: the optax state.
      skipped: i32[2], steps skipped for a non-finite gradient: in all, and in a row up to now.
      average: the moving average of `train.averaging`, or None where none is kept.
    """

    step: Array
    params: Params
    model_state: ModelState
    opt_state: Any
    skipped: Array
    average: Any = None


@dataclasses.dataclass(frozen=True)
class Score:
    """One evaluated figure.

    Attributes:
      value: the figure; NaN where it is not defined (a class without examples, say).
      low, high: its 95 % bootstrap interval, resampled by patient where patients are known.
      chance: the value expected of a model that knows nothing, or None.
      count: number of records (or queries) behind it, of one repeat where it is a mean over such.
      deviation: its standard deviation over repetitions, where it is a mean over such.
      groups: number of patients, or of what else is resampled.
      positives: how many of the records have what is looked for, where there are two outcomes.
      method: how the interval was made, 'bca-patient' for instance.
      resamples, undefined_resamples: how often was drawn, and how often the figure had no value.
      reason: why the value or the interval is not there, or is not what was asked for.
      tags: what to be wary of, 'few events' for instance.
    """

    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    count: int | None = None
    deviation: float | None = None
    groups: int | None = None
    positives: int | None = None
    method: str | None = None
    resamples: int | None = None
    undefined_resamples: int | None = None
    reason: str | None = None
    tags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Card:
    """An image or a text, or both, in a gallery.

    Attributes:
      image: u8[H W 3] or None.
      text: a caption, or ''.
      score: similarity to the query; None for the query itself.
      correct: whether it is a right answer; None for the query itself.
    """

    image: np.ndarray | None = None
    text: str = ""
    score: float | None = None
    correct: bool | None = None


@dataclasses.dataclass(frozen=True)
class Results:
    """What an evaluator returns.

    Attributes:
      scores: figures by metric name.
      gallery: (query, ranked answers) to look at.
      predictions: what a classifier said of each record (`scoring.predictions.Predictions`), from
        which its figures can be computed again; None of what is no classifier.
      tested: the records that were scored, where there are no predictions, for their hash.
      seconds: how long that took, or None.
    """

    scores: Mapping[str, Score]
    gallery: tuple[tuple[Card, tuple[Card, ...]], ...] = ()
    predictions: Any = None
    tested: Any = None
    seconds: float | None = None


class Evaluator(Protocol):
    """Built as `Evaluator(encoder=..., data=..., **options)`."""

    @property
    def encoder(self) -> Any:
        """The `evals.encoder.Encoder` that runs the model over data."""
        ...

    def needs(self) -> Sequence[Any]:
        """What `run` asks the model for, each an `evals.encoder.Need`."""
        ...

    def run(self, state: TrainState) -> Results:
        """Evaluates the parameters and model state of `state`."""
        ...


class TrainingData(Protocol):
    """Batches as a pure function of their index (data_pipelines.pipelines.train)."""

    def batches(self, start: int = 0, stop: int | None = None) -> Any:
        """A closable iterator over this process's rows of batches start ... stop - 1."""
        ...

    def example(self) -> Batch:
        """Batch 0."""
        ...


@dataclasses.dataclass(frozen=True)
class Microbatching:
    """How a batch passes the model in pieces (see `train.microbatch`).

    Attributes:
      count: microbatches of a batch.
      mesh: devices; each microbatch is spread over all of them.
      own_statistics: whether a model with batch statistics may normalise each microbatch by its
        own. That approximates the whole batch: the statistics are noisier, and the running ones
        move `count` times a step, one microbatch after another.
    """

    count: int
    mesh: jax.sharding.Mesh
    own_statistics: bool = False


class FirstVariables(Protocol):
    """What a run starts from."""

    def __call__(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fresh variables, collection -> part -> tree -> those that the run starts with."""
        ...

    def check(self) -> None:
        """Raises InputError, before any stage is trained, for a start that will not do."""
        ...

    def began(self) -> dict[str, Any]:
        """Name of an origin -> which state of it there is now, as JSON holds it."""
        ...


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a run needs, built: what `retina_jax.experiment` makes of a config.

    Attributes:
      name: the stage's name, '' for a run of one stage.
      settings: what its config says, completed.
      model: a Linen module with `__call__(batch, train)`.
      init: `init(rng, batch)`, the state before any warm start.
      loss: what is minimised: the weighted sum of the terms of all objectives.
      microbatching: how the model sees a batch in pieces; None for whole batches.
      optimizer: gradient transformation over all parameters.
      learning_rate: step -> learning rate, for the log.
      data: training batches.
      examples: rows of a global batch over all streams, for examples/s.
      evaluators: name -> evaluator.
      overlaps: evaluator -> what of its test records was trained on, as its config allows.
      preparation: address of a training set with pictures -> how they were prepared, or None.
      evaluated: the same of the evaluators' data sets.
      fingerprints: address of each data set of streams and evaluators -> a hash of its content.
      mesh: devices as ('data', 'fsdp').
      total: steps of the run.
      every: 'log', 'evaluate' and 'checkpoint' -> steps; 0 means at the end only.
      warm_start: variables (collection -> part -> tree) -> variables, applied to fresh ones; None
        to start from scratch.
      shapes: shapes and dtypes of its state.
      given: what its config names.
      calls: what was built of it, with all options.
      about: resolved settings and the hash of the weights -> what is known of the model that they
        make beside that hash (`trained.about`).
    """

    name: str
    settings: Settings
    model: nn.Module
    init: Callable[[Any, Batch], TrainState]
    loss: LossFn
    microbatching: Microbatching | None
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    data: TrainingData
    examples: int
    evaluators: Mapping[str, Evaluator]
    overlaps: Mapping[str, str]
    preparation: Mapping[str, Mapping[str, Any] | None]
    evaluated: Mapping[str, Mapping[str, Any] | None]
    fingerprints: Mapping[str, str]
    mesh: jax.sharding.Mesh
    total: int
    every: Mapping[str, int]
    warm_start: FirstVariables | None
    shapes: TrainState | None = None
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    calls: Sequence[Call] = ()
    about: Callable[[Mapping[str, Any], str | None], dict[str, Any]] | None = None

"""What a config may say: the only place where a setting is named and has a default."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from data_pipelines.errors import InputError
from retina_jax.build import call

Duration = Mapping[str, float]  # one of steps, epochs, examples, percent
Spec = Mapping[str, Any]  # {'name': an entry of a table, **its options}
# Options of models that are the tokenizer's where they are None, or left out of an entry's spec.
OF_TOKENIZER = ("vocab_size", "bos_id", "eos_id")
# Marks a setting that may change while a run goes on. A change of any other would make the second
# half of the run another experiment.
FREE = "may change"


def _empty() -> Any:
    return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Loading:
    """Processes and threads that read training data."""

    num_workers: int = 0
    num_threads: int = 2


@dataclasses.dataclass(frozen=True)
class Every:
    """How often something is done; {'steps': 0} is at the end only."""

    log: Duration = dataclasses.field(default_factory=lambda: {"steps": 10})
    evaluate: Duration = dataclasses.field(default_factory=lambda: {"steps": 0})
    checkpoint: Duration = dataclasses.field(default_factory=lambda: {"percent": 20})


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints stay, and when training ends before its total.

    Attributes:
      last: how many of the newest stay.
      best: the metric of an evaluation; the checkpoint that is best in it stays too. None for none.
      patience: training ends after so many evaluations in a row that were not better in `best`, and
        the results, exports and later stages of the run are those of its best checkpoint. None
        trains to the total and takes the last one.
    """

    last: int = 2
    best: str | None = None
    patience: int | None = None


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """All devices split the batch; `fsdp` of them also each array of at least `smallest` numbers.

    Attributes:
      data: size of the axis that splits the batch only; -1 for all devices that `fsdp` leaves.
      fsdp: size of the axis that also splits parameters and optimizer state.
      smallest: arrays of fewer numbers are replicated.
    """

    data: int = -1
    fsdp: int = 1
    smallest: int = 2**16


@dataclasses.dataclass(frozen=True)
class Optimization:
    """The optimizer and its schedule.

    Attributes:
      learning_rate: the highest one.
      optimizer: an entry of OPTIMIZERS.
      schedule: an entry of SCHEDULES, whose `warmup` and `horizon` are durations.
      clip: largest norm of the gradient; None for no clipping.
      rules: (regex over parameter names, options) pairs, see `train.optimizer.make`.
      ema: decay per step of a moving average of what is trained, e.g. 0.9999; evaluations, exports
        and runs that start from this one take the average (`train.averaging`). None for none.
    """

    learning_rate: float
    optimizer: Spec
    schedule: Spec
    clip: float | None = None
    rules: Sequence[tuple[str, Mapping[str, Any]]] = ((".*", {}),)
    ema: float | None = None


@dataclasses.dataclass(frozen=True)
class Origin:
    """Weights to start from.

    Attributes:
      take: parts of the new model, or {part of the new model: its name there}.
      ignore: parts there that are left behind on purpose.
      stage: the name of a stage before this one; or
      path: the directory of another run or of a converted model, or package:NAME, the weights in
        an installed package (`convert.packages`); or
      probe: the name of a stream: `take` is the head, which begins as a linear probe of the tower
        that the other origins fill, fitted on the records of the stream as evaluations read them
        (`evals.probed_head`).
      allow_other_pixels: take towers that were trained on pictures of another mean, deviation or
        size than those of this run; learned positions are resampled where a rule is known.
    """

    take: Sequence[str] | Mapping[str, str]
    ignore: Sequence[str] = ()
    stage: str | None = None
    path: str | None = None
    probe: str | None = None
    allow_other_pixels: bool = False


# By a name of its own, which `build` does not judge: a config may give others (see `_origins`).
Origins = Mapping[str, Origin]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the config of one stage consists of.

    Attributes:
      model: an entry of MODELS; see `OF_TOKENIZER`.
      streams: name -> options of `inputs.streams`; one is not nested in the batch, several are.
      objectives: any name -> an entry of OBJECTIVES.
      optimization: the fields of `Optimization`.
      total: duration of the training.
      epoch_of: the stream whose length defines an epoch; by default the first.
      seed: the seed of data order, augmentation, parameters and dropout.
      data_dir: where data sets lie; None for TFDS_DATA_DIR or ~/tensorflow_datasets.
      tokenizer: an entry of TOKENIZERS.
      weights: term -> factor.
      loading, every, keep, mesh: the fields of `Loading`, `Every`, `Keep` and `MeshShape`.
      restore_from: any name -> `Origin`; several fill different parts of the model.
      microbatch: rows that pass the model at a time (`train.microbatch.plan`), or None for all.
      statistics_per_microbatch: whether BatchNorm may normalise each microbatch by itself, an
        approximation; otherwise a model with batch statistics is refused.
      text_lengths: rising numbers of tokens below the 'length' of `tokenize`, e.g. (64, 128). The
        texts of a batch are cut to the smallest that holds the longest of them, which is padding
        only (`train.text_lengths`). () cuts nothing.
      most_skipped: non-finite steps in a row that end the run.
      evaluators: name -> an entry of EVALUATORS; its data sets are options of
        `inputs.evaluations`.
      at_end: names of evaluators that run once, when training is over.
      test_time_flip: whether evaluators see the mean of what the model makes of a picture and of
        its mirror image (see `evals.encoder.Encoder`).
      corpora: address of a data set -> how to get and build it, said where it is missing.
    """

    model: Spec
    streams: Mapping[str, Mapping[str, Any]]
    objectives: Mapping[str, Spec]
    optimization: Optimization
    total: Annotated[Duration, FREE]
    epoch_of: str | None = None
    seed: int = 0
    data_dir: Annotated[str | None, FREE] = None
    tokenizer: Spec = dataclasses.field(default_factory=lambda: {"name": "sentencepiece"})
    weights: Mapping[str, float] = _empty()
    loading: Annotated[Loading, FREE] = Loading()
    every: Annotated[Every, FREE] = Every()
    keep: Annotated[Keep, FREE] = Keep()
    mesh: Annotated[MeshShape, FREE] = MeshShape()
    restore_from: Origins = _empty()
    microbatch: int | None = None
    statistics_per_microbatch: bool = False
    text_lengths: Annotated[Sequence[int], FREE] = ()
    most_skipped: Annotated[int, FREE] = 20
    evaluators: Annotated[Mapping[str, Spec], FREE] = _empty()
    at_end: Annotated[Sequence[str], FREE] = ()
    test_time_flip: Annotated[bool, FREE] = False
    corpora: Annotated[Mapping[str, str], FREE] = _empty()


@dataclasses.dataclass(frozen=True)
class Stages:
    """A run of several stages, each trained in a directory of its own.

    Attributes:
      stages: name -> the settings of a stage.
      order: the names in the order in which they run; None for the order as written.
      seed, data_dir, mesh: the settings of all stages that name none of their own.
    """

    stages: Mapping[str, Mapping[str, Any]]
    order: Sequence[str] | None = None
    seed: int = 0
    data_dir: str | None = None
    mesh: Mapping[str, int] = _empty()

    def of_stage(self, name: str) -> dict[str, Any]:
        """The settings of a stage with those that all share."""
        shared = {"seed": self.seed, "data_dir": self.data_dir, "mesh": self.mesh}
        return {**shared, **self.stages[name]}


def free_settings() -> frozenset[str]:
    """Names of the settings that may change while a run goes on."""
    hints = typing.get_type_hints(Settings, include_extras=True)
    marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return frozenset(name for name, found in marks.items() if FREE in found)


def complete(where: str, given: Mapping[str, Any]) -> Settings:
    """Settings out of what a config, or the record of a run, says of them.

    What is named comes in the order of the alphabet: it means the same however it is written.

    Args:
      where: what they belong to, for messages.
      given: the fields of `Settings` that differ from the defaults.

    Raises:
      InputError: for a setting that is unknown or missing; the sentence has the known ones.
    """
    settings = call(where, Settings, **given)
    if not settings.objectives:
        raise InputError(f"{where} has no objectives, so there is nothing to train.")
    if not settings.streams:
        raise InputError(f"{where} has no streams, so there is nothing to train on.")
    first = next(iter(settings.streams))
    parts: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(Settings).items():
        value = getattr(settings, name)
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            group: Any = hint
            value = call(name, group, **_sorted(value))
        parts[name] = _sorted(value)
    parts["epoch_of"] = settings.epoch_of or first
    parts["restore_from"] = _origins(settings.restore_from)
    return Settings(**parts)


def _origins(given: Mapping[str, Any] | None) -> dict[str, Origin]:
    """Named origins; one alone may be written without a name, and is then called ''."""
    if not given:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(
            "restore_from is one origin or several by name, {'image': {'path': ..., 'take': ...}, "
            f"...}}, but this is a {type(given).__name__}."
        )
    if not all(isinstance(value, Mapping | Origin) for value in given.values()):
        given = {"": given}
    return {
        name: origin
        if isinstance(origin, Origin)
        else call(" ".join(filter(None, ("restore_from", name))), Origin, **origin)
        for name, origin in given.items()
    }


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return value

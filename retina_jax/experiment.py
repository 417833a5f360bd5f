"""ConfigDict -> Experiment: the only module that reads a config and sees every table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import optax

from data_pipelines import pipelines
from data_pipelines.errors import InputError
from data_pipelines.records import sources
from data_pipelines.text import knowledge, tokenizers
from retina_jax import inputs
from retina_jax.build import build, call, options_of
from retina_jax.convert import model_folder
from retina_jax.evals import EVALUATORS
from retina_jax.evals.encoder import Encoder
from retina_jax.models import MODELS
from retina_jax.objectives import OBJECTIVES
from retina_jax.train import loop, microbatch, restore, sharding
from retina_jax.train import optimizer as optimizers
from retina_jax.train import schedule as schedules
from retina_jax.types import Batch, Experiment, Microbatching


def build_all(
    config: ml_collections.ConfigDict, workdir: Path, devices: Sequence[jax.Device] | None = None
) -> tuple[Experiment, ...]:
    """The experiments of a config, in the order in which they run.

    Args:
      config: the options of `Settings`; or `stages`, a dict of such configs, and `order`, their
        names in the order they run, each trained in a sub-directory of `workdir`.
      workdir: directory of the run.
      devices: instead of those of this job, for a program that only compiles.

    Raises:
      InputError: for an unknown or missing option, data that is not there, a batch that does not
        fit the devices: before anything is compiled.
    """
    settings = config.to_dict()
    if "stages" not in settings:
        return (_stage("", settings, workdir, devices, ())[0],)
    several = {"workdir": workdir, "devices": devices, **settings}
    return call("A config of several stages", _stages, **several)


def _stages(
    *,
    workdir: Path,
    devices: Sequence[jax.Device] | None,
    order: Sequence[str],
    stages: Mapping[str, Mapping[str, Any]],
    seed: int,
    data_dir: str | None,
    mesh: Mapping[str, int],
) -> tuple[Experiment, ...]:
    del seed, mesh  # every stage refers to them
    if sorted(order) != sorted(stages):
        raise InputError(f"'order' names {list(order)}, but the stages are {sorted(stages)}.")
    corpora: dict[str, str] = {}
    for stage in stages.values():  # all that is missing in one sentence, not one after another
        corpora |= stage.get("corpora", {})
    inputs.check_corpora(corpora, data_dir)
    made: list[Experiment] = []
    trained: tuple[sources.Source, ...] = ()
    for name in order:
        experiment, trained = _stage(name, stages[name], workdir, devices, trained)
        made.append(experiment)
    return tuple(made)


def stage_directory(workdir: Path, name: str) -> Path:
    """Where the stage `name` of a run keeps its files."""
    return Path(workdir) / name if name else Path(workdir)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the config of one stage consists of; every option has to be there.

    Attributes:
      seed: of data order, augmentation, parameters and dropout.
      data_dir: where data sets lie; None for TFDS_DATA_DIR or ~/tensorflow_datasets.
      tokenizer: spec in TOKENIZERS.
      model: spec in MODELS; a `vocab_size`, `bos_id` or `eos_id` of None is the tokenizer's.
      streams: name -> settings of `inputs._stream`; one is not nested in the batch, several are.
      epoch_of: the stream whose length defines an epoch.
      loading: `num_workers` processes and `num_threads` threads that read training data.
      objectives: any name -> spec in OBJECTIVES.
      weights: term -> factor.
      optimization: settings of `_optimization`.
      total: duration of the training.
      every: durations `log`, `evaluate`, `checkpoint`; {'steps': 0} for only at the end.
      keep: `last` n checkpoints and the one `best` in a metric, or None.
      mesh: `data`, `fsdp`, and `smallest`, the smallest array that is split.
      restore_from: what to start from, a `stage` before this one or the `path` of another run's
        directory or of a converted model, and its parts to `take` and to `ignore`; or None.
      microbatch: rows that pass the model at a time (`train.microbatch.plan`), or None for all.
      statistics_per_microbatch: whether BatchNorm may normalise each microbatch by itself, an
        approximation; otherwise a model with batch statistics is refused.
      most_skipped: non-finite steps in a row that end the run.
      evaluators: name -> spec in EVALUATORS, whose data sets are settings of `inputs._evaluation`.
      corpora: address of a data set -> how to get and build it, said where it is missing.
    """

    seed: int
    data_dir: str | None
    tokenizer: Mapping[str, Any]
    model: Mapping[str, Any]
    streams: Mapping[str, Mapping[str, Any]]
    epoch_of: str
    loading: Mapping[str, int]
    objectives: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, float]
    optimization: Mapping[str, Any]
    total: Mapping[str, float]
    every: Mapping[str, Mapping[str, float]]
    keep: Mapping[str, Any]
    mesh: Mapping[str, int]
    restore_from: Mapping[str, Any] | None
    microbatch: int | None
    statistics_per_microbatch: bool
    most_skipped: int
    evaluators: Mapping[str, Mapping[str, Any]]
    corpora: Mapping[str, str]


def _stage(
    name: str,
    settings: Mapping[str, Any],
    workdir: Path,
    devices: Sequence[jax.Device] | None,
    trained: tuple[sources.Source, ...],
) -> tuple[Experiment, tuple[sources.Source, ...]]:
    """The experiment, and `trained`, what the stages before it draw from, with its own sources."""
    where = f"Stage '{name}' of the config" if name else "The config"
    checked = call(where, Settings, **settings)
    mesh, smallest = call("mesh", _mesh, devices=devices, **checked.mesh)
    inputs.check_corpora(checked.corpora, checked.data_dir)
    _check_names(name, checked)
    tokenizer = build(tokenizers.TOKENIZERS, checked.tokenizer)
    context = inputs.Context(tokenizer, checked.data_dir)
    streams = inputs.streams(checked.streams, checked.epoch_of, context, mesh.size)
    trained += tuple(stream.source for stream in streams.values())
    evaluations = inputs.evaluations(checked.evaluators, context, trained)
    experiment = _experiment(
        name, checked, workdir, mesh, smallest, tokenizer, streams, evaluations
    )
    return experiment, trained


def _experiment(
    name: str,
    settings: Settings,
    workdir: Path,
    mesh: jax.sharding.Mesh,
    smallest: int,
    tokenizer: tokenizers.Tokenizer,
    streams: Mapping[str, pipelines.Stream],
    evaluations: Mapping[str, inputs.Evaluation],
) -> Experiment:
    epoch = {
        "batch_size": streams[settings.epoch_of].batch_size,
        "records": len(streams[settings.epoch_of].source),
    }
    data = inputs.training_data(streams, settings.seed, settings.loading)
    example = data.example()  # checks a batch before anything is compiled
    total = schedules.steps(settings.total, **epoch)
    transformation, rate = call(
        "optimization", _optimization, **settings.optimization, total=total, **epoch
    )
    every = {
        what: schedules.steps(duration, total=total, **epoch)
        for what, duration in settings.every.items()
    }
    model = build(MODELS, inputs.with_vocabulary(settings.model, tokenizer))
    encoder = Encoder(model, mesh)
    preparation = inputs.preparations(streams.values(), settings.data_dir)
    return Experiment(
        name=name,
        model=model,
        objectives=tuple(build(OBJECTIVES, spec) for spec in settings.objectives.values()),
        weights=dict(settings.weights),
        microbatching=_microbatching(settings, streams, mesh, model, example),
        optimizer=transformation,
        learning_rate=rate,
        data=data,
        examples=sum(stream.batch_size for stream in streams.values()),
        evaluators={
            key: _evaluator(spec, encoder, tokenizer, evaluations[key].data)
            for key, spec in settings.evaluators.items()
        },
        overlaps={k: found.overlap for k, found in evaluations.items() if found.overlap},
        preparation=preparation,
        evaluated=inputs.preparations(
            [data for found in evaluations.values() for data in found.data.values()],
            settings.data_dir,
        ),
        mesh=mesh,
        smallest_shard=smallest,
        seed=settings.seed,
        total=total,
        **call("every", _intervals, **every),
        **call("keep", _kept, **settings.keep),
        most_skipped=settings.most_skipped,
        warm_start=_warm_start(settings.restore_from, workdir),
        config={**dataclasses.asdict(settings), "preparation": preparation},
    )


def _microbatching(
    settings: Settings,
    streams: Mapping[str, pipelines.Stream],
    mesh: jax.sharding.Mesh,
    model: nn.Module,
    example: Batch,
) -> Microbatching | None:
    planned = microbatch.plan(
        settings.microbatch,
        {name: stream.batch_size for name, stream in streams.items()},
        mesh,
        own_statistics=settings.statistics_per_microbatch,
    )
    if planned is not None:
        microbatch.check(model, loop.on_device_shapes(example), planned)
    return planned


def _check_names(stage: str, settings: Settings) -> None:
    if not settings.objectives:
        raise InputError(f"Stage '{stage}' has no objectives, so there is nothing to train.")
    best = settings.keep.get("best") or ""
    if best.endswith("_rank"):
        raise InputError("keep.best keeps the highest value; a rank is better when it is low.")
    evaluators = tuple(f"eval/{evaluator}/" for evaluator in settings.evaluators)
    if best and not best.startswith(evaluators):
        raise InputError(
            f"keep.best is '{best}', but metrics are named eval/<evaluator>/<metric>, with "
            f"evaluators {sorted(settings.evaluators)}."
        )


def _intervals(*, log: int, evaluate: int, checkpoint: int) -> dict[str, int]:
    return {"log_every": log, "evaluate_every": evaluate, "checkpoint_every": checkpoint}


def _kept(*, last: int, best: str | None) -> dict[str, Any]:
    return {"keep_last": last, "keep_best": best}


def _mesh(
    *, devices: Sequence[jax.Device] | None, data: int, fsdp: int, smallest: int
) -> tuple[jax.sharding.Mesh, int]:
    return sharding.make_mesh(data, fsdp, devices), smallest


def _evaluator(
    spec: Mapping[str, Any],
    encoder: Encoder,
    tokenizer: tokenizers.Tokenizer,
    data: Mapping[str, pipelines.EvalData],
) -> Any:
    """An entry of EVALUATORS, with `data` for those of its options that name data sets."""
    keywords = {**spec, **data}
    if isinstance(keywords.get("knowledge"), str):
        keywords["knowledge"] = knowledge.load(keywords["knowledge"])
    if "tokenizer" in options_of(EVALUATORS, spec):
        keywords["tokenizer"] = tokenizer
    return build(EVALUATORS, keywords, encoder=encoder)


def _optimization(
    *,
    optimizer: Mapping[str, Any],
    learning_rate: float,
    schedule: Mapping[str, Any],
    clip: float | None,
    rules: optimizers.Rules,
    batch_size: int,
    records: int,
    total: int,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    rate = schedules.learning_rate(
        schedule, learning_rate, batch_size=batch_size, records=records, total=total
    )
    return optimizers.make(optimizer, rate, clip=clip, rules=rules), rate


def _warm_start(spec: Mapping[str, Any] | None, workdir: Path) -> Callable[[Any], Any] | None:
    if spec is None:
        return None

    def start(
        take: tuple[str, ...],
        ignore: tuple[str, ...] = (),
        stage: str | None = None,
        path: str | None = None,
    ) -> Callable:
        if (stage is None) == (path is None):
            raise InputError(
                "restore_from starts from a 'stage' of this config or from a 'path', one of both."
            )
        origin = Path(path) if path is not None else stage_directory(workdir, stage)
        if path is not None and not origin.is_dir():
            raise InputError(f"restore_from.path is no directory: {origin}.")
        return lambda variables: restore.subtrees(
            variables, _variables(origin), take=take, ignore=ignore
        )

    return call("restore_from", start, **spec)


def _variables(origin: Path) -> dict[str, Any]:
    """Of the newest checkpoint of a run, or of a folder that holds a converted model."""
    if (origin / model_folder.WEIGHTS).is_file():
        return model_folder.read_folder(origin)[1]
    return restore.read_variables(origin / "checkpoints")

"""ConfigDict -> Experiment: the only module that reads a config and sees every table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import ml_collections
import optax

from data_pipelines import knowledge, pipelines, sources, storage, tokenizers, transforms
from data_pipelines.errors import InputError
from retina_jax.build import build, check_options, options
from retina_jax.evals import EVALUATORS
from retina_jax.evals.base import Encoder
from retina_jax.models import MODELS
from retina_jax.objectives import OBJECTIVES
from retina_jax.train import optimizer as optimizers
from retina_jax.train import restore, sharding
from retina_jax.train import schedule as schedules
from retina_jax.types import Experiment

T = TypeVar("T")


def build_all(
    config: ml_collections.ConfigDict,
    workdir: Path,
    devices: Sequence[jax.Device] | None = None,
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
        return (_stage("", settings, workdir, devices),)
    several = {"workdir": workdir, "devices": devices, **settings}
    return _checked("A config of several stages", _stages, **several)


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
    _check_corpora(corpora, data_dir)
    return tuple(_stage(name, stages[name], workdir, devices) for name in order)


def _checked(where: str, function: Callable[..., T], /, **keywords: Any) -> T:
    """`function(**keywords)`, or one sentence about an option of a config that it does not take."""
    check_options(where, function, keywords)
    return function(**keywords)


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
      model: spec in MODELS; a `vocab_size` of None is the tokenizer's.
      streams: name -> settings of `_stream`; one stream is not nested in the batch, several are.
      epoch_of: the stream whose length defines an epoch.
      loading: `num_workers` processes and `num_threads` threads that read training data.
      objectives: any name -> spec in OBJECTIVES.
      weights: term -> factor.
      optimization: settings of `_optimization`.
      total: duration of the training.
      every: durations `log`, `evaluate`, `checkpoint`; {'steps': 0} for only at the end.
      keep: `last` n checkpoints and the one `best` in a metric, or None.
      mesh: `data`, `fsdp`, and `smallest`, the smallest array that is split.
      restore_from: `stage` to start from, the parts to `take` and to `ignore`; or None.
      most_skipped: non-finite steps in a row that end the run.
      evaluators: name -> spec in EVALUATORS, whose data sets are settings of `_evaluation`.
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
    most_skipped: int
    evaluators: Mapping[str, Mapping[str, Any]]
    corpora: Mapping[str, str]


def _stage(
    name: str,
    settings: Mapping[str, Any],
    workdir: Path,
    devices: Sequence[jax.Device] | None,
) -> Experiment:
    where = f"Stage '{name}' of the config" if name else "The config"
    checked = _checked(where, Settings, **settings)
    mesh, smallest = _checked("mesh", _mesh, devices=devices, **checked.mesh)
    return _experiment(name, checked, workdir, mesh, smallest)


def _experiment(
    name: str, settings: Settings, workdir: Path, mesh: jax.sharding.Mesh, smallest: int
) -> Experiment:
    _check_corpora(settings.corpora, settings.data_dir)
    _check_names(name, settings)
    tokenizer = build(tokenizers.TOKENIZERS, settings.tokenizer)
    objects = {"tokenizer": tokenizer, "data_dir": settings.data_dir}
    streams = _streams(settings, objects, mesh.size)
    epoch = {
        "batch_size": streams[settings.epoch_of].batch_size,
        "records": len(streams[settings.epoch_of].source),
    }
    data = _training_data(settings, streams)
    data.example()  # checks a batch before anything is compiled
    total = schedules.steps(settings.total, **epoch)
    transformation, rate = _checked(
        "optimization", _optimization, **settings.optimization, total=total, **epoch
    )
    every = {
        what: schedules.steps(duration, total=total, **epoch)
        for what, duration in settings.every.items()
    }
    model = build(MODELS, _with_vocabulary(settings.model, tokenizer))
    encoder = Encoder(model, mesh)
    return Experiment(
        name=name,
        model=model,
        objectives=tuple(build(OBJECTIVES, spec) for spec in settings.objectives.values()),
        weights=dict(settings.weights),
        optimizer=transformation,
        learning_rate=rate,
        data=data,
        examples=sum(stream.batch_size for stream in streams.values()),
        evaluators={
            key: _evaluator(spec, encoder, objects) for key, spec in settings.evaluators.items()
        },
        mesh=mesh,
        smallest_shard=smallest,
        seed=settings.seed,
        total=total,
        **_checked("every", _intervals, **every),
        **_checked("keep", _kept, **settings.keep),
        most_skipped=settings.most_skipped,
        warm_start=_warm_start(settings.restore_from, workdir),
        config=dataclasses.asdict(settings),
    )


def _check_names(stage: str, settings: Settings) -> None:
    if not settings.objectives:
        raise InputError(f"Stage '{stage}' has no objectives, so there is nothing to train.")
    best = settings.keep.get("best") or ""
    if best.endswith("mean_rank"):
        raise InputError("keep.best keeps the highest value; a mean rank is better when it is low.")
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
    *,
    devices: Sequence[jax.Device] | None,
    data: int,
    fsdp: int,
    smallest: int,
) -> tuple[jax.sharding.Mesh, int]:
    return sharding.make_mesh(data, fsdp, devices), smallest


def _streams(
    settings: Settings, objects: Mapping[str, Any], devices: int
) -> dict[str, pipelines.Stream]:
    streams = {
        name: _checked(f"The stream '{name}'", _stream, name=name, objects=objects, **spec)
        for name, spec in settings.streams.items()
    }
    if settings.epoch_of not in streams:
        raise InputError(
            f"epoch_of names no stream: '{settings.epoch_of}'; streams: {sorted(streams)}."
        )
    for name, stream in streams.items():
        _refuse_uneven(f"the stream '{name}'", stream.batch_size, devices)
    return streams


def _refuse_uneven(what: str, batch_size: int, devices: int) -> None:
    if batch_size % devices:
        raise InputError(
            f"The batch of {batch_size} of {what} does not divide over {devices} devices; use a "
            f"multiple of {devices}."
        )


def _training_data(
    settings: Settings, streams: Mapping[str, pipelines.Stream]
) -> pipelines.TrainData:
    return _checked(
        "loading",
        pipelines.train,
        streams=streams if len(streams) > 1 else {"": streams[settings.epoch_of]},
        seed=settings.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **settings.loading,
    )


def _check_corpora(corpora: Mapping[str, str], data_dir: str | None) -> None:
    missing = [
        f"{name}: {how}" for name, how in corpora.items() if storage.find(name, data_dir) is None
    ]
    if missing:
        raise InputError(
            f"Not found in {data_dir or 'the default data folder (set --config.data_dir)'}: "
            f"{'; '.join(missing)}."
        )


def _with_vocabulary(
    model: Mapping[str, Any], tokenizer: tokenizers.Tokenizer
) -> dict[str, Any]:
    """The model's spec with each `vocab_size` of None replaced by the tokenizer's."""
    spec = {}
    for name, value in model.items():
        if isinstance(value, Mapping):
            value = _with_vocabulary(value, tokenizer)
        elif name == "vocab_size":
            value = tokenizer.vocab_size if value is None else value
            if value != tokenizer.vocab_size:
                raise InputError(
                    f"The model's vocab_size is {value}, the tokenizer's {tokenizer.vocab_size}; "
                    "make them equal, or set vocab_size to None."
                )
        spec[name] = value
    return spec


def _options_of(table: Mapping[str, Callable], spec: Mapping[str, Any]) -> tuple[str, ...]:
    """What the entry of `table` accepts; nothing for a name it lacks, which `build` refuses."""
    return options(table[spec["name"]]) if spec.get("name") in table else ()


def _transform(spec: Mapping[str, Any], tokenizer: tokenizers.Tokenizer) -> Any:
    accepted = _options_of(transforms.TRANSFORMS, spec)
    objects: dict[str, Any] = {}
    if "tokenizer" in accepted:
        objects["tokenizer"] = tokenizer
    if isinstance(spec.get("knowledge"), str):
        spec = dict(spec)
        objects["knowledge"] = knowledge.load(spec.pop("knowledge"))
    return build(transforms.TRANSFORMS, spec, **objects)


def _source(
    objects: Mapping[str, Any], dataset: str, split: str, where: Mapping[str, Any] | None
) -> sources.Source:
    return sources.load(dataset, split, objects["data_dir"], where=where)


def _stream(
    *,
    name: str,
    objects: Mapping[str, Any],
    dataset: str,
    split: str,
    batch_size: int,
    transforms: tuple[Mapping[str, Any], ...],
    where: Mapping[str, Any] | None = None,
    **sampling: Any,
) -> pipelines.Stream:
    keywords = {
        "source": _source(objects, dataset, split, where),
        "transforms": tuple(_transform(spec, objects["tokenizer"]) for spec in transforms),
        "batch_size": batch_size,
        **sampling,
    }
    return _checked(f"The stream '{name}'", pipelines.Stream, **keywords)


def _evaluation(
    *,
    objects: Mapping[str, Any],
    dataset: str,
    split: str,
    batch_size: int,
    transforms: tuple[Mapping[str, Any], ...],
    where: Mapping[str, Any] | None = None,
) -> pipelines.EvalData:
    _refuse_uneven(f"the evaluation on {dataset}", batch_size, jax.device_count())
    return pipelines.evaluate(
        _source(objects, dataset, split, where),
        tuple(_transform(spec, objects["tokenizer"]) for spec in transforms),
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _evaluator(spec: Mapping[str, Any], encoder: Encoder, objects: Mapping[str, Any]) -> Any:
    """An entry of EVALUATORS; its options that have a `dataset` become evaluation data."""
    keywords = dict(spec)
    for option, value in spec.items():
        if isinstance(value, Mapping) and "dataset" in value:
            where = f"'{option}' of the evaluator '{spec.get('name')}'"
            keywords[option] = _checked(where, _evaluation, objects=objects, **value)
    if isinstance(keywords.get("knowledge"), str):
        keywords["knowledge"] = knowledge.load(keywords["knowledge"])
    if "tokenizer" in _options_of(EVALUATORS, spec):
        keywords["tokenizer"] = objects["tokenizer"]
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

    def start(stage: str, take: tuple[str, ...], ignore: tuple[str, ...] = ()) -> Callable:
        directory = stage_directory(workdir, stage) / "checkpoints"
        return lambda variables: restore.subtrees(
            variables, restore.read_variables(directory), take=take, ignore=ignore
        )

    return _checked("restore_from", start, **spec)

"""ConfigDict -> Experiment: the only module that reads a config and sees every table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import optax

from data_pipelines import batch as batch_contract
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


def build_all(config: ml_collections.ConfigDict, workdir: Path) -> tuple[Experiment, ...]:
    """The experiments of a config, in the order in which they run.

    Args:
      config: the options of `stage_experiment`, or `stages`: a dict of such configs under names
        that sort in the order they run, each trained in a sub-directory of `workdir`.
      workdir: directory of the run.

    Raises:
      InputError: for an unknown or missing option, data that is not there, a batch that does not
        fit the devices: before anything is compiled.
    """
    settings = config.to_dict()
    if "stages" not in settings:
        return (_stage("", settings, workdir),)
    return tuple(_stage(name, settings["stages"][name], workdir) for name in settings["order"])


def stage_directory(workdir: Path, name: str) -> Path:
    """Where the stage `name` of a run keeps its files."""
    return Path(workdir) / name if name else Path(workdir)


def _stage(name: str, settings: Mapping[str, Any], workdir: Path) -> Experiment:
    where = f"Stage '{name}' of the config" if name else "The config"
    check_options(where, stage_experiment, {**settings, "stage": name, "workdir": workdir})
    return stage_experiment(stage=name, workdir=workdir, **settings)


def stage_experiment(
    *,
    stage: str,
    workdir: Path,
    seed: int,
    data_dir: str | None,
    tokenizer: Mapping[str, Any],
    model: Mapping[str, Any],
    streams: Mapping[str, Mapping[str, Any]],
    epoch_of: str,
    loading: Mapping[str, int],
    objectives: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, float],
    optimization: Mapping[str, Any],
    total: Mapping[str, float],
    every: Mapping[str, Mapping[str, float]],
    keep: Mapping[str, Any],
    mesh: Mapping[str, int],
    restore_from: Mapping[str, Any] | None,
    most_skipped: int,
    evaluators: Mapping[str, Mapping[str, Any]],
    corpora: Mapping[str, str],
) -> Experiment:
    """One stage of a run from plain settings.

    Args:
      stage: its name, '' for a run of one stage.
      workdir: of the whole run.
      seed: of data order, augmentation, parameters and dropout.
      data_dir: where data sets lie; None for TFDS_DATA_DIR or ~/tensorflow_datasets.
      tokenizer: spec in TOKENIZERS.
      model: spec in MODELS.
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
      restore_from: `stage` to start from, the subtrees to `take` and to `ignore`; or None.
      most_skipped: non-finite steps in a row that end the run.
      evaluators: name -> spec in EVALUATORS, whose data sets are settings of `_evaluation`.
      corpora: name of a data set -> how to get and build it, said where it is missing.
    """
    _check_corpora(corpora, data_dir)
    token = build(tokenizers.TOKENIZERS, tokenizer)
    objects = {"tokenizer": token, "data_dir": data_dir}
    train_streams = {name: _stream(name, objects, **spec) for name, spec in streams.items()}
    if epoch_of not in streams:
        raise InputError(f"epoch_of names no stream: {epoch_of}; streams: {sorted(streams)}.")
    data = pipelines.train(
        train_streams if len(train_streams) > 1 else {"": train_streams[epoch_of]},
        seed=seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **loading,
    )
    batch_contract.check(data.example())
    epoch = train_streams[epoch_of]
    steps = functools.partial(
        schedules.steps, batch_size=epoch.batch_size, records=len(epoch.source)
    )
    total_steps = steps(total)
    tx, learning_rate = _optimization(
        **optimization,
        batch_size=epoch.batch_size,
        records=len(epoch.source),
        total=total_steps,
    )
    split = {"smallest": 2**16, **mesh}
    smallest = split.pop("smallest")
    devices = sharding.make_mesh(**split)
    _check_divisible(train_streams, devices.size)
    module = build(MODELS, _with_vocabulary(model, token))
    encoder = Encoder(module, devices)
    return Experiment(
        name=stage,
        model=module,
        objectives=tuple(build(OBJECTIVES, spec) for spec in objectives.values()),
        weights=dict(weights),
        optimizer=tx,
        learning_rate=learning_rate,
        data=data,
        examples=sum(stream.batch_size for stream in train_streams.values()),
        evaluators={
            name: _evaluator(spec, encoder, objects) for name, spec in evaluators.items()
        },
        mesh=devices,
        smallest_shard=smallest,
        seed=seed,
        total=total_steps,
        **{f"{what}_every": steps(every[what], total=total_steps) for what in every},
        keep_last=keep["last"],
        keep_best=keep["best"],
        most_skipped=most_skipped,
        warm_start=_warm_start(restore_from, workdir),
        config=_jsonable(locals()),
    )


_SETTINGS = (
    "seed data_dir tokenizer model streams epoch_of loading objectives weights optimization total "
    "every keep mesh restore_from most_skipped evaluators corpora"
).split()


def _jsonable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in _SETTINGS}


def _check_corpora(corpora: Mapping[str, str], data_dir: str | None) -> None:
    missing = [
        f"{name}: {how}" for name, how in corpora.items() if storage.find(name, data_dir) is None
    ]
    if missing:
        raise InputError(
            f"Not found in {data_dir or 'the default data folder (set --config.data_dir)'}: "
            f"{' '.join(missing)}"
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


def _check_divisible(streams: Mapping[str, pipelines.Stream], devices: int) -> None:
    for name, stream in streams.items():
        if stream.batch_size % devices:
            raise InputError(
                f"The batch of {stream.batch_size} of the stream '{name}' does not divide over "
                f"{devices} devices; use a multiple of {devices}."
            )


def _transform(spec: Mapping[str, Any], tokenizer: tokenizers.Tokenizer) -> Any:
    accepted = options(transforms.TRANSFORMS.get(spec.get("name"), dict))
    objects: dict[str, Any] = {}
    if "tokenizer" in accepted:
        objects["tokenizer"] = tokenizer
    if isinstance(spec.get("knowledge"), str):
        spec = dict(spec)
        objects["knowledge"] = knowledge.load(spec.pop("knowledge")).classes
    return build(transforms.TRANSFORMS, spec, **objects)


def _source(
    objects: Mapping[str, Any], dataset: str, split: str, where: Mapping[str, Any] | None
) -> sources.Source:
    return sources.load(dataset, split, objects["data_dir"], where=where)


def _stream(
    name: str,
    objects: Mapping[str, Any],
    *,
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
    check_options(f"The stream '{name}'", pipelines.Stream, keywords)
    return pipelines.Stream(**keywords)


def _evaluation(
    objects: Mapping[str, Any],
    *,
    dataset: str,
    split: str,
    batch_size: int,
    transforms: tuple[Mapping[str, Any], ...],
    where: Mapping[str, Any] | None = None,
) -> pipelines.EvalData:
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
            check_options(
                f"'{option}' of the evaluator '{spec.get('name')}'",
                _evaluation,
                {"objects": objects, **value},
            )
            keywords[option] = _evaluation(objects, **value)
    if isinstance(keywords.get("knowledge"), str):
        keywords["knowledge"] = knowledge.load(keywords["knowledge"]).classes
    accepted = options(EVALUATORS.get(spec.get("name"), dict))
    if "tokenizer" in accepted:
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

    check_options("restore_from", start, spec)
    return start(**spec)

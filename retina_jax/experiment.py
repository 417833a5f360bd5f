"""ConfigDict -> Experiment: the only module that reads a config and sees every table."""

from __future__ import annotations

import dataclasses
import functools
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
from retina_jax import classifier, couplings, inputs, origins
from retina_jax import trained as trained_before
from retina_jax.build import build, call, options_of, recording
from retina_jax.convert import hashes, packages
from retina_jax.evals import EVALUATORS, probed_head, stored
from retina_jax.evals.encoder import Encoder, frozen_state
from retina_jax.evals.head import OfAnotherModel
from retina_jax.models import MODELS
from retina_jax.objectives import OBJECTIVES
from retina_jax.scoring.figures import METRICS
from retina_jax.settings import Optimization, Settings, Stages, complete
from retina_jax.train import microbatch, sharding
from retina_jax.train import optimizer as optimizers
from retina_jax.train import schedule as schedules
from retina_jax.train.frozen import Frozen
from retina_jax.train.step import compose, initialize
from retina_jax.types import Device, Experiment, LossFn, Microbatching, Term, TrainState


def build_all(
    config: ml_collections.ConfigDict | Mapping[str, Any],
    workdir: Path,
    devices: Sequence[Device] | None = None,
    opening: inputs.Opening = inputs.ON_DISK,
) -> tuple[Experiment, ...]:
    """The experiments of a config, in the order in which they run.

    Args:
      config: the options of `Settings` that differ from their defaults; or those of `Stages`, each
        stage of which is trained in a sub-directory of `workdir`; or those of
        `classifier.settings`, which has the rest from the data.
      workdir: directory of the run.
      devices, opening: instead of those of this job, and of the data and vocabularies on disk,
        for a program that only compiles.

    Raises:
      InputError: for an unknown or missing option, data that is not there, a batch that does not
        fit the devices: before anything is compiled.
    """
    given = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    if classifier.is_recipe(given):
        given = classifier.settings(given)
    if "stages" not in given:
        stages = {"": given}
    else:
        several = call("A config of several stages", Stages, **given)
        order = tuple(several.stages) if several.order is None else several.order
        if sorted(order) != sorted(several.stages):
            raise InputError(
                f"'order' names {list(order)}, but the stages are {sorted(several.stages)}."
            )
        stages = {name: several.of_stage(name) for name in order}
    settings = {
        name: complete(f"Stage '{name}' of the config" if name else "The config", stage)
        for name, stage in stages.items()
    }
    missing: dict[str | None, dict[str, str]] = {}
    for stage in settings.values():  # all that is missing in one sentence, not one after another
        missing.setdefault(stage.data_dir, {}).update(stage.corpora)
    for data_dir, corpora in missing.items():
        inputs.check_corpora(corpora, data_dir)
    made: list[Experiment] = []
    trained: tuple[sources.Source, ...] = ()
    shapes: dict[str, TrainState] = {}
    for name, stage in settings.items():
        with recording() as calls:
            experiment, trained = _stage(name, stage, workdir, devices, opening, trained)
            origins.check_stages(stage, settings)
            shapes[name] = couplings.check(experiment, shapes)
        made.append(
            dataclasses.replace(
                experiment, shapes=shapes[name], given=stages[name], calls=tuple(calls)
            )
        )
    return tuple(made)


def stage_directory(workdir: Path, name: str) -> Path:
    """Where the stage `name` of a run keeps its files."""
    return Path(workdir) / name if name else Path(workdir)


def _stage(
    name: str,
    settings: Settings,
    workdir: Path,
    devices: Sequence[Device] | None,
    opening: inputs.Opening,
    trained: tuple[sources.Source, ...],
) -> tuple[Experiment, tuple[sources.Source, ...]]:
    """The experiment, and `trained`, what the stages before it draw from, with its own sources."""
    mesh = sharding.make_mesh(settings.mesh.data, settings.mesh.fsdp, devices)
    _check_best(settings)
    tokenizer = _tokenizer(settings, opening)
    # Before data are read, which may take long.
    model = build(MODELS, inputs.with_vocabulary(settings.model, tokenizer))
    objectives = tuple(build(OBJECTIVES, spec) for spec in settings.objectives.values())
    context = inputs.Context(tokenizer, settings.data_dir, opening)
    first = settings.epoch_of or next(iter(settings.streams))
    streams = inputs.streams(settings.streams, first, context, mesh.size)
    trained += tuple(stream.source for stream in streams.values())
    directory = functools.partial(stage_directory, workdir)
    trained += tuple(trained_before.before(settings, directory(name)))
    evaluations = inputs.evaluations(settings.evaluators, context, trained)
    seen = inputs.seen(evaluations)
    scored = [data for found in evaluations.values() for data in found.data.values()]
    epoch = {"batch_size": streams[first].batch_size, "records": len(streams[first].source)}
    total = schedules.steps(settings.total, **epoch)
    transformation, rate = _optimization(settings.optimization, total=total, **epoch)
    encoder = Encoder(model, mesh, settings.test_time_flip)
    init, loss, microbatching = _functions(
        settings, model, objectives, transformation, streams, mesh
    )
    prepared = inputs.preparations(streams.values(), settings.data_dir)
    inputs.warn_of_small_pictures(streams.values(), prepared)
    probes = _probes(settings, streams, Encoder(model, mesh))
    experiment = Experiment(
        name=name,
        settings=settings,
        model=model,
        init=init,
        loss=loss,
        microbatching=microbatching,
        optimizer=transformation,
        learning_rate=rate,
        data=inputs.training_data(streams, settings.seed, dataclasses.asdict(settings.loading)),
        examples=sum(stream.batch_size for stream in streams.values()),
        evaluators=_evaluators(settings, encoder, tokenizer, evaluations),
        overlaps={k: found.overlap for k, found in evaluations.items() if found.overlap},
        preparation=prepared,
        evaluated=inputs.preparations(scored, settings.data_dir),
        fingerprints=inputs.fingerprints([*streams.values(), *scored]),
        mesh=mesh,
        total=total,
        every={
            what: schedules.steps(duration, total=total, **epoch)
            for what, duration in dataclasses.asdict(settings.every).items()
        },
        warm_start=origins.warm_start(settings, directory, probes),
        about=functools.partial(trained_before.about, directory(name), prepared, seen),
    )
    return experiment, trained


def _tokenizer(settings: Settings, opening: inputs.Opening) -> tokenizers.Tokenizer:
    if opening.tokenizer is None:
        return build(tokenizers.TOKENIZERS, packages.tokenizer_spec(settings.tokenizer))
    return opening.tokenizer(settings.tokenizer, settings.model)


def _functions(
    settings: Settings,
    model: nn.Module,
    objectives: Sequence[Term],
    optimizer: optax.GradientTransformation,
    streams: Mapping[str, pipelines.Stream],
    mesh: jax.sharding.Mesh,
) -> tuple[Callable[..., TrainState], LossFn, Microbatching | None]:
    """What makes the first state, the loss, and how it sees a batch.

    Jitted and part of whatever calls them, they are traced when the couplings are checked, and not
    again when the step is.
    """
    microbatching = microbatch.plan(
        settings.microbatch,
        {key: stream.batch_size for key, stream in streams.items()},
        mesh,
        own_statistics=settings.statistics_per_microbatch,
    )
    frozen = Frozen(settings.optimization.rules)
    averaged = None if settings.optimization.ema is None else frozen
    loss = compose(model, objectives, settings.weights, microbatching, frozen)
    init = initialize(model, optimizer, averaged)
    return jax.jit(init, inline=True), jax.jit(loss, inline=True), microbatching


def _probes(
    settings: Settings, streams: Mapping[str, pipelines.Stream], encoder: Encoder
) -> dict[str, probed_head.ProbedHead]:
    """Origin -> the head that it fits, for those with a `probe`."""
    found = {}
    for name, origin in settings.restore_from.items():
        if origin.probe is None:
            continue
        probed_head.check(tuple(origin.take), settings.model)
        if origin.probe not in streams:
            raise InputError(
                f"restore_from fits a probe on the stream '{origin.probe}'; the streams are "
                f"{sorted(streams)}."
            )
        parts = [spec.get("parts") for spec in settings.objectives.values()]
        units = [(spec["mean"], spec["scale"]) for spec in settings.objectives.values()
                 if spec["name"] == "regression"]  # fmt: skip
        data = probed_head.without_chance(streams[origin.probe])
        model = settings.model
        found[name] = probed_head.ProbedHead(
            encoder, data, model["key"], model["classes"], next(filter(None, parts), None),
            next(iter(units), None),
        )  # fmt: skip
    return found


def _check_best(settings: Settings) -> None:
    best = settings.keep.best or ""
    figure = best.rpartition("/")[2]
    low = ("squared_error", *(name for name, one in METRICS.items() if one.lower))
    of_labels = figure.startswith(("auc_", "average_precision_"))  # whatever they are called
    if not of_labels and (figure.endswith("_rank") or figure.startswith(low)):
        raise InputError(
            f"keep.best keeps the highest value, and '{figure}' is better when it is low: name "
            "another figure, for a number 'r2'."
        )
    evaluators = tuple(f"eval/{evaluator}/" for evaluator in settings.evaluators)
    if best and not best.startswith(evaluators):
        raise InputError(
            f"keep.best is '{best}', but metrics are named eval/<evaluator>/<metric>, with "
            f"evaluators {sorted(settings.evaluators)}."
        )
    late = tuple(f"eval/{evaluator}/" for evaluator in settings.at_end)
    if unknown := sorted(set(settings.at_end) - set(settings.evaluators)):
        raise InputError(
            f"at_end names the evaluator '{unknown[0]}'; there are {sorted(settings.evaluators)}."
        )
    if best and best.startswith(late):
        raise InputError(f"keep.best is '{best}', whose evaluator runs at the end only (at_end).")
    if settings.keep.patience is not None and (not best or settings.keep.patience < 1):
        raise InputError(
            "keep.patience counts evaluations, 1 or more, that are not better in keep.best; name "
            "that metric."
        )


def _evaluators(
    settings: Settings,
    encoder: Encoder,
    tokenizer: tokenizers.Tokenizer,
    evaluations: Mapping[str, inputs.Evaluation],
) -> dict[str, Any]:
    starts: dict[str, origins.Start] = {}  # what several evaluators are about is read once
    return {
        key: _evaluator(spec, encoder, tokenizer, evaluations[key].data, starts)
        for key, spec in settings.evaluators.items()
    }


def _evaluator(
    spec: Mapping[str, Any],
    encoder: Encoder,
    tokenizer: tokenizers.Tokenizer,
    data: Mapping[str, pipelines.EvalData],
    starts: dict[str, origins.Start],
) -> Any:
    """An entry of EVALUATORS, with `data` for those of its options that name data sets.

    With the option `of`, the place of a run or of a converted model, it is of that model, whose
    `features` are then read where `retina_jax.embed` wrote them to that folder.
    """
    keywords = {**spec, **data}
    if keywords.get("features") and not keywords.get("of"):
        raise InputError(
            f"The evaluator '{spec['name']}' reads features, which are of one model that stays: "
            "name that model by 'of'."
        )
    if place := keywords.pop("of", None):
        return _of_another(place, spec, encoder, tokenizer, data, starts)
    if isinstance(keywords.get("knowledge"), str):
        keywords["knowledge"] = knowledge.load(keywords["knowledge"])
    keywords.pop("features", None)
    if "tokenizer" in options_of(EVALUATORS, spec):
        keywords["tokenizer"] = tokenizer
    return build(EVALUATORS, keywords, encoder=encoder)


def evaluators_about(
    specs: Mapping[str, Mapping[str, Any]], data_dir: str | None = None
) -> dict[str, OfAnotherModel]:
    """Evaluators of models that are not trained here; their `run` needs no state.

    Args:
      specs: name -> an entry of EVALUATORS with `of`, the place of the model that it is about.
      data_dir: where data sets lie, or None.

    Raises:
      InputError: as `build_all`, for what does not fit.
    """
    tokenizer = build(tokenizers.TOKENIZERS, {"name": "sentencepiece"})  # models bring their own
    context = inputs.Context(tokenizer, data_dir)
    nothing: Any = None  # is the model of this run
    encoder = Encoder(nothing, sharding.make_mesh())
    starts: dict[str, origins.Start] = {}
    made: dict[str, OfAnotherModel] = {}
    for place in dict.fromkeys(spec["of"] for spec in specs.values()):
        own = {
            name: {key: value for key, value in spec.items() if key != "of"}
            for name, spec in specs.items()
            if spec["of"] == place
        }
        found = inputs.evaluations(own, context, trained_before.of(place, data_dir))
        for name, spec in own.items():
            made[name] = _of_another(place, spec, encoder, tokenizer, found[name].data, starts)
    return {name: made[name] for name in specs}


def _of_another(
    place: str,
    spec: Mapping[str, Any],
    encoder: Encoder,
    tokenizer: tokenizers.Tokenizer,
    data: Mapping[str, pipelines.EvalData],
    starts: dict[str, origins.Start],
) -> OfAnotherModel:
    """An entry of EVALUATORS about the model at `place`, traced against it."""
    start = starts[place] if place in starts else starts.setdefault(place, origins.read(place))
    if start.described is not None and start.described.tokenizer is not None:
        tokenizer = build(tokenizers.TOKENIZERS, start.described.tokenizer)
    model = build(MODELS, inputs.with_vocabulary(start.model, tokenizer))
    about = start.described
    flip, padding = (False, "length") if about is None else (about.test_time_flip, about.padding)
    other = Encoder(model, encoder.mesh, encoder.flip or flip, padding)
    if spec.get("features"):
        other = stored.StoredEncoder(other, _features(spec["features"], place, start))
    made = _evaluator({**spec, "of": None, "features": None}, other, tokenizer, data, {})
    if isinstance(other, stored.StoredEncoder):
        other.features.check(made.needs())
    couplings.check_evaluator(
        f"The evaluator '{spec['name']}' and the model {place}", made, start.variables
    )
    return OfAnotherModel(made, lambda: frozen_state(start.variables, other.mesh))


def _features(folder: str, place: str, start: origins.Start) -> stored.Features:
    """Those of a folder, which have to be of a start."""
    if start.described is None:
        raise InputError(f"What {place} answers is not fully described, so features tell nothing.")
    hashed = hashes.model_hash(start.described, start.variables)
    return stored.read(folder, hashed, start.described.title)


def _optimization(
    given: Optimization, *, batch_size: int, records: int, total: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    if given.ema is not None and not 0 <= given.ema < 1:
        raise InputError(
            f"optimization.ema is a share of at least 0 and less than 1, not {given.ema}; 0.9999 "
            "averages about 10,000 steps, and None averages none."
        )
    rate = schedules.learning_rate(
        given.schedule, given.learning_rate, batch_size=batch_size, records=records, total=total
    )
    return optimizers.make(given.optimizer, rate, clip=given.clip, rules=given.rules), rate

"""Settings of streams and of evaluation data -> batches, and what they must not have in common."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from grain.transforms import RandomMap

from data_pipelines import overlap, pipelines, transforms
from data_pipelines.errors import InputError
from data_pipelines.images import preparation
from data_pipelines.records import sources, storage
from data_pipelines.text import knowledge, tokenizers
from retina_jax import distributed
from retina_jax.build import build, call, options_of
from retina_jax.models import MODELS
from retina_jax.models.towers import TOWERS
from retina_jax.settings import OF_TOKENIZER

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Opening:
    """How a stage gets at what lies on disks; the defaults do.

    Attributes:
      source: as `sources.load`.
      tokenizer: (entry of TOKENIZERS, settings of the model) -> the tokenizer; None builds it.
    """

    source: Callable[..., sources.Source] = sources.load
    tokenizer: Callable[..., tokenizers.Tokenizer] | None = None


ON_DISK = Opening()


@dataclasses.dataclass(frozen=True)
class Context:
    """What all data of a stage share: the tokenizer, the folder of the data sets, their opening."""

    tokenizer: tokenizers.Tokenizer
    data_dir: str | None
    opening: Opening = ON_DISK


def check_corpora(corpora: Mapping[str, str], data_dir: str | None) -> None:
    """Raises InputError if data sets are missing.

    Args:
      corpora: address -> how to get and build it.
      data_dir: where data sets lie, or None.
    """
    missing = [
        f"{name}: {how}" for name, how in corpora.items() if storage.find(name, data_dir) is None
    ]
    if missing:
        raise InputError(
            f"Not found in {data_dir or 'the default data folder (set --config.data_dir)'}: "
            f"{'; '.join(missing)}."
        )


def streams(
    specs: Mapping[str, Mapping[str, Any]], epoch_of: str, context: Context, devices: int
) -> dict[str, pipelines.Stream]:
    """The streams of a stage.

    Args:
      specs: name -> settings of `_stream`.
      epoch_of: the name of one of them.
      context: the context of the stage.
      devices: number of devices that a batch has to divide over.

    Raises:
      InputError: for wrong settings, or data that is not there.
    """
    made = {
        name: call(f"The stream '{name}'", _stream, name=name, context=context, **spec)
        for name, spec in specs.items()
    }
    if epoch_of not in made:
        raise InputError(f"epoch_of names no stream: '{epoch_of}'; streams: {sorted(made)}.")
    for name, stream in made.items():
        _refuse_uneven(f"the stream '{name}'", stream.batch_size, devices)
    return made


def training_data(
    made: Mapping[str, pipelines.Stream], seed: int, loading: Mapping[str, int]
) -> pipelines.TrainData:
    """Batches of one stream, which are flat, or of several, which nest once."""
    return call(
        "loading",
        pipelines.train,
        streams=made if len(made) > 1 else dict(zip([""], made.values(), strict=True)),
        seed=seed,
        **distributed.share(),
        **loading,
    )


def _refuse_uneven(what: str, batch_size: int, devices: int) -> None:
    if batch_size % devices:
        raise InputError(
            f"The batch of {batch_size} of {what} does not divide over {devices} devices; use a "
            f"multiple of {devices}."
        )


def with_vocabulary(model: Mapping[str, Any], tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """The model's spec with the tokenizer's ids and sizes where it has None, or names none."""
    accepted = options_of({**MODELS, **TOWERS}, model)
    asked = {name: None for name in OF_TOKENIZER if name in accepted}
    spec = {}
    for name, value in {**asked, **model}.items():
        if isinstance(value, Mapping):
            value = with_vocabulary(value, tokenizer)
        elif name in OF_TOKENIZER:
            own = getattr(tokenizer, name)
            value = own if value is None else value
            if value != own:
                raise InputError(
                    f"The model's {name} is {value}, the tokenizer's {own}; "
                    f"make them equal, or set {name} to None."
                )
        spec[name] = value
    return spec


def _transform(spec: Mapping[str, Any], tokenizer: tokenizers.Tokenizer) -> Any:
    """An entry of TRANSFORMS; a random one may have `where`, the records that it changes."""
    spec = dict(spec)
    where = spec.pop("where", None)
    accepted = options_of(transforms.TRANSFORMS, spec)
    objects: dict[str, Any] = {}
    if "tokenizer" in accepted:
        objects["tokenizer"] = tokenizer
    if isinstance(spec.get("knowledge"), str):
        objects["knowledge"] = knowledge.load(spec.pop("knowledge"))
    made = build(transforms.TRANSFORMS, spec, **objects)
    if where is None:
        return made
    if not isinstance(made, RandomMap) or not isinstance(where, Mapping):
        raise InputError(
            f"The transform '{spec['name']}' has a 'where', which is {{field: values}} and an "
            "option of random transforms alone; the others make what all records need."
        )
    return transforms.Where(where, made)


def _stream(
    *,
    name: str,
    context: Context,
    dataset: str,
    split: str,
    batch_size: int,
    transforms: tuple[Mapping[str, Any], ...],
    where: Mapping[str, Any] | None = None,
    ban: Mapping[str, Any] | None = None,
    **sampling: Any,
) -> pipelines.Stream:
    keywords = {
        "source": context.opening.source(dataset, split, context.data_dir, where=where, ban=ban),
        "transforms": tuple(_transform(spec, context.tokenizer) for spec in transforms),
        "batch_size": batch_size,
        **sampling,
    }
    return call(f"The stream '{name}'", pipelines.Stream, **keywords)


def _evaluation(
    *,
    context: Context,
    dataset: str,
    split: str,
    batch_size: int,
    transforms: tuple[Mapping[str, Any], ...],
    where: Mapping[str, Any] | None = None,
    ban: Mapping[str, Any] | None = None,
    allow_overlap: bool = False,
) -> pipelines.EvalData:
    del allow_overlap  # of `evaluations`
    _refuse_uneven(f"the evaluation on {dataset}", batch_size, jax.device_count())
    return pipelines.evaluate(
        context.opening.source(dataset, split, context.data_dir, where=where, ban=ban),
        tuple(_transform(spec, context.tokenizer) for spec in transforms),
        batch_size=batch_size,
        **distributed.share(),
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The data of one evaluator.

    Attributes:
      data: option of the evaluator -> its data.
      overlap: what of its test records was trained on, where that is allowed; '' if nothing.
      compared: whether its records and all that was trained on could be compared.
    """

    data: Mapping[str, pipelines.EvalData]
    overlap: str
    compared: bool = True

    @property
    def seen(self) -> str:
        """Whether test records were trained on: 'yes', 'no' or 'unknown'."""
        return "yes" if self.overlap else "no" if self.compared else "unknown"


def evaluations(
    evaluators: Mapping[str, Mapping[str, Any]], context: Context, trained: Sequence[sources.Source]
) -> dict[str, Evaluation]:
    """The data of all evaluators, none of which is scored on what was trained on.

    Every data set of an evaluator is one that it is scored on, but `train` beside a `test`: that
    may be in the streams, and must not be in `test`.

    Args:
      evaluators: name -> spec; options that have a `dataset` are settings of `_evaluation`.
      context: the context of the stage.
      trained: what the streams of this stage and of those before it draw from.

    Raises:
      InputError: for wrong settings, or an overlap without `allow_overlap`.
    """
    compared: dict[str, overlap.Overlap] = {}  # evaluators share data sets
    shared: dict[str, pipelines.EvalData] = {}
    made = {}
    for name, spec in evaluators.items():
        specs = {k: v for k, v in spec.items() if isinstance(v, Mapping) and "dataset" in v}
        data = {}
        for option, value in specs.items():
            key = json.dumps(value, sort_keys=True, default=repr)
            if key not in shared:
                what = f"'{option}' of the evaluator '{spec.get('name')}'"
                shared[key] = call(what, _evaluation, context=context, **value)
            data[option] = shared[key]  # of what is alike, so that it is encoded once
        made[name] = Evaluation(data, *_overlap(name, specs, data, trained, compared))
    return made


def seen(found: Mapping[str, Evaluation]) -> dict[str, str]:
    """Evaluator -> 'yes', 'no' or 'unknown', whether its test records were trained on."""
    return {name: evaluation.seen for name, evaluation in found.items()}


def _overlap(
    name: str,
    specs: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, pipelines.EvalData],
    trained: Sequence[sources.Source],
    compared: dict[str, overlap.Overlap],
) -> tuple[str, bool]:
    """What of the test records was trained on, and whether all of it could be compared."""
    own = {"train": data["train"].source} if {"train", "test"} <= set(data) else {}
    sentences, whole = [], True
    for option in [key for key in data if key not in own]:
        test = data[option].source
        against = {f"stream {number}": source for number, source in enumerate(trained)}
        against |= {json.dumps(_records(specs[key])): source for key, source in own.items()}
        found = []
        for key, train in against.items():
            pair = f"{key} {json.dumps(_records(specs[option]))}"
            if pair not in compared:
                compared[pair] = overlap.check_overlap(train, test)
                if not compared[pair].compared:
                    why = "; ".join(dict.fromkeys(compared[pair].skipped.values()))
                    _logger.warning(
                        "Whether %s has records of %s cannot be told: %s.", test, train, why
                    )
            whole &= bool(compared[pair].compared)
            found += [compared[pair].sentence()] if compared[pair] else []
        if found and not specs[option].get("allow_overlap"):
            raise InputError(
                f"The evaluation '{name}' would be scored on training data: {'; '.join(found)}. "
                f"Choose other records (split, where), or accept it by allow_overlap=True in its "
                f"'{option}' (--config.evaluators.{name}.{option}.allow_overlap=True, in a config "
                f"of stages --config.stages.STAGE.evaluators and so on); a model that is to be "
                f"used only can be trained without evaluators (--config.evaluators={{}})."
            )
        sentences += found
    if sentences:
        _logger.warning(
            "The evaluation '%s' is scored on training data, as its config allows: %s.",
            name,
            "; ".join(sentences),
        )
    return "; ".join(sentences), whole


def _records(spec: Mapping[str, Any]) -> list[Any]:
    """What decides which records a spec selects."""
    return [spec.get(key) for key in ("dataset", "split", "where", "ban")]


def fingerprints(used: Iterable[pipelines.Stream | pipelines.EvalData]) -> dict[str, str]:
    """Address of each data set -> a hash of its content."""
    return {u.source.name: u.source.fingerprint for u in used}


def preparations(
    used: Iterable[pipelines.Stream | pipelines.EvalData], data_dir: str | None
) -> dict[str, dict[str, Any] | None]:
    """How the pictures of data sets were prepared, None for those kept as they came.

    Args:
      used: streams or evaluation data; those of text only are left out.
      data_dir: where data sets lie, or None.
    """
    pictured = {"image", "left_image", "digests"}
    with_pictures = [u.source.name for u in used if pictured & set(u.source.fields)]
    return {name: preparation.of_dataset(name, data_dir) for name in with_pictures}


def warn_of_small_pictures(
    used: Iterable[pipelines.Stream], prepared: Mapping[str, Mapping[str, Any] | None]
) -> None:
    """Logs which pictures were prepared smaller than a model is shown them."""
    for stream in used:
        kept = (prepared.get(stream.source.name) or {}).get("size")
        # Volumes have a height and a width, and None keeps the size.
        sizes = [np.max(getattr(transform, "size", None) or 0) for transform in stream.transforms]
        shown = int(max(sizes, default=0))
        if kept and shown > kept:
            _logger.warning(
                "Pictures of %s were prepared with --size=%d and are enlarged to %d pixels: "
                "prepare them again with --size=%d, where they came larger.",
                stream.source.name, kept, shown, shown,
            )  # fmt: skip

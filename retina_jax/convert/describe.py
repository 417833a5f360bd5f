"""What a folder says about a model: of a run by its config, of released weights by the registry."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError
from data_pipelines.images import preparation, single
from data_pipelines.text import knowledge
from data_pipelines.text.texts import distinct
from data_pipelines.text.tokenizers import TOKENIZERS
from data_pipelines.transforms.fields import names
from data_pipelines.transforms.pictures import Decode
from retina_jax import inputs, record
from retina_jax.build import build
from retina_jax.convert import formats, model_folder, packages, registry
from retina_jax.convert.rules import Converted
from retina_jax.models import MODELS
from retina_jax.models.towers import TOWERS

_logger = logging.getLogger(__name__)
# Evaluators from which the preprocessing is taken, first those that show the model in use.
_PREFERRED = ("head", "zeroshot", "retrieval", "captioning", "linear_probe")
_CROP = "random_resized_crop"


def run_record(workdir: Path) -> record.Record:
    """The record of a run, or of one stage of it.

    Raises:
      InputError: if there is none; the sentence names the stages that have one.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        found = (path.parent for path in Path(workdir).glob("*/config.json"))
        stages = sorted(str(stage) for stage in found if (stage / "checkpoints").is_dir())
        if stages:
            choice = " or ".join(f"--src={stage}" for stage in stages)
            raise InputError(f"The run in {workdir} has several stages: choose {choice}.")
        raise InputError(f"There is no run in {workdir}: it has no config.json.")
    return record.read_file(path)


def run(
    workdir: Path,
    step: int,
    *,
    tokenizer: str | None = None,
    title: str | None = None,
    licence: str | None = None,
    citation: str | None = None,
) -> model_folder.Description:
    """The description of a checkpoint of a run.

    Pictures are read as the first of its evaluations read them (zero-shot before the others), or
    else as the first training stream did, without what is random there. Classes, template and
    knowledge are those of its zero-shot evaluation.

    Args:
      workdir: the directory of the run, or of one stage.
      step: the step of the checkpoint.
      tokenizer: file of the tokenizer, where it is not where the config says.
      title: the name of the model; None for that of the folder.
      licence: the licence of the weights; None for none given.
      citation: a publication; None for none.

    Raises:
      InputError: if there is no run, or the file of its tokenizer is not there.
    """
    known = run_record(workdir)
    if not (Path(workdir) / "results.json").is_file():
        _logger.warning("The run in %s has not finished; this is its step %d.", workdir, step)
    return dataclasses.replace(
        of_settings(known.settings, known.preparation, tokenizer),
        title=title or Path(workdir).absolute().name,
        licence=licence,
        citation=citation,
        source=_source(Path(workdir), step, known),
        evaluated=tuple(results(workdir, step).get("scores", ())),
    )


def of_settings(
    config: Mapping[str, Any], prepared: Mapping[str, Any], tokenizer: str | None = None
) -> model_folder.Description:
    """All of `run` that follows from what a record says: what answers depend on, no origin.

    Args:
      config: the attribute `settings` of a record.
      prepared: its attribute `preparation`.
      tokenizer: file of the tokenizer, where it is not where the config says.

    Raises:
      InputError: if the file of its tokenizer is not there.
    """
    spec = _tokenizer(config["tokenizer"], tokenizer)
    evaluations = _evaluations(config)
    streams = [stream["transforms"] for stream in config["streams"].values()]
    chain = [specs for _, specs in evaluations] + streams
    pictures = next((found for specs in chain if (found := picture_transforms(specs))), ())
    zeroshot = next((e for e, _ in evaluations if e["name"] == "zeroshot"), {})
    classes = next((e["classes"] for e, _ in evaluations if "classes" in e), ())
    return model_folder.Description(
        title="",
        model=inputs.with_vocabulary(config["model"], build(TOKENIZERS, spec)),
        image_size=next(iter(picture_sizes(pictures).values()), None),
        transforms=pictures,
        preparation=_preparation(prepared),
        tokenizer=spec,
        text_length=zeroshot.get("length") or _length(chain),
        classes=zeroshot.get("classes", [c if isinstance(c, str) else c[0] for c in classes]),
        template=zeroshot.get("template"),
        knowledge=_descriptions(zeroshot),
        mode=zeroshot.get("mode", "replace"),
        renormalize=zeroshot.get("renormalize", False),
        test_time_flip=config["test_time_flip"],
    )


def _source(workdir: Path, step: int, known: record.Record) -> dict[str, Any]:
    """Which run the weights are from, and what it learned from."""
    return {
        "run": workdir.absolute().name,
        "step": step,
        "started_from": _starts(known.settings["restore_from"]),
        "trained": record.selections(known.settings["streams"]),
        "data": dict(known.fingerprints),
        "configuration": known.configuration or None,
        **_started(workdir),
    }


def _starts(origins: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a run started from, each once: names of packages with their release, runs and models."""
    found = []
    for origin in origins.values():
        place = origin["path"] or ""
        if place.startswith(packages.PREFIX):
            package = packages.PACKAGES[place.removeprefix(packages.PREFIX)]
            release = registry.released()[package.release]
            towers = ", ".join(release.towers.values())
            note = f"; {release.note}" if release.note else ""
            found.append(f"{place} ({towers}, {release.modality}, {release.licence}{note})")
        elif place or origin["stage"]:
            found.append(Path(place).name or f"the stage '{origin['stage']}'")
    return list(dict.fromkeys(found))


def _started(workdir: Path) -> dict[str, Any]:
    """'command', 'commit' and 'versions' of the last start of a run, where they are known."""
    path = workdir / "starts.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    with contextlib.suppress(ValueError, IndexError):
        last = json.loads(lines[-1])
        return {name: last.get(name) for name in ("command", "commit", "versions")}
    return {}


def results(workdir: Path, step: int | None) -> dict[str, Any]:
    """The `results.json` of a run, {} where there is none, or of another step."""
    path = Path(workdir) / "results.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["step"] == step:
            return found
    return {}


def _tokenizer(spec: Mapping[str, Any], file: str | None) -> dict[str, Any]:
    """The spec, its file being the given one; a missing file is an error."""
    if file is not None:
        spec = {**spec, model_folder.file_option(spec): file}
    spec = packages.tokenizer_spec(spec)
    model_folder.tokenizer_file(spec)
    return spec


def _evaluations(config: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Sequence]]:
    """Evaluators with the transforms of what they are scored on, the preferred ones first."""
    found = [
        (evaluator, evaluator[option]["transforms"])
        for evaluator in config["evaluators"].values()
        if not evaluator.get("of")  # which is about another model
        for option in ("data", "test", "train")
        if isinstance(evaluator.get(option), Mapping)
    ]
    order = {name: i for i, name in enumerate(_PREFERRED)}
    return sorted(found, key=lambda pair: order.get(pair[0]["name"], len(order)))


def picture_transforms(specs: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Those of the transforms that make pixels, as long as nothing random is among them.

    A random crop to a size becomes a decoding to that size.
    """
    sizes = {
        source: spec["size"]
        for spec in specs
        if spec["name"] == _CROP and spec.get("size")
        for source in names(spec.get("source", "image"))
    }
    made = []
    for spec in specs:
        if spec["name"] in single.USED:
            target = getattr(build(single.USED, spec), "target", None)
            made.append({**spec, "size": sizes[target]} if target in sizes else dict(spec))
    return tuple(made)


def picture_sizes(pictures: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Batch key -> pixels of the longer side, of those of the transforms that state a size."""
    found: dict[str, int] = {}
    for spec in pictures:
        if "size" in spec:
            key = getattr(build(single.USED, spec), "target", spec["name"])
            size = spec["size"]
            found.setdefault(key, size if isinstance(size, int) else max(size))
    return found


def _length(chain: Sequence[Sequence[Mapping[str, Any]]]) -> int | None:
    lengths = (spec["length"] for specs in chain for spec in specs if spec["name"] == "tokenize")
    return next(lengths, None)


def _preparation(by_dataset: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """How all photographs of a run were prepared; None if they were not, or not all alike."""
    ways = [preparation.options(parameters) for parameters in by_dataset.values()]
    if any(way != ways[0] for way in ways):
        _logger.warning(
            "The data sets of the run were prepared in different ways; prepare photographs "
            "yourself before the model sees them."
        )
        return None
    return (ways[0] or None) if ways else None


def _descriptions(zeroshot: Mapping[str, Any]) -> dict[str, list[str]]:
    """Class -> descriptions, of the knowledge that a zero-shot evaluation names."""
    if not zeroshot.get("knowledge"):
        return {}
    known = knowledge.load(zeroshot["knowledge"])
    return {name: list(known.get(name, ())) for name in zeroshot["classes"]}


def released(
    converted: Converted,
    path: Path,
    *,
    release: str | None = None,
    tokenizer: str | None = None,
    title: str | None = None,
    classes: Sequence[str] = (),
    template: str | None = None,
    licence: str | None = None,
) -> model_folder.Description:
    """The description of converted weights.

    Args:
      converted: the weights.
      path: their file.
      release: name in the registry; None to tell it by the file where that can be told.
      tokenizer: the file that the tokenizer needs; None leaves the folder without one.
      title: the name of the model; None for the release's, or the source's.
      classes: names, for a classifier or for zero-shot.
      template: instead of the release's.
      licence: instead of the release's.

    Raises:
      InputError: for a release that is not of this source.
    """
    classes = distinct(classes, "classes") if classes else ()
    hashed = functools.cache(registry.sha256)  # files of gigabytes are read once for it
    facts = registry.facts(converted.source, path, release, hashed)
    if warning := registry.warning(converted.source, path, hashed):
        _logger.warning("%s", warning)
    towers = {option for spec in _specs(converted.spec) for option in spec.items()
              if option[0] in ("max_length", "pool")}  # fmt: skip
    longest = min([value for option, value in towers if option == "max_length"], default=None)
    lengths = [length for length in (facts.get("text_length"), longest) if length]
    # Where the user says which release it is, nothing is in doubt.
    doubt = warning or _doubt(converted.source, facts) if release is None else ""
    return model_folder.Description(
        title=title or facts.get("name") or converted.source,
        model=converted.spec,
        image_size=converted.preprocessing.get("size"),
        transforms=_decoding(converted),
        tokenizer=_released_tokenizer(converted, facts, tokenizer),
        text_length=min(lengths, default=None),
        padding="longest" if ("pool", "flair") in towers else "length",
        classes=tuple(classes),
        template=template or facts.get("template"),
        licence=licence or facts.get("licence"),
        terms=" ".join(filter(None, (facts.get("note"), doubt))),
        citation=facts.get("citation"),
        source={
            "converted": converted.source,
            "where": facts.get("where"),
            "file": Path(path).name,
            "sha256": hashed(path),
        },
        ignored=converted.ignored,
        filled=converted.filled,
    )


def choices(converted: Converted) -> list[str]:
    """What was chosen for a source: what its files do not tell and results depend on, in words."""
    found, table = [], {**MODELS, **TOWERS}
    for spec in (spec for spec in _specs(converted.spec) if spec.get("name") in table):
        known = inspect.signature(table[spec["name"]]).parameters
        for option in ("activation", "pool", "mean", "std"):
            value = spec.get(option, known[option].default if option in known else None)
            if value is not None:
                found.append(f"{option} {value} of '{spec['name']}'")
    for spec in _decoding(converted):
        antialias = spec.get("antialias", Decode.antialias)
        found.append(
            f"pictures of {spec['size']} pixels, fit '{spec.get('fit', Decode.fit)}', "
            f"{'antialiased' if antialias else 'not antialiased'} (interpolation of the original: "
            f"{converted.preprocessing.get('interpolation', 'unknown')})"
        )
    return found


def _doubt(source: str, facts: Mapping[str, Any]) -> str:
    """That nothing but names and shapes tells which release it is; '' if its size or hash does."""
    known = facts.get("megabytes") or facts.get("sha256")
    return "" if known else f"Taken for a release of '{source}' by its names and shapes alone."


def _specs(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A spec and those inside it."""
    yield spec
    for value in spec.values():
        if isinstance(value, Mapping):
            yield from _specs(value)


def _decoding(converted: Converted) -> tuple[Mapping[str, Any], ...]:
    """The transform that reads pictures, for models of single pictures or of both eyes."""
    how = {key: converted.preprocessing[key] for key in ("size", "fit", "short_side")
           if converted.preprocessing.get(key) is not None}  # fmt: skip
    spec = converted.spec
    if "size" not in how:
        return ()
    if not converted.preprocessing.get("antialias", Decode.antialias):
        how["antialias"] = False
    if "short_side" in how:
        own = formats.SOURCES[converted.source].preprocessing_of(converted.spec)["size"]
        how |= _short_side(own, how["size"], how.pop("short_side"))
    if spec["name"] == "tripartite":
        return ({"name": "eyes", **how},)
    reads = spec.get("key") or ("image" if "image" in spec.get("towers", {"image": 1}) else None)
    return ({"name": "decode", **how},) if reads == "image" else ()


def _short_side(own: int, size: int, short_side: int) -> dict[str, int]:
    """What is scaled to before the cut: of larger pictures than the model's own nothing is cut.

    This is what RETFound's code does for other sizes (util/datasets.py, build_transform).
    """
    return {"short_side": short_side * size // own} if size <= own else {}


def _released_tokenizer(
    converted: Converted, facts: Mapping[str, Any], file: str | None
) -> dict[str, Any] | None:
    """The spec of the release's tokenizer with its file, checked against the model."""
    if not facts.get("tokenizer"):
        if file is not None:
            raise InputError(
                f"No tokenizer is known for this file of '{converted.source}', so "
                f"--tokenizer={file} cannot be read; name the --release if it has texts."
            )
        return None
    if file is None:
        _logger.warning(
            "Without --tokenizer=FILE (%s) the model reads no texts.", facts.get("tokenizer_file")
        )
        return None
    spec = dict(facts["tokenizer"])
    spec[model_folder.file_option(spec)] = file
    inputs.with_vocabulary(converted.spec, build(TOKENIZERS, spec))
    return spec

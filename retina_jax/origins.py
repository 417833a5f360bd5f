"""What a run starts from: parts of other runs and of converted models, in one table."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines import stores
from data_pipelines.errors import InputError
from retina_jax import record
from retina_jax.convert import (
    describe,
    files,
    folder_config,
    formats,
    model_folder,
    packages,
    rules,
)
from retina_jax.convert.pixels import Pixels, picture_towers
from retina_jax.models import MODELS
from retina_jax.settings import Origin, Settings
from retina_jax.train import restore

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Start:
    """What an origin holds.

    Attributes:
      variables: collection -> part -> tree of host arrays.
      told: where that is, for the table.
      pixels: how the pictures come to the model that it was trained on; None where nothing says so.
      model: its spec in MODELS, {} where nothing says so.
      converted: the entry of `convert.formats.SOURCES` that it was converted by, or None.
      described: all that an export would say of it, its tokenizer for instance, or None.
    """

    variables: Mapping[str, Any]
    told: str
    pixels: Pixels | None
    model: Mapping[str, Any]
    converted: str | None
    described: model_folder.Description | None = None


def read(place: str) -> Start:
    """The newest checkpoint of a run, a converted model, or the weights in a package.

    Args:
      place: directory of a run or of a model, as a folder or as a checkpoint; or package:NAME.

    Raises:
      InputError: if it is none of them, or is damaged.
    """
    if place.startswith(packages.PREFIX):
        return _packaged(place)
    folder = stores.near(place, "restore_from.path")
    if (folder / model_folder.WEIGHTS).is_file():
        description, variables = model_folder.read_folder(folder)
        converted = description.source.get("converted")
        model = description.model
        return Start(variables, place, pixels_of(place), model, converted, description)
    checkpoints = folder / "checkpoints"
    if (folder / "config.json").is_file():
        settings = describe.run_record(folder).settings
        # Of a run that goes on there is soon a newer one.
        step = restore.step_of_run(checkpoints, settings["keep"])
        variables = restore.read_variables(checkpoints, step)
        told = f"{place} at step {step}"
        model, described = settings["model"], _described(folder, step)
        return Start(variables, told, pixels_of(place), model, None, described)
    variables = restore.read_variables(checkpoints)
    about = restore.about(checkpoints)
    model, source = about.get("model", {}), about.get("source", {})
    return Start(variables, place, pixels_of(place), model, source.get("converted"))


def pixels_of(place: str) -> Pixels | None:
    """How pictures come to the model of an origin, by what is told beside its weights.

    Args:
      place: directory of a run or of a model; or package:NAME, whose small weights are read too.

    Returns:
      None where nothing says so.

    Raises:
      InputError: for a description that is damaged or of a later version.
    """
    if place.startswith(packages.PREFIX):
        return _packaged(place).pixels
    folder = stores.near(place, "restore_from.path")
    if (folder / model_folder.WEIGHTS).is_file():
        about = folder_config.read(folder)
        chains = [about.get("transforms", ())]
    elif (folder / "config.json").is_file():
        about = describe.run_record(folder).settings
        chains = _chains(about["streams"])
    else:
        about, chains = restore.about(folder / "checkpoints"), []
    model = about.get("model", {})
    return Pixels.of(model, chains) if model.get("name") in MODELS else None


def _described(folder: Path, step: int) -> model_folder.Description | None:
    """The description of a run; None where its tokenizer is not where its config says."""
    with contextlib.suppress(InputError):
        return describe.run(folder, step)
    return None


def state_of(place: str) -> dict[str, Any]:
    """Which state of an origin there is now, without reading its weights; {} where nothing tells.

    Args:
      place: directory of a run or of a model, or package:NAME.

    Returns:
      Of a run its 'step', hashes of what it was 'trained' with and of its 'configuration', and what
      it 'began' from itself; of converted models their 'source', or the 'weights' in a folder.
    """
    if place.startswith(packages.PREFIX):
        return {"source": place}
    folder = stores.near(place, "restore_from.path")
    if (folder / model_folder.WEIGHTS).is_file():
        return {"weights": folder_config.read(folder).get("weights")}
    if not (folder / "checkpoints").is_dir():
        return {}
    if not (folder / "config.json").is_file():
        return {"source": restore.about(folder / "checkpoints").get("source", {})}
    known = record.read_file(folder / "config.json")
    step = restore.step_of_run(folder / "checkpoints", known.settings["keep"])
    state = {"step": step, "configuration": known.configuration, "began": dict(known.began)}
    return {**state, "trained": known.trained} if known.trained else state


def _packaged(place: str) -> Start:
    found = packages.find(place.removeprefix(packages.PREFIX))
    tensors = files.read_tensors(found.weights)
    weight_format = formats.find(found.source, rules.shapes_of(tensors))
    converted = rules.convert(weight_format, tensors, **found.options)
    about = describe.released(
        converted, found.weights, release=found.release, tokenizer=found.tokenizer
    )
    pixels = Pixels.of(converted.spec, [about.transforms])
    return Start(converted.variables, place, pixels, converted.spec, converted.source, about)


def _chains(streams: Mapping[str, Mapping[str, Any]]) -> list[Sequence[Mapping[str, Any]]]:
    return [stream.get("transforms", ()) for stream in streams.values()]


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Fresh variables -> those that a run starts with; what comes from where is logged.

    Attributes:
      origins: name -> what is taken, '' for a single one.
      places: the same names -> where it lies (see `read`), read when it is called.
      model: spec of the new model.
      pixels: how pictures come to the model of the new run.
      probes: name of an origin with a `probe` -> function of the variables with all that others
        give, which returns the parameters of the part that it takes.
    """

    origins: Mapping[str, Origin]
    places: Mapping[str, str]
    model: Mapping[str, Any]
    pixels: Pixels
    probes: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict
    )

    def began(self) -> dict[str, Any]:
        """Name of an origin -> which state of it there is now (`state_of`)."""
        return {name: state_of(place) for name, place in self.places.items()}

    def check(self) -> None:
        """Whether what lies elsewhere saw other pixels, before a stage before this one is trained.

        Raises:
          InputError: as `pixels_of` and `refuse_other_pixels`.
        """
        for name, origin in self.origins.items():
            if origin.path is None or origin.allow_other_pixels:
                continue
            if not picture_towers(self.model) & set(restore.part_names(origin.take)):
                continue
            if (start := pixels_of(origin.path)) is not None:
                refuse_other_pixels(restore.option(name), origin, start, self.model, self.pixels)

    def __call__(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Collection -> part -> tree, with all that is taken in the place of what was there.

        Raises:
          InputError: as `read`, `refuse_other_pixels` and `restore.subtrees`.
        """
        begun, told = variables, {}
        for name, place in self.places.items():
            where, origin = restore.option(name), self.origins[name]
            start = read(place)
            if start.pixels is None:
                _logger.warning(
                    "Nothing in %s says on which pictures it was trained: see that mean, "
                    "deviation and size are those of this run.", start.told,
                )  # fmt: skip
            else:
                refuse_other_pixels(where, origin, start.pixels, self.model, self.pixels)
            if origin.allow_other_pixels:
                start = _resampled(start, origin, variables)
            begun = restore.subtrees(
                begun, start.variables, take=origin.take, ignore=origin.ignore, where=where
            )
            for part, there in restore.part_names(origin.take).items():
                told[part] = start.told + (f" ({there})" if there != part else "")
        for name, fit in self.probes.items():
            (part,) = restore.part_names(self.origins[name].take)
            begun = {**begun, "params": {**begun["params"], part: fit(begun)}}
            told[part] = f"probe of the stream '{self.origins[name].probe}'"
        if jax.process_index() == 0:
            _logger.info("The run starts from\n%s", table(variables["params"], told))
        return begun


def refuse_other_pixels(
    where: str, origin: Origin, start: Pixels, model: Mapping[str, Any], pixels: Pixels
) -> None:
    """Raises InputError if a tower is taken that saw other pictures than it will see.

    Args:
      where: which option the origin is, for the sentence.
      origin: what is taken.
      start: the start of the pictures that it was trained on.
      model: spec of the new model.
      pixels: how pictures come to the model of the new run.
    """
    for part, there in restore.part_names(origin.take).items():
        if part not in picture_towers(model) or origin.allow_other_pixels:
            continue
        if unlike := start.unlike(there, pixels, part):
            raise InputError(
                f"{where} takes '{part}', which was trained on pictures unlike those of this run: "
                f"{unlike}; give the model and its streams those of the start, or set "
                f"{where}.allow_other_pixels to True."
            )


def _resampled(start: Start, origin: Origin, variables: Mapping[str, Any]) -> Start:
    """With learned positions for the new number of patches, as the start's format does it."""
    if start.converted not in formats.SOURCES:
        return start
    held = start.variables["params"]
    for rule in formats.SOURCES[start.converted].rules(dict(start.model)):
        if not rule.change.resizes:
            continue
        _, there, *path = rule.paths[0].split("/")
        for new in (new for new, old in restore.part_names(origin.take).items() if old == there):
            wanted = _leaf(variables["params"], (new, *path))
            have = _leaf(held, (there, *path))
            if wanted is None or have is None or wanted.shape == have.shape:
                continue
            theirs = rule.change.to_theirs(np.asarray(have))
            fitted = rule.change.to_ours(theirs, tuple(wanted.shape))
            held = _with_leaf(held, (there, *path), fitted)
    return dataclasses.replace(start, variables={**start.variables, "params": held})


def _leaf(tree: Any, path: Sequence[str]) -> Any:
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _with_leaf(tree: Mapping[str, Any], path: Sequence[str], leaf: Any) -> dict[str, Any]:
    first, *rest = path
    return {**tree, first: _with_leaf(tree[first], rest, leaf) if rest else leaf}


def table(params: Mapping[str, Any], told: Mapping[str, str]) -> str:
    """Lines of part, parameters, and where it is from; 'random' for what is from nowhere.

    Args:
      params: part -> tree of arrays.
      told: part -> where it is from.
    """
    rows = [("part", "parameters", "from")]
    for part, tree in params.items():
        count = sum(leaf.size for leaf in jax.tree.leaves(tree))
        rows.append((part, f"{count:,}", told.get(part, "random")))
    wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return "\n".join(f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c}" for a, b, c in rows)


def warm_start(
    settings: Settings,
    stage_folder: Callable[[str], Path],
    probes: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] | None = None,
) -> WarmStart | None:
    """What `restore_from` of a stage says, checked as far as it can be before anything is there.

    Args:
      settings: the settings of the stage.
      stage_folder: name of a stage -> where it keeps its files.
      probes: what `WarmStart.probes` are.

    Returns:
      None where the run starts from nothing.

    Raises:
      InputError: for an origin without a place or with two, a path that is no directory, or two
        origins that fill one part.
    """
    if not settings.restore_from:
        return None
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, origin in settings.restore_from.items():
        where = restore.option(name)
        if [origin.stage, origin.path, origin.probe].count(None) != 2:
            raise InputError(
                f"{where} starts from a 'stage' of this config, from a 'path' or from a 'probe', "
                "one of them."
            )
        packaged = (origin.path or "").startswith(packages.PREFIX)
        if packaged:  # whether it is installed is known now
            packages.find((origin.path or "").removeprefix(packages.PREFIX))
        elif origin.path is not None and not stores.near(origin.path, where).is_dir():
            raise InputError(f"{where}.path is no directory: {origin.path}.")
        for part in restore.part_names(origin.take):
            if part in owners:
                raise InputError(
                    f"{where} and {owners[part]} both fill '{part}'; take it from one of them and "
                    "ignore it in the other."
                )
            owners[part] = where
        if origin.path is not None:
            found[name] = origin.path
        elif origin.stage is not None:
            found[name] = str(stage_folder(origin.stage))
    pixels = Pixels.of(settings.model, _chains(settings.streams))
    return WarmStart(settings.restore_from, found, settings.model, pixels, probes or {})


def check_stages(settings: Settings, stages: Mapping[str, Settings]) -> None:
    """Whether a stage takes towers from those before it that saw other pixels, before any is run.

    Args:
      settings: the settings of the stage.
      stages: name -> settings of all.

    Raises:
      InputError: as `refuse_other_pixels`.
    """
    pixels = Pixels.of(settings.model, _chains(settings.streams))
    for name, origin in settings.restore_from.items():
        if origin.stage is not None and origin.stage in stages:
            before = stages[origin.stage]
            start = Pixels.of(before.model, _chains(before.streams))
            refuse_other_pixels(restore.option(name), origin, start, settings.model, pixels)

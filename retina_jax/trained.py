"""What a run or a model was trained on, with all that it started from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines import stores
from data_pipelines.builders import BUILDERS
from data_pipelines.errors import InputError
from data_pipelines.records import sources, storage
from retina_jax import record
from retina_jax.convert import describe, folder_config, hashes, model_folder, packages, registry
from retina_jax.settings import Settings
from retina_jax.train import restore

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Behind:
    """What is known of how weights came to be.

    Attributes:
      specs: 'dataset', 'split', 'where' and 'ban' of each stream that they were trained on, and
        `data_dir` where a run names it.
      licences: those of the models that they started from, each once.
      whole: whether that is all; of published weights nothing is known.
    """

    specs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    licences: list[str] = dataclasses.field(default_factory=list)
    whole: bool = True

    def and_of(self, other: Behind) -> Behind:
        """With what is known of others that they started from."""
        licences = list(dict.fromkeys([*self.licences, *other.licences]))
        return Behind([*self.specs, *other.specs], licences, self.whole and other.whole)


def behind(place: Path | str, seen: frozenset[str] = frozenset()) -> Behind:
    """What is behind the weights in a run's directory or a converted model, and its starts.

    Args:
      place: the directory, or package:NAME; what is neither run nor model has nothing.
      seen: places that were looked at already.
    """
    if str(place).startswith(packages.PREFIX):
        package = packages.PACKAGES.get(str(place).removeprefix(packages.PREFIX))
        entry = registry.released().get(package.release if package else "")
        return Behind(licences=_stated(entry and entry.licence), whole=False)
    try:
        folder = stores.near(place, "restore_from.path")
    except InputError:  # it is no longer where it was
        return Behind(whole=False)
    if str(folder.absolute()) in seen:
        return Behind()
    seen |= {str(folder.absolute())}
    if (folder / model_folder.WEIGHTS).is_file():
        about = folder_config.read(folder)
        trained = list(about.get("source", {}).get("trained", ()))
        return Behind(trained, _stated(about.get("licence")), bool(trained))
    if not (folder / "checkpoints").is_dir():
        return Behind()
    if not (folder / "config.json").is_file():
        source = restore.about(folder / "checkpoints").get("source", {})
        return Behind(trained := list(source.get("trained", ())), whole=bool(trained))
    settings = record.read_file(folder / "config.json").settings
    own = record.selections(settings["streams"])
    found = Behind([{**spec, "data_dir": settings.get("data_dir")} for spec in own])
    return found.and_of(_starts(settings["restore_from"], folder, seen))


def _starts(
    origins: Mapping[str, Mapping[str, Any]], folder: Path, seen: frozenset[str] = frozenset()
) -> Behind:
    """What is behind all that a run in `folder` starts from."""
    found = Behind()
    for origin in origins.values():
        if origin["path"] or origin["stage"]:
            found = found.and_of(behind(origin["path"] or folder.parent / origin["stage"], seen))
    return found


def _stated(licence: str | None) -> list[str]:
    return [licence] if licence else []


def about(
    directory: Path,
    prepared: Mapping[str, Any],
    seen: Mapping[str, str],
    resolved: Mapping[str, Any],
    weights: str | None,
) -> dict[str, Any]:
    """What `results.json` says of the model of a run beside the hash of its weights.

    Args:
      directory: where the run keeps its files.
      prepared: how the pictures of each training set were prepared.
      seen: evaluator -> 'yes', 'no' or 'unknown', whether streams have records of its test set.
      resolved: its settings, with all options.
      weights: the hash of its weights, or None.

    Returns:
      'model_hash', that of its export before thresholds and calibration are fitted, or None;
      'source', 'licence' of what it started from, 'pretraining_sets' and 'seen_test_set'.
    """
    starts = _starts(resolved["restore_from"], directory)
    of_own = {spec["dataset"] for spec in resolved["streams"].values()}
    hashed = None
    with contextlib.suppress(InputError):  # a tokenizer whose file was moved
        hashed = weights and hashes.with_weights(describe.of_settings(resolved, prepared), weights)
    untold = {name: found if starts.whole or found == "yes" else "unknown"
              for name, found in seen.items()}  # fmt: skip
    return {
        "model_hash": hashed,
        "source": {name: Path(origin["path"] or origin["stage"] or "").name or None
                   for name, origin in resolved["restore_from"].items()},
        "licence": "; ".join(starts.licences) or None,
        "pretraining_sets": sorted(of_own | {str(spec["dataset"]) for spec in starts.specs}),
        "seen_test_set": untold,
    }  # fmt: skip


def before(settings: Settings, directory: Path) -> list[sources.Source]:
    """What a stage was trained on, or starts from, besides the streams of its own config.

    Args:
      settings: the settings of the stage.
      directory: where it keeps its files; the record of a run there counts, whatever the config
        says now.
    """
    places = [origin.path for origin in settings.restore_from.values() if origin.path]
    found = [spec for place in (directory, *places) for spec in behind(place).specs]
    known = [_key(spec) for spec in record.selections(settings.streams)]
    others = {key: spec for spec in found if (key := _key(spec)) not in known}
    return list(_opened(others.values(), settings.data_dir))


def of(place: Path | str, data_dir: str | None) -> list[sources.Source]:
    """What is known that the model or run at `place` was trained on, as far as it is here."""
    return list(_opened(behind(place).specs, data_dir))


def _key(spec: Mapping[str, Any]) -> str:
    return json.dumps([spec.get(key) for key in record.SELECTION], sort_keys=True)


def _opened(found: Iterable[Mapping[str, Any]], data_dir: str | None) -> Iterable[sources.Source]:
    for spec in found:
        name, split = str(spec["dataset"]), str(spec["split"])
        own = spec.get("data_dir")
        place = data_dir if own is None or storage.find(name, data_dir) is not None else own
        builder = name.partition("/")[0]
        embedded = builder in BUILDERS and getattr(BUILDERS[builder], "embedded", False)
        if storage.find(name, place) is None and not embedded:
            _logger.warning(
                "The weights were trained on %s:%s, which is not here: whether test records are "
                "among them is not known.", name, split,
            )  # fmt: skip
            continue
        try:
            yield sources.load(name, split, place, where=spec.get("where"), ban=spec.get("ban"))
        except InputError as error:
            _logger.warning("What the weights were trained on cannot be compared: %s", error)

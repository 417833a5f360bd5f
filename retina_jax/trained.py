"""What a run or a model was trained on, with all that it started from."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.builders import BUILDERS
from data_pipelines.errors import InputError
from data_pipelines.records import sources, storage
from retina_jax import record
from retina_jax.convert import model_folder, packages
from retina_jax.settings import Settings
from retina_jax.train import restore

_logger = logging.getLogger(__name__)


def specs(place: Path | str, seen: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """The selections of records behind the weights in a run's directory or a converted model.

    Args:
      place: the directory, or package:NAME; what is neither run nor model has none.
      seen: places that were looked at already.

    Returns:
      'dataset', 'split', 'where' and 'ban' of each stream of the run, of those of the runs and
      stages that it started from, and so on; `data_dir` where a run names it. Of published weights
      nothing is known.
    """
    folder = Path(place)
    if str(place).startswith(packages.PREFIX) or str(folder.absolute()) in seen:
        return []
    seen |= {str(folder.absolute())}
    if (folder / model_folder.WEIGHTS).is_file():
        return list(model_folder.stated(folder).get("source", {}).get("trained", ()))
    if not (folder / "checkpoints").is_dir():
        return []
    if not (folder / "config.json").is_file():
        return list(restore.about(folder / "checkpoints").get("source", {}).get("trained", ()))
    settings = record.read_file(folder / "config.json").settings
    found = [
        {**s, "data_dir": settings.get("data_dir")} for s in record.selections(settings["streams"])
    ]
    for origin in settings["restore_from"].values():
        if origin["path"] or origin["stage"]:
            found += specs(origin["path"] or folder.parent / origin["stage"], seen)
    return found


def before(settings: Settings, directory: Path) -> list[sources.Source]:
    """What a stage was trained on, or starts from, besides the streams of its own config.

    Args:
      settings: the settings of the stage.
      directory: where it keeps its files; the record of a run there counts, whatever the config
        says now.
    """
    places = [origin.path for origin in settings.restore_from.values() if origin.path]
    found = [spec for place in (directory, *places) for spec in specs(place)]
    known = [_key(spec) for spec in record.selections(settings.streams)]
    others = {key: spec for spec in found if (key := _key(spec)) not in known}
    return list(_opened(others.values(), settings.data_dir))


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

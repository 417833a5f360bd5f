"""Whose directory a run directory is, and whose its results are."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import textwrap
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from data_pipelines import places
from data_pipelines.errors import InputError
from data_pipelines.images import preparation
from retina_jax import record
from retina_jax.settings import free_settings
from retina_jax.train.restore import part_names
from retina_jax.types import Experiment

# Inside these two, how the same numbers are computed may change.
_COMPUTED = ("model", "objectives")
_WAYS = frozenset("attention blockwise remat scan".split())
# May change while a run goes on, and change its results.
_SCORED = ("evaluators", "test_time_flip")
_TOLD = 3  # options of another value that are named
_CLAIMED: set[Path] = set()
_logger = logging.getLogger(__name__)


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that have to stay as they are."""
    free = free_settings()
    fixed = {name: value for name, value in config.items() if name not in free}
    for name in fixed.keys() & set(_COMPUTED):
        fixed[name] = _without_ways(fixed[name])
    if not fixed.get("statistics_per_microbatch"):
        fixed.pop("microbatch", None)  # otherwise it is what BatchNorm normalises over
    # The names of origins, the order of parts, and what is left behind change no number.
    fixed["restore_from"] = sorted(map(_origin, fixed.get("restore_from", {}).values()))
    return fixed


def _origin(given: Mapping[str, Any]) -> str:
    return json.dumps({**given, "take": part_names(given["take"]), "ignore": None}, sort_keys=True)


def _without_ways(settings: Any) -> Any:
    if not isinstance(settings, Mapping):
        return settings
    kept = (k for k in settings if k not in _WAYS or isinstance(settings[k], Mapping))
    return {k: _without_ways(settings[k]) for k in kept}


def _changed(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """Which data sets were prepared again in another way, in words; '' if none was."""
    shared = [name for name in now if name in before]
    differences = {name: preparation.difference(now[name], before[name]) for name in shared}
    return "; ".join(f"{name}: {what}" for name, what in differences.items() if what)


@contextlib.contextmanager
def claimed(workdir: Path) -> Generator[None]:
    """Keeps other programs from writing a run directory; the first process does so for all.

    What this process has claimed it may claim again inside.

    Raises:
      InputError: if another process writes there, or nothing can be written.
    """
    place = Path(workdir).absolute()
    if jax.process_index() != 0 or place in _CLAIMED:
        yield
        return
    with places.claimed(place, "trains in this directory"):
        _CLAIMED.add(place)
        try:
            yield
        finally:
            _CLAIMED.remove(place)


def check_run_directory(
    workdir: Path, experiment: Experiment, step: int, scored: int | None = None
) -> bool:  # fmt: skip
    """Writes `config.json`, unless the directory is another run's, and sets old results aside.

    Args:
      workdir: the run's directory.
      experiment: what is about to run there.
      step: where it stands.
      scored: the step of its best checkpoint, where training is over and the results are of that
        one (`keep.patience`); None where they are of the last step.

    Returns:
      Whether `results.json` is there and is that of this config, of that step and of the data
      sets as they are now. Results of anything else are renamed to `results-before.json`.

    Raises:
      InputError: if the run there has other settings, is longer than this config's, was trained on
        other data of the same address, or started from a stage that is another by now.
    """
    if step > experiment.total:
        raise InputError(
            f"The run in {workdir} is at step {step}, beyond the {experiment.total} steps of this "
            "config; raise 'total' or use another --workdir."
        )
    path = workdir / "config.json"
    resolved, began = resolved_settings(experiment), {}
    trained = _hash(_fixed(resolved))
    if experiment.warm_start is not None:
        began = json.loads(json.dumps(experiment.warm_start.began()))
    stored = path.read_text("utf-8") if path.exists() else ""
    if stored:
        known = record.read_file(path)
        _refuse_another(workdir, experiment, known, resolved)
        if step > 0:
            _refuse_other_beginning(workdir, experiment, known.began, began)
            began = known.began
            trained = known.trained or trained  # options that came since then change nothing
    text = _text(experiment, resolved, {"began": began, "trained": trained})
    results = workdir / "results.json"
    over = step == experiment.total or scored is not None
    of = identity(experiment, step if scored is None else scored)
    current = over and _identity(results) == of
    if jax.process_index() == 0:
        if results.exists() and not current:
            _logger.info("%s is not of this run as it is now: it is set aside.", results)
            results.replace(workdir / "results-before.json")
        if stored != text:
            places.write_whole(path, text)  # which the other processes read
    return current


def identity(experiment: Experiment, step: int) -> dict[str, Any]:
    """What results belong to: goes into `results.json` under 'of'.

    Args:
      experiment: what was run.
      step: the step of the parameters that were scored.

    Returns:
      'configuration' (a hash of the settings), 'step', and 'data', {address: hash of its content}.
    """
    return {
        "configuration": _configuration(resolved_settings(experiment)),
        "step": step,
        "data": dict(experiment.fingerprints),
    }


def check_stages(stages: Sequence[Experiment], directories: Sequence[Path]) -> None:
    """Refuses, before any stage is trained, a start that will not do.

    That is, of a stage that has begun, a shorter stage before it; and of others a model that saw
    other pixels.

    Args:
      stages: the stages of a run.
      directories: where each keeps its files.

    Raises:
      InputError: names the stage whose directory is in the way, or the option of the start.
    """
    # Where a run takes its best checkpoint, nobody knows yet which one that will be.
    totals = {stage.name: stage.total for stage in stages if stage.settings.keep.patience is None}
    for stage, directory in zip(stages, directories, strict=True):
        if not (directory / "config.json").exists():
            if stage.warm_start is not None:
                stage.warm_start.check()
            continue
        known = record.read_file(directory / "config.json").began
        will_be = {
            name: {**found, "step": totals[origin.stage]}
            for name, origin in stage.settings.restore_from.items()
            if origin.stage in totals and "step" in (found := known.get(name, {}))
        }
        _refuse_other_beginning(directory, stage, known, will_be)


def _identity(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8")).get("of")
    except (OSError, ValueError, AttributeError):
        return None


def resolved_settings(experiment: Experiment) -> dict[str, Any]:
    """Its settings as JSON holds them, with all options."""
    return record.resolve(record.tree(experiment.settings), experiment.calls)


def _configuration(resolved: Mapping[str, Any]) -> str:
    """A hash of all settings that results depend on."""
    return _hash({**_fixed(resolved), **{name: resolved[name] for name in _SCORED}})


def _hash(settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _refuse_another(
    workdir: Path, experiment: Experiment, known: record.Record, resolved: Mapping[str, Any]
) -> None:
    """Raises InputError unless the run of a record may go on as `experiment`."""
    before = record.resolve(known.settings, experiment.calls, ran=record.tree(experiment.settings))
    fixed, now = _fixed(before), _fixed(resolved)
    differs = sorted(key for key in fixed if fixed[key] != now.get(key))
    if differs:
        for of in (fixed, now):
            of["restore_from"] = [json.loads(origin) for origin in of["restore_from"]]
        one, two = ({key: of.get(key) for key in differs} for of in (now, fixed))
        told = _differences(one, two)
        more = f" and {len(told) - _TOLD} more (see its config.json)" if len(told) > _TOLD else ""
        raise InputError(
            f"{workdir} holds a run with another {', '.join(differs)}: {', '.join(told[:_TOLD])}"
            f"{more}; use another --workdir, or the config that it was started with."
        )
    if changed := _changed(experiment.preparation, known.preparation):
        raise InputError(
            f"The run in {workdir} was trained on other pictures: {changed}; prepare them as "
            "before, or use another --workdir."
        )
    trained = {stream["dataset"] for stream in experiment.settings.streams.values()}
    if other := sorted(
        name
        for name in trained & set(known.fingerprints) & set(experiment.fingerprints)
        if known.fingerprints[name] != experiment.fingerprints[name]
    ):
        raise InputError(
            f"The run in {workdir} was trained on another content of {', '.join(other)}, which was "
            "built again since; use another --workdir, or the data set as it was."
        )
    if experiment.settings.keep.best and any(before[key] != resolved[key] for key in _SCORED):
        _logger.warning(
            "The evaluators are not those of before: the checkpoint that is best in %s was chosen "
            "by both.", experiment.settings.keep.best,
        )  # fmt: skip


def _differences(now: Any, before: Any, option: str = "") -> list[str]:
    """'model.width is 8 instead of 4' of each option of trees of settings that differs."""
    kinds: list[Any] = [dict(enumerate(of)) if isinstance(of, list) else of for of in (now, before)]
    if all(isinstance(of, Mapping) for of in kinds):
        one, two = kinds
        around = f"{option}." if option else ""
        names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
        return [
            told
            for name in names
            for told in _differences(one.get(name), two.get(name), f"{around}{name}")
        ]
    values = (textwrap.shorten(json.dumps(of, default=str), 60) for of in (now, before))
    return [f"{option} is {' instead of '.join(values)}"]


def _refuse_other_beginning(
    workdir: Path, experiment: Experiment, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Raises InputError if the run began from a stage that is another now; warns of other runs."""
    for name, origin in experiment.settings.restore_from.items():
        if name not in before or name not in now or _alike(before[name], now[name]):
            continue
        then, today = (f"step {state.get('step', '?')}" for state in (before[name], now[name]))
        if origin.stage is None:
            _logger.warning(
                "%s began from %s as it was at %s, which is another now.",
                workdir, origin.path, then,
            )  # fmt: skip
            continue
        what = f"it is at {today} now" if then != today else "it was trained anew since"
        raise InputError(
            f"The run in {workdir} began from stage '{origin.stage}' at {then}, and {what}: delete "
            f"{workdir} to train it again, or use another --workdir."
        )


def _alike(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two states of an origin have the same weights, however these were evaluated."""
    told = all("trained" in state for state in (before, now))
    left_out = "configuration" if told else "trained"
    one, two = ({k: v for k, v in of.items() if k != left_out} for of in (before, now))
    return one == two


def _text(experiment: Experiment, resolved: Mapping[str, Any], depends: Mapping[str, Any]) -> str:
    """What goes into `config.json`: as given, with all options, and on what it depends."""
    parts = {
        "given": experiment.given,
        "resolved": resolved,
        "preparation": experiment.preparation,
        "fingerprints": experiment.fingerprints,
        "configuration": _configuration(resolved),
        **depends,
    }
    return json.dumps(parts, indent=2, default=str) + "\n"

"""Whose directory a run directory is."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from data_pipelines.errors import InputError
from data_pipelines.images import preparation
from retina_jax import record
from retina_jax.settings import free_settings
from retina_jax.types import Experiment

# Inside these two, how the same numbers are computed may change.
_COMPUTED = ("model", "objectives")
_WAYS = frozenset("attention blockwise remat scan".split())


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
    take = given["take"]
    parts = take if isinstance(take, Mapping) else {name: name for name in take}
    return json.dumps({**given, "take": parts, "ignore": None}, sort_keys=True)


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


def check_run_directory(workdir: Path, experiment: Experiment, step: int) -> bool:
    """Writes `config.json`, unless the directory is another run's.

    Args:
      workdir: the run's directory.
      experiment: what is about to run there.
      step: where it stands.

    Returns:
      Whether `results.json` is there and made by the evaluators of this config, in their way.

    Raises:
      InputError: if the run there has other settings, or is longer than this config's.
    """
    if step > experiment.total:
        raise InputError(
            f"The run in {workdir} is at step {step}, beyond the {experiment.total} steps of this "
            "config; raise 'total' or use another --workdir."
        )
    path = workdir / "config.json"
    settings = record.tree(experiment.settings)
    resolved = record.resolve(settings, experiment.calls)
    text = _text(experiment, resolved)
    before, pictures = resolved, {}
    stored = path.read_text("utf-8") if path.exists() else ""
    if stored:
        known = record.read_file(path)
        before = record.resolve(known.settings, experiment.calls, ran=settings)
        pictures = known.preparation
    fixed, now = _fixed(before), _fixed(resolved)
    differs = sorted(key for key in fixed if fixed[key] != now.get(key))
    if differs:
        raise InputError(
            f"{workdir} holds a run with another {', '.join(differs)} (see its config.json); use "
            "another --workdir, or the config that it was started with."
        )
    if changed := _changed(experiment.preparation, pictures):
        raise InputError(
            f"The run in {workdir} was trained on other pictures: {changed}; prepare them as "
            "before, or use another --workdir."
        )
    if stored != text and jax.process_index() == 0:
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)  # the other processes never read half of it
    scored = ("evaluators", "test_time_flip")
    same = bool(stored) and all(before[key] == resolved[key] for key in scored)
    return same and (workdir / "results.json").exists()


def _text(experiment: Experiment, resolved: Mapping[str, Any]) -> str:
    """What goes into `config.json`: as given, and with all options."""
    parts = {"given": experiment.given, "resolved": resolved, "preparation": experiment.preparation}
    return json.dumps(parts, indent=2, default=str) + "\n"

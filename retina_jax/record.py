"""What `config.json` says of a run: what its config gave, and every option that it ran with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError
from retina_jax import renamed
from retina_jax.build import Call
from retina_jax.settings import OF_TOKENIZER, Settings, complete

# Settings that hold options of entries of tables.
_WITH_OPTIONS = ("tokenizer", "model", "streams", "objectives", "optimization", "evaluators")

# Of a stream, what decides which records it draws.
SELECTION = ("dataset", "split", "where", "ban")


@dataclasses.dataclass(frozen=True)
class Record:
    """A `config.json`.

    Attributes:
      settings: a tree of the fields of `Settings`, with all options that are known; older records
        have those that the config named, and the defaults of the others.
      preparation: address of a training set with pictures -> how they were prepared, or None.
      fingerprints: address of a data set -> a hash of its content; {} in older records.
      began: name of an origin -> the state of it that the run started from; {} in older records.
      configuration: a hash of the settings that results depend on; '' in older records.
      trained: a hash of those that weights depend on, as they were when the run began; '' in older
        records.
    """

    settings: Mapping[str, Any]
    preparation: Mapping[str, Any]
    fingerprints: Mapping[str, str] = dataclasses.field(default_factory=dict)
    began: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    configuration: str = ""
    trained: str = ""


def flat(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a `config.json` has, and `preparation`, whatever its age and whole or not.

    A record was the settings alone before it told `given` from `resolved`.
    """
    todays = renamed.todays(stored)
    if not isinstance(todays.get("resolved"), Mapping):
        return todays
    return {**todays["resolved"], "preparation": todays.get("preparation", {})}


def read(stored: Mapping[str, Any], where: str) -> Record:
    """A record in today's words.

    Args:
      stored: what is in a `config.json`, of any age.
      where: the name of its file, for messages.

    Raises:
      InputError: for something else.
    """
    settings = flat(stored)
    preparation = settings.pop("preparation", {})
    about = stored if isinstance(stored.get("resolved"), Mapping) else {}
    return Record(
        tree(complete(where, settings)),
        preparation,
        about.get("fingerprints", {}),
        about.get("began", {}),
        about.get("configuration", ""),
        about.get("trained", ""),
    )


def read_file(path: Path) -> Record:
    """The same of a file; InputError where it is damaged."""
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        return read(stored, str(path))
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}).") from None


def selections(streams: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What decides which records the streams of a stage draw, as JSON holds it."""
    chosen = [{key: stream.get(key) for key in SELECTION} for stream in streams.values()]
    return json.loads(json.dumps(chosen, default=list))


def tree(settings: Settings) -> dict[str, Any]:
    """Settings as JSON holds them: dicts, and lists for tuples."""
    return json.loads(json.dumps(dataclasses.asdict(settings), default=str))


def resolve(
    settings: Mapping[str, Any], calls: Sequence[Call], ran: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Settings with the options of every entry that they do not name.

    A call belongs to the options whose values it was given: options that are alike in two places
    have the same defaults.

    Args:
      settings: what `tree` returned.
      calls: the calls that were made of the settings `ran`.
      ran: None for `settings` themselves. Options that these name and `settings` do not were at
        their defaults in `settings`.
    """
    ran = settings if ran is None else ran
    return {
        key: _resolved(key, value, ran.get(key), calls) if key in _WITH_OPTIONS else value
        for key, value in settings.items()
    }


def _resolved(key: str, given: Any, ran: Any, calls: Sequence[Call]) -> Any:
    if isinstance(given, list):
        beside = ran if isinstance(ran, list) and len(ran) == len(given) else [None] * len(given)
        return [_resolved(key, *pair, calls) for pair in zip(given, beside, strict=True)]
    if not isinstance(given, Mapping):
        return given
    ran = ran if isinstance(ran, Mapping) else {}
    found = dict(given)
    for call in _calls_of(key, given, calls):
        for name, value in call.resolved.items():
            if name not in found and name != "name":
                known = call.defaults if name in ran else call.resolved
                found |= {name: known[name]} if name in known else {}
            elif name in OF_TOKENIZER and found[name] is None:
                found[name] = value
    for name, value in found.items():
        if value is None and (whole := [call for call in calls if call.where == name]):
            entry = {} if whole[0].entry is None else {"name": whole[0].entry}
            found[name] = {**entry, **whole[0].resolved}
        else:
            found[name] = _resolved(name, value, ran.get(name), calls)
    return found


def _calls_of(key: str, given: Mapping[str, Any], calls: Sequence[Call]) -> list[Call]:
    """The calls that were made of options: of a table's entry one, else all of one place."""
    scored = []
    for call in calls:
        if call.entry != given.get("name"):
            continue
        if call.entry is None and call.where != key and f"'{key}'" not in call.where:
            continue
        values = {
            name: value
            for name, value in given.items()
            if name != "name" and value is not None and not isinstance(value, Mapping | list)
        }
        same = [call.given.get(name) == value for name, value in values.items()]
        missing = [
            name not in call.given or isinstance(call.given[name], Mapping) for name in values
        ]
        if all(a or b for a, b in zip(same, missing, strict=True)):
            scored.append((sum(missing), len(set(call.given) - set(given)), len(scored), call))
    if not scored:
        return []
    best = min(scored, key=lambda entry: entry[:3])[3]
    return [best] if best.entry else [entry[3] for entry in scored if entry[3].where == best.where]

"""What classes look like, in words: descriptions for prompts, as FLAIR's "expert knowledge".

The texts are data, in prompts/{cfp,ffa,oct}.json, each class with the publication its facts come
from. They were written for this project and replace those of the FLAIR authors; a copy of theirs,
as it is (dictionary.py) or as JSON {class: [descriptions]}, can be loaded in their place.
prompts/experiments.json has the classes of published evaluations, in their order.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.resources
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines import places
from data_pipelines.errors import InputError

MODALITIES = ("cfp", "ffa", "oct")

# What FLAIR's dictionary.py assigns its descriptions to.
_VARIABLE = "definitions"
_SPELLINGS = {"oedema": "edema", "neovascularis": "neovasculariz", "haemorrhag": "hemorrhag",
              "ischaem": "ischem"}  # fmt: skip
_ATTRIBUTE, _CLASS = "[ATR]", "[CLS]"


@dataclasses.dataclass(frozen=True)
class Knowledge(Mapping[str, tuple[str, ...]]):
    """Descriptions of classes and sentences to put them in.

    As a mapping it gives the descriptions of a class under any spelling `descriptions` accepts.

    Attributes:
      name: a modality, or the file it was read from.
      templates: 'train', a sentence with [ATR] for an attribute of the picture and [CLS] for the
        class, and 'inference', the same without attribute and with {} for the class.
      classes: class name -> descriptions, without the name itself.
      sources: class name -> publication that the facts are from; empty for a user's file.
      aliases: other names that public sets use -> class name, e.g. 'pathological myopia'.
    """

    name: str
    templates: Mapping[str, str]
    classes: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, str]
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def descriptions(self, name: str) -> tuple[str, ...]:
        """The descriptions of a class, () for an unknown one.

        Capitals, hyphens, a final full stop and British 'oedema' make no difference: labels of
        public sets write 'Age-related macular degeneration.' where the key has no hyphen.
        """
        exact = self.classes.get(name)
        return self._by_plain_name.get(_plain(name), ()) if exact is None else exact

    @functools.cached_property
    def _by_plain_name(self) -> dict[str, tuple[str, ...]]:
        names = {**{name: name for name in self.classes}, **self.aliases}
        found: dict[str, tuple[str, ...]] = {}
        for name, category in names.items():
            found.setdefault(_plain(name), self.classes[category])
        return found

    def __getitem__(self, name: str) -> tuple[str, ...]:
        if found := self.descriptions(name):
            return found
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def sentence(self, category: str, attribute: str = "") -> str:
        """The training template, filled; blanks left by an absent attribute close up."""
        text = self.templates["train"].replace(_ATTRIBUTE, attribute).replace(_CLASS, category)
        return " ".join(text.split())


def load(name: str = "cfp") -> Knowledge:
    """The knowledge that ships with the project, or a user's.

    Args:
      name: a modality ('cfp', 'ffa', 'oct'), or the path of a .json or .py file for `read`.

    Raises:
      InputError: for an unknown name, or a file that is missing or not of the right form.
    """
    if name in MODALITIES:
        return _knowledge(name, _shipped(name))
    if name.endswith((".json", ".py")):
        return read(Path(name))
    raise InputError(
        f"There is no knowledge '{name}': name one of {', '.join(MODALITIES)}, or a .json or .py "
        "file."
    )


def _shipped(name: str) -> dict[str, Any]:
    file = importlib.resources.files("data_pipelines.text").joinpath(f"prompts/{name}.json")
    return json.loads(file.read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class PublishedExperiment:
    """The classes of a published evaluation.

    Attributes:
      classes: their names, in the order of their numbers.
      modality: 'cfp', 'ffa' or 'oct'.
      n: number of images; None where releases differ.
      counts: images of each class; None where they were not published or records have several.
      note: what is particular about it, '' for nothing.
      pattern: what tells patient and eye by names of files, a regular expression; '' if nothing.
      tables: repository -> the SHA-256 of its table with lines that end as on Unix, or as much of
        its beginning as is known; {} where none is.
    """

    classes: tuple[str, ...]
    modality: str
    n: int | None
    counts: tuple[int, ...] | None
    note: str
    pattern: str = ""
    tables: Mapping[str, str] = dataclasses.field(default_factory=dict)


def experiments() -> dict[str, PublishedExperiment]:
    """All experiments, by the names that FLAIR and KeepFIT use (02_MESSIDOR, ...)."""
    return {
        name: PublishedExperiment(
            classes=tuple(raw["classes"]),
            modality=raw["modality"],
            n=raw["n"],
            counts=raw["counts"] and tuple(raw["counts"]),
            note=raw["note"],
            pattern=raw.get("pattern", ""),
            tables=raw.get("tables", {}),
        )
        for name, raw in _shipped("experiments").items()
    }


def experiment(name: str) -> PublishedExperiment:
    """The experiment of a name; raises `InputError` for an unknown one."""
    known = experiments()
    if name not in known:
        raise InputError(f"There is no experiment '{name}': name one of {', '.join(known)}.")
    return known[name]


def read(path: Path, modality: str = "cfp") -> Knowledge:
    """A user's file: {class: [descriptions]}, for instance a copy of FLAIR's dictionary.py.

    Args:
      path: JSON, which may also have the form of the shipped files, with templates and sources; or
        Python source that assigns such a dictionary to `definitions`. Its text is parsed, never
        run: a file with anything but docstrings and assignments of literals is refused.
      modality: whose templates to use where the file has none.

    Returns:
      Its classes; a description that only repeats the class name, as half of FLAIR's do, is left
      out, because prompts add the name anyway.

    Raises:
      InputError: if it cannot be read or is of another form.
    """
    try:
        text = places.local(path, "The knowledge").read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the knowledge file {path}: {error}.") from None
    parse = _definitions if Path(path).suffix == ".py" else _parse
    raw = parse(text, str(path))
    if "classes" not in raw or "templates" not in raw:
        raw = {"templates": load(modality).templates, "classes": raw}
    return _knowledge(str(path), raw)


def _plain(name: str) -> str:
    words = re.sub(r"[-_\s]+", " ", name.lower()).strip(" .")
    for british, american in _SPELLINGS.items():
        words = words.replace(british, american)
    return words


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}.") from None
    return _object(raw, where)


def _definitions(text: str, where: str) -> dict[str, Any]:
    """The dictionary that Python source assigns to `definitions`, of literals only."""
    found: list[Any] = []
    try:
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue
            if not isinstance(statement, ast.Assign) or (name := _assigned(statement)) is None:
                raise InputError(
                    f"Line {statement.lineno} of {where} is no assignment of a literal: the file "
                    f"may hold only {_VARIABLE} = {{class: [descriptions]}} and other literals."
                )
            value = ast.literal_eval(statement.value)
            found += [value] if name == _VARIABLE else []
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where} is not Python source of literals only: {reason}.") from None
    if len(found) != 1:
        raise InputError(f"{where} has to assign {_VARIABLE} once, it does {len(found)} times.")
    return _object(found[0], where)


def _assigned(statement: ast.Assign) -> str | None:
    """The variable of a plain assignment, else None."""
    targets = statement.targets
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else None


def _object(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or not raw or not all(isinstance(name, str) for name in raw):
        raise InputError(f"{where} has to hold an object {{class: [descriptions]}}.")
    return raw


def _knowledge(name: str, raw: Mapping[str, Any]) -> Knowledge:
    templates, entries = raw["templates"], raw["classes"]
    marks = {"train": (_ATTRIBUTE, _CLASS), "inference": ("{}",)}
    for use, needed in marks.items():
        text = templates.get(use) if isinstance(templates, Mapping) else None
        if not isinstance(text, str) or any(text.count(mark) != 1 for mark in needed):
            raise InputError(f"{name}: the template '{use}' needs {' and '.join(needed)} once.")
    if not isinstance(entries, Mapping) or not entries:
        raise InputError(f"{name}: 'classes' has to be an object {{class: [descriptions]}}.")
    classes, sources, aliases = {}, {}, {}
    for category, entry in entries.items():
        found = entry.get("descriptions") if isinstance(entry, Mapping) else entry
        if not isinstance(found, list) or not all(isinstance(d, str) and d.strip() for d in found):
            raise InputError(
                f"{name}: the descriptions of '{category}' have to be a list of non-empty texts."
            )
        texts = dict.fromkeys(" ".join(text.split()).rstrip(" .") for text in found)
        repeats = ("", _plain(category))
        classes[category] = tuple(text for text in texts if _plain(text) not in repeats)
        if isinstance(entry, Mapping):
            sources[category] = str(entry.get("source", ""))
            also = entry.get("also", [])
            if not isinstance(also, list) or not all(isinstance(other, str) for other in also):
                raise InputError(f"{name}: 'also' of '{category}' has to be a list of names.")
            aliases |= dict.fromkeys(also, category)
    return Knowledge(name, dict(templates), classes, sources, aliases)

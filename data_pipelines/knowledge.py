"""What classes look like, in words: descriptions for prompts, as FLAIR's "expert knowledge".

The texts are data, in prompts/{cfp,ffa,oct}.json, each class with the publication its facts come
from. They were written for this project and replace those of the FLAIR authors; a copy of theirs,
exported as JSON {class: [descriptions]}, can be loaded in their place.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError

MODALITIES = ("cfp", "ffa", "oct")

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
    """

    name: str
    templates: Mapping[str, str]
    classes: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, str]

    def descriptions(self, name: str) -> tuple[str, ...]:
        """The descriptions of a class, () for an unknown one.

        Capitals, hyphens, a final full stop and British 'oedema' make no difference: labels of
        public sets write 'Age-related macular degeneration.' where the key has no hyphen.
        """
        exact = self.classes.get(name)
        if exact is not None:
            return exact
        wanted = _plain(name)
        return next((found for key, found in self.classes.items() if _plain(key) == wanted), ())

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
      name: a modality ('cfp', 'ffa', 'oct'), or the path of a .json file for `read`.

    Raises:
      InputError: for an unknown name, or a file that is missing or not of the right form.
    """
    if name in MODALITIES:
        text = importlib.resources.files("data_pipelines").joinpath(f"prompts/{name}.json")
        return _knowledge(name, _parse(text.read_text(encoding="utf-8"), name))
    if name.endswith(".json"):
        return read(Path(name))
    raise InputError(
        f"There is no knowledge '{name}': name one of {', '.join(MODALITIES)}, or a .json file."
    )


def template(modality: str, use: str = "inference") -> str:
    """A sentence for the pictures of a modality.

    Args:
      modality: 'cfp', 'ffa' or 'oct'.
      use: 'inference' ({} for the class) or 'train' ([ATR] and [CLS]).
    """
    templates = load(modality).templates
    if use not in templates:
        raise InputError(f"There is no template for '{use}': name one of {', '.join(templates)}.")
    return templates[use]


def read(path: Path, modality: str = "cfp") -> Knowledge:
    """A user's file: {class: [descriptions]}, for instance FLAIR's dictionary exported as JSON.

    Args:
      path: the file; it may also have the form of the shipped ones, with templates and sources.
      modality: whose templates to use where the file has none.

    Returns:
      Its classes; a description that only repeats the class name, as half of FLAIR's do, is left
      out, because prompts add the name anyway.

    Raises:
      InputError: if it cannot be read or is of another form.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the knowledge file {path}: {error}.") from None
    raw = _parse(text, str(path))
    if "classes" not in raw or "templates" not in raw:
        raw = {"templates": load(modality).templates, "classes": raw}
    return _knowledge(str(path), raw)


def _plain(name: str) -> str:
    words = re.sub(r"[-_\s]+", " ", name.lower()).strip(" .")
    return words.replace("oedema", "edema").replace("neovascularis", "neovasculariz")


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}.") from None
    if not isinstance(raw, dict) or not raw:
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
    classes, sources = {}, {}
    for category, entry in entries.items():
        found = entry.get("descriptions") if isinstance(entry, Mapping) else entry
        if not isinstance(found, list) or not all(isinstance(d, str) and d.strip() for d in found):
            raise InputError(
                f"{name}: the descriptions of '{category}' have to be a list of non-empty texts."
            )
        texts = dict.fromkeys(" ".join(text.split()) for text in found)
        classes[category] = tuple(text for text in texts if _plain(text) != _plain(category))
        if isinstance(entry, Mapping):
            sources[category] = str(entry.get("source", ""))
    return Knowledge(name, dict(templates), classes, sources)

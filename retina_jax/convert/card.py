"""The model card of a folder: README.md with the header that model hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from retina_jax.convert import card_sections
from retina_jax.convert.registry import NO_LICENCE

_SHOWN = 6
_USE = """```python
import retina_jax

model = retina_jax.load("{folder}")
print(model)
{call}
```"""


def sections(about: Mapping[str, Any], folder: str) -> dict[str, list[str]]:
    """Title -> lines of Markdown, for those that have any; of what `text` is given."""
    found = {
        f"# {about['title']}": _facts(about),
        "## Use": [_use(about, folder)],
        "## Input": _input(about),
        "## Where it is from": _origin(about),
        "## Left behind and added": _differences(about),
        **card_sections.sections(about),
    }
    return {title: lines for title, lines in found.items() if lines}


def text(about: Mapping[str, Any], folder: str) -> str:
    """The card, out of what `config.json` holds (see `model_folder.Description`), of a folder."""
    parts = [_header(about)]
    parts += ["\n".join([title, "", *lines]) for title, lines in sections(about, folder).items()]
    parts.append("For research only: not validated for clinical decisions.")
    return "\n\n".join(parts) + "\n"


def _header(about: Mapping[str, Any]) -> str:
    """YAML; JSON's strings are YAML's too."""
    licence = json.dumps((about["licence"] or "unknown").lower())
    lines = ["---", "library_name: retina_jax", f"license: {licence}", "tags: [retina, jax]",
             *card_sections.header(about), "---"]  # fmt: skip
    return "\n".join(lines)


def _facts(about: Mapping[str, Any]) -> list[str]:
    parameters = about["weights"]["parameters"]
    lines = [
        f"- Model: `{about['model']['name']}` of retina_jax, {parameters:,} parameters",
        f"- Licence: {about['licence'] or NO_LICENCE}",
    ]
    if about["terms"]:
        lines.append(f"- {about['terms']}")
    if about["citation"]:
        lines.append(f"- Cite: {about['citation']}")
    return lines


def _use(about: Mapping[str, Any], folder: str) -> str:
    call = 'model.features("photograph.jpg")'
    if about.get("decision"):
        call = 'print(model.classify("photograph.jpg"))'
    elif about["tokenizer"] and about["transforms"]:
        named = json.dumps(list(about["classes"])[:3] or ["normal", "glaucoma"], ensure_ascii=False)
        call = f'print(model.zero_shot("photograph.jpg", {named}))'
    return _USE.format(folder=folder, call=call)


def _input(about: Mapping[str, Any]) -> list[str]:
    lines = []
    if about["preparation"]:
        lines.append(f"- Photographs are prepared: {_options(about['preparation'])}")
    lines += [f"- Pictures: {_spec(spec)}" for spec in about["transforms"]]
    if about["tokenizer"] and not about.get("decision"):
        lines.append(f"- Texts: {_spec(about['tokenizer'])}, at most {about['text_length']} tokens")
    if about["template"]:
        lines.append(f"- Sentence of a class: {about['template']}")
    if about["classes"]:
        lines.append(f"- Classes: {', '.join(about['classes'])}")
    return lines


def _spec(spec: Mapping[str, Any]) -> str:
    """'decode (size 512, fit canvas)'."""
    options = _options({key: value for key, value in spec.items() if key != "name"})
    return f"{spec['name']} ({options})" if options else spec["name"]


def _options(spec: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in spec.items() if v is not None)


def _origin(about: Mapping[str, Any]) -> list[str]:
    told = ("run", "step", "converted", "where", "file", "sha256")
    known = {key: value for key, value in about["source"].items() if key in told}
    lines = [f"- {key}: {value}" for key, value in known.items() if value is not None]
    lines += [f"- started from: {start}" for start in about["source"].get("started_from", ())]
    return [*lines, f"- SHA-256 of {about['weights']['file']}: {about['weights']['sha256']}"]


def _differences(about: Mapping[str, Any]) -> list[str]:
    lines = [f"- not here: {line}" for line in left_behind(about["ignored"])]
    lines += [f"- not in the original: {path}, {why}" for path, why in about["filled"].items()]
    return lines


def left_behind(ignored: Mapping[str, str]) -> list[str]:
    """A line for each reason why tensors of the original were left behind."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in ignored.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"{_some(names)} ({reason})" for reason, names in by_reason.items()]


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

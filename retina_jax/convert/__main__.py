"""Released weights to ours: python -m retina_jax.convert --source=NAME --src=FILE --dst=DIR.

--list shows the sources and the released models; docs/convert.md has the rest.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_pipelines import stores
from data_pipelines.errors import InputError
from retina_jax import cli, exporting
from retina_jax.convert import (
    card,
    checklist,
    describe,
    files,
    formats,
    model_folder,
    packages,
    registry,
    rules,
)
from retina_jax.train import restore

RUN, FOLDER = "run", "folder"
CHECKPOINT = "checkpoint"

_LIST = flags.DEFINE_bool("list", False, "Show sources and released models, convert nothing")
_SOURCE = flags.DEFINE_string(
    "source", None, "What --src is: a source of --list, 'run' of this library, or its 'folder'"
)
_SRC = flags.DEFINE_string(
    "src",
    None,
    "The file of weights, of a run or a folder its directory; or package:NAME, the file in an "
    f"installed package, NAME one of {', '.join(packages.PACKAGES)}",
)
_DST = flags.DEFINE_string("dst", None, "Directory to write; with --layout=SOURCE a file")
_LAYOUT = flags.DEFINE_string(
    "layout",
    FOLDER,
    "What to write: 'folder' for retina_jax.load, 'checkpoint' for restore_from, or the name of a "
    "source, whose names and layout the tensors get in one safetensors file",
)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "Pixels to resample learned positions for")
_OPTION = flags.DEFINE_multi_string("option", [], "NAME=VALUE of the source, e.g. heads=16")
_STEP = flags.DEFINE_integer(
    "step",
    None,
    "The checkpoint of a run; by default the newest, or of a run with keep.patience the best",
)
_RELEASE = flags.DEFINE_string("release", None, "Which released model of --list the file is")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "The file that the tokenizer needs")
_TITLE = flags.DEFINE_string("title", None, "Name of the model, in its folder")
_CLASSES = cli.define_list("classes", [], "Names of the classes, in the order of their labels")
_TEMPLATE = flags.DEFINE_string("template", None, "Sentence with {} for the name of a class")
_ALLOW_NONFINITE = flags.DEFINE_bool("allow_nonfinite", False, "Convert NaN and infinite weights")
_LICENCE = flags.DEFINE_string("licence", None, "Of the weights, in the folder")
_OPERATING_POINT = flags.DEFINE_multi_string(
    "operating_point",
    [],
    "NAME=RULE:CLASS,CLASS, a threshold of a classifier's run that is chosen on its validation "
    "records, e.g. refer=sensitivity>=.9:severe,proliferative; also specificity>=.95 and youden",
)
_CITATION = flags.DEFINE_string("citation", None, "Of the model of a run, in the folder")

_logger = logging.getLogger("retina_jax")


def _options() -> dict[str, Any]:
    """The source's options; a value that is no JSON is a text."""
    options: dict[str, Any] = {}
    for given in _OPTION.value:
        name, equals, value = given.partition("=")
        if not equals:
            raise InputError(f"--option={given} is no NAME=VALUE.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    if _IMAGE_SIZE.value is not None:
        options["image_size"] = _IMAGE_SIZE.value
    return options


def _named(flag: flags.FlagHolder[str | None]) -> str:
    if not flag.value:
        raise InputError(f"Name --{flag.name}, or --list to see the sources.")
    return flag.value


def _packaged(name: str) -> tuple[model_folder.Description, dict[str, Any]]:
    """The weights in an installed package, whose source, release and tokenizer are known."""
    found = packages.find(name)
    for option, known in (("source", found.source), ("release", found.release)):
        if (given := flags.FLAGS[option].value) not in (None, known):
            raise InputError(
                f"{packages.PREFIX}{name} has --{option}={known}, not '{given}'; leave it out."
            )
    return _released(found.weights, found)


def _released(
    src: Path, package: packages.Found | None = None
) -> tuple[model_folder.Description, dict[str, Any]]:
    """A file of a source: its description and variables.

    Args:
      src: the file.
      package: that it lies in, which stands in for what the command line leaves out.
    """
    tensors = files.read_tensors(src)
    name = package.source if package else _named(_SOURCE)
    options = {**(package.options if package else {}), **_options()}
    try:
        source = formats.find(name, rules.shapes_of(tensors))
        converted = rules.convert(source, tensors, **options)
    except InputError as error:
        raise InputError(f"{src}: {error}") from None
    _refuse_nonfinite(src, {k: v for k, v in tensors.items() if k not in converted.ignored})
    _logger.info("Chosen for '%s': %s.", source.name, "; ".join(describe.choices(converted)))
    for line in card.left_behind(converted.ignored):
        _logger.info("Left behind: %s.", line)
    for path, reason in converted.filled.items():
        _logger.info("Not in the file: %s is now %s.", path, reason)
    chosen = {
        "release": package.release if package else _RELEASE.value,
        "tokenizer": _TOKENIZER.value or (package.tokenizer if package else None),
        "title": _TITLE.value,
        "classes": _CLASSES.value,
        "template": _TEMPLATE.value,
        "licence": _LICENCE.value,
    }
    return describe.released(converted, src, **chosen), converted.variables


def _refuse_nonfinite(src: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises InputError for weights that are NaN or infinite, unless they are asked for."""
    if not (broken := files.nonfinite(tensors)):
        return
    more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
    what = f"{src} has NaN or infinite numbers in {', '.join(broken[:3])}{more}"
    if not _ALLOW_NONFINITE.value:
        raise InputError(f"{what}: get it again, or accept them by --allow_nonfinite.")
    _logger.warning("%s, as is accepted.", what)


def _own(src: Path) -> tuple[model_folder.Description, dict[str, Any]]:
    """A model of this library, in a run's directory or a folder."""
    if given := [name for name in ("release", "template") if flags.FLAGS[name].value]:
        raise InputError(f"--{given[0]} is for released weights, not for --source={_SOURCE.value}.")
    if _options():
        raise InputError(f"--source={_SOURCE.value} has no options; the model is what it is.")
    if _SOURCE.value == FOLDER:
        return model_folder.read_folder(src)
    checkpoints = src / "checkpoints"
    keep = describe.run_record(src).settings["keep"]
    # Of a run that goes on, description and variables have to be of the same step.
    step = _STEP.value if _STEP.value is not None else restore.step_of_run(checkpoints, keep)
    description = describe.run(
        src,
        step,
        tokenizer=_TOKENIZER.value,
        title=_TITLE.value,
        licence=_LICENCE.value,
        citation=_CITATION.value,
    )
    variables = restore.read_variables(checkpoints, step)
    _refuse_nonfinite(src, {k: np.asarray(v) for k, v in rules.flatten(variables).items()})
    if _LAYOUT.value == FOLDER:
        points = [exporting.PointRule.parse(text) for text in _OPERATING_POINT.value]
        return exporting.classifier(src, description, variables, points)
    return description, variables


def _write(dst: Path, description: model_folder.Description, variables: Mapping[str, Any]) -> None:
    """Writes the model in the layout that was asked for."""
    if _LAYOUT.value == FOLDER:
        beside = {}
        if _SOURCE.value == RUN:
            run = stores.near(_SRC.value or "", "--src")
            beside["recipe.json"] = (run / "config.json").read_bytes()
            results = describe.results(run, description.source.get("step"))
            told = checklist.text(dataclasses.asdict(description), results)
            beside[checklist.FILE] = told.encode()
        model_folder.write_folder(dst, description, variables, beside)
    elif _LAYOUT.value == CHECKPOINT:
        about = {"model": description.model, "source": description.source}
        restore.write_variables(dst / "checkpoints", variables, json.loads(json.dumps(about)))
    else:
        source = formats.SOURCES[_LAYOUT.value]
        tensors = rules.export(source, dict(description.model), variables)
        if dst.exists():
            raise InputError(f"{dst} exists; choose another --dst.")
        files.write_safetensors(dst, tensors, {"format": "pt"})


def main(_: list[str]) -> None:
    """Reads one model and writes it."""
    if _LIST.value:
        for source in formats.SOURCES.values():
            print(f"{source.name}: {source.description}")
        print(f"\n{registry.table()}")
        return
    src = _named(_SRC)
    packaged = src.startswith(packages.PREFIX)
    if not packaged:
        _named(_SOURCE)
    layouts = (FOLDER, CHECKPOINT, *formats.SOURCES)
    if _LAYOUT.value not in layouts:
        raise InputError(f"There is no layout '{_LAYOUT.value}'; choose from {layouts}.")
    if packaged:
        description, variables = _packaged(src.removeprefix(packages.PREFIX))
    elif _SOURCE.value in (RUN, FOLDER):
        description, variables = _own(stores.near(src, "--src"))
    else:
        description, variables = _released(stores.near(src, "--src"))
    with stores.delivered(_named(_DST), "--dst") as dst:
        _write(dst, description, variables)
    print(f"{description.model['name']} of {src} is now in {_DST.value}.")


if __name__ == "__main__":
    cli.run(main)

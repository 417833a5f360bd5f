"""Builds a data set once, for all runs.

    python -m data_pipelines.build --dataset=manifest --source=DIR --name=odir
    python -m data_pipelines.build --dataset=synthetic_retina --name=demo

``--column caption=keywords`` says which column holds a field; the last line printed is the address
to use in configs.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines import storage
from data_pipelines.builders import BUILDERS
from data_pipelines.errors import InputError

REPORT, SKIPPED = "build.json", "skipped.csv"


def build(
    dataset: str,
    name: str,
    data_dir: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> str:
    """Builds 'dataset/name' and returns the text that tells the user what came out.

    Args:
        dataset: a key of `BUILDERS`.
        name: name of the data set; of a builder with fixed configs, one of those.
        data_dir: where data sets lie; None is TFDS_DATA_DIR, else ~/tensorflow_datasets.
        overwrite: replace a data set of this name that has another content.
        **options: fields of the builder's config class.

    Raises:
        InputError: whatever is wrong with the arguments or with the table, in one sentence.
    """
    if dataset not in BUILDERS:
        raise InputError(f"There is no builder '{dataset}'; there are {', '.join(BUILDERS)}.")
    builder_class = BUILDERS[dataset]
    if builder_class.embedded:
        config: Any = _fixed_config(builder_class, dataset, name, options)
        mark = ""
    else:
        config = builder_class.config_class(name=name, **options)
        mark = config.fingerprint()
    address = f"{dataset}/{name}"
    place = storage.find(address, data_dir)
    if place is not None and not overwrite:
        if _read_report(place).get("fingerprint", "") == mark:
            return f"{address} is built already, in {place}.\n{_splits(place)}\n{address}"
        raise InputError(
            f"{address} exists in {place} with another content: choose another --name, or replace "
            "it with --overwrite."
        )

    def make(root: str) -> tfds.core.DatasetBuilder:
        builder = builder_class(config=config, data_dir=root)
        # Checked before TFDS starts, which would wrap our sentence in its own.
        getattr(builder, "plan", None)
        return builder

    def finish(builder: tfds.core.DatasetBuilder) -> None:
        if not builder_class.embedded:
            folder = pathlib.Path(builder.data_path)
            builder.write_skipped(folder / SKIPPED)
            report = {"fingerprint": mark, "lines": _summary(builder.plan)}
            (folder / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")

    place = storage.publish(make, data_dir, finish, replace=overwrite)
    lines = _read_report(place).get("lines", [])
    if lines and (place / SKIPPED).exists():
        lines = [line.replace(SKIPPED, str(place / SKIPPED)) for line in lines]
    return "\n".join([*lines, _splits(place), f"built in {place}", address])


def _fixed_config(
    builder_class: Any, dataset: str, name: str, options: dict[str, Any]
) -> str:
    names = [config.name for config in builder_class.BUILDER_CONFIGS]
    if name not in names:
        raise InputError(f"{dataset} has no config '{name}'; it has {', '.join(names)}.")
    if options:
        raise InputError(f"{dataset} takes no --{next(iter(options))}: its configs are fixed.")
    return name


def _read_report(place: pathlib.Path) -> dict[str, Any]:
    path = place / REPORT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _summary(plan: Any) -> list[str]:
    skipped = len(plan.skipped)
    lines = [f"{plan.kept + skipped:8d} rows read", f"{plan.kept:8d} kept",
             f"{skipped:8d} skipped" + (f", listed in {SKIPPED}" if skipped else "")]
    lines += [f"{number:12d} {reason}" for reason, number in plan.reasons().items()]
    return lines + [f"note: {remark}" for remark in plan.remarks]


def _splits(place: pathlib.Path) -> str:
    splits = tfds.builder_from_directory(place).info.splits
    return "\n".join(f"{splits[name].num_examples:8d} in split {name}" for name in splits)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, help=f"one of {', '.join(BUILDERS)}")
    parser.add_argument("--name", required=True, help="name of the data set")
    parser.add_argument("--data_dir", help="where data sets lie (default: TFDS_DATA_DIR)")
    parser.add_argument("--overwrite", action="store_true", help="replace another content")
    table = parser.add_argument_group("builders that read a folder of yours")
    suppress = argparse.SUPPRESS
    table.add_argument("--source", default=suppress, help="folder of the table and the pictures")
    table.add_argument("--csv", default=suppress, help="file name of the table")
    table.add_argument("--column", dest="columns", nargs="+", default=suppress,
                       metavar="FIELD=COLUMN", action="extend",
                       help="column of a field, e.g. caption=keywords")
    table.add_argument("--label_separator", default=suppress, help="between labels of one cell")
    table.add_argument("--modality", default=suppress, help="of rows that name none (cfp)")
    table.add_argument("--max_side", type=int, default=suppress,
                       help="scale pictures down to this many pixels")
    return parser


def _columns(pairs: Sequence[str]) -> dict[str, str]:
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise InputError(f"--column takes FIELD=COLUMN, got '{wrong[0]}'.")
    return dict(pair.split("=", 1) for pair in pairs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 2 for what the user can correct."""
    options = vars(_parser().parse_args(arguments))
    try:
        if "columns" in options:
            options["columns"] = _columns(options["columns"])
        if not getattr(BUILDERS.get(options["dataset"]), "embedded", True):
            if "source" not in options:
                raise InputError(f"{options['dataset']} needs --source, the folder of the table.")
        print(build(**options))
    except (InputError, OSError) as error:
        print(f"build: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Builds a data set once, for all runs.

    python -m data_pipelines.build --dataset=odir --source=DIR
    python -m data_pipelines.build --dataset=manifest --source=DIR --name=mine --max_side=512
    python -m data_pipelines.build --dataset=synthetic_retina --name=demo

A build that was interrupted goes on where it was when it is run again. The last line printed is
the address to use in configs; `data_pipelines.prepare` also crops and pads photographs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from data_pipelines import places
from data_pipelines.builders import BUILDERS, beams
from data_pipelines.builders.corpus import REPORT, SKIPPED, Corpus
from data_pipelines.errors import InputError
from data_pipelines.images.preparation import Preparation
from data_pipelines.records import storage


def build(
    dataset: str,
    name: str = "default",
    data_dir: str | None = None,
    overwrite: bool = False,
    processes: int | None = None,
    beam: str | None = None,
    **options: Any,
) -> str:
    """Builds 'dataset/name' and returns the text that tells the user what came out.

    Args:
        dataset: a key of `BUILDERS`.
        name: name of the data set; of a builder with fixed configs, one of those.
        data_dir: where data sets lie; None is TFDS_DATA_DIR, else ~/tensorflow_datasets.
        overwrite: replace a data set of this name that has another content.
        processes: how many read the pictures; None is one for each core.
        beam: options of an Apache Beam pipeline that reads the pictures and writes the records,
            such as '--runner=FlinkRunner --flink_master=HOST:8081'; '' is a runner on this machine.
        **options: fields of the builder's config class.

    Raises:
        InputError: whatever is wrong with the arguments or with the corpus, in one sentence.
    """
    address = f"{dataset}/{name}"
    if find_builder(dataset).embedded:
        given = {**options, "beam": beam} if beam is not None else options
        return _build_embedded(dataset, name, data_dir, overwrite, given)
    how = pipeline(beam, processes)
    listed = list_corpus(dataset, name, options)
    place = storage.find(address, data_dir)
    if place is not None and not overwrite:
        if _read_report(place).get("fingerprint", "") == listed.fingerprints.content:
            return f"{address} is built already, in {place}.\n{_splits(place)}\n{address}"
        raise InputError(
            f"{address} exists in {place} with another content: choose another --name, or replace "
            "it with --overwrite."
        )
    with staged(listed, storage.data_folder(data_dir), processes, how) as make:
        place = storage.publish(
            make, data_dir, lambda made: made.finish(pathlib.Path(made.data_path)), overwrite
        )
    lines = _read_report(place)["lines"]
    lines = [line.replace(SKIPPED, str(place / SKIPPED)) for line in lines]
    return "\n".join([*lines, _splits(place), f"built in {place}", address])


@contextlib.contextmanager
def staged(
    listed: Corpus, folder: pathlib.Path, processes: int | None, beam: Any | None = None
) -> Iterator[Callable[[str], Corpus]]:
    """Gives a function that makes the builder for a data folder, with all its records made.

    They lie in a hidden folder inside `folder`, which is removed in the end; it stays when the
    build is interrupted or fails, and the next one goes on with what is there.

    Args:
        listed: a builder whose rows are listed.
        folder: a folder with room for the records.
        processes: how many read the pictures; None is one for each core.
        beam: options of the pipeline that reads them instead, as `pipeline` returns them.
    """
    stages = folder / f".staging-{listed.name}-{listed.config.name}"
    # A file that changed between two tries must not be taken from the first one.
    stage = stages / f"{listed.fingerprints.content}-{listed.fingerprints.times}"

    def make(data_dir: str) -> Corpus:
        builder = type(listed)(
            config=listed.config,
            data_dir=data_dir,
            listed=listed,
            stage=str(stage),
            processes=processes,
            beam=beam,
        )
        _ = builder.plan  # before TFDS starts, which would wrap our sentence in its own
        return builder

    with (
        places.claimed(stages, "is building this data set"),
        places.written(folder),
        beams.sentences(beam),
    ):
        stage.mkdir(exist_ok=True)
        yield make
        shutil.rmtree(stages, ignore_errors=True)


def pipeline(beam: str | None, processes: int | None) -> Any | None:
    """Returns the options of a pipeline that `--beam` gives, None where it is not given.

    Raises:
        InputError: see `beams.options`; or `--processes` beside it.
    """
    if beam is None:
        return None
    if processes is not None:
        raise InputError(
            "--processes are those of this machine: with --beam, options of its runner tell how "
            "many work, such as --beam='--runner=FlinkRunner --parallelism=4'."
        )
    return beams.options(beam)


def find_builder(dataset: str) -> Any:
    """Returns the class of a builder by name, or raises `InputError`."""
    if dataset not in BUILDERS:
        raise InputError(f"There is no builder '{dataset}'; there are {', '.join(BUILDERS)}.")
    return BUILDERS[dataset]


def list_corpus(dataset: str, name: str, options: Mapping[str, Any]) -> Corpus:
    """Returns the builder of a corpus with its rows listed and no picture opened.

    Raises:
        InputError: an option that the corpus does not take, or what its `listing` refuses.
    """
    builder_class = find_builder(dataset)
    config_class = builder_class.config_class
    known = [field.name for field in _own_fields(config_class)]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise InputError(f"{dataset} takes no '{unknown[0]}'; it takes {', '.join(known)}.")
    if "source" not in options:
        raise InputError(f"{dataset} needs --source, the folder that it lies in.")
    source = str(places.local(options["source"], "--source"))
    return builder_class(config=config_class(name=name, **{**options, "source": source}))


def _build_embedded(
    dataset: str, name: str, data_dir: str | None, overwrite: bool, options: Mapping[str, Any]
) -> str:
    builder_class = BUILDERS[dataset]
    names = [config.name for config in builder_class.BUILDER_CONFIGS]
    if name not in names:
        raise InputError(f"{dataset} has no config '{name}'; it has {', '.join(names)}.")
    if options:
        raise InputError(f"{dataset} takes no --{next(iter(options))}: its configs are fixed.")
    place = storage.find(f"{dataset}/{name}", data_dir)
    state = "is built already, in"
    if place is None or overwrite:
        place = storage.publish(
            lambda root: builder_class(config=name, data_dir=root), data_dir, replace=overwrite
        )
        state = "is built in"
    return f"{dataset}/{name} {state} {place}.\n{_splits(place)}\n{dataset}/{name}"


def _read_report(place: pathlib.Path) -> dict[str, Any]:
    path = place / REPORT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _splits(place: pathlib.Path) -> str:
    splits = tfds.builder_from_directory(place).info.splits
    return "\n".join(f"{splits[name].num_examples:8d} in split {name}" for name in splits)


def parser(description: str) -> argparse.ArgumentParser:
    """Returns the options that tell what to build, for this program and `prepare`."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--dataset", required=True, help=f"one of {', '.join(BUILDERS)}")
    made.add_argument("--name", default="default", help="name of the data set (%(default)s)")
    made.add_argument("--data_dir", help="where data sets lie (default: TFDS_DATA_DIR)")
    made.add_argument("--overwrite", action="store_true", help="replace another content")
    made.add_argument("--processes", type=int, help="that read pictures (default: all cores)")
    made.add_argument(
        "--beam",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help="read pictures and write records by Apache Beam, with these options of its pipeline: "
        "'--runner=FlinkRunner --flink_master=HOST:8081' (default: on this machine)",
    )
    folder = made.add_argument_group("corpora in a folder of yours")
    for option, (type_, takers) in sorted(_options().items()):
        among = "" if len(takers) > 4 else f" ({', '.join(takers)})"
        kind: dict[str, Any] = {"action": "store_true"} if type_ is bool else {"type": type_}
        folder.add_argument(
            f"--{option}", **kind, default=argparse.SUPPRESS, help=f"{_HELP.get(option, '')}{among}"
        )
    folder.add_argument(
        "--column",
        dest="columns",
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="FIELD=COLUMN",
        action="extend",
        help="column of a field: caption=keywords; several of labels: labels=normal,dr,amd",
    )
    return made


_HELP = {
    "source": "folder of the corpus",
    "dr_grade": "fields whose keywords grade diabetic retinopathy, e.g. caption,labels",
    "csv": "file name, or pattern, of the table",
    "follow_links": "read what lies behind links out of the folder",
    "images": "folder that the paths of the table are relative to",
    "label_names": "names of classes that are codes: 0:normal,1:mild,... or icdr5",
    "label_separator": "between labels of one cell",
    "max_images": "pictures to keep of a case, evenly spaced",
    "modality": "of rows that name none; of a corpus of several, the one to take",
    "pattern": "regular expression of file names with groups patient and eye",
    "repeated": "keep or drop the rows of pictures that tables list again",
    "slices": "B-scans to keep of a volume, evenly spaced",
    "unit": "what a record is: 'image', 'patient' (both eyes under one report), 'case', 'volume'",
}


def _options() -> dict[str, tuple[type, list[str]]]:
    """Returns {option: (type, corpora that take it)} of the texts, numbers and switches."""
    found: dict[str, tuple[type, list[str]]] = {}
    for dataset in BUILDERS:
        builder_class = find_builder(dataset)
        if builder_class.embedded:
            continue
        for field in _own_fields(builder_class.config_class):
            kind = {"str": str, "int": int, "bool": bool}.get(str(field.type).split(" ")[0])
            if kind is not None:
                found.setdefault(field.name, (kind, []))[1].append(dataset)
    return found


def _columns(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        field, equals, column = (part.strip() for part in pair.partition("="))
        if not equals:
            raise InputError(
                f"--column takes FIELD=COLUMN, such as labels=level for a column 'level'; got "
                f"'{pair}'."
            )
        if found.setdefault(field, column) != column:
            raise InputError(f"--column names two columns for {field}.")
    return found


def _own_fields(config_class: type) -> list[dataclasses.Field]:
    """Returns the options of a config class, without those that TFDS gives to all."""
    shared = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)}
    return [field for field in dataclasses.fields(config_class) if field.name not in shared]


def run(program: str, work: Callable[[dict[str, Any]], str], options: dict[str, Any]) -> int:
    """Does the work of a program and prints what it says, or one sentence about what is wrong.

    Returns:
        The exit status: 0, 2 for what the user can correct, 130 when the user stopped it.
    """
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every config that is not built in
    try:
        if "columns" in options:
            options["columns"] = _columns(options["columns"])
        print(work(options))
    except (InputError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _work(options: dict[str, Any]) -> str:
    side = options.pop("max_side", None)
    if side is not None and side < 1:
        raise InputError(f"--max_side is a number of pixels, got {side}.")
    if side is not None:
        options["preparation"] = Preparation(size=side, crop="none", pad="none")
    return build(**options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 2 for what the user can correct."""
    made = parser((__doc__ or "").split("\n")[0])
    made.add_argument(
        "--max_side",
        type=int,
        default=argparse.SUPPRESS,
        help="scale pictures down to this many pixels",
    )
    return run("build", _work, vars(made.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())

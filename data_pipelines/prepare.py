"""Prepares pictures once: cropped to the field of view, padded to a square, resized.

    python -m data_pipelines.prepare --dataset=idrid --source=DIR --size=512
    python -m data_pipelines.prepare --dataset=manifest --source=DIR --size=768 --output=FOLDER

Without --output this builds the data set (as `data_pipelines.build` does) out of prepared
pictures. With it, the pictures become files in FOLDER beside a ``manifest.csv``, for other
programs, or for --dataset=manifest. B-scans (modality oct) are not cropped; --slices chooses
B-scans of volumes. The parameters are kept in ``preparation.json``, with the crop box and the hash
of the original in every record, and go on into the checkpoints of runs that train on them.
"""

from __future__ import annotations

import csv
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import build, places
from data_pipelines.builders.corpus import Corpus
from data_pipelines.builders.pictures import crop_field
from data_pipelines.errors import InputError
from data_pipelines.images.preparation import CROPS, FORMATS, PADS, Preparation

_SUFFIXES = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"RIFF", ".webp"), (b"GIF8", ".gif"),
             (b"BM", ".bmp"), (b"P", ".ppm"))  # fmt: skip


def folder(
    output: str | os.PathLike[str],
    dataset: str,
    name: str = "default",
    overwrite: bool = False,
    processes: int | None = None,
    beam: str | None = None,
    **options: Any,
) -> str:
    """Writes the records of a corpus as files and returns the text that tells what came out.

    FOLDER gets ``images/``, ``manifest.csv`` with one row per record (its split, crop boxes and
    hashes included), ``skipped.csv``, ``build.json`` and ``preparation.json``. The same corpus and
    options give the same bytes.

    Args:
        output: a folder that does not exist yet, or is empty.
        dataset, name, processes, beam, **options: arguments of `build.build`.
        overwrite: replace the folder if there is one.

    Raises:
        InputError: whatever is wrong with the arguments or with the corpus, in one sentence.
    """
    target = places.local(output, "--output").absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not overwrite:
        raise InputError(f"{target} exists: choose another --output, or replace it by --overwrite.")
    if build.find_builder(dataset).embedded:
        raise InputError(f"{dataset} is drawn as it is to be stored; there is nothing to prepare.")
    pipeline = build.pipeline(beam, processes)
    listed = build.list_corpus(dataset, name, options)
    if listed.config.root.resolve().is_relative_to(target.resolve()):
        raise InputError(f"--output {target} would replace the source: give another folder.")
    with places.written(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with build.staged(listed, target.parent, processes, pipeline) as make:
        scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            # TFDS needs a data folder even where nothing is built in it.
            builder = make(str(scratch / "unused"))
            written = scratch / "folder"
            _write(builder, written)
            builder.finish(written)
            if target.exists():
                os.replace(target, scratch / "replaced")
            os.replace(written, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return "\n".join([*builder.summary(), f"prepared in {target}"])


def _write(builder: Corpus, target: pathlib.Path) -> None:
    """Writes the pictures and the table of a builder whose records are made."""
    (target / "images").mkdir(parents=True)
    recipe = builder.recipe
    header = [
        "id",
        *recipe.pictures,
        *recipe.texts,
        *recipe.lists,
        "split",
        "digests",
        *(crop_field(field) for field, kind in recipe.pictures.items() if kind == "one"),
    ]
    with open(target / "manifest.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, header, extrasaction="ignore")
        table.writeheader()
        for split in builder.plan.rows:
            for number, record in builder.records(split):
                row = {name: _cell(value) for name, value in record.items()}
                for field in recipe.pictures:
                    row[field] = _files(target, f"images/{number:07d}", field, record[field])
                table.writerow({**row, "split": split})


def _cell(value: Any) -> str:
    """Returns a value of a record as the text of a cell; lists are joined by '; '."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return " ".join(str(number) for number in value.tolist())
    return "; ".join(item.decode("utf-8") for item in value)


def _files(target: pathlib.Path, stem: str, field: str, value: Any) -> str:
    """Writes the picture or pictures of a field; returns the path of the file or folder."""
    stem = stem if field == "image" else f"{stem}_{field}"
    if isinstance(value, bytes):
        if not value:
            return ""
        (target / f"{stem}{_suffix(value)}").write_bytes(value)
        return f"{stem}{_suffix(value)}"
    (target / stem).mkdir()
    for i, data in enumerate(value):
        (target / stem / f"{i:04d}{_suffix(data)}").write_bytes(data)
    return stem


def _suffix(data: bytes) -> str:
    return next((suffix for magic, suffix in _SUFFIXES if data.startswith(magic)), ".tif")


def _work(options: dict[str, Any]) -> str:
    names = ("size", "crop", "pad", "format", "quality")
    options["preparation"] = Preparation(**{name: options.pop(name) for name in names})
    output = options.pop("output")
    if output is None:
        return build.build(**options)
    options.pop("data_dir")
    return folder(output, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 2 for what the user can correct."""
    made = build.parser((__doc__ or "").split("\n")[0])
    default = Preparation()
    how = made.add_argument_group("preparation")
    how.add_argument("--output", help="write files into this folder instead of a data set")
    how.add_argument(
        "--size",
        type=int,
        default=default.size,
        help="long side in pixels (%(default)s); smaller pictures stay small",
    )
    how.add_argument("--crop", choices=CROPS, default=default.crop, help="(%(default)s)")
    how.add_argument("--pad", choices=PADS, default=default.pad, help="(%(default)s)")
    how.add_argument("--format", choices=FORMATS, default=default.format, help="(%(default)s)")
    how.add_argument("--quality", type=int, default=default.quality, help="of JPEG (%(default)s)")
    return build.run("prepare", _work, vars(made.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())

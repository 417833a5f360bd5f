"""What the programs `predict` and `embed` share: their flags, and the order of a run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from absl import flags

from data_pipelines import places
from data_pipelines.cases import listing
from data_pipelines.errors import InputError
from retina_jax import cli
from retina_jax.prediction import output, pseudonyms, requests
from retina_jax.prediction.requests import Options, Request
from retina_jax.prediction.rows import QUALITIES, Watch
from retina_jax.prediction.running import Job
from retina_jax.prediction.scoring import Model
from retina_jax.train import environment

TOO_MANY_FAILURES = 3
# Options that change no row, and are not compared with those of an earlier start.
_FREE = frozenset(("key", "data_dir"))
_OPTIONS = ("quality", "ood", "modality", "input", "missing_eye", "batch_size", "force", "data_dir")


def define(out: str) -> None:
    """Defines the flags; `out` is the default of --out."""
    flags.DEFINE_string("model", None, "The folder of a model, as retina_jax.convert writes it")
    flags.DEFINE_multi_string(
        "source", [], "Pictures: a file, folder, pattern, list (.txt), table, or NAME:SPLIT; the "
        "words that are no options are sources too"
    )  # fmt: skip
    flags.DEFINE_string("out", out, "The folder to write; of the same run it goes on")
    flags.DEFINE_multi_string("column", [], "FIELD=COLUMN of tables: image=path, patient=id, ...")
    cli.define_list("keep", [], "Columns of tables that go along, as in_COLUMN")
    flags.DEFINE_bool("recursive", False, "Look into the folders of folders")
    flags.DEFINE_string("data_dir", None, "Where built data sets lie")
    flags.DEFINE_string("key_file", None, "Secret bytes for hashes of patients and names")
    flags.DEFINE_bool("pseudonymise", False, "Write keyed hashes in the place of names of files "
                      "and patients, and the names in a table beside --out")  # fmt: skip
    flags.DEFINE_enum("quality", "flag", QUALITIES, "flag leaves ungradable pictures out, skip "
                      "those to be checked too, off judges nothing")  # fmt: skip
    flags.DEFINE_enum("ood", "flag", ("flag", "off"), "Leave out what is unlike training pictures")
    flags.DEFINE_string("modality", None, "Of the pictures: cfp, oct, ffa, ...")
    flags.DEFINE_string("input", None, "The input to fill, of a model of several")
    flags.DEFINE_enum("missing_eye", "refuse", ("refuse", "allowed"), "Patients of one photograph")
    flags.DEFINE_integer("batch_size", 32, "Pictures that the model sees at once")
    flags.DEFINE_string("shard", None, "i/n: only this part of the pictures, in its own folder")
    flags.DEFINE_integer("part_rows", output.PART_ENTRIES, "Entries of a part", lower_bound=1)
    flags.DEFINE_bool("resume", True, "Go on with a run of --out")
    flags.DEFINE_bool("overwrite", False, "Replace another run in --out")
    flags.DEFINE_float("max_failures", 0.1, "Share of unreadable pictures that ends with status 3")
    flags.DEFINE_bool("force", False, "Ask the model whatever was found of the pictures")
    flags.DEFINE_bool("quiet", False, "Print the written files only")
    flags.mark_flag_as_required("model")


def options() -> dict[str, Any]:
    """The options that both programs have, of `requests.Options`."""
    given: Any = flags.FLAGS
    key = given.key_file and _key(given.key_file)
    return {**{name: getattr(given, name) for name in _OPTIONS}, "key": key or None}


def _key(path: str) -> bytes:
    try:
        return places.local(path, "--key_file").read_bytes()
    except OSError as error:
        raise InputError(f"The key {path} cannot be read ({error.strerror}).") from None


def _columns() -> dict[str, str]:
    found = {}
    for given in flags.FLAGS["column"].value or ():
        field, equals, column = given.partition("=")
        if not equals:
            raise InputError(f"--column={given} is no FIELD=COLUMN.")
        found[field] = column
    return found


def work(
    arguments: Sequence[str],
    load: Callable[[str], Model],
    make: Callable[[Model, Options, Sequence[str]], tuple[Request, Job]],
    chosen: Options,
    asked: Mapping[str, Any],
    finish: Callable[[Job, Path, Sequence[Path], Mapping[str, Any]], Sequence[Path]],
    csv: bool,
) -> int:
    """One run of a program; returns its exit status.

    Args:
      arguments: the words of the command line that are no options, after the program's name.
      load: folder -> model.
      make: model, options and kept columns -> what is asked, and what is written.
      chosen: the options.
      asked: further options that a run of the same folder must share.
      finish: writes further files of the parts, after the summary; returns their paths.
      csv: whether the rows are written as CSV too.
    """
    given: Any = flags.FLAGS
    started = time.monotonic()
    sources = [*given.source, *arguments[1:]]
    out = places.local(given.out, "--out").absolute()
    model = load(given.model)
    kept = [listing.KEPT + name for name in given.keep]
    request, _ = make(model, chosen, kept)  # what cannot be asked is said before anything is read
    mark = {"pseudonymise": pseudonyms.mark(chosen.key)} if given.pseudonymise else {}
    with places.claimed(out, "is writing predictions"):
        if not given.resume and output.answered(out) and not given.overwrite:
            raise InputError(f"{out} holds a run: leave --noresume, or replace it by --overwrite.")
        identity = {
            "schema": "retina_jax.run/1",
            "model_hash": model.model_hash,
            "sources": sources,
            **{k: v for k, v in dataclasses.asdict(chosen).items() if k not in _FREE},
            **asked,
            **{name: getattr(given, name) for name in ("shard", "part_rows", "recursive", "keep")},
            "columns": _columns(),
            **mark,
        }
        entries = output.claim(out, identity, given.overwrite)
        remarks: tuple[str, ...] = ()
        if entries is None:
            entries, remarks = _entries(sources, request, given)
        size = max(min(chosen.batch_size, len(entries)), 1)
        fitting = dataclasses.replace(chosen, batch_size=size)
        request, job = make(model, fitting, kept)
        if given.pseudonymise:
            job = pseudonyms.hidden(job, chosen.key, pseudonyms.place(out))
        _greet(request, entries, remarks)
        environment.append_start(out, 0)
        watch = Watch(chosen.force)
        parts = output.run(job, out, entries, watch, given.part_rows, given.quiet)
        seconds = time.monotonic() - started
        summary = output.finish(job, out, parts, watch, seconds, csv)
        files = finish(job, out, parts, summary)
    _tell(summary, files, out)
    failed = summary["failed"] / max(summary["rows"], 1)
    return TOO_MANY_FAILURES if failed > given.max_failures else 0


def _greet(request: Request, entries: pa.Table, remarks: Sequence[str]) -> None:
    """What is said before a model is asked."""
    given: Any = flags.FLAGS
    if not given.pseudonymise and (remark := pseudonyms.reminder(entries)):
        remarks = (*remarks, remark)
    if not given.quiet:
        print("\n".join([*requests.notices(request), f"{len(entries):,} entries", *remarks]))


def _tell(summary: Mapping[str, Any], files: Sequence[Path], out: Path) -> None:
    """The summary, the files, and where names are left."""
    given: Any = flags.FLAGS
    if not given.quiet:
        print(output.told(summary))
    print("\n".join(str(path) for path in files))
    if given.pseudonymise and not given.quiet:
        print(f"{pseudonyms.place(out)} has the names; so do {output.MANIFEST}, {output.RUN} and "
              "starts.jsonl in the folder: hand on the rows alone.")  # fmt: skip


def _entries(
    sources: Sequence[str], request: Request, given: Any
) -> tuple[pa.Table, tuple[str, ...]]:
    found = listing.listed(
        sources,
        columns=_columns(),
        keep=given.keep,
        recursive=given.recursive,
        data_dir=given.data_dir,
    )
    entries = output.sharded(requests.arranged(found.entries, request), given.shard)
    if not len(entries):
        raise InputError(f"The shard {given.shard} of {len(found.entries)} entries is empty.")
    return entries, found.remarks

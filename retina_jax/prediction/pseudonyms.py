"""Rows without names of files and patients, and the table that leads back to them."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipelines.errors import InputError
from retina_jax.prediction.rows import Watch
from retina_jax.prediction.running import Job

_HIDDEN = ("record", "patient")
# What looks like a person in the name of a file: 'Smith, Jane', or a day of birth.
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"[01]\d", r"[0-3]\d"
_PERSONAL = re.compile(rf",|{_YEAR}[-_.]?{_MONTH}[-_.]?{_DAY}|{_DAY}[-_.]{_MONTH}[-_.]{_YEAR}")


def place(out: Path) -> Path:
    """The table beside a folder of predictions, which can then be handed on without it."""
    return out.with_name(f"{out.name}-names.csv")


def hidden(job: Job, key: bytes | None, table: Path) -> Job:
    """A job whose `record` and `patient` are keyed hashes, and which adds each to a table.

    Args:
      job: what is written.
      key: the secret; without it nobody can test which name a hash belongs to.
      table: a CSV with 'field', 'hash' and 'name', which a later start goes on with.

    Raises:
      InputError: without a key, or for a short one.
    """
    of = _hash(key)

    def tables(entries: pa.Table, watch: Watch) -> Iterator[pa.Table]:
        known = _known(table)
        for part in job.tables(entries, watch):
            found: dict[tuple[str, str], str] = {}
            for name in _HIDDEN:
                values = part[name].to_pylist()
                hashes = [of(value) for value in values]
                pairs = zip(hashes, values, strict=True)
                found |= {(name, hashed): value for hashed, value in pairs if hashed}
                column = pa.array(hashes, pa.string())
                part = part.set_column(part.schema.get_field_index(name), name, column)
            _add(table, {pair: found[pair] for pair in found if pair not in known})
            known |= set(found)
            yield part.cast(job.schema)

    return dataclasses.replace(job, tables=tables)


def mark(key: bytes | None) -> str | None:
    """What tells the hashes of one key from those of another, and nothing of the key.

    Raises:
      InputError: as `hidden`.
    """
    return _hash(key)("a run of retina_jax")


def _hash(key: bytes | None) -> Callable[[str | None], str | None]:
    from data_pipelines.clinical.scan import pseudonym  # its readers are an extra

    if key is None:
        raise InputError("--pseudonymise needs a secret: name a file of it by --key_file.")
    return pseudonym(key)


def _known(table: Path) -> set[tuple[str, str]]:
    if not table.is_file():
        return set()
    with table.open(encoding="utf-8", newline="") as file:
        return {(row[0], row[1]) for row in csv.reader(file) if len(row) == 3}


def _add(table: Path, found: dict[tuple[str, str], str]) -> None:
    new = not table.is_file()
    with table.open("a", encoding="utf-8", newline="") as file:
        writer: Any = csv.writer(file)
        if new:
            writer.writerow(("field", "hash", "name"))
        writer.writerows((*pair, name) for pair, name in found.items())


def reminder(entries: pa.Table) -> str:
    """A sentence where names of files look like those of people; '' where none does."""
    odd = [name for name in entries["record"].to_pylist() if _PERSONAL.search(name)]
    return "" if not odd else (
        f"{len(odd)} names of files have a comma or a date: where they name people, write hashes "
        "in their place by --pseudonymise."
    )  # fmt: skip

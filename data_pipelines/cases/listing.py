"""Lists what a user names: files, folders, patterns, tables, and built data sets, in one table.

The table is one of Arrow, so that a million entries take as little memory as their names.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import glob
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from data_pipelines import places
from data_pipelines.builders import labels, lookup, pictures, table, tree
from data_pipelines.errors import InputError
from data_pipelines.records import sources
from data_pipelines.text import texts

# What is known of an entry before it is read; '' is unknown, never guessed.
FACTS = ("patient", "eye", "date", "modality", "device")
SCHEMA = pa.schema(
    [("record", pa.string()), ("place", pa.string()), ("number", pa.int64()), ("size", pa.int64())]
    + [(name, pa.string()) for name in FACTS]
)
KEPT = "in_"  # before the names of columns that are passed through
TABLES = (".csv", ".tsv", ".parquet", ".xlsx")
_FIELDS = ("image", "patient", "eye", "modality")
_ALIASES: Mapping[str, Sequence[str]] = {
    **{name: table.ALIASES[name] for name in _FIELDS},
    "date": ("date", "study_date", "acquisition_date", "visit_date"),
    "device": ("device", "camera", "scanner"),
}
_BUILT = re.compile(r"([a-z][a-z0-9_]*/[A-Za-z0-9][A-Za-z0-9_.-]*):(.+)")


@dataclasses.dataclass(frozen=True)
class Listed:
    """What was found.

    Attributes:
        entries: a row for each file or record, of `SCHEMA`, and `in_<column>` for each that is
            kept: its id, its path or data set 'builder/name:split', its number there (-1 of a
            file), the bytes of the file (-1 of none), and `FACTS`.
        remarks: sentences for the user, on what was left out for instance.
    """

    entries: pa.Table
    remarks: tuple[str, ...] = ()


@dataclasses.dataclass
class _Columns:
    """Columns as they grow."""

    keep: Sequence[str]
    columns: dict[str, list[Any]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )
    remarks: list[str] = dataclasses.field(default_factory=list)

    def add(self, record: str, place: str, number: int = -1, **facts: str) -> None:
        size = -1
        if number < 0:
            with contextlib.suppress(OSError, ValueError):  # reading it says why
                size = os.stat(place).st_size
        row = {"record": record, "place": place, "number": number, "size": size}
        row |= {name: facts.get(name, "") for name in (*FACTS, *(KEPT + k for k in self.keep))}
        for name, value in row.items():
            self.columns[name].append(value)


def listed(
    inputs: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    recursive: bool = False,
    data_dir: str | None = None,
) -> Listed:
    """Lists inputs in the order in which they are named, the files of a folder by their names.

    Args:
        inputs: files of pictures or devices, folders, patterns such as 'photos/*.jpg', lists of
            paths (.txt), tables (.csv, .tsv, .parquet, .xlsx) with a column of paths, which are
            relative to the table, and built data sets, 'builder/name:split'.
        columns: {field: column} of tables where the usual names do not fit.
        keep: further columns to pass on.
        recursive: look into the folders of folders.
        data_dir: where built data sets lie.

    Raises:
        InputError: an input that is not there, or names nothing; ids that come twice are left
            out, and said.
    """
    if not inputs:
        raise InputError("Name pictures: files, a folder, a table or a data set.")
    found, several = _Columns(keep), len(inputs) > 1
    for given in inputs:
        before = len(found.columns["record"])
        _one(given, found, several, columns or {}, recursive, data_dir)
        if len(found.columns["record"]) == before:
            raise InputError(f"{given} names no picture.")
    fields = [*SCHEMA, *(pa.field(KEPT + name, pa.string()) for name in keep)]
    entries = pa.table(
        {field.name: pa.array(found.columns[field.name], field.type) for field in fields}
    )
    return _once(entries, found.remarks)


def _once(entries: pa.Table, remarks: list[str]) -> Listed:
    """Without entries whose id an earlier one has."""
    codes = entries["record"].combine_chunks().dictionary_encode().indices.to_numpy()
    first: list[int] = []
    if len(codes) and int(codes.max()) + 1 < len(codes):
        for i, code in enumerate(codes.tolist()):  # codes are numbered as they first appear
            if code == len(first):
                first.append(i)
            else:
                _same(*(entries.slice(row, 1).to_pylist()[0] for row in (first[code], i)))
        remarks.append(
            f"{len(codes) - len(first)} entries name a picture that an earlier one names too, and "
            "are left out"
        )
        entries = entries.take(pa.array(first))
    return Listed(entries, tuple(remarks))


def _same(first: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises InputError unless two entries of one id are of one picture."""
    stored = [one["number"] >= 0 for one in (first, other)]
    places = [one["place"] for one in (first, other)]
    if all(stored):  # of a data set ids tell records, whatever its splits are called
        same = len({place.partition(":")[0] for place in places}) == 1
    else:
        same = not any(stored) and (
            places[0] == places[1] or len(set(map(os.path.realpath, places))) == 1
        )
    if not same:
        raise InputError(
            f"Two inputs call different pictures '{first['record']}': {places[0]} and {places[1]}. "
            "Ask about each alone, or about the folder around them with --recursive."
        )


def _one(
    given: str,
    found: _Columns,
    several: bool,
    columns: Mapping[str, str],
    recursive: bool,
    data_dir: str | None,
) -> None:
    built = _BUILT.fullmatch(given)
    if built and not os.path.exists(given):
        _dataset(built[1], built[2], found, data_dir)
        return
    path = places.local(given, "An input")
    suffix = path.suffix.lower()
    # Of several inputs the ids say which one it is of.
    if path.is_dir():
        _folder(path, found, f"{path.name}/" if several else "", recursive)
    elif suffix == ".txt" and path.is_file():
        _lines(path, found)
    elif suffix in TABLES and path.is_file():
        _table(path, found, columns)
    elif path.is_file():
        if not pictures.kind(path):
            raise InputError(
                f"{given} is no picture, no file of a device, and no list of pictures (.txt, "
                f"{', '.join(TABLES)})."
            )
        found.add(given if several else path.name, str(path))
    elif glob.has_magic(given):
        _files(sorted(glob.glob(str(path), recursive=True)), given, found)
    else:
        raise InputError(f"There is no {given}: name a file, a folder or a data set that is there.")


def _folder(root: pathlib.Path, found: _Columns, prefix: str, recursive: bool) -> None:
    others = below = 0
    linked: list[str] = []
    before = len(found.columns["record"])
    for place, folders, names in tree.walk(root, left_out=linked):
        if not recursive:
            below += len(folders)
            folders.clear()
        for name in names:
            inside = f"{place}/{name}" if place else name
            if pictures.kind(root / inside):
                found.add(prefix + inside, str(root / inside))
            else:
                others += 1
    if len(found.columns["record"]) == before and below:
        raise InputError(f"{root} holds no pictures, but {below} folder(s): add --recursive.")
    if others:
        found.remarks.append(f"{others} files in {root} are no pictures, and are left out")
    if below:
        found.remarks.append(f"{below} folders in {root} are left out; --recursive takes them")
    if linked:
        found.remarks.append(
            f"{len(linked)} folders in {root} are links out of it, and are left out, such as "
            f"{linked[0]}; name them as inputs of their own"
        )


def _files(paths: Iterable[str], given: str, found: _Columns) -> None:
    hidden = sum(map(pictures.is_hidden, pathlib.PurePath(given).parts))
    kept = [
        path
        for path in paths
        if os.path.isfile(path) and pictures.kind(pathlib.Path(path))
        # What the pattern itself names may be hidden.
        if sum(map(pictures.is_hidden, pathlib.PurePath(path).parts)) <= hidden
    ]
    root = os.path.dirname(os.path.commonprefix([os.path.dirname(path) + "/" for path in kept]))
    for path in kept:
        found.add(os.path.relpath(path, root or "."), path)
    if not kept:
        raise InputError(f"No picture is like {given}.")


def _lines(path: pathlib.Path, found: _Columns) -> None:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The list {path} cannot be read ({error}).") from None
    for line in filter(None, map(str.strip, lines)):
        name = line.replace("\\", "/")
        found.add(name, str(path.parent / name))


def _table(path: pathlib.Path, found: _Columns, chosen: Mapping[str, str]) -> None:
    read = table.read(path, chosen, _ALIASES)
    if unknown := [name for name in found.keep if name not in read.header]:
        raise InputError(
            f"{path} has no column '{unknown[0]}' to keep; it has {', '.join(read.header)}."
        )
    folder, odd, unnamed, ragged = lookup.Folder(path.parent), 0, 0, 0
    for _, cells in read.rows:
        row = table.named(read, cells)
        if row is None:
            ragged += 1
            continue
        if not row[read.columns["image"]]:
            unnamed += 1
            continue
        facts: dict[str, Any] = {
            field: labels.whole(row[column])
            for field, column in read.columns.items()
            if field in FACTS
        }
        eye = texts.named_eye(facts.get("eye", ""))
        odd += eye is None
        kind = facts.get("modality", "").lower()
        facts |= {"eye": eye or "", "modality": table.MODALITIES.get(kind, kind)}
        facts |= {KEPT + name: row[name] for name in found.keep}
        name = row[read.columns["image"]].replace("\\", "/")
        place = path.parent / name
        if not place.exists() and (spelled := folder.find(name)):
            place = path.parent / spelled
        found.add(name, str(place), **facts)
    if ragged:
        found.remarks.append(
            f"{ragged} rows of {path} have another number of cells than its header, and are left "
            "out"
        )
    if unnamed:
        found.remarks.append(f"{unnamed} rows of {path} name no picture, and are left out")
    if odd:
        found.remarks.append(
            f"{odd} rows of {path} name an eye that is neither left nor right, so it is unknown"
        )


def _dataset(name: str, split: str, found: _Columns, data_dir: str | None) -> None:
    source = sources.load(name, split, data_dir)
    known = {field: source.column(field) for field in FACTS if field in source.fields}
    known |= {KEPT + field: [_text(v) for v in source.column(field)] for field in found.keep}
    # Without ids a place in one split says nothing of another split.
    places = (f"{split}/{place}" for place in range(len(source)))
    ids = source.column("id") if "id" in source.fields else places
    for number, record in enumerate(ids):
        facts: dict[str, Any] = {field: str(values[number]) for field, values in known.items()}
        found.add(f"{name}/{record}", f"{name}:{split}", number, **facts)


def _text(value: Any) -> str:
    return "; ".join(value) if isinstance(value, list) else str(value)

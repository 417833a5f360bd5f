"""Reads a table of pictures, CSV, Excel or Parquet: what each column means, and its rows."""

from __future__ import annotations

import codecs
import collections
import contextlib
import csv
import dataclasses
import difflib
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import pyarrow
import pyarrow.parquet

from data_pipelines.builders import labels, workbook
from data_pipelines.builders.compact import Compact
from data_pipelines.builders.entries import Entries, Entry, Listing, Ref, Skipped
from data_pipelines.errors import InputError
from data_pipelines.text.texts import given, shown, trimmed

# Field of a record: names of the column that may hold it, the most telling one first.
ALIASES: dict[str, tuple[str, ...]] = {
    "image": ("image", "file", "path", "filename", "file_name", "image_path", "image_id",
              "id_code", "image_name", "img_name", "imgname", "img"),
    "caption": ("caption", "report", "en_caption", "caption_en", "text"),
    "caption_zh": ("caption_zh", "cn_caption", "zh_caption", "report_zh"),
    "labels": ("labels", "label", "categories", "category", "class", "classes", "class_name",
               "diagnosis", "diagnoses", "dx", "disease", "level", "grade", "dr_grade", "dr_level",
               "retinopathy_grade", "finding_labels", "target", "label_id"),
    "attributes": ("attributes", "atributes"),
    "patient": ("patient", "patient_id", "subject", "subject_id"),
    "eye": ("eye", "laterality", "side"),
    "modality": ("modality",),
    "dataset": ("dataset", "corpus"),
    "split": ("split", "subset", "partition"),
    "duplicate_of": ("duplicate_of",),
}  # fmt: skip
MODALITIES = {"fundus": "cfp", "color fundus": "cfp", "colour fundus": "cfp", "fa": "ffa"}
# Fields that records have anyway, beside those of `ALIASES`.
RESERVED = frozenset((*ALIASES, "oct", "id", "digests", "perceptual", "crop"))


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        path: the file.
        header: column names; '' for columns without a name, such as the index that pandas writes.
        columns: {field: column} for the fields that the file has.
        rows: (line, cells) of each row that is not blank, as `compact.Compact` where it was read.
        fields: all fields that a column could hold.
        label_columns: columns that tell labels: one, several, () where it was said that there are
            none, None where none was found.
    """

    path: pathlib.Path
    header: tuple[str, ...]
    columns: Mapping[str, str]
    rows: Sequence[tuple[int, tuple[str, ...]]]
    fields: tuple[str, ...] = tuple(ALIASES)
    label_columns: tuple[str, ...] | None = None

    @property
    def extra(self) -> tuple[str, ...]:
        """Named columns that hold none of the fields."""
        used = {*self.columns.values(), *(self.label_columns or ())}
        return tuple(name for name in self.header if name and name not in used)


def read(
    path: pathlib.Path,
    chosen: Mapping[str, str],
    aliases: Mapping[str, Sequence[str]] = ALIASES,
    required: Sequence[str] = ("image",),
    strip: bool = True,
) -> Table:
    """Reads a table: .xlsx and .parquet by these endings, else CSV with commas, semicolons or tabs.

    A CSV is UTF-8 with or without BOM, or UTF-16 with BOM, with any line ends; a first line such as
    'sep=;' tells the separator. A cell of more than
    131,072 characters is an open quote rather than a text, and an error.

    Args:
        path: the file.
        chosen: {field: column} where the aliases do not fit; a field may be called by any of its
            aliases, '' is no column, and labels may be several columns, 'normal,dr,amd'.
        aliases: {field: names of the column that may hold it}, in lower case.
        required: fields that must have a column.
        strip: cut the blanks around cells.

    Raises:
        InputError: no such file, another encoding, broken quotes, a column twice, none for a
            required field.
    """
    reader = {".xlsx": workbook.read, ".parquet": _parquet_lines}.get(path.suffix.lower())
    lines = iter((reader or _csv_lines)(path))
    header = tuple(name.strip() for name in next(lines, ()))
    rows: Compact[tuple[int, tuple[str, ...]]] = Compact(
        _numbered(lines, strip),
        plain=lambda row: (len(row[1]), (row[0], *row[1])),
        read=lambda _, rows: ((row[0], row[1:]) for row in rows),
    )
    columns = _columns(path, header, chosen, aliases, required)
    several = columns.get("labels")
    told = None if several is None else tuple(several)
    single = {field: names[0] for field, names in columns.items() if len(names) == 1}
    return Table(path, header, single, rows, tuple(aliases), told)


def _numbered(
    lines: Iterator[Sequence[str]], strip: bool
) -> Iterator[tuple[int, tuple[str, ...]]]:  # fmt: skip
    for number, cells in enumerate(lines, 2):
        stripped = tuple(map(str.strip, cells))
        if any(stripped):
            yield number, stripped if strip else tuple(cells)


def _csv_lines(path: pathlib.Path) -> Iterator[list[str]]:
    try:
        with path.open("rb") as file:
            start = file.read(2)
        encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        with path.open(encoding=encoding, newline="") as file:
            first = re.split("[\r\n]", file.readline(), maxsplit=1)[0]
            file.seek(0)
            yield from _cells(path, file, first)
    except OSError as error:
        raise InputError(f"The table {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise _of_another_encoding(path, error) from None


def _cells(path: pathlib.Path, file: TextIO, first: str) -> Iterator[list[str]]:
    said = re.fullmatch(r'"?sep=([^\w"])"?', first.rstrip(" "), re.IGNORECASE)
    delimiter = said[1] if said else max(",;\t", key=first.count)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        # Excel writes the separator above the header, and does not show that line.
        yield from itertools.islice(reader, 1 if said else 0, None)
    except csv.Error as error:
        raise InputError(
            f"The table {path} is broken at line {reader.line_num}: {error}; check its quotes."
        ) from error


def _of_another_encoding(path: pathlib.Path, error: UnicodeDecodeError) -> InputError:
    with contextlib.suppress(OSError):
        try:  # of a file that is read in parts, the place is that in one of them
            path.read_bytes().decode(error.encoding)
        except UnicodeDecodeError as whole:
            error = whole
    return InputError(
        f"The table {path} is not UTF-8 (byte {error.start} is {error.object[error.start]:#x})"
        ": save it as UTF-8."
    )


def _parquet_lines(path: pathlib.Path) -> Iterator[tuple[str, ...]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield tuple(file.schema_arrow.names)
            for batch in file.iter_batches():
                columns = [
                    ["" if cell is None else str(cell) for cell in column.to_pylist()]
                    for column in batch.columns
                ]
                yield from zip(*columns, strict=True)
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).split("\n")[0][:200]
        raise InputError(f"The table {path} cannot be read ({reason}).") from None


def _columns(
    path: pathlib.Path,
    header: tuple[str, ...],
    chosen: Mapping[str, str],
    aliases: Mapping[str, Sequence[str]],
    required: Sequence[str],
) -> dict[str, list[str]]:
    """Returns {field: its columns}, one of each but for labels; [] where it was said so."""
    names = [name for name in header if name]
    found = f"the header of {path} is {shown(', '.join(names)) or 'empty'}"
    twice = [name for name, n in collections.Counter(names).items() if n > 1]
    if twice:
        raise InputError(f"Column '{shown(twice[0])}' comes more than once: {found}.")
    columns: dict[str, list[str]] = {}
    for word, column in chosen.items():
        field = field_of(word, aliases)
        if field in columns:
            raise InputError(f"Two columns are given for {field}: name one.")
        columns[field] = _named_columns(field, column, names, found)
    plain = {spelling(name): name for name in reversed(names)}
    for field, several in aliases.items():
        taken = {name for some in columns.values() for name in some}
        free = [plain[a] for a in several if a in plain and plain[a] not in taken]
        if field not in columns and free:
            columns[field] = free[:1]
    for field in required:
        if len(columns.get(field, ())) != 1:
            what = "image files" if field == "image" else field
            raise InputError(
                f"No column names the {what}: {found}; call it "
                f"{' or '.join(repr(name) for name in aliases[field][:2])}, or give "
                f"--column {field}=NAME."
            )
    return columns


def spelling(name: str) -> str:
    """Returns the name of a column as aliases are written: 'Patient ID', 'patient_id'."""
    return re.sub(r"[\s_-]+", "_", trimmed(name).lower())


def field_of(word: str, aliases: Mapping[str, Sequence[str]] = ALIASES) -> str:
    """Returns the field that a word means: its name, or one of its aliases.

    Raises:
        InputError: it means no field.
    """
    plain = spelling(word)
    for field, names in aliases.items():
        if plain == field or plain in names:
            return field
    every = {alias: field for field, names in aliases.items() for alias in (*names, field)}
    close = difflib.get_close_matches(plain, every, n=1)
    hint = f" (did you mean '{every[close[0]]}'?)" if close else ""
    raise InputError(f"There is no field '{shown(word)}'{hint}; fields are {', '.join(aliases)}.")


def _named_columns(field: str, text: str, names: Sequence[str], found: str) -> list[str]:
    """Returns the columns that were chosen for a field, as the header spells them."""
    plain = {spelling(name): name for name in names}

    def one(name: str) -> str:
        if name in names or spelling(name) in plain:
            return name if name in names else plain[spelling(name)]
        close = difflib.get_close_matches(spelling(name), plain, n=1)
        hint = f" (did you mean '{shown(plain[close[0]])}'?)" if close else ""
        raise InputError(f"There is no column '{shown(name)}' for {field}{hint}: {found}.")

    if not text.strip():
        return []
    if field == "labels" and "," in text and text not in names:
        return [one(part.strip()) for part in text.split(",") if part.strip()]
    return [one(text)]


def listing(
    found: Table,
    *,
    dataset: str,
    modality: str,
    options: labels.LabelOptions | None = None,
    pictures: Sequence[str] = ("image",),
) -> Listing:
    """Returns an entry for every row of a table that names its pictures.

    Args:
        found: the table.
        dataset: name of the data set, for rows that name none.
        modality: the modality of rows that name none.
        options: how labels are read.
        pictures: fields that name a picture; an entry has one reference in each.

    Raises:
        InputError: labels that are not understood; see `labels.reader`.
    """
    options = options or labels.LabelOptions()
    entries, skipped = Entries(), []
    extra = extra_fields(found.extra)
    told = found.label_columns or ()
    # Of millions of rows few have labels that no other one has.
    distinct = dict.fromkeys(_of_columns(found, told))
    labelled = [dict(zip(told, map(given, row), strict=True)) for row in distinct]
    labels_of = labels.reader(told, labelled, options, str(found.path))
    known = [(field, found.columns.get(field, "")) for field in found.fields]
    for number, cells in found.rows:
        by_name = named(found, cells)
        if by_name is None:
            detail = f"{len(cells)} where the header has {len(found.header)}"
            skipped.append(Skipped(number, "", "wrong number of cells", detail))
            continue
        fields: dict[str, Any] = {field: by_name.get(column, "") for field, column in known}
        paths = {field: fields.pop(field) for field in pictures}
        missing = [field for field, path in paths.items() if not path]
        if missing:
            image = next((path for path in paths.values() if path), "")
            skipped.append(Skipped(number, image, f"no {missing[0]} named"))
            continue
        kind = fields["modality"].lower() or modality
        fields |= {
            **{field: labels.whole(fields[field]) for field in ("patient", "split")},
            "labels": labels_of(by_name),
            "attributes": labels.split(fields["attributes"], options.separator),
            "modality": MODALITIES.get(kind, kind),
            "dataset": fields["dataset"] or dataset,
            **{field: by_name[column] for column, field in extra.items()},
        }
        refs = {field: (Ref(path),) for field, path in paths.items()}
        entries.append(Entry(number, refs, fields))
    remarks = _on_flags(found)
    columns = {**found.columns, "labels": ",".join(found.label_columns or ())}
    columns |= {field: column for column, field in extra.items()}
    return Listing(entries, tuple(skipped), remarks, tuple(extra.values()), columns)


def _on_flags(found: Table) -> tuple[str, ...]:
    """Returns a remark on a table without labels, or refuses one that may have them elsewhere."""
    if found.label_columns is not None or "labels" not in found.fields:
        return ()

    def cells(name: str) -> Iterator[str]:
        return (given(cell) for (cell,) in _of_columns(found, [name]))

    flags = labels.flag_columns(found.extra, cells)
    told = f"{len(flags)} columns hold only 0 and 1 ({shown(', '.join(flags))})"
    if flags and "caption" in found.columns:
        return (f"no column holds labels; {told} and are kept as text",)
    if flags:
        raise InputError(
            f"No column of {found.path} holds labels, but {told}: give --column "
            f"labels={shown(','.join(flags))} where these are classes, or --column labels= where "
            "they are not."
        )
    return ("no column holds labels",) if "caption" not in found.columns else ()


def named(found: Table, cells: Sequence[str]) -> dict[str, str] | None:
    """Returns {column: cell} of a row, or None where it has not the cells of the header.

    Cells that say "nothing" are ''. Blank cells beyond the header count for nothing: spreadsheets
    write them.
    """
    if not _is_whole(found, cells):
        return None
    return {name: given(cell) for name, cell in zip(found.header, cells, strict=False) if name}


def _is_whole(found: Table, cells: Sequence[str]) -> bool:
    width = len(found.header)
    return len(cells) >= width and not any(map(str.strip, cells[width:]))


def _of_columns(found: Table, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields the cells of some columns, of the rows that have the cells of the header."""
    places = [found.header.index(name) for name in columns]
    return (tuple([row[i] for i in places]) for _, row in found.rows if _is_whole(found, row))


def joined(listings: Iterable[tuple[str, Listing]]) -> Listing:
    """Returns the rows of several tables, given as (name, rows), as those of one.

    Rows are numbered on from table to table, and a skipped one says where it came from.
    """
    parts = list(listings)
    if len(parts) == 1:
        return parts[0][1]
    entries = Entries()
    skipped: list[Skipped] = []
    start = 0
    for name, part in parts:
        entries.extend(dataclasses.replace(e, number=start + e.number) for e in part.entries)
        for row in part.skipped:
            where = f"line {row.number} of {name}"
            detail = f"{where}: {row.detail}" if row.detail else where
            skipped.append(dataclasses.replace(row, number=start + row.number, detail=detail))
        rows = itertools.chain(part.entries, part.skipped)
        start += max((row.number for row in rows), default=0)
    remarks = tuple(remark for _, part in parts for remark in part.remarks)
    extra = tuple(dict.fromkeys(name for _, part in parts for name in part.extra))
    columns = {field: name for _, part in parts for field, name in part.columns.items() if name}
    return Listing(entries, tuple(skipped), remarks, extra, columns)


def extra_fields(columns: Sequence[str]) -> dict[str, str]:
    """Returns {column: field} of columns of no known meaning; none hides a field of a record."""
    fields: dict[str, str] = {}
    for column in columns:
        name = re.sub(r"\W+", "_", column.strip()).strip("_") or "column"
        name = f"csv_{name}" if name in RESERVED else name
        taken = set(fields.values())
        fields[column] = next(
            other
            for other in (name, *(f"{name}_{i}" for i in range(2, len(columns) + 2)))
            if other not in taken
        )
    return fields

"""Reads a table of pictures, CSV or Excel: which column means what, and an entry for every row."""

from __future__ import annotations

import ast
import codecs
import collections
import csv
import dataclasses
import difflib
import io
import pathlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipelines.builders import workbook
from data_pipelines.builders.entries import Entry, Listing, Ref, Skipped
from data_pipelines.errors import InputError

# Field of a record: names of the column that may hold it, the most telling one first.
ALIASES: dict[str, tuple[str, ...]] = {
    "image": ("image", "file", "path", "filename", "file_name", "image_path", "image_id"),
    "caption": ("caption", "report", "en_caption", "caption_en", "text"),
    "caption_zh": ("caption_zh", "cn_caption", "zh_caption", "report_zh"),
    "labels": ("labels", "label", "categories", "category", "class"),
    "attributes": ("attributes", "atributes"),
    "patient": ("patient", "patient_id", "subject", "subject_id"),
    "eye": ("eye", "laterality", "side"),
    "modality": ("modality",),
    "dataset": ("dataset", "corpus"),
    "split": ("split", "subset", "partition"),
    "duplicate_of": ("duplicate_of",),
}
EYES = {"od": "OD", "r": "OD", "re": "OD", "right": "OD", "os": "OS", "l": "OS", "le": "OS",
        "left": "OS", "": ""}  # fmt: skip
MODALITIES = {"fundus": "cfp", "color fundus": "cfp", "colour fundus": "cfp", "fa": "ffa"}
# Fields that records have anyway, beside those of `ALIASES`.
RESERVED = frozenset((*ALIASES, "oct", "id", "digests", "perceptual", "crop"))
# How programs write that a cell, or a list in it, holds nothing.
_NOTHING = frozenset(("", "nan", "[nan]", "[]", "['']"))


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        path: the file.
        header: column names; '' for columns without a name, such as the index that pandas writes.
        columns: {field: column} for the fields that the file has.
        rows: (line, cells) of each row that is not blank.
        fields: all fields that a column could hold.
    """

    path: pathlib.Path
    header: tuple[str, ...]
    columns: Mapping[str, str]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    fields: tuple[str, ...] = tuple(ALIASES)

    @property
    def extra(self) -> tuple[str, ...]:
        """Named columns that hold none of the fields."""
        used = set(self.columns.values())
        return tuple(name for name in self.header if name and name not in used)


def read(
    path: pathlib.Path,
    chosen: Mapping[str, str],
    aliases: Mapping[str, Sequence[str]] = ALIASES,
    required: Sequence[str] = ("image",),
    strip: bool = True,
) -> Table:
    """Reads a table: .xlsx by that ending, else CSV with commas, semicolons or tabs.

    A CSV is UTF-8 with or without BOM, or UTF-16 with BOM, with any line ends. A cell of more than
    131,072 characters is an open quote rather than a text, and an error.

    Args:
        path: the file.
        chosen: {field: column} where the aliases do not fit.
        aliases: {field: names of the column that may hold it}, in lower case.
        required: fields that must have a column.
        strip: cut the blanks around cells.

    Raises:
        InputError: no such file, another encoding, broken quotes, a column twice, none for a
            required field.
    """
    lines = workbook.read(path) if path.suffix.lower() == ".xlsx" else _csv_lines(path)
    header = tuple(name.strip() for name in next(iter(lines), ()))
    rows = [
        (number, tuple(cell.strip() for cell in cells) if strip else cells)
        for number, cells in enumerate(lines[1:], 2)
        if any(cell.strip() for cell in cells)
    ]
    columns = _columns(path, header, chosen, aliases, required)
    return Table(path, header, columns, tuple(rows), tuple(aliases))


def _csv_lines(path: pathlib.Path) -> list[tuple[str, ...]]:
    try:
        data = path.read_bytes()
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except OSError as error:
        raise InputError(f"The table {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"The table {path} is not UTF-8 (byte {error.start} is {error.object[error.start]:#x})"
            ": save it as UTF-8."
        ) from error
    first = re.split("[\r\n]", text, maxsplit=1)[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True
    )
    try:
        return [tuple(cells) for cells in reader]
    except csv.Error as error:
        raise InputError(
            f"The table {path} is broken at line {reader.line_num}: {error}; check its quotes."
        ) from error


def _columns(
    path: pathlib.Path,
    header: tuple[str, ...],
    chosen: Mapping[str, str],
    aliases: Mapping[str, Sequence[str]],
    required: Sequence[str],
) -> dict[str, str]:
    names = [name for name in header if name]
    found = f"the header of {path} is {shown(', '.join(names)) or 'empty'}"
    twice = [name for name, n in collections.Counter(names).items() if n > 1]
    if twice:
        raise InputError(f"Column '{shown(twice[0])}' comes more than once: {found}.")
    for field, column in chosen.items():
        if field not in aliases:
            raise InputError(f"There is no field '{field}'; fields are {', '.join(aliases)}.")
        if column not in names:
            close = difflib.get_close_matches(column, names, n=1)
            hint = f" (did you mean '{shown(close[0])}'?)" if close else ""
            raise InputError(f"There is no column '{column}' for {field}{hint}: {found}.")
    plain = {re.sub(r"[\s-]+", "_", name.lower()): name for name in names}
    columns = dict(chosen)
    for field, several in aliases.items():
        free = (plain[a] for a in several if a in plain and plain[a] not in columns.values())
        column = columns.get(field) or next(free, None)
        if column is not None:
            columns[field] = column
    for field in required:
        if field not in columns:
            what = "image files" if field == "image" else field
            raise InputError(
                f"No column names the {what}: {found}; call it "
                f"{' or '.join(repr(name) for name in aliases[field][:2])}, or give "
                f"--column {field}=NAME."
            )
    return columns


def shown(text: str) -> str:
    """Returns a text of a file as part of a sentence: short, and without line ends and the like."""
    plain = "".join(c if c.isprintable() else "?" for c in text[:300])
    return plain if len(text) <= 300 else f"{plain} ..."


def listing(
    found: Table,
    *,
    dataset: str,
    modality: str,
    label_separator: str = "",
    pictures: Sequence[str] = ("image",),
) -> Listing:
    """Returns an entry for every row of a table that names its pictures.

    Args:
        found: the table.
        dataset: name of the data set, for rows that name none.
        modality: the modality of rows that name none.
        label_separator: the same as in `labels`.
        pictures: fields that name a picture; an entry has one reference in each.
    """
    entries, skipped = [], []
    extra = extra_fields(found.extra)
    for number, cells in found.rows:
        by_name = named(found, cells)
        if by_name is None:
            detail = f"{len(cells)} where the header has {len(found.header)}"
            skipped.append(Skipped(number, "", "wrong number of cells", detail))
            continue
        fields: dict[str, Any] = {
            field: by_name[found.columns[field]] if field in found.columns else ""
            for field in found.fields
        }
        paths = {field: fields.pop(field) for field in pictures}
        missing = [field for field, path in paths.items() if not path]
        if missing:
            image = next((path for path in paths.values() if path), "")
            skipped.append(Skipped(number, image, f"no {missing[0]} named"))
            continue
        kind = fields["modality"].lower() or modality
        fields |= {
            "labels": labels(fields["labels"], label_separator),
            "attributes": labels(fields["attributes"], label_separator),
            "modality": MODALITIES.get(kind, kind),
            "dataset": fields["dataset"] or dataset,
            **{field: by_name[column] for column, field in extra.items()},
        }
        refs = {field: (Ref(path),) for field, path in paths.items()}
        entries.append(Entry(number, refs, fields))
    return Listing(tuple(entries), tuple(skipped), (), tuple(extra.values()))


def named(found: Table, cells: Sequence[str]) -> dict[str, str] | None:
    """Returns {column: cell} of a row, or None where it has not the cells of the header.

    Blank cells beyond the header count for nothing: spreadsheets write them.
    """
    width = len(found.header)
    if len(cells) < width or any(cell.strip() for cell in cells[width:]):
        return None
    return {
        name: cell.strip() for name, cell in zip(found.header, cells[:width], strict=True) if name
    }


def joined(listings: Iterable[tuple[str, Listing]]) -> Listing:
    """Returns the rows of several tables, given as (name, rows), as those of one.

    Rows are numbered on from table to table, and a skipped one says where it came from.
    """
    parts = list(listings)
    if len(parts) == 1:
        return parts[0][1]
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    start = 0
    for name, part in parts:
        entries += [dataclasses.replace(e, number=start + e.number) for e in part.entries]
        for row in part.skipped:
            where = f"line {row.number} of {name}"
            detail = f"{where}: {row.detail}" if row.detail else where
            skipped.append(dataclasses.replace(row, number=start + row.number, detail=detail))
        start += max((row.number for row in (*part.entries, *part.skipped)), default=0)
    remarks = tuple(remark for _, part in parts for remark in part.remarks)
    extra = tuple(dict.fromkeys(name for _, part in parts for name in part.extra))
    return Listing(tuple(entries), tuple(skipped), remarks, extra)


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


def labels(text: str, separator: str) -> list[str]:
    """Splits a label cell into lower-case names, each once, in their order.

    Args:
        text: names joined by `separator`, or a list as Python writes it: "['a', 'b']".
        separator: '' splits at ';' and '|'.
    """
    names = literal_list(text)
    if names is None:
        names = text.split(separator) if separator else re.split("[;|]", text)
    return list(dict.fromkeys(name.strip().lower() for name in names if name.strip()))


def literal_list(text: str) -> list[str] | None:
    """Returns the items of a list as Python writes it, or None where the text is no such list.

    Nothing is run: only literals are read. Empty items, and cells that say "nothing", are left out.
    """
    text = text.strip()
    if text.lower() in _NOTHING:
        return []
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "\d", which is read as it stands
            found = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not all(isinstance(item, str | int | float) for item in found):
        return None
    # A text may spell half of a character pair, which UTF-8 cannot hold.
    names = (str(item).encode("utf-8", "replace").decode("utf-8").strip() for item in found)
    return [name for name in names if name]

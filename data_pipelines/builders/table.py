"""Reads a CSV of photographs: which column means what, and an entry for every row."""

from __future__ import annotations

import collections
import csv
import dataclasses
import difflib
import io
import pathlib
import re
from collections.abc import Mapping
from typing import Any

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
        "left": "OS", "": ""}
MODALITIES = {"fundus": "cfp", "color fundus": "cfp", "colour fundus": "cfp", "fa": "ffa"}
# Fields that records have anyway, beside those of `ALIASES`.
RESERVED = frozenset((*ALIASES, "id", "digests", "perceptual", "crop"))
_LIST = re.compile(r"'([^']*)'|\"([^\"]*)\"")


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV file as text.

    Attributes:
        path: the file.
        header: column names.
        columns: {field: column} for the fields that the file has.
        rows: (line, cells) of each row that is not blank.
    """

    path: pathlib.Path
    header: tuple[str, ...]
    columns: Mapping[str, str]
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    @property
    def extra(self) -> tuple[str, ...]:
        """Columns that hold none of the fields."""
        used = set(self.columns.values())
        return tuple(name for name in self.header if name not in used)


def read(path: pathlib.Path, chosen: Mapping[str, str]) -> Table:
    """Reads a CSV file: UTF-8 with or without BOM, any line ends, commas, semicolons or tabs.

    Args:
        path: the file.
        chosen: {field: column} where the aliases do not fit.

    Raises:
        InputError: no such file, not UTF-8, broken quotes, a column twice, none for the image.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"The table {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"The table {path} is not UTF-8 (byte {error.start} is {error.object[error.start]:#x})"
            ": save it as UTF-8."
        ) from error
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count),
                        strict=True)
    rows = []
    try:
        header = tuple(name.strip() for name in next(reader, []))
        for number, cells in enumerate(reader, 2):
            if any(cell.strip() for cell in cells):
                rows.append((number, tuple(cell.strip() for cell in cells)))
    except csv.Error as error:
        raise InputError(
            f"The table {path} is broken at line {reader.line_num}: {error}; check its quotes."
        ) from error
    return Table(path, header, _columns(path, header, chosen), tuple(rows))


def _columns(
    path: pathlib.Path, header: tuple[str, ...], chosen: Mapping[str, str]
) -> dict[str, str]:
    found = f"the header of {path} is {', '.join(header) or 'empty'}"
    twice = [name for name, n in collections.Counter(header).items() if n > 1]
    if twice:
        raise InputError(f"Column '{twice[0]}' comes more than once: {found}.")
    for field, column in chosen.items():
        if field not in ALIASES:
            raise InputError(f"There is no field '{field}'; fields are {', '.join(ALIASES)}.")
        if column not in header:
            close = difflib.get_close_matches(column, header, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise InputError(f"There is no column '{column}' for {field}{hint}: {found}.")
    plain = {re.sub(r"[\s-]+", "_", name.lower()): name for name in header}
    columns = dict(chosen)
    for field, aliases in ALIASES.items():
        free = (plain[a] for a in aliases if a in plain and plain[a] not in columns.values())
        column = columns.get(field) or next(free, None)
        if column is not None:
            columns[field] = column
    if "image" not in columns:
        raise InputError(
            f"No column names the image files: {found}; call it 'image' or 'file', or give "
            "--column image=NAME."
        )
    return columns


def listing(found: Table, *, dataset: str, modality: str, label_separator: str = "") -> Listing:
    """Returns an entry of one picture, field 'image', for every row of a table that names one.

    Args:
        found: the table.
        dataset: name of the data set, for rows that name none.
        modality: of rows that name none.
        label_separator: see `labels`.
    """
    entries, skipped = [], []
    for number, cells in found.rows:
        if len(cells) != len(found.header):
            detail = f"{len(cells)} where the header has {len(found.header)}"
            skipped.append(Skipped(number, "", "wrong number of cells", detail))
            continue
        by_name = dict(zip(found.header, cells))
        fields: dict[str, Any] = {
            field: by_name[found.columns[field]] if field in found.columns else ""
            for field in ALIASES
        }
        image = fields.pop("image")
        if not image:
            skipped.append(Skipped(number, "", "no image named"))
            continue
        named = fields["modality"].lower() or modality
        fields |= {
            "labels": labels(fields["labels"], label_separator),
            "attributes": labels(fields["attributes"], label_separator),
            "modality": MODALITIES.get(named, named),
            "dataset": fields["dataset"] or dataset,
            **{extra_name(column): by_name[column] for column in found.extra},
        }
        entries.append(Entry(number, {"image": (Ref(image),)}, fields))
    names = tuple(extra_name(column) for column in found.extra)
    return Listing(tuple(entries), tuple(skipped), (), names)


def extra_name(column: str) -> str:
    """Returns the field of a column of no known meaning; it never hides a field of a record."""
    name = re.sub(r"\W+", "_", column.strip()).strip("_") or "column"
    return f"csv_{name}" if name in RESERVED else name


def labels(text: str, separator: str) -> list[str]:
    """Splits a label cell into lower-case names, each once, in their order.

    Args:
        text: names joined by `separator`, or a list as Python writes it: "['a', 'b']".
        separator: '' splits at ';' and '|'.
    """
    if text.startswith("[") and text.endswith("]"):
        names = [a or b for a, b in _LIST.findall(text)]
    else:
        names = text.split(separator) if separator else re.split("[;|]", text)
    return list(dict.fromkeys(name.strip().lower() for name in names if name.strip()))

"""Reads a CSV of photographs into checked rows: what can be used, and what cannot and why."""

from __future__ import annotations

import collections
import concurrent.futures
import csv
import dataclasses
import difflib
import hashlib
import io
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from data_pipelines import functional, storage
from data_pipelines.errors import InputError

# Field of a record: names of the column that may hold it, the most telling one first.
ALIASES: dict[str, tuple[str, ...]] = {
    "image": ("image", "file", "path", "filename", "file_name", "image_path", "image_id"),
    "caption": ("caption", "report", "en_caption", "caption_en", "text"),
    "caption_zh": ("caption_zh", "cn_caption", "zh_caption", "report_zh"),
    "labels": ("labels", "label", "categories", "category", "class"),
    "patient": ("patient", "patient_id", "subject", "subject_id"),
    "eye": ("eye", "laterality", "side"),
    "modality": ("modality",),
    "dataset": ("dataset", "corpus"),
    "split": ("split", "subset", "partition"),
    "duplicate_of": ("duplicate_of",),
}
EYES = {"od": "OD", "r": "OD", "re": "OD", "right": "OD", "os": "OS", "l": "OS", "le": "OS",
        "left": "OS", "": ""}
_LIST = re.compile(r"'([^']*)'|\"([^\"]*)\"")


@dataclasses.dataclass(frozen=True)
class Row:
    """One usable row.

    Attributes:
        number: its line in a spreadsheet; the header is line 1.
        path: the picture, inside the source folder.
        digest: hash of the picture file's bytes.
        fields: text of each field of `ALIASES` ('' where absent) but the image.
        extra: text of the columns that are no such field.
    """

    number: int
    path: pathlib.Path
    digest: str
    fields: Mapping[str, str]
    extra: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """One row that cannot be used: its line, its image cell, a kind of reason, and details."""

    number: int
    image: str
    reason: str
    detail: str = ""


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


def verify(
    table: Table, source: pathlib.Path, progress: Callable[[Iterable], Iterable] = iter
) -> tuple[list[Row], list[Skipped]]:
    """Checks every row: its cells, that its path stays inside `source`, that its picture decodes.

    Args:
        table: the rows.
        source: folder that the image paths are relative to.
        progress: wraps the iterator over rows, to show how far it is.

    Returns:
        (usable rows, skipped rows), together as many as the table has.
    """
    rows, skipped = [], []
    root = source.resolve()
    with concurrent.futures.ThreadPoolExecutor(storage.cores()) as pool:
        checked = pool.map(lambda row: _verify_row(table, root, *row), table.rows)
        for result in progress(checked):
            (rows if isinstance(result, Row) else skipped).append(result)
    return rows, skipped


def _verify_row(
    table: Table, root: pathlib.Path, number: int, cells: Sequence[str]
) -> Row | Skipped:
    if len(cells) != len(table.header):
        return Skipped(number, "", "wrong number of cells",
                       f"{len(cells)} where the header has {len(table.header)}")
    by_name = dict(zip(table.header, cells))
    fields = {field: by_name[table.columns[field]] if field in table.columns else ""
              for field in ALIASES}
    name = fields.pop("image")
    if not name:
        return Skipped(number, name, "no image named")
    try:
        path = confine(name, root)
    except InputError as error:
        return Skipped(number, name, "path leaves the folder", str(error))
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        return Skipped(number, name, "file not readable", str(error))
    try:
        functional.decode_image(data)
    except InputError as error:
        return Skipped(number, name, "picture not readable", str(error))
    return Row(number, path, hashlib.blake2b(data, digest_size=16).hexdigest(), fields,
               {column: by_name[column] for column in table.extra})


def confine(name: str, root: pathlib.Path) -> pathlib.Path:
    """Returns the file that `name` means inside `root`.

    Raises:
        InputError: an absolute path, one with '..', or a link that leads out of the folder.
    """
    # Tables written on Windows separate folders by backslashes.
    parts = pathlib.PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or pathlib.PureWindowsPath(name).drive:
        raise InputError(f"The image path '{name}' is absolute: name files inside the folder.")
    if ".." in parts.parts:
        raise InputError(f"The image path '{name}' climbs out by '..'.")
    try:
        path = (root / parts).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"The image path '{name}' cannot be followed: {error}.") from error
    if not path.is_relative_to(root):
        raise InputError(f"The image path '{name}' is a link out of the folder.")
    return path


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

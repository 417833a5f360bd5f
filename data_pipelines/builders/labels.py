"""What the label columns of a table say: names of classes, a column for each class, or codes."""

from __future__ import annotations

import ast
import collections
import dataclasses
import functools
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

from data_pipelines.errors import InputError
from data_pipelines.text.texts import encodable, given, shown, trimmed

# The five grades of diabetic retinopathy (ICDR), under the names of FLAIR's experiments.
RETINOPATHY = {"0": "no diabetic retinopathy", "1": "mild diabetic retinopathy",
               "2": "moderate diabetic retinopathy", "3": "severe diabetic retinopathy",
               "4": "proliferative diabetic retinopathy"}  # fmt: skip
SCALES: dict[str, Mapping[str, str]] = {"icdr5": RETINOPATHY}

_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:e[+-]?\d+)?")
_TRUE = frozenset(("1", "true", "yes"))
_FLAGS = _TRUE | {"0", "false", "no"}
ASK = "--label_names=0:normal,1:mild,... or, for grades of retinopathy, --label_names=icdr5"
_BRACKETED = re.compile(r"\([^()]*\)")


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """How cells of labels are read.

    Attributes:
        separator: between labels of one cell; '' splits at ';' and '|'.
        names: {code in lower case: name of the class}.
    """

    separator: str = ""
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)


def class_names(text: str) -> dict[str, str]:
    """Returns {code: name} of an option such as '0:normal,1:mild', or of a scale, 'icdr5'.

    Raises:
        InputError: neither a scale nor pairs, or a code or a name that comes twice.
    """
    if text.strip().lower() in SCALES:
        return dict(SCALES[text.strip().lower()])
    found: dict[str, str] = {}
    for pair in filter(str.strip, text.split(",")):
        code, colon, name = (part.strip() for part in pair.partition(":"))
        if not (code and colon and name):
            raise InputError(
                f"--label_names is CODE:NAME,CODE:NAME or one of {', '.join(SCALES)}; "
                f"got '{pair.strip()}'."
            )
        if whole(words(code)) in found:
            raise InputError(f"--label_names names the code '{code}' twice.")
        found[whole(words(code))] = name.lower()
    return found


def whole(cell: str) -> str:
    """Returns a whole number without the '.0' that tables made of one with gaps have."""
    number, dot, rest = cell.partition(".")
    return number if dot and number.isdigit() and not rest.strip("0") else cell


def is_code(label: str) -> bool:
    """Tells whether a label is a number, a single letter, or yes or no: no name of a class."""
    return len(label) == 1 and label.isascii() or bool(_NUMBER.fullmatch(label) or label in _FLAGS)


def words(name: str) -> str:
    """Returns the name of a column or folder as that of a class: 'Macular_Hole', 'macular hole'.

    'NA' and 'none' are names like others here.
    """
    return " ".join(trimmed(name).replace("_", " ").lower().split())


def split(text: str, separator: str) -> list[str]:
    """Splits a label cell into lower-case names, each once, in their order.

    Args:
        text: names joined by `separator`, or a list as Python writes it: "['a', 'b']".
        separator: '' splits at ';' and '|'.
    """
    if not text:
        return []
    names = literal_list(text)
    if names is None:
        names = text.split(separator) if separator else re.split("[;|]", text)
    names = (" ".join(given(name).lower().split()) for name in names)
    return list(dict.fromkeys(name for name in names if name))


def literal_list(text: str) -> list[str] | None:
    """Returns the items of a list as Python writes it, or None where the text is no such list.

    Nothing is run: only literals are read. Empty items, and cells that say "nothing", are left out.
    """
    text = given(text)
    if not text:
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
    names = (given(encodable(str(item))) for item in found)
    return [name for name in names if name]


def reader(
    columns: Sequence[str], rows: Iterable[Mapping[str, str]], options: LabelOptions, where: str
) -> Callable[[Mapping[str, str]], list[str]]:
    """Returns a function of a row {column: cell} that returns its labels.

    Of several columns, one that holds only 0 and 1 (or true and false, yes and no) is a class of
    its name; any other one holds names.

    Args:
        columns: the columns that tell labels.
        rows: the rows of the table, which can be gone through again; of those whose cells are the
            same, one is enough.
        options: how cells are read.
        where: the table, for sentences.

    Raises:
        InputError: labels that look like codes without names, or like a list whose separator is
            not known.
    """
    flags = [name for name in columns if len(columns) > 1 and is_flag(row[name] for row in rows)]
    texts = [name for name in columns if name not in flags]

    def read(row: Mapping[str, str]) -> list[str]:
        return list(of_cells(tuple([row[name] for name in columns])))

    @functools.lru_cache(2**12)
    def of_cells(cells: tuple[str, ...]) -> tuple[str, ...]:
        row = dict(zip(columns, cells, strict=True))
        found = [words(name) for name in flags if whole(row[name].lower()) in _TRUE]
        found += [label for name in texts for label in split(row[name], options.separator)]
        named = (options.names.get(whole(words(label)), label) for label in found)
        return tuple(dict.fromkeys(named))

    if flags:
        _refuse_strays(texts, rows, f"{where} (beside {shown(', '.join(flags))})")
    _refuse_commas(texts, rows, options, where)
    told = {options.names.get(name, name) for name in map(words, flags)}
    told.update(label for row in rows for label in read(row))
    codes = sorted(set(map(whole, filter(is_code, told))))
    if codes:
        known = f"; names are given for {shown(', '.join(options.names))}" if options.names else ""
        raise InputError(
            f"The labels of {where} (column {shown(', '.join(columns))}) look like codes "
            f"({shown(', '.join(codes[:6]))}), which say nothing in a prompt{known}: name them by "
            f"{ASK}."
        )
    return read


def flag_columns(columns: Iterable[str], cells: Callable[[str], Iterable[str]]) -> list[str]:
    """Returns the columns that hold only 0 and 1, if these are two or more.

    Args:
        columns: names of columns.
        cells: the name of a column -> its cells, from the first one at each call.
    """
    found = [name for name in columns if is_flag(cells(name)) and any(cells(name))]
    return found if len(found) > 1 else []


def is_flag(cells: Iterable[str]) -> bool:
    """Tells whether all cells are 0 or 1, true or false, yes or no, or empty."""
    return all(whole(cell.lower()) in _FLAGS for cell in cells if cell)


def _refuse_strays(texts: Sequence[str], rows: Iterable[Mapping[str, str]], where: str) -> None:
    """Refuses a column of numbers beside columns of 0 and 1: it is one of them with a slip."""
    for name in texts:
        cells = {whole(row[name]) for row in rows if row[name]}
        if cells and all(map(_NUMBER.fullmatch, cells)):
            strays = shown(", ".join(sorted(cells - _FLAGS)[:6]))
            raise InputError(
                f"Column '{shown(name)}' of {where} holds {strays}, where 0 and 1 tell a class: "
                "correct these cells, or leave the column out of --column labels=."
            )


def _refuse_commas(
    columns: Sequence[str], rows: Iterable[Mapping[str, str]], options: LabelOptions, where: str
) -> None:
    """Refuses cells with commas of which a part is a label, or a part of another cell, too.

    A comma may as well belong to a name: "retinopathy, in the child".
    """
    if options.separator:
        return
    for column in columns:
        cells = {row[column] for row in rows if literal_list(row[column]) is None}
        # Beside another separator a comma is of a name.
        listed = {cell for cell in cells if re.search("[;|]", cell)}
        pieces = [re.split("[;|]", cell) for cell in listed] + [_cut(c) for c in cells - listed]
        parts = collections.Counter(
            part for found in pieces for part in {given(p).lower() for p in found} if part
        )
        for cell in sorted(cells - listed):
            if len(_cut(cell)) > 1 and any(parts[given(p).lower()] > 1 for p in _cut(cell)):
                raise InputError(
                    f"'{shown(cell)}' in column '{shown(column)}' of {where} looks like "
                    "several labels: split them by --label_separator=, or keep the commas by "
                    "--label_separator=';'."
                )


def _cut(cell: str) -> list[str]:
    """Cuts a cell at commas that are not in brackets."""
    return _BRACKETED.sub("", cell).split(",")

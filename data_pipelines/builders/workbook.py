"""Reads the first sheet of an Excel workbook as text."""

from __future__ import annotations

import datetime
import pathlib
import zipfile
from typing import Any

from data_pipelines.errors import InputError

# A workbook is compressed: this is far more than any table of pictures, and fits into memory.
MAX_BYTES = 1 << 30


def read(path: pathlib.Path) -> list[tuple[str, ...]]:
    """Returns the rows of the first sheet, all as long as the header; formulas by their values.

    Raises:
        InputError: the file cannot be read or is no workbook, or the reader is not installed.
    """
    try:
        import openpyxl  # an extra: most tables are CSV
    except ImportError:
        raise InputError(
            f"Reading {path} needs openpyxl: pip install 'retina_jax[excel]', or save it as CSV."
        ) from None
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist())
        if size > MAX_BYTES:
            raise InputError(f"The workbook {path} unpacks to {size:,} bytes: save it as CSV.")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            # The size that a sheet claims may be wrong in either direction.
            sheet = book.worksheets[0]
            sheet.reset_dimensions()
            rows = [tuple(map(_text, row)) for row in sheet.iter_rows(values_only=True)]
        finally:
            book.close()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"The table {path} cannot be read ({error.strerror}).") from error
    except Exception as error:  # whatever its parsers of archives, XML and dates raise
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        raise InputError(f"The table {path} is no readable workbook ({reason}).") from error
    width = len(rows[0]) if rows else 0
    return [row + ("",) * (width - len(row)) for row in rows]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value)

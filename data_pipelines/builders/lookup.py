"""Finds the files that a table names inside its folder, although they are spelt differently."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable

from data_pipelines.builders import entries
from data_pipelines.builders.entries import Entry
from data_pipelines.errors import InputError


class Folder:
    """The files of a folder, found whatever the case of their names; folders are listed once.

    Args:
        root: the folder.
    """

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root.resolve()
        self._names: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> str | None:
        """Returns the path of a file or folder as it is on disk, relative to the root.

        Args:
            name: its path by a table; backslashes, '//' and './' are understood, and all other
                characters, such as '%20' or '#', stand for themselves.

        Returns:
            The path. None where there is no such file, where two differ from `name` in case only,
            and where it leads out of the folder.
        """
        found = ""
        for part in pathlib.PurePosixPath(name.replace("\\", "/")).parts:
            same = self._listing(found).get(part.casefold(), [])
            if part not in same and len(same) != 1:
                return None
            found = f"{found}/{part if part in same else same[0]}".lstrip("/")
        return found or None

    def _listing(self, folder: str) -> dict[str, list[str]]:
        """Returns {lower-case name: names} of a folder; of no folder, and outside, nothing."""
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            try:
                with os.scandir(entries.confine(folder, self._root)) as members:
                    for member in members:
                        names.setdefault(member.name.casefold(), []).append(member.name)
            except (InputError, OSError):
                pass
            self._names[folder] = names
        return self._names[folder]


def files(root: pathlib.Path, pattern: str) -> list[str]:
    """Returns the files inside a folder that a pattern such as 'tables/*.csv' selects, sorted.

    Raises:
        InputError: the pattern selects none, or leads out of the folder.
    """
    if pathlib.PurePath(pattern).is_absolute() or ".." in pathlib.PurePath(pattern).parts:
        raise InputError(f"Give files inside {root}, such as '*.csv', not '{pattern}'.")
    try:
        found = sorted(p.relative_to(root).as_posix() for p in root.glob(pattern) if p.is_file())
    except (ValueError, NotImplementedError, IndexError) as error:
        raise InputError(f"'{pattern}' is no pattern of files: {error}.") from error
    for name in found:
        entries.confine(name, root.resolve())
        if not name.isprintable():  # also a name that is not UTF-8
            raise InputError(f"Rename {name!r} in {root}: its name cannot be written as text.")
    if not found:
        raise InputError(f"There is no file {pattern} in {root}: check --source and --csv.")
    return found


def repeated(rows: Iterable[Entry]) -> list[str]:
    """Returns a remark on rows whose picture an earlier row lists too, if there are any."""
    names = [row.name for row in rows]
    again = len(names) - len(set(names))
    return [f"{again} rows list a picture that an earlier row lists too; all are kept"][:again]

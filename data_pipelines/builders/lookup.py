"""Finds the files that a table names inside its folder, although they are spelt differently."""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
import re
from collections.abc import Callable, Set

from data_pipelines.builders import entries
from data_pipelines.builders.entries import Entry, Listing, Ref, Skipped
from data_pipelines.builders.pictures import PICTURE_SUFFIXES, VOLUME_SUFFIXES, is_hidden
from data_pipelines.builders.tree import key
from data_pipelines.errors import InputError


class Folder:
    """The files of a folder, found although they are spelt differently; folders are listed once.

    Neither capitals nor the encoding of accents count, and a picture may have another ending, or
    none where the table has one and the other way round.

    Args:
        root: the folder.
        follow_links: find what lies behind links out of the folder, too.
    """

    def __init__(self, root: pathlib.Path, follow_links: bool = False) -> None:
        self._root, self._follow_links = root.resolve(), follow_links
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
        parts = pathlib.PurePosixPath(name.replace("\\", "/")).parts
        for number, part in enumerate(parts, 1):
            same = self._listing(found).get(key(part), [])
            if not same and number == len(parts):
                same = self._other_endings(found, part)
            if part not in same and len(same) != 1:
                return None
            found = f"{found}/{part if part in same else same[0]}".lstrip("/")
        return found or None

    def close(self, name: str) -> str:
        """Returns the name of a file in the same folder that is spelt like this one, or ''."""
        path = pathlib.PurePosixPath(name.replace("\\", "/"))
        place = "" if path.parent == pathlib.PurePosixPath(".") else self.find(str(path.parent))
        known = {} if place is None else self._listing(place)
        close = difflib.get_close_matches(key(path.name), known, n=1, cutoff=0.7)
        return known[close[0]][0] if close else ""

    def _other_endings(self, folder: str, name: str) -> list[str]:
        stem, suffix = os.path.splitext(key(name))
        stem = stem if suffix in PICTURE_SUFFIXES else key(name)  # a dot inside is no ending
        known = self._listing(folder)
        names = (stem, *(stem + suffix for suffix in sorted(PICTURE_SUFFIXES)))
        return [found for name in names for found in known.get(name, ())]

    def _listing(self, folder: str) -> dict[str, list[str]]:
        """Returns {key of a name: names} of a folder; of no folder, and outside, nothing."""
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            try:
                with os.scandir(entries.confine(folder, self._root, self._follow_links)) as members:
                    for member in members:
                        names.setdefault(key(member.name), []).append(member.name)
            except (InputError, OSError):
                pass
            self._names[folder] = names
        return self._names[folder]


# Misspelt names of which the nearest is looked for, which takes milliseconds in a large folder.
_MOST_HINTS = 20


def located(
    rows: Listing, root: pathlib.Path, follow_links: bool
) -> Callable[[Entry], Entry | Skipped]:
    """Returns a check of `entries.checked`: each picture gets its name on disk, or is refused.

    Args:
        rows: the rows that are checked.
        root: the folder that their names are relative to.
        follow_links: find what lies behind links out of the folder, too.
    """
    folder, top = Folder(root, follow_links), str(root.resolve())
    told = sum(row.reason == "no such file" for row in rows.skipped)

    def check(entry: Entry) -> Entry | Skipped:
        nonlocal told
        pictures: dict[str, tuple[Ref, ...]] = {}
        for field, refs in entry.pictures.items():
            found: list[Ref] = []
            for ref in refs:
                path = ref.path if _leads_somewhere(ref.path, top) else folder.find(ref.path)
                if path is None:
                    told += 1
                    close = folder.close(ref.path) if told <= _MOST_HINTS else ""
                    hint = f"; did you mean '{close}'?" if close else ""
                    detail = f"There is no '{ref.path}'{hint}"
                    return Skipped(entry.number, entry.name, "no such file", detail)
                found.append(ref if path == ref.path else dataclasses.replace(ref, path=path))
            pictures[field] = tuple(found)
        return Entry(entry.number, pictures, entry.fields)

    return check


def _leads_somewhere(name: str, root: str) -> bool:
    """Tells whether there is such a file; what leaves the folder is refused when it is read."""
    name = name.replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
        return True
    return os.path.lexists(f"{root}/{name}") if "\0" not in name else True


def files(root: pathlib.Path, pattern: str, follow_links: bool = False) -> list[str]:
    """Returns the files inside a folder that a pattern such as 'tables/*.csv' selects, sorted.

    Raises:
        InputError: the pattern selects none, or leads out of the folder.
    """
    if pathlib.PurePath(pattern).is_absolute() or ".." in pathlib.PurePath(pattern).parts:
        raise InputError(f"Give files inside {root}, such as '*.csv', not '{pattern}'.")
    try:
        paths = (p for p in root.glob(pattern) if p.is_file() and not is_hidden(p.name))
        found = sorted(p.relative_to(root).as_posix() for p in paths)
    except (ValueError, NotImplementedError, IndexError) as error:
        raise InputError(f"'{pattern}' is no pattern of files: {error}.") from error
    for name in found:
        entries.confine(name, root.resolve(), follow_links)
        if not name.isprintable():  # also a name that is not UTF-8
            raise InputError(f"Rename {name!r} in {root}: its name cannot be written as text.")
    if not found:
        raise InputError(f"There is no file {pattern} in {root}: check --source and --csv.")
    return found


def compiled(pattern: str, groups: Set[str]) -> re.Pattern[str]:
    """Returns what tells fields by names of files; '' is a pattern that tells none.

    Raises:
        InputError: it is no regular expression, or its groups are not some of `groups`.
    """
    try:
        made = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--pattern is no regular expression: {error}.") from error
    named = set(made.groupindex)
    if named - groups or bool(named) != bool(pattern):
        raise InputError(
            f"--pattern has groups of the names {', '.join(sorted(groups))}, as in "
            f"'(?P<patient>[0-9]+)_.*'; got '{pattern}'."
        )
    return made


def stem(path: str) -> str:
    """Returns a path without the ending of a picture or a volume; other dots are part of it."""
    before, suffix = os.path.splitext(path)
    return before if suffix.lower() in PICTURE_SUFFIXES | VOLUME_SUFFIXES else path

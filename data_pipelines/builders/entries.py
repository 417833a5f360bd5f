"""What a builder knows of its corpus before it opens a picture: one entry per record to be."""

from __future__ import annotations

import base64
import binascii
import collections
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines.builders.compact import Compact
from data_pipelines.errors import InputError


class Unusable(InputError):
    """A picture that cannot be used, with the kind of reason that is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Ref:
    """Where the bytes of a picture are.

    Attributes:
        path: a file (or, for a volume, a folder) inside the source folder, with / or backslashes.
        start: first byte, where the picture is base64 text inside the file.
        length: bytes of that text; None for the whole file as it is.
    """

    path: str
    start: int = 0
    length: int | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record to be.

    Attributes:
        number: its line in the table (the header is line 1), or its place in the listing from 1;
            no two entries of a listing share one.
        pictures: {picture field: references}; a field of one picture has one, and none where the
            picture is missing (the other eye of a patient).
        fields: {field: text, or list of texts}; fields that are not given are empty.
    """

    number: int
    pictures: Mapping[str, tuple[Ref, ...]]
    fields: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The first picture's path; the id of a record without pictures."""
        for refs in self.pictures.values():
            for ref in refs:
                return ref.path
        return self.fields.get("id", "")


@dataclasses.dataclass(frozen=True)
class Skipped:
    """One row that cannot be used: its line, its image cell, a kind of reason, and details."""

    number: int
    image: str
    reason: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Listing:
    """All rows of a corpus: as many entries and skipped ones as it has rows.

    Attributes:
        entries: rows that may become records; of millions, `Entries`.
        skipped: rows that cannot.
        remarks: sentences for the user.
        extra: names of further text fields that entries have, in their order.
        columns: {field: the column it came from}, several with commas between them.
    """

    entries: Sequence[Entry]
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)


def plain(entry: Entry) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Returns ((names of pictures, names of fields), (number, pictures, fields)) as JSON holds."""
    names = tuple(entry.pictures), tuple(entry.fields)
    refs = map(_plain_refs, entry.pictures.values())
    return names, (entry.number, *refs, *entry.fields.values())


def _plain_refs(refs: tuple[Ref, ...]) -> Any:
    """The path alone of one whole file, as nearly all pictures are."""
    if len(refs) == 1 and refs[0].length is None and not refs[0].start:
        return refs[0].path
    return [(ref.path, ref.start, ref.length) for ref in refs]


def read_plain(names: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Iterator[Entry]:
    """Yields the entries that JSON gives back of `plain`; sequences of fields are lists."""
    pictures, fields = names
    end = 1 + len(pictures)
    for row in rows:
        refs = {
            field: (Ref(cell),) if isinstance(cell, str) else tuple(Ref(*ref) for ref in cell)
            for field, cell in zip(pictures, row[1:end], strict=True)
        }
        yield Entry(row[0], refs, dict(zip(fields, row[end:], strict=True)))


class Entries(Compact[Entry]):
    """Entries by the million; texts of fields come back as they were, sequences as lists."""

    def __init__(self, items: Iterable[Entry] = ()) -> None:
        super().__init__(items, plain, read_plain)


class Numbered:
    """The rows of a corpus as they come, kept or skipped, each with its place from 1."""

    def __init__(self) -> None:
        self.entries = Entries()
        self.skipped: list[Skipped] = []

    def _number(self) -> int:
        return len(self.entries) + len(self.skipped) + 1

    def keep(self, pictures: Mapping[str, tuple[Ref, ...]], fields: Mapping[str, Any]) -> None:
        """Adds a record to be."""
        self.entries.append(Entry(self._number(), pictures, fields))

    def skip(self, image: str, reason: str, detail: str = "") -> None:
        """Adds a row that cannot be used."""
        self.skipped.append(Skipped(self._number(), image, reason, detail))


def checked(rows: Listing, checks: Sequence[Callable[[Entry], Entry | Skipped]]) -> Listing:
    """Returns the listing with each entry as the checks leave it, one after another.

    Args:
        rows: the listing.
        checks: an entry -> the entry as it is kept, or why it is not; all of them look at an entry
            in turn, as going through millions again would take longer than most checks.
    """
    kept = Entries()
    refused: list[list[Skipped]] = [[] for _ in checks]
    for entry in rows.entries:
        for check, left in zip(checks, refused, strict=True):
            found = check(entry)
            if isinstance(found, Skipped):
                left.append(found)
                break
            entry = found
        else:
            kept.append(entry)
    skipped = map(_escaped, itertools.chain(rows.skipped, *refused))
    return dataclasses.replace(rows, entries=kept, skipped=tuple(skipped))


def writable(entry: Entry) -> Entry | Skipped:
    """Refuses an entry whose texts UTF-8 cannot hold: names of odd files."""
    if _is_writable([entry.name, *entry.fields.values()]):
        return entry
    return Skipped(entry.number, entry.name, "name not UTF-8")


def _escaped(row: Skipped) -> Skipped:
    image, detail = (
        text.encode("utf-8", "backslashreplace").decode() for text in (row.image, row.detail)
    )
    return dataclasses.replace(row, image=image, detail=detail)


def _is_writable(values: Iterable[Any]) -> bool:
    try:
        "".join([v if isinstance(v, str) else "".join(v) for v in values]).encode()
    except UnicodeEncodeError:
        return False
    return True


def reasons(skipped: Iterable[Skipped]) -> dict[str, int]:
    """Returns {reason: number of skipped rows}, the most frequent one first."""
    return dict(collections.Counter(row.reason for row in skipped).most_common())


# A folder, and a name in it that is no other way to say a folder or a drive.
_SIMPLE = re.compile(r"(?:(.+)/)?([^/\\:]*[^/\\:.])", re.DOTALL)
# Folders around each other that are looked at one by one.
_DEEPEST = 100


def confine(name: str, root: pathlib.Path, follow_links: bool = False) -> pathlib.Path:
    """Returns the file that `name` means inside `root`, a resolved folder.

    Args:
        name: a path of a table or a folder.
        root: the folder.
        follow_links: take what lies behind a link out of the folder.

    Raises:
        Unusable: an absolute path, one with '..', or a link that leads out of the folder.
    """
    # Tables written on Windows separate folders by backslashes.
    parts = pathlib.PurePosixPath(name.replace("\\", "/"))
    outside = "path leaves the folder"
    if parts.is_absolute() or pathlib.PureWindowsPath(name).drive:
        detail = f"The image path '{name}' is absolute: name files inside the folder."
        raise Unusable(outside, detail)
    if ".." in parts.parts:
        raise Unusable(outside, f"The image path '{name}' climbs out by '..'.")
    try:
        path = (root / parts).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        detail = f"The image path '{name}' cannot be followed: {error}."
        raise Unusable(outside, detail) from error
    if not follow_links and not path.is_relative_to(root):
        raise Unusable(
            "link out of the folder, see --follow_links",
            f"The image path '{name}' is a link out of the folder: follow it by --follow_links.",
        )
    return path


class Place:
    """A folder in which many files are looked for; what is said of folders is asked once of each.

    Args:
        root: the folder, resolved.
        follow_links: find what lies behind links out of it, too.
    """

    def __init__(self, root: pathlib.Path, follow_links: bool = False) -> None:
        self._root, self._follow_links = root, follow_links
        self._folder = functools.lru_cache(2**12)(self._resolved)

    def find(self, name: str) -> tuple[str, os.stat_result]:
        """Returns where what `confine` means is, and what the system tells of it.

        Raises:
            Unusable: as `confine`.
            OSError: it is not there.
        """
        with contextlib.suppress(OSError, ValueError):  # `confine` says what is wrong
            if found := self._without_links(name):
                return found
        path = confine(name, self._root, self._follow_links)
        return str(path), path.stat()

    def _without_links(self, name: str) -> tuple[str, os.stat_result] | None:
        """Finds what is no link, in a folder that is inside: `confine` would find the same."""
        simple = _SIMPLE.fullmatch(name)
        if not simple or name.count("/") > _DEEPEST:
            return None
        path = f"{self._folder(simple[1] or '')}/{simple[2]}"
        found = os.lstat(path)
        return None if stat.S_ISLNK(found.st_mode) else (path, found)

    def _resolved(self, folder: str) -> str:
        found = self._without_links(folder)
        return found[0] if found else str(confine(folder, self._root, self._follow_links))


def read(ref: Ref, root: pathlib.Path, follow_links: bool = False) -> bytes:
    """Returns the bytes of a picture file, or of the base64 text that `ref` points into.

    Raises:
        InputError: the path leaves the folder, or the text is not base64.
        OSError: the file cannot be read.
    """
    path = confine(ref.path, root, follow_links)
    if ref.length is None:
        return path.read_bytes()
    with open(path, "rb") as file:
        file.seek(ref.start)
        text = file.read(ref.length)
    try:
        # The usual and the URL-safe alphabet are both in use, even within one corpus.
        return base64.b64decode(text.translate(bytes.maketrans(b"-_", b"+/")), validate=True)
    except binascii.Error as error:
        detail = f"byte {ref.start} of {ref.path} begins no base64 text: {error}"
        raise Unusable("not base64", detail) from None

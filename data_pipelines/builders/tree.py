"""Finds the files of a corpus by name, whatever folders an archive or a mirror puts around them."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

from data_pipelines.builders.entries import Unusable
from data_pipelines.builders.pictures import PICTURE_SUFFIXES, is_hidden, natural
from data_pipelines.errors import InputError
from data_pipelines.records import splits


@dataclasses.dataclass(frozen=True)
class FileTree:
    """The files of a folder, capitals aside.

    Attributes:
        root: the folder.
        files: {`key` of a file name: paths inside `root`, with /, in the order of their names}.
    """

    root: pathlib.Path
    files: Mapping[str, tuple[str, ...]]

    def named(self, name: str) -> tuple[str, ...]:
        """Returns the paths of all files of this name."""
        return self.files.get(key(name), ())

    def table(self, names: Sequence[str]) -> str | None:
        """Returns the path of the first of `names` that is there, None where none is.

        Raises:
            InputError: it is there more than once, so it cannot be told which is meant.
        """
        for name in names:
            found = self.named(name)
            if len(found) > 1:
                raise InputError(
                    f"{self.root} holds {len(found)} tables '{name}' ({', '.join(found[:3])}): "
                    "give the folder of one of them as the source."
                )
            if found:
                return found[0]
        return None

    def missing(self, names: Iterable[str], layout: str) -> InputError:
        """Returns the error of a corpus of which no table or picture was found.

        Args:
            names: what was looked for.
            layout: what the corpus looks like, as the rest of a sentence.
        """
        wanted = ", ".join(f"'{name}'" for name in names)
        return InputError(f"There is no {wanted} in {self.root} or below; expected is {layout}.")

    def picture(self, name: str, folders: Sequence[str], table: str) -> str:
        """Returns the path of the picture that a cell of a table means.

        Args:
            name: file name with or without its suffix; folders before it are not looked at.
            folders: names of folders that it may lie below, in lower case, the preferred one
                first; () for any.
            table: path of the table; of several pictures the one in the nearest folder is meant.

        Raises:
            Unusable: there is none, or there are several that are equally near.
        """
        found = self._candidates(key(name.replace("\\", "/").rsplit("/", 1)[-1]))
        if folders:
            inside = ([path for path in found if folder in _parents(path)] for folder in folders)
            found = next(filter(None, inside), [])
        if not found:
            where = f" below a folder {' or '.join(folders)}" if folders else ""
            raise Unusable("picture not found", f"There is no picture '{name}'{where}.")
        shared = [len(os.path.commonprefix([_parents(path), _parents(table)])) for path in found]
        nearest = [
            path for path, number in zip(found, shared, strict=True) if number == max(shared)
        ]
        if len(nearest) > 1:
            raise Unusable("several pictures of this name", ", ".join(nearest[:3]))
        return nearest[0]

    def pictures(self, folders: Sequence[str] = ()) -> list[str]:
        """Returns the paths of all pictures, in natural order.

        Args:
            folders: names of folders that they lie in directly, in lower case; () for any.
        """
        found = [
            path
            for name, paths in self.files.items()
            if os.path.splitext(name)[1] in PICTURE_SUFFIXES
            for path in paths
            if not folders or (_parents(path) or ("",))[-1] in folders
        ]
        return sorted(found, key=natural)

    def _candidates(self, name: str) -> list[str]:
        stem, suffix = os.path.splitext(name)
        if suffix not in PICTURE_SUFFIXES:
            stem = name  # a dot inside a name is no suffix
        elif name in self.files:
            return list(self.files[name])
        return [
            path
            for suffix in sorted(PICTURE_SUFFIXES)
            for path in self.files.get(stem + suffix, ())
        ]


def index(root: pathlib.Path, follow_links: bool = False) -> FileTree:
    """Lists the files below a folder; see `walk`."""
    files: dict[str, list[str]] = collections.defaultdict(list)
    for place, _, names in walk(root, follow_links):
        for name in names:
            files[key(name)].append(f"{place}/{name}" if place else name)
    return FileTree(root, {name: tuple(paths) for name, paths in files.items()})


def walk(
    root: pathlib.Path, follow_links: bool = False, left_out: list[str] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields (path inside the root, '' for itself; its folders; its files) of each folder.

    Names are sorted; hidden ones, and what macOS and Windows add, are left out. Folders that are
    removed from the list are not entered. A folder behind several links is entered once.

    Args:
        root: the folder.
        follow_links: enter folders that are links out of the root.
        left_out: gets those that are not entered, where they are not to be refused.

    Raises:
        InputError: a folder that is a link out of the root, unless links are followed or left
            out; a name that is no text, as old archives unpacked elsewhere leave them.
    """
    top, seen = root.resolve(), set()
    for folder, below, names in os.walk(root, followlinks=follow_links):
        place = pathlib.Path(folder).relative_to(root).as_posix().removeprefix(".")
        if follow_links and (real := os.path.realpath(folder)) in seen:
            below.clear()
            continue
        elif follow_links:
            seen.add(real)
        below[:] = sorted(name for name in below if not is_hidden(name))
        names = sorted(name for name in names if not is_hidden(name))
        for name in (*below, *names):
            path = f"{place}/{name}"
            # Bytes that are no UTF-8 come as halves of character pairs.
            if any("\ud800" <= letter <= "\udfff" for letter in path):
                raise InputError(f"Rename {path!r} in {root}: its name cannot be written as text.")
        for name in () if follow_links else tuple(below):
            target = pathlib.Path(folder, name)
            if not target.is_symlink() or target.resolve().is_relative_to(top):
                continue
            if left_out is None:
                raise InputError(
                    f"{target} is a link out of the folder {root}: follow it by --follow_links."
                )
            left_out.append(str(target))
            below.remove(name)
        yield place, below, names


def ignored(root: pathlib.Path) -> collections.Counter[str]:
    """Returns {what: number} of the files below a folder that `walk` leaves out.

    What is a name ('.DS_Store'), a pattern ('._*' of macOS), or the hidden folder around a file.
    """
    found: collections.Counter[str] = collections.Counter()
    for folder, _, names in os.walk(root):
        parents = pathlib.Path(folder).relative_to(root).parts
        around = next((f"{name}/" for name in parents if is_hidden(name)), "")
        for name in names:
            if around or is_hidden(name):
                found[around or ("._*" if name.startswith("._") else name)] += 1
    return found


def part(path: str) -> str:
    """Returns the split that the nearest folder around a file names: 'train', 'validation',
    'test', or '' where none does."""
    names = [splits.split_name(folder) for folder in _parents(path)]
    return next((name for name in reversed(names) if name in splits.SHARES), "")


def key(name: str) -> str:
    """Returns a name by which files are compared: neither capitals nor the way in which letters
    with accents are encoded count; systems differ in both."""
    return unicodedata.normalize("NFC", name).lower()


def _parents(path: str) -> tuple[str, ...]:
    return tuple(key(path).split("/")[:-1])

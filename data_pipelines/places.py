"""Places that users name: `~` is the home, one program writes at a time, a full disk is said."""

from __future__ import annotations

import argparse
import contextlib
import csv
import errno
import fcntl
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data_pipelines.errors import InputError

_logger = logging.getLogger(__name__)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/.*")
# What the system says of a place that cannot be written or has no room, and not of a wrong program.
_OF_THE_SYSTEM = tuple(
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EACCES)
)
# What no room would change.
_NOT_OF_ROOM = tuple(
    os.strerror(number) for number in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS)
)


def local(given: str | os.PathLike[str], what: str) -> pathlib.Path:
    """Returns a path that a user gave, `~` and `~name` being homes.

    Args:
        given: the path.
        what: the option that it is of, or what else it names, for the sentence.

    Raises:
        InputError: an address such as gs://bucket/run, which is no path (see `stores`), or a home
            that is not known.
    """
    text = os.fspath(given)
    if _ADDRESS.fullmatch(text):
        raise InputError(
            f"{what} is {text}, and addresses of storage services are not read or written here: "
            "name a folder of this machine. Where gs:// and s3:// work is in docs/scale.md."
        )
    found = os.path.expanduser(text)
    if found.startswith("~"):
        raise InputError(
            f"{what} is {text}, and no such home folder is known here (no such user, or HOME is "
            "not set): write the path in full."
        )
    return pathlib.Path(found)


@contextlib.contextmanager
def claimed(folder: pathlib.Path, doing: str) -> Iterator[None]:
    """Keeps other processes from a folder; a process that dies lets go of it.

    Where the file system has no locks that is said, and nothing is kept from anybody.

    Args:
        folder: made if it is not there; gets a file 'lock', which stays.
        doing: what is done there, 'is building this data set' for instance, for the sentence.

    Raises:
        InputError: if another process has the folder, or it cannot be written.
    """
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w", encoding="utf-8")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another process {doing} (in {folder}): wait for it, or use another folder."
            ) from None
        except OSError as error:
            _logger.warning(
                "%s has no locks (%s): see that no other process %s there.",
                folder, error.strerror, doing,
            )  # fmt: skip
        yield


def argument(text: str) -> pathlib.Path:
    """As `local`, for options of argparse, which makes the sentence of what is wrong."""
    try:
        return local(text, "This")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def reason(error: BaseException) -> str:
    """Returns what the system said of a place, '' for an error of another kind.

    Libraries in C++ raise what the system says as RuntimeError or ValueError.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, OSError | RuntimeError | ValueError) and not isinstance(error, InputError):
        return next((text for text in _OF_THE_SYSTEM if text in str(error)), "")
    return ""


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a place beside that of a file and puts there what is written: nobody reads a part.

    On a full disk what was there stays.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file by `replaced`."""
    with replaced(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_csv(path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table, UTF-8 with the line ends of CSV."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


@contextlib.contextmanager
def written(folder: pathlib.Path) -> Iterator[None]:
    """Makes one sentence of what keeps the system from writing in a folder.

    Raises:
        InputError: no room, no permission, a read-only file system, a file in its place and the
            like.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        other = getattr(error, "filename", None)  # a file that is read, say
        around = isinstance(other, str) and folder.is_relative_to(other)
        elsewhere = isinstance(other, str) and not pathlib.Path(other).is_relative_to(folder)
        if (elsewhere and not around) or not (why := reason(error)):
            raise
        if file := next((path for path in (folder, *folder.parents) if path.is_file()), None):
            raise InputError(f"{file} is a file, and no folder: name another folder.") from error
        room = "" if why in _NOT_OF_ROOM else "free some space, or "
        place = other if around else folder
        raise InputError(f"Cannot write in {place}: {why}; {room}name another folder.") from error

"""Folders in storage services: `gs://bucket/run` is copied here, and what is made is copied there.

ArrayRecord, memory maps, appending and locks need files of a machine, and Orbax writes checkpoints
to no `s3://` (0.12.8), so nothing is opened over the network: programs work in a folder below the
cache (`XDG_CACHE_HOME`, else ~/.cache) and know no addresses.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Collection, Iterator
from typing import Any

import fsspec

from data_pipelines import places
from data_pipelines.errors import InputError

_logger = logging.getLogger(__name__)
_ADDRESS = re.compile(r"(gs|s3|memory)://.+")  # the last is of this process, for tests
# A folder in a storage service is filled file by file. These come last and go first: where they are
# missing, a checkpoint or a data set is there in part and counts for nothing.
_CHECKPOINT, _DATASET = "_CHECKPOINT_METADATA", "dataset_info.json"
_STEP = re.compile(r"((?:.*/)?checkpoints/[0-9]+/).+")
# Parts of names of what is still being written, or means nothing on another machine.
_PASSING = re.compile(r"\.orbax-checkpoint-tmp|\.partial$|(^|/)lock$")
_SECONDS = 60.0  # between two looks at what a run has written


def is_address(given: str | os.PathLike[str] | None) -> bool:
    """Returns whether a place is a folder or file in a storage service, gs:// or s3://."""
    return isinstance(given, str) and _ADDRESS.fullmatch(given) is not None


def near(
    given: str | os.PathLike[str], what: str, skip: Collection[str] = ()
) -> pathlib.Path:  # fmt: skip
    """Returns a path of this machine that has what is at a place.

    Args:
        given: a path, which is what comes back (see `places.local`); or an address, whose files are
            copied into the cache, those that are not there yet as they are now.
        what: the option that it is of, for sentences.
        skip: names of folders of an address whose files are not needed.

    Raises:
        InputError: an address that cannot be read or has nothing; as `places.local`.
    """
    if not is_address(given):
        return places.local(given, what)
    place = _copied(os.fspath(given).rstrip("/"), frozenset(skip))
    if place is None:
        raise InputError(f"{what} is {given}, and there is nothing.")
    return place


def names(address: str, pattern: str) -> list[str]:
    """Returns the paths below an address that match, relative to it; [] where none does."""
    with _reached(address) as (store, root):
        found = store.glob(f"{root}/{pattern}")
        return [str(path).removeprefix(f"{root}/") for path in found]


def workplace(kind: str, address: str) -> pathlib.Path:
    """Returns the folder of this machine for what is made of an address; it need not be there."""
    cache = places.local(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "The cache").absolute()
    key = hashlib.sha256(address.encode()).hexdigest()[:12]
    return cache / "retina_jax" / kind / key / address.rsplit("/", 1)[-1]


def send(place: pathlib.Path, address: str, whole: bool = False) -> None:
    """Copies a file or folder to an address.

    Args:
        place: the file or folder.
        address: gets its files; those of the same names are replaced.
        whole: whether other files that are there are deleted, as of a data set that is replaced.

    Raises:
        InputError: if it cannot be written.
    """
    with _reached(address) as (store, root):
        if place.is_file():
            _put(store, place, root)
        else:
            sender = _Sender(store, root, place)
            if whole:
                sender.sent = dict.fromkeys(_listing(store, root), (0, 0))
                sender.remove([name for name in sender.sent if _last(name)])  # there in part now
            sender.push()
    _copied.cache_clear()


@contextlib.contextmanager
def delivered(
    given: str | os.PathLike[str], what: str, replace: bool = False
) -> Iterator[pathlib.Path]:
    """Gives a path to write a file or folder to, which is copied to an address in the end.

    Args:
        given: a path, which is what comes (see `places.local`), or an address.
        what: the option that it is of, for sentences.
        replace: whether the address may have something already.

    Raises:
        InputError: an address that is taken or cannot be written.
    """
    if not is_address(given):
        yield places.local(given, what)
        return
    address = os.fspath(given).rstrip("/")
    with _reached(address) as (store, root):
        taken = not replace and store.exists(root)
    if taken:
        raise InputError(f"{what} is {address}, where something is: choose another one.")
    place = workplace("made", address)
    shutil.rmtree(place.parent, ignore_errors=True)
    place.parent.mkdir(parents=True)
    try:
        yield place
        if place.exists():
            send(place, address)
    finally:
        shutil.rmtree(place.parent, ignore_errors=True)


@contextlib.contextmanager
def mirrored(given: str | os.PathLike[str], what: str) -> Iterator[pathlib.Path]:
    """Gives the folder of this machine in which a run lives, for as long as the run goes on.

    Of an address it begins as what is there. What the run writes is copied there once a minute, a
    checkpoint when it is whole, and at the end, however it ends; what a killed run had not sent is
    lost. Nothing keeps another machine from the same address: a storage service has no locks.

    Raises:
        InputError: an address that cannot be read or written, or is in use on this machine.
    """
    if not is_address(given):
        yield places.local(given, what)
        return
    address = os.fspath(given).rstrip("/")
    place = workplace("runs", address)
    with places.claimed(place.parent, "runs what is copied to this address"):
        shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
        with _reached(address) as (store, root):
            _fetch(store, root, _listing(store, root), place)
        place.mkdir(exist_ok=True)
        _logger.info("%s is copied to %s once a minute and at the end.", place, address)
        sender, over = _Sender(store, root, place), threading.Event()
        sender.sent = sender.written()
        thread = threading.Thread(target=_sending, args=(sender, over), daemon=True)
        thread.start()
        try:
            yield place
        finally:
            over.set()
            thread.join()
            with _reached(address, f"What was made lies in {place}: copy it from there. "):
                sender.push()
            _copied.cache_clear()
            shutil.rmtree(place, ignore_errors=True)


def _sending(sender: _Sender, over: threading.Event) -> None:
    while not over.wait(_SECONDS):
        try:
            sender.push()
        except Exception as error:  # noqa: BLE001 (each service has its own; the next time may do)
            _logger.warning("Nothing could be copied to %s: %s", sender.root, _first_line(error))


class _Sender:
    """Copies what changed in a folder to a storage service.

    Attributes:
        sent: name of a file -> its size and time when it was copied.
    """

    def __init__(self, store: Any, root: str, place: pathlib.Path) -> None:
        self.store, self.root, self.place = store, root, place
        self.sent: dict[str, tuple[int, int]] = {}

    def written(self) -> dict[str, tuple[int, int]]:
        """The files that are there, with size and time."""
        found = {}
        for path in self.place.rglob("*"):
            name = path.relative_to(self.place).as_posix()
            with contextlib.suppress(FileNotFoundError):  # a checkpoint that is being deleted
                if path.is_file() and not _PASSING.search(name):
                    about = path.stat()
                    found[name] = (about.st_size, about.st_mtime_ns)
        return found

    def push(self) -> None:
        """Copies what is new or changed, and deletes what was copied and is gone."""
        now = self.written()
        for name in sorted(now, key=lambda name: (_last(name), name)):
            if now[name] != self.sent.get(name):
                with contextlib.suppress(FileNotFoundError):
                    _put(self.store, self.place / name, f"{self.root}/{name}")
                    self.sent[name] = now[name]
        self.remove(sorted(self.sent.keys() - now.keys(), key=lambda name: not _last(name)))

    def remove(self, gone: list[str]) -> None:
        """Deletes files that were copied."""
        for name in gone:
            with contextlib.suppress(FileNotFoundError):
                self.store.rm_file(f"{self.root}/{name}")
            del self.sent[name]


def _last(name: str) -> bool:
    return name.rsplit("/", 1)[-1] in (_CHECKPOINT, _DATASET)


def _put(store: Any, path: pathlib.Path, there: str) -> None:
    store.makedirs(store._parent(there), exist_ok=True)
    store.put_file(str(path), there)


@functools.cache
def _copied(address: str, skip: frozenset[str]) -> pathlib.Path | None:
    place = workplace("copies", address)
    with _reached(address) as (store, root):
        found = _listing(store, root)
        wanted = {
            name: about for name, about in found.items()
            if not skip.intersection(name.split("/")[:-1])
        }  # fmt: skip
        _fetch(store, root, wanted, place)
    for path in [*place.rglob("*")] if place.is_dir() else []:
        if path.is_file() and path.relative_to(place).as_posix() not in found:
            path.unlink(missing_ok=True)
    return place if found else None


def _listing(store: Any, root: str) -> dict[str, float]:
    """Name below `root`, '' for itself -> time of its change; without what is there in part."""
    store.invalidate_cache()
    found = {str(path).removeprefix(root).lstrip("/"): path for path in store.find(root)}
    steps = {name: step[1] for name in found if (step := _STEP.fullmatch(name))}
    return {
        name: store.modified(path).timestamp() for name, path in found.items()
        if name not in steps or f"{steps[name]}{_CHECKPOINT}" in found
    }  # fmt: skip


def _fetch(store: Any, root: str, wanted: dict[str, float], place: pathlib.Path) -> None:
    """Copies the files that are not there as they are in the store, which their times tell."""
    for name, time in wanted.items():
        path, there = place / name, f"{root}/{name}".rstrip("/")
        # As exact as seconds since 1970 are in float64.
        if path.is_file() and abs(path.stat().st_mtime - time) < 1e-6:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        store.get_file(there, str(partial))
        os.utime(partial, (time, time))
        partial.replace(path)


@contextlib.contextmanager
def _reached(address: str, before: str = "") -> Iterator[tuple[Any, str]]:
    """Gives the file system and the path of an address, and makes one sentence of what it says."""
    try:
        store = fsspec.filesystem(address.split("://")[0])
        yield store, str(store._strip_protocol(address)).rstrip("/")
    except ImportError as error:
        raise InputError(
            f"{address} needs a package: pip install 'retina_jax[stores]' ({error})."
        ) from None
    except InputError:
        raise
    except Exception as error:  # each service has its own
        raise InputError(
            f"{before}{address} cannot be read or written: {_first_line(error)}."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")

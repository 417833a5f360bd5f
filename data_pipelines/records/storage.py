"""Where built data sets lie, what their addresses mean, and how one gets there in one piece."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import tensorflow_datasets as tfds
import tqdm

from data_pipelines import places, stores
from data_pipelines.errors import InputError
from data_pipelines.records import columns

_WHAT = "The data folder (--data_dir, or TFDS_DATA_DIR)"
_ADDRESS = re.compile(r"([a-z][a-z0-9_]*)/([A-Za-z0-9][A-Za-z0-9_.-]*)")


def cores() -> int:
    """Returns the number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def data_folder(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Returns the folder of this machine that data sets are built in: `data_place`, or beside it.

    Raises:
        InputError: no home folder where one is needed.
    """
    chosen = data_place(data_dir)
    if stores.is_address(chosen):
        return stores.workplace("building", chosen)
    return places.local(chosen, _WHAT).absolute()


def data_place(data_dir: str | os.PathLike[str] | None) -> str:
    """Returns `data_dir`, else the variable TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return os.fspath(chosen).rstrip("/") or "/"


def parse(dataset: str) -> tuple[str, str]:
    """Splits an address 'builder/config' into its two names, or raises `InputError`."""
    match = _ADDRESS.fullmatch(dataset)
    if match is None:
        raise InputError(
            f"A data set is addressed as builder/name, for example manifest/odir; got '{dataset}'."
        )
    return match.group(1), match.group(2)


def find(dataset: str, data_dir: str | os.PathLike[str] | None) -> pathlib.Path | None:
    """Returns the folder of the newest built version of 'builder/config', or None.

    Where `data_dir` is an address, that version is copied to this machine.
    """
    place, pattern = data_place(data_dir), "*.*.*/dataset_info.json"
    if stores.is_address(place):
        place = "/".join([place, *parse(dataset)])
        found = [name.split("/")[0] for name in stores.names(place, pattern)]
        newest = max(found, key=_version, default=None)
        return None if newest is None else stores.near(f"{place}/{newest}", _WHAT)
    folder = data_folder(data_dir).joinpath(*parse(dataset))
    versions = [path.parent for path in folder.glob(pattern)]
    return max(versions, key=lambda path: _version(path.name), default=None)


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in name.split("."))


Built = TypeVar("Built", bound=tfds.core.DatasetBuilder)


def publish(
    make: Callable[[str], Built],
    data_dir: str | os.PathLike[str] | None,
    finish: Callable[[Built], None] = lambda builder: None,
    replace: bool = False,
) -> pathlib.Path:
    """Builds a data set beside its place and moves it there whole; readers never see a part.

    With it goes the table of each split that `columns` reads.

    Args:
        make: makes the TFDS builder for the data folder it is given. If it has an attribute
            `sizes`, {split: number of records}, the progress on stderr tells the time left.
        data_dir: where data sets lie; see `data_folder`.
        finish: called with the prepared builder before the move, e.g. to add a report.
        replace: put the new copy in the place of an existing one. Otherwise, of two processes
            that build the same data set at once the first one wins, and the other copy is dropped.

    Returns:
        The folder of the built version, on this machine also where `data_dir` is an address.
    """
    root, address = data_folder(data_dir), data_place(data_dir)
    with places.written(root):
        root.mkdir(parents=True, exist_ok=True)
        scratch = pathlib.Path(tempfile.mkdtemp(prefix=".building-", dir=root))
        try:
            place = _publish(make, root, scratch, finish, replace)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if not stores.is_address(address):
        return place
    address = f"{address}/{place.relative_to(root).as_posix()}"
    stores.send(place, address, whole=True)
    shutil.rmtree(place)
    return stores.near(address, _WHAT)


def _publish(
    make: Callable[[str], Built],
    root: pathlib.Path,
    scratch: pathlib.Path,
    finish: Callable[[Built], None],
    replace: bool,
) -> pathlib.Path:
    builder = make(str(scratch))
    config = getattr(builder, "download_config", None)
    given = {} if config is None else {"download_config": config}
    if not given:  # else a pipeline writes the records
        _show_progress(builder)
    with quiet():
        builder.download_and_prepare(file_format="array_record", **given)
    columns.write(builder)
    finish(builder)
    built = pathlib.Path(builder.data_path)
    place = root / built.relative_to(scratch)
    place.parent.mkdir(parents=True, exist_ok=True)
    if replace and place.exists():
        os.replace(place, scratch / "replaced")
    try:
        os.replace(built, place)
    except OSError:
        if not (place / "dataset_info.json").exists():
            raise
    return place


def _show_progress(builder: Any) -> None:
    """Counts the records on stderr as they are made; TFDS's own bars know no totals."""
    make, sizes = builder._split_generators, getattr(builder, "sizes", {})

    def count(name: str, examples: Iterable) -> Iterator:
        # A generator, so that a bar appears when its split begins.
        yield from tqdm.tqdm(
            examples, desc=f"writing {name}", total=sizes.get(name), unit=" records", leave=False
        )

    def counted(dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {name: count(name, examples) for name, examples in make(dl_manager).items()}

    builder._split_generators = counted


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS's own progress bars and its announcement off standard output."""
    tfds.disable_progress_bar()
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield

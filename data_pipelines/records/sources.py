"""Records of a built data set by index, as plain Python and numpy values."""

from __future__ import annotations

import functools
import logging
import os
import pathlib
import reprlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.builders import BUILDERS
from data_pipelines.errors import InputError
from data_pipelines.records import columns, examples, storage
from data_pipelines.text import ban as bans
from data_pipelines.text.texts import comparable

Where = Mapping[str, str | Collection[str]]
log = logging.getLogger(__name__)
# Bytes, just below the largest block (32 MiB) that the allocator of Linux learns from; a batch of
# pictures that is larger takes its memory from the system directly.
_LARGE = 31 << 20
_SHORT = reprlib.Repr()  # a condition may list thousands of records
_SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 20, 80, 80


class Source:
    """Random access to the records of one split; it can be pickled and reopens its files lazily.

    A record is a dict: texts are str ('' where absent), lists of texts are list[str], encoded
    pictures bytes, numbers numpy values.

    Attributes:
        name: the address 'builder/config'.
        split: the split, in TFDS's syntax.
        fields: the names of a record's fields.
        left_out: how many records of the split its conditions dropped.
    """

    def __init__(
        self, name: str, split: str, folder: pathlib.Path, indices: np.ndarray | None = None
    ) -> None:
        self.name, self.split = name, split
        self._folder, self._indices = folder, indices
        self.left_out = 0
        self._data: Any = None
        self._open()

    def _open(self) -> Sequence[bytes]:
        if self._data is None:
            _keep_freed_memory()
            builder = tfds.builder_from_directory(self._folder)
            features: Any = builder.info.features
            self.fields = tuple(sorted(features))
            self._read = examples.reader(features)
            self._data = examples.stored(builder, self.split)
        return self._data

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_data": None, "_read": None}  # which `_open` makes again

    def __len__(self) -> int:
        return len(self._open()) if self._indices is None else len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        data, records = self._open(), len(self)
        if not -records <= index < records:
            raise IndexError(f"{self} has {records} records, there is no record {index}.")
        place = int(index % records if self._indices is None else self._indices[index])
        try:
            return self._read(data[place])
        except Exception as error:  # which is of ArrayRecord or of protobuf
            raise self._damaged(place, error) from error

    def _damaged(self, place: int, error: Exception) -> InputError:
        path = examples.file_of(tfds.builder_from_directory(self._folder), self.split, place)
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return InputError(
            f"{self}, record {place}: its file {path} is damaged ({why}). Build the data set "
            "again with --overwrite, or bring the file back from a copy."
        )

    @property
    def fingerprint(self) -> str:
        """A hash of all records of the data set, whatever it is called (`columns.fingerprint`)."""
        return columns.fingerprint(self._folder)

    def __repr__(self) -> str:
        return f"{self.name}:{self.split}"

    def subset(self, indices: Sequence[int] | np.ndarray) -> Source:
        """Returns the records at `indices`, int [n], in that order."""
        indices = np.asarray(indices, np.int64).reshape(-1)
        if self._indices is not None:
            indices = self._indices[indices]
        return Source(self.name, self.split, self._folder, indices)

    def column(self, field: str) -> list[Any]:
        """Returns one field of every record, as they are in `self[i]`.

        It comes from the table that was written with the data set; for a field that is in none,
        such as a picture, the first time reads the whole split.
        """
        self._refuse_unknown(field)
        values = _column(self.name, self.split, self._folder, field)
        return list(values) if self._indices is None else [values[i] for i in self._indices]

    def select(self, where: Where) -> Source:
        """Returns the records that fulfil every condition, and logs how many were dropped.

        Args:
            where: {field: value or collection of values}. A record stays if its field is one of
                the values, or, where the field is a list, if any of its items is; case and runs
                of blanks in texts do not count, as in `ban`, `balance` and the transform `label`.
        """
        for name in where:
            self._refuse_unknown(name)
        kept = np.ones(len(self), bool)
        for name, values in where.items():
            wanted = comparable(values)
            kept &= [not wanted.isdisjoint(comparable(value)) for value in self.column(name)]
        return self._kept(kept, f"where={_SHORT.repr(dict(where))}")

    def without(self, ban: bans.Ban) -> Source:
        """Returns the records that are not banned, and logs how many were."""
        self._refuse_unknown(ban.field)
        banned = np.array([*map(ban.finder(), self.column(ban.field))], bool)
        return self._kept(~banned, f"ban mode '{ban.mode}' on '{ban.field}'")

    def _kept(self, kept: np.ndarray, by: str) -> Source:
        found, dropped = self.subset(np.flatnonzero(kept)), int((~kept).sum())
        found.left_out = self.left_out + dropped
        counts = (len(found), dropped, len(kept))
        log.info("%s: kept %d and dropped %d of %d records by %s", self, *counts, by)
        return found

    def _refuse_unknown(self, field: str) -> None:
        if field not in self.fields:
            raise InputError(
                f"{self.name} has no field '{field}'; its fields are {', '.join(self.fields)}."
            )


def load(
    dataset: str,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    where: Where | None = None,
    ban: Mapping[str, Any] | None = None,
) -> Source:
    """Opens a split of a built data set.

    Args:
        dataset: the address 'builder/config', e.g. 'manifest/odir'. A builder that is `embedded`
            is built on the spot where it is missing.
        split: a split or a part of it: 'train', 'train[:10%]', 'train+validation'.
        data_dir: where data sets lie; None is TFDS_DATA_DIR, else ~/tensorflow_datasets.
        where: conditions that select records; see `Source.select`.
        ban: the options of `ban.Ban`: leaves out records by words of their labels.

    Raises:
        InputError: no such data set (with the command that builds it), split or field; a wrong
            option of `ban`.
    """
    folder = storage.find(dataset, data_dir) or _build_embedded(dataset, data_dir)
    _refuse_unknown_split(dataset, split, folder)
    try:
        source = Source(dataset, split, folder)
    except (ValueError, AssertionError) as error:
        raise InputError(
            f"'{split}' is no split of {dataset}: write a name, a part such as train[:10%], or "
            "several joined by +."
        ) from error
    if where:
        source = source.select(where)
    return source if ban is None else source.without(bans.make(ban))


def _refuse_unknown_split(dataset: str, split: str, folder: pathlib.Path) -> None:
    splits = tfds.builder_from_directory(folder).info.splits
    for part in split.split("+"):
        if part.split("[")[0].strip() not in splits:
            known = ", ".join(f"{n} ({splits[n].num_examples})" for n in sorted(splits))
            raise InputError(f"{dataset} has no split '{part}'; its splits are {known}.")


def _build_embedded(dataset: str, data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Builds a data set that needs no downloads, or says how the user builds any other."""
    name, config = storage.parse(dataset)
    if name not in BUILDERS:
        raise InputError(
            f"There is no builder '{name}' for {dataset}; there are {', '.join(sorted(BUILDERS))}."
        )
    builder = BUILDERS[name]
    if not getattr(builder, "embedded", False):
        raise InputError(
            f"{dataset} is not in {storage.data_place(data_dir)}: build it with python -m "
            f"data_pipelines.build --dataset={name} --name={config} --source=FOLDER "
            f"--data_dir={storage.data_place(data_dir)}."
        )
    known = [c.name for c in builder.BUILDER_CONFIGS]
    if config not in known:
        raise InputError(f"{name} has no config '{config}'; it has {', '.join(known)}.")
    print(f"Building {dataset} in {storage.data_place(data_dir)} ...", file=sys.stderr)
    return storage.publish(lambda root: builder(config=config, data_dir=root), data_dir)


@functools.lru_cache(maxsize=16)
def _column(name: str, split: str, folder: pathlib.Path, field: str) -> tuple[Any, ...]:
    """Returns one field of a whole split; streams and evaluators of a run ask for the same ones."""
    found = columns.read(folder, split, field)
    if found is None:
        source = Source(name, split, folder)
        found = [source[i][field] for i in range(len(source))]
    return tuple(found)


def _keep_freed_memory() -> None:
    """Lets this process use the memory of one picture again for the next.

    The allocator of Linux returns what is free at the end of its heap to the system as soon as it
    is twice the largest block ever freed, and fetches it back page by page: with pictures of 512
    pixels that happens for every record, and can take as long as decoding one. So a larger block
    is freed once.
    """
    np.empty(_LARGE, np.uint8)

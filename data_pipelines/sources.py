"""Records of a built data set by index, as plain Python and numpy values."""

from __future__ import annotations

import functools
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import storage
from data_pipelines.builders import BUILDERS
from data_pipelines.errors import InputError

Where = Mapping[str, str | Collection[str]]
log = logging.getLogger(__name__)


class Source:
    """Random access to the records of one split; it can be pickled and reopens its files lazily.

    A record is a dict: texts are str ('' where absent), lists of texts are list[str], encoded
    pictures bytes, numbers numpy values.

    Attributes:
        name: the address 'builder/config'.
        split: the split, in TFDS's syntax.
        fields: the names of a record's fields.
    """

    def __init__(
        self, name: str, split: str, folder: pathlib.Path, indices: np.ndarray | None = None
    ) -> None:
        self.name, self.split = name, split
        self._folder, self._indices = folder, indices
        self._data: Any = None
        self._open()

    def _open(self) -> Any:
        if self._data is None:
            builder = tfds.builder_from_directory(self._folder)
            self.fields = tuple(sorted(builder.info.features))
            self._readers = {name: _reader(f) for name, f in builder.info.features.items()}
            self._data = builder.as_data_source(self.split)
        return self._data

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "split": self.split, "_folder": self._folder,
                "_indices": self._indices, "_data": None, "fields": self.fields}

    def __len__(self) -> int:
        return len(self._open()) if self._indices is None else len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        data = self._open()
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self} has {len(self)} records, there is no record {index}.")
        row = data[int(index % len(self) if self._indices is None else self._indices[index])]
        return {name: self._readers[name](value) for name, value in row.items()}

    def __repr__(self) -> str:
        return f"{self.name}:{self.split}"

    def subset(self, indices: Sequence[int] | np.ndarray) -> Source:
        """Returns the records at `indices`, int [n], in that order."""
        indices = np.asarray(indices, np.int64).reshape(-1)
        if self._indices is not None:
            indices = self._indices[indices]
        return Source(self.name, self.split, self._folder, indices)

    def column(self, field: str) -> list[Any]:
        """Returns one field of every record; the first time, this reads the whole split."""
        self._refuse_unknown(field)
        values = _column(self.name, self.split, self._folder, field)
        return list(values) if self._indices is None else [values[i] for i in self._indices]

    def select(self, where: Where) -> Source:
        """Returns the records that fulfil every condition, and logs how many were dropped.

        Args:
            where: {field: value or collection of values}. A record stays if its field is one of
                the values, or, where the field is a list, if any of its items is.
        """
        for name in where:
            self._refuse_unknown(name)
        wanted = {n: {v} if isinstance(v, str) else set(v) for n, v in where.items()}
        kept = np.ones(len(self), bool)
        for name, values in wanted.items():
            kept &= [_matches(value, values) for value in self.column(name)]
        log.info("%s: kept %d and dropped %d of %d records by where=%s",
                 self, kept.sum(), (~kept).sum(), len(kept), dict(where))
        return self.subset(np.flatnonzero(kept))

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
) -> Source:
    """Opens a split of a built data set.

    Args:
        dataset: the address 'builder/config', e.g. 'manifest/odir'. A builder that is `embedded`
            is built on the spot where it is missing.
        split: a split or a part of it: 'train', 'train[:10%]', 'train+validation'.
        data_dir: where data sets lie; None is TFDS_DATA_DIR, else ~/tensorflow_datasets.
        where: conditions that select records; see `Source.select`.

    Raises:
        InputError: no such data set (with the command that builds it), split or field.
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
    return source.select(where) if where else source


def _refuse_unknown_split(dataset: str, split: str, folder: pathlib.Path) -> None:
    splits = tfds.builder_from_directory(folder).info.splits
    for part in split.split("+"):
        if part.split("[")[0].strip() not in splits:
            raise InputError(
                f"{dataset} has no split '{part}'; its splits are "
                + ", ".join(f"{n} ({splits[n].num_examples})" for n in sorted(splits)) + "."
            )


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
            f"{dataset} is not in {storage.data_folder(data_dir)}: build it with python -m "
            f"data_pipelines.build --dataset={name} --name={config} --source=FOLDER "
            f"--data_dir={storage.data_folder(data_dir)}."
        )
    known = [c.name for c in builder.BUILDER_CONFIGS]
    if config not in known:
        raise InputError(f"{name} has no config '{config}'; it has {', '.join(known)}.")
    print(f"Building {dataset} in {storage.data_folder(data_dir)} ...", file=sys.stderr)
    return storage.publish(lambda root: builder(config=config, data_dir=root), data_dir)


@functools.lru_cache(maxsize=16)
def _column(name: str, split: str, folder: pathlib.Path, field: str) -> tuple[Any, ...]:
    """Returns one field of a whole split; streams and evaluators of a run ask for the same ones."""
    source = Source(name, split, folder)
    return tuple(source[i][field] for i in range(len(source)))


def _matches(value: Any, wanted: Collection[str]) -> bool:
    return not wanted.isdisjoint(value) if isinstance(value, list) else value in wanted


def _reader(feature: Any) -> Callable[[Any], Any]:
    """Returns what turns a stored value of a feature into a plain one."""
    if isinstance(feature, tfds.features.Text):
        return _text
    if isinstance(feature, tfds.features.Sequence) and isinstance(
        feature.feature, tfds.features.Text
    ):
        return lambda values: [_text(value) for value in values]
    if isinstance(feature, tfds.features.Tensor) and feature.np_dtype == np.object_:
        return _encoded
    return lambda value: value


def _text(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _encoded(value: Any) -> Any:
    """Returns one encoded picture as bytes, several as an object array."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value

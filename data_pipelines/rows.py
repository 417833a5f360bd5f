"""Random-access data sets of rows that Grain does not have: which record is row i, and of whom.

All of them are pure functions of the index, so a batch does not depend on what was read before.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import grain
import numpy as np


class Rows(grain.MapDataset):
    """The rows of one process: its local row i is row [i % rows] of its part of batch i // rows."""

    def __init__(self, parent: grain.MapDataset, batch: int, rows: int, process: int) -> None:
        super().__init__(parent)
        self._batch, self._rows, self._process = batch, rows, process

    def __len__(self) -> int:
        return len(self._parent) // self._batch * self._rows

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        step, row = divmod(index, self._rows)
        return self._parent[step * self._batch + self._process * self._rows + row]


class Padded(grain.MapDataset):
    """Whole batches of records: with ``_mask`` and ``_id``, zero rows after the last record."""

    def __init__(self, parent: grain.MapDataset, batch: int) -> None:
        super().__init__(parent)
        self._batches = math.ceil(len(parent) / batch)
        self._batch = batch

    def __len__(self) -> int:
        return self._batches * self._batch

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        real = index < len(self._parent)
        record = self._parent[index if real else 0]
        if not real:
            record = {key: np.zeros_like(value) for key, value in record.items()}
        return {**record, "_mask": np.bool_(real), "_id": np.int64(index if real else -1)}


class Drawn(grain.MapDataset):
    """Endless draws with replacement: a group uniformly, then one of its records uniformly."""

    def __init__(self, parent: grain.MapDataset, groups: list[np.ndarray], seed: int) -> None:
        super().__init__(parent)
        self._groups, self._seed = groups, seed

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        rng = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 1, index]))
        group = self._groups[rng.integers(len(self._groups))]
        return self._parent[int(group[rng.integers(len(group))])]


class Nested(grain.MapDataset):
    """Batches of several streams side by side: {stream: batch}."""

    def __init__(self, streams: dict[str, grain.MapDataset]) -> None:
        super().__init__(tuple(streams.values()))
        self._names = tuple(streams)

    def __len__(self) -> int:
        return min(len(parent) for parent in self.parents)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return {name: parent[index] for name, parent in zip(self._names, self.parents)}

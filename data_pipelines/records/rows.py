"""Random-access data sets of rows that Grain does not have: which record is row i, and of whom.

All of them are pure functions of the index, so a batch does not depend on what was read before.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import grain
import numpy as np


class Records(grain.MapDataset):
    """The records of a source; Grain's own also meters each read, which takes as long as parsing.

    Args:
        source: anything with a length and records by index.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return self._source[index % len(self._source)]


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
        record: Any = self._parent[index if real else 0]
        if not real:
            record = {key: np.zeros_like(value) for key, value in record.items()}
        return {**record, "_mask": np.bool_(real), "_id": np.int64(index if real else -1)}


class SampledWithReplacement(grain.MapDataset):
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


class Shuffled(grain.MapDataset):
    """Endless epochs of all records, each in a new order.

    Grain's own shuffle keeps no order in memory, and pays for it with each record: 40 microseconds
    of 2,000, where decoding a prepared photograph takes 1,200.
    """

    # Threads that read ahead are in two epochs at once.
    _KEPT = 2

    def __init__(self, parent: grain.MapDataset, seed: int) -> None:
        super().__init__(parent)
        self._seed, self._epoch = seed, len(parent)
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_orders": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, place = divmod(index, self._epoch)
        return self._parent[int(self._kept(epoch)[place])]

    def _kept(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._orders:
                rng = np.random.Generator(
                    np.random.Philox(key=self._seed, counter=[0, 0, 2, epoch])
                )
                newest = sorted(self._orders)[-self._KEPT + 1 :]
                kept = {old: self._orders[old] for old in newest}
                self._orders = {epoch: self._order(rng), **kept}
            return self._orders[epoch]

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(self._epoch)


class Distinct(Shuffled):
    """Endless epochs of batches in which no group, such as a patient, is more than once.

    An epoch has as many whole batches as the groups allow: a group of more records than there are
    batches gives one to each of them, other groups give all. Which records an epoch leaves out,
    fewer than a batch but for such large groups, is drawn anew each time.

    Args:
        parent: the records.
        groups: int [N], the group of each record.
        batch: rows of a batch, at most the number of groups.
        seed: the seed of the order.
    """

    def __init__(self, parent: grain.MapDataset, groups: np.ndarray, batch: int, seed: int) -> None:
        super().__init__(parent, seed)
        self._groups = np.unique(groups, return_inverse=True)[1]
        self._batch = batch
        self._batches = distinct_batches(np.bincount(self._groups), batch)
        self._epoch = self._batches * batch

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        return distinct_order(self._groups, self._batch, self._batches, rng)


def distinct_batches(sizes: np.ndarray, batch: int) -> int:
    """Returns how many batches without a repeated group there are; 0 if `batch` is too large.

    Args:
        sizes: int [G], number of records of each group.
        batch: rows of a batch.
    """
    few, many = 0, int(sizes.sum()) // batch
    while few < many:  # of K batches a group can fill min(size, K) rows: concave in K
        middle = (few + many + 1) // 2
        if np.minimum(sizes, middle).sum() >= middle * batch:
            few = middle
        else:
            many = middle - 1
    return few


def distinct_order(
    groups: np.ndarray, batch: int, batches: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns the records of one epoch of `Distinct`, int64 [batches * batch], batch by batch.

    The groups are laid in random order, each in one piece, into a table of `batch` rows and
    `batches` columns, row by row; the columns are the batches. A piece lies in one row, or in two
    that follow each other, so each row may be shuffled if a piece avoids the columns it has.
    """
    records = rng.permutation(len(groups))
    codes = groups[records]
    # Of each group the first `batches` in this random order, and of those the first that fit.
    by_group = np.argsort(codes, kind="stable")
    starts = np.cumsum(np.bincount(codes)) - np.bincount(codes)
    number = np.empty(len(codes), np.int64)
    number[by_group] = np.arange(len(codes)) - starts[codes[by_group]]
    fits = np.flatnonzero(number < batches)[: batch * batches]
    codes, records = codes[fits], records[fits]
    rank = rng.permutation(len(starts))
    in_pieces = np.argsort(rank[codes], kind="stable")
    codes = codes[in_pieces].reshape(batch, batches)
    table = np.empty((batch, batches), np.int64)
    taken, last = np.zeros(batches, bool), np.arange(batches)
    for row, piece in enumerate(records[in_pieces].reshape(batch, batches)):
        columns = rng.permutation(batches)
        if row:
            # The piece that goes on comes first, to columns that it does not have yet.
            taken[:] = False
            taken[last[codes[row - 1] == codes[row, 0]]] = True
            columns = columns[np.argsort(taken[columns], kind="stable")]
        table[row, columns] = piece
        last = columns
    return rng.permuted(table, axis=0).T.reshape(-1)


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
        return {name: parent[index] for name, parent in zip(self._names, self.parents, strict=True)}

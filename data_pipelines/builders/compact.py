"""Sequences of millions of small items, a fraction of the memory that as many objects take."""

from __future__ import annotations

import dataclasses
import itertools
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow

Item = TypeVar("Item")
# Items of a block: what they have in common is kept once, and one block at a time is unpacked.
_BLOCK = 1024


class Compact(Sequence[Item]):
    """A sequence that can be appended to.

    Args:
        items: the first ones.
        plain: an item -> (its shape, as many cells as each item of this shape has); what JSON
            holds.
        read: a shape, and the cells of several items, as JSON gives them back -> these items.

    Blocks of items are kept compressed, column by column, so that each reading makes new objects:
    going through it is not much slower than through a list, going back and forth is slow.
    """

    def __init__(
        self,
        items: Iterable[Item],
        plain: Callable[[Item], tuple[Any, tuple[Any, ...]]],
        read: Callable[[Any, Iterable[tuple[Any, ...]]], Iterable[Item]],
    ) -> None:
        self._plain, self._read = plain, read
        self._blocks: list[tuple[int, bytes]] = []
        self._open: list[Item] = []
        self._unpacked: tuple[int, list[Item]] = (-1, [])
        self.extend(items)

    def append(self, item: Item) -> None:
        """Adds an item."""
        self._open.append(item)
        if len(self._open) == _BLOCK:
            # In columns alike is beside alike, and JSON has few objects to make.
            runs = itertools.groupby(map(self._plain, self._open), operator.itemgetter(0))
            table = [(shape, list(zip(*(r for _, r in run), strict=True))) for shape, run in runs]
            data = json.dumps(table).encode("ascii")
            self._blocks.append((len(data), pyarrow.compress(data, "zstd", asbytes=True)))
            self._open = []

    def extend(self, items: Iterable[Item]) -> None:
        """Adds items, one after another."""
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        return len(self._blocks) * _BLOCK + len(self._open)

    def __iter__(self) -> Iterator[Item]:
        for block in range(len(self._blocks)):
            yield from self._block(block)
        yield from self._open

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        block, place = divmod(places, _BLOCK)
        if block == len(self._blocks):
            return self._open[place]
        if self._unpacked[0] != block:
            self._unpacked = (block, self._block(block))
        return self._unpacked[1][place]

    def _block(self, block: int) -> list[Item]:
        size, data = self._blocks[block]
        text = pyarrow.decompress(data, size, "zstd", asbytes=True)
        runs = (
            self._read(shape, zip(*columns, strict=True)) for shape, columns in json.loads(text)
        )
        return list(itertools.chain.from_iterable(runs))


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen(Sequence[Item]):
    """Some items of a sequence, 8 bytes each.

    Attributes:
        items: the sequence.
        places: which items of it, int64 [n].
    """

    items: Sequence[Item]
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Chosen[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Chosen[Item]:
        if isinstance(index, slice):
            return Chosen(self.items, self.places[index])
        return self.items[int(self.places[index])]

    def __iter__(self) -> Iterator[Item]:
        return (self.items[int(place)] for place in self.places)

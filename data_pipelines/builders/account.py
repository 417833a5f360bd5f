"""What a build made of a corpus: the table of its columns, and pictures that come again."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from data_pipelines.builders.entries import Listing
from data_pipelines.builders.staging import RecordStatus
from data_pipelines.images import greys
from data_pipelines.text.texts import shown

REMARKS = "remarks.csv"
# Classes that are listed with their counts.
MOST_CLASSES = 40
_EXAMPLE = 40
_HEADER = ("column", "became", "filled", "distinct", "example")
# Hashes that are gathered before they are sorted in among the others.
_GATHERED = 2**19


def lines(rows: Listing, kept: Iterable[bool]) -> list[str]:
    """Returns a table, column -> field, filled, distinct, example, and the classes with counts.

    Args:
        rows: the rows of the corpus, which are gone through once.
        kept: whether each entry became a record, in the order of the entries.
    """
    pictures: list[str] = []
    fields: dict[str, Any] = {}
    tallies: dict[str, _Tally] = collections.defaultdict(_Tally)
    classes: collections.Counter[str] = collections.Counter()
    number = without = 0
    for entry in itertools.compress(rows.entries, kept):
        if not number:
            pictures = [name for name in rows.columns if name in entry.pictures]
        number += 1
        fields |= entry.fields
        for name, refs in entry.pictures.items():
            tallies[name].add("; ".join([ref.path for ref in refs]))
        for name, value in entry.fields.items():
            if value and name not in entry.pictures:
                tallies[name].add(value if isinstance(value, str) else "; ".join(value))
        labels = entry.fields.get("labels", ())
        for label in dict.fromkeys(labels):  # not a set, whose order is by chance
            classes[label] += 1
        without += not labels
    named = (*pictures, *(name for name in fields if name != "id"))
    table = [_HEADER, *(tallies[name].row(rows.columns.get(name, ""), name) for name in named)]
    table = [row for row in table if row[0] or row[2] != "0"]
    widths = [max(len(row[i]) for row in table) for i in range(len(_HEADER) - 1)]
    told = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in table
    ]
    return [*told, *_classes(classes, number, without)]


@dataclasses.dataclass(frozen=True)
class Said:
    """What is to be said of pictures that were read.

    Attributes:
        lines: sentences on all of them together.
        remarks: (number, name, remark) of records, sorted.
    """

    lines: list[str]
    remarks: list[tuple[int, str, str]]


def said(rows: Listing, facts: Sequence[RecordStatus]) -> Said:
    """Gathers what the user should know of pictures.

    Args:
        rows: the rows of the corpus.
        facts: what became of those that are records; read once, and again where pictures repeat.
    """
    scales: set[greys.Range] = set()
    dark: list[tuple[int, str, int]] = []
    remarks: list[tuple[int, str, str]] = []
    pictures = np.zeros(len(facts), np.int64)
    number = 0
    for i, fact in enumerate(facts):
        pictures[i] = _hashed(fact)
        scales |= {fact.scale} if fact.scale else set()
        if fact.brightest < greys.DARK:
            dark.append((fact.number, fact.name, fact.brightest))
        number += bool(fact.remarks)
        remarks += [(fact.number, fact.name, text) for text in fact.remarks]
    lines = [
        f"OCT of more than 8 bits: {low:g} to {high:g} became 0 to 255 in the whole data set"
        for low, high in sorted(scales)
    ]
    if dark:
        _, name, brightest = min(dark)
        lines.append(
            f"{len(dark)} records are dark, with no value above {greys.DARK - 1} of 255; the first "
            f"is {name}, with values up to {brightest}"
        )
    if number:
        lines.append(
            f"{number} records are of files with something to be said, listed in {REMARKS}"
        )
    found, times = np.unique(pictures[pictures != 0], return_counts=True)
    often = set(found[times > 1].tolist())
    again = [fact for fact in facts if _hashed(fact) in often] if often else []
    told, listed = _repeated(rows, again)
    return Said([*lines, *told], sorted([*remarks, *listed]))


def _hashed(fact: RecordStatus) -> int:
    """Returns a hash of the pictures of a record, 0 where it has none."""
    return hash(fact.digests) if fact.digests else 0


def _repeated(
    rows: Listing, facts: Sequence[RecordStatus]
) -> tuple[list[str], list[tuple[int, str, str]]]:
    """Looks for records of the same pictures, byte for byte.

    Returns:
        (remarks on the whole, (number, name, remark) of each record whose picture has other labels
        in another one).
    """
    holders: dict[tuple[str, ...], list[RecordStatus]] = collections.defaultdict(list)
    for fact in sorted(facts, key=lambda fact: fact.number):
        holders[fact.digests].append(fact)
    several = [found for found in holders.values() if len(found) > 1]
    if not several:
        return [], []
    wanted = {fact.number for found in several for fact in found}
    labels = {
        e.number: ", ".join(sorted(set(e.fields.get("labels", ()))))
        for e in rows.entries
        if e.number in wanted
    }
    odd = [found for found in several if len({labels[fact.number] for fact in found}) > 1]
    more = sum(len(found) - 1 for found in several)
    remarks = [f"{more} rows list a picture that an earlier row lists too; all are kept"]
    if odd:
        told = "; ".join(f"{f.name}, row {f.number}: {labels[f.number] or 'none'}" for f in odd[0])
        remarks.append(
            f"{len(odd)} pictures have other labels in another row, see {REMARKS}; the first: "
            f"{shown(told)}"
        )
    listed = [
        (fact.number, fact.name, f"The same picture has other labels in row {other.number}.")
        for found in odd
        for fact in found
        for other in [next(o for o in found if labels[o.number] != labels[fact.number])]
    ]
    return remarks, listed


@dataclasses.dataclass
class _Tally:
    """Counts texts in 8 bytes for each that differs from all others.

    Texts are told apart by hashes of 64 bits: that two of ten million share one has a chance of
    3 in a million.
    """

    filled: int = 0
    example: str = ""
    gathered: set[int] = dataclasses.field(default_factory=set)
    sorted: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, text: str) -> None:
        """Counts a text; '' is none."""
        if text:
            self.filled += 1
            self.example = self.example or text
            self.gathered.add(hash(text))
            if len(self.gathered) >= _GATHERED:
                self._sort()

    def row(self, column: str, field: str) -> tuple[str, ...]:
        """Returns (column, field, filled, distinct, example)."""
        self._sort()
        short = "".join(c if c.isprintable() else " " for c in self.example[:_EXAMPLE])
        short += " ..." if len(self.example) > _EXAMPLE else ""
        return column, field, str(self.filled), str(len(self.sorted)), short

    def _sort(self) -> None:
        new = np.fromiter(self.gathered, np.int64, len(self.gathered))
        self.sorted, self.gathered = np.union1d(self.sorted, new), set()


def _classes(counts: collections.Counter[str], number: int, without: int) -> list[str]:
    """Returns a line of the classes and how many records have each, and one of records without."""
    if not counts:
        return []
    most = counts.most_common(MOST_CLASSES)
    named = ", ".join(f"{name} {times}" for name, times in most)
    rest = f", and {len(counts) - len(most)} more" if len(counts) > len(most) else ""
    told = [f"{len(counts)} class{'es' * (len(counts) > 1)}: {named}{rest}"]
    return told + [f"note: {without} of {number} records have no label"] * bool(without)

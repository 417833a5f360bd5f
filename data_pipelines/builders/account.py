"""What a build made of a corpus: the table of its columns, and pictures that come again."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from data_pipelines.builders.entries import Entries, Entry, Listing
from data_pipelines.builders.staging import RecordStatus
from data_pipelines.text.texts import shown

# Classes that are listed with their counts.
MOST_CLASSES = 40
_EXAMPLE = 40
_HEADER = ("column", "became", "filled", "distinct", "example")


def lines(rows: Listing, kept: Collection[int]) -> list[str]:
    """Returns a table, column -> field, filled, distinct, example, and the classes with counts.

    Args:
        rows: the rows of the corpus.
        kept: numbers of the entries that became records.
    """
    entries = Entries(entry for entry in rows.entries if entry.number in kept)
    fields = dict.fromkeys(name for entry in entries for name in entry.fields if name != "id")
    known = [name for name in rows.columns if name in (entries[0].pictures if entries else ())]
    table = [_HEADER, *(_row(rows.columns, name, entries) for name in (*known, *fields))]
    table = [row for row in table if row[0] or row[2] != "0"]
    widths = [max(len(row[i]) for row in table) for i in range(len(_HEADER) - 1)]
    told = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in table
    ]
    return [*told, *_classes(entries)]


def repeated(
    rows: Listing, facts: Iterable[RecordStatus]
) -> tuple[list[str], list[tuple[int, str, str]]]:
    """Looks for records of the same pictures, byte for byte.

    Args:
        rows: the rows of the corpus.
        facts: what became of those that are records.

    Returns:
        (remarks on the whole, (number, name, remark) of each record whose picture has other labels
        in another one).
    """
    holders: dict[tuple[str, ...], list[RecordStatus]] = collections.defaultdict(list)
    for fact in sorted(facts, key=lambda fact: fact.number):
        holders[fact.digests or (str(fact.number),)].append(fact)
    several = [found for found in holders.values() if len(found) > 1]
    if not several:
        return [], []
    labels = {e.number: ", ".join(sorted(set(e.fields.get("labels", ())))) for e in rows.entries}
    odd = [found for found in several if len({labels[fact.number] for fact in found}) > 1]
    again = sum(len(found) - 1 for found in several)
    remarks = [f"{again} rows list a picture that an earlier row lists too; all are kept"]
    if odd:
        told = "; ".join(f"{f.name}, row {f.number}: {labels[f.number] or 'none'}" for f in odd[0])
        remarks.append(
            f"{len(odd)} pictures have other labels in another row, see remarks.csv; the first: "
            f"{shown(told)}"
        )
    listed = [
        (fact.number, fact.name, f"The same picture has other labels in row {other.number}.")
        for found in odd
        for fact in found
        for other in [next(o for o in found if labels[o.number] != labels[fact.number])]
    ]
    return remarks, listed


def _row(columns: Mapping[str, str], field: str, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Returns (column, field, filled, distinct, example) of a field."""
    values = (_value(entry, field) for entry in entries)
    counts = collections.Counter(filter(None, values))
    example = next(iter(counts), "")
    short = "".join(c if c.isprintable() else " " for c in example[:_EXAMPLE])
    short += " ..." if len(example) > _EXAMPLE else ""
    column = columns.get(field, "")
    return column, field, str(counts.total()), str(len(counts)), short


def _value(entry: Entry, field: str) -> str:
    value: Any = entry.fields.get(field, "")
    if field in entry.pictures:
        return "; ".join(ref.path for ref in entry.pictures[field])
    return value if isinstance(value, str) else "; ".join(value)


def _classes(entries: Sequence[Entry]) -> list[str]:
    """Returns a line of the classes and how many records have each, and one of records without."""
    counts = collections.Counter(
        label for entry in entries for label in set(entry.fields.get("labels", ()))
    )
    if not counts:
        return []
    most = counts.most_common(MOST_CLASSES)
    named = ", ".join(f"{name} {number}" for name, number in most)
    rest = f", and {len(counts) - len(most)} more" if len(counts) > len(most) else ""
    told = [f"{len(counts)} class{'es' * (len(counts) > 1)}: {named}{rest}"]
    without = sum(not entry.fields.get("labels") for entry in entries)
    return told + [f"note: {without} of {len(entries)} records have no label"] * bool(without)

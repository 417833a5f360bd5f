"""Whether records of a test set are in the training data: by id, patient, bytes or look.

    python -m data_pipelines.overlap --train=manifest/mine:train --test=odir/default:test

Ids and patients mean something within one data set only: the same address, the same content under
another one, or the same text in the field `dataset`. Content hashes find the same file anywhere,
perceptual hashes the same picture after it was encoded, resized or cropped to its field of view
again, and often the same eye photographed twice. What belongs to a test record that overlaps, by
its patient or by a picture that both have, overlaps too: the patient may have another id there.
What could not be compared is said. The program ends with status 2 where anything overlaps.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import places
from data_pipelines.errors import InputError
from data_pipelines.images import likeness
from data_pipelines.records import sources
from data_pipelines.records.sources import Source
from data_pipelines.text.texts import plain

KINDS = {"id": "the same id", "patient": "the same patient", "digest": "the same file",
         "perceptual": "the same picture or nearly",
         "linked": "a patient of one of these"}  # fmt: skip
# Kind -> the field that it needs.
_FIELDS = {"id": "id", "patient": "patient", "digest": "digests", "perceptual": "perceptual"}
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What two sets have in common; false where that is nothing.

    Attributes:
        train, test: the sets, 'address:split'.
        size: number of records of `test`.
        pairs: {kind of `KINDS`: ((id of a test record, id of the first training record that it
            is), ...)}; kinds without any are left out.
        skipped: {kind: why it was not compared}.
    """

    train: str
    test: str
    size: int
    pairs: Mapping[str, tuple[tuple[str, str], ...]]
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def compared(self) -> list[str]:
        """The kinds that both sets have something to be compared by."""
        return [kind for kind in _FIELDS if kind not in self.skipped]

    def __bool__(self) -> bool:
        return bool(self.pairs)

    def records(self) -> list[str]:
        """Returns the ids of the test records that overlap in any way, each once."""
        found = (test for pairs in self.pairs.values() for test, _ in pairs)
        return list(dict.fromkeys(found))

    def sentence(self) -> str:
        """Says how many records overlap, in which way, and names the first of each."""
        parts = []
        for kind, pairs in self.pairs.items():
            named = ", ".join(f"{test} = {train}" for test, train in pairs[:_NAMED])
            more = ", ..." if len(pairs) > _NAMED else ""
            parts.append(f"{len(pairs)} {KINDS[kind]} ({named}{more})")
        return (
            f"{len(self.records())} of the {self.size} records of {self.test} are in {self.train}: "
            f"{'; '.join(parts)}"
        )


def check_overlap(train: Source, test: Source) -> Overlap:
    """Compares two sets by every kind of `KINDS` that both have the fields for.

    Args:
        train, test: sets with any of the fields 'id', 'patient', 'dataset' (texts), 'digests' and
            'perceptual' (lists of texts, one a picture).

    Raises:
        InputError: perceptual hashes of another form than `preparation.perceptual` makes.
    """
    ways = {"id": _ids, "patient": _patients, "digest": _digests, "perceptual": _perceptual}
    found: dict[str, Matches] = {
        kind: matches(train, test) if _have(_FIELDS[kind], train, test) else _NOTHING
        for kind, matches in ways.items()
    }
    found["linked"] = _linked(test, found)
    names = _names(test), _names(train)
    pairs = {
        kind: tuple((names[0][i], names[1][j]) for i, j in np.stack(places, axis=1).tolist())
        for kind, places in found.items()
        if len(places[0])
    }
    reasons = {kind: _why_not(train, test, kind) for kind in _FIELDS}
    skipped = {kind: why for kind, why in reasons.items() if why}
    return Overlap(str(train), str(test), len(test), pairs, skipped)


Matches = tuple[np.ndarray, np.ndarray]
_NOTHING: Matches = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def _have(field: str, *sets: Source) -> bool:
    return all(field in source.fields for source in sets)


def _names(source: Source) -> list[str]:
    if _have("id", source):
        return source.column("id")
    return [f"record {i}" for i in range(len(source))]


def _datasets(source: Source) -> list[str]:
    if not _have("dataset", source):
        return [""] * len(source)
    return [plain(name) for name in source.column("dataset")]


def _one_set(train: Source, test: Source) -> bool:
    """Whether both are of one data set, be it built twice under two names."""
    contents = [getattr(source, "fingerprint", "") for source in (train, test)]
    return train.name == test.name or ("" not in contents and contents[0] == contents[1])


def _why_not(train: Source, test: Source, kind: str) -> str:
    """Why two sets cannot be compared in one way; '' where they can be."""
    field = _FIELDS[kind]
    for source in (train, test):
        if not _have(field, source):
            return f"{source} has no field '{field}'"
        if not any(source.column(field)):
            return f"no record of {source} has '{field}'"
    if kind not in ("id", "patient") or _one_set(train, test):
        return ""
    here, there = ({name for name in _datasets(source) if name} for source in (train, test))
    if here & there:
        return ""
    named = [", ".join(sorted(names)[:_NAMED]) or "none" for names in (here, there)]
    return f"they name no data set in common ({named[0]}; {named[1]}), so ids mean nothing"


def _linked(test: Source, found: Mapping[str, Matches]) -> Matches:
    """Returns the test records that share a patient or a picture with one that overlaps.

    A set may hold a patient under two ids, with a picture under both.
    """
    first: dict[int, int] = {}
    for rows, others in found.values():
        for row, other in zip(rows.tolist(), others.tolist(), strict=True):
            first.setdefault(row, other)
    if not first:
        return _NOTHING
    owners: dict[Any, list[int]] = {}
    nodes: list[list[Any]] = [[] for _ in range(len(test))]
    patients = _within(test, "patient", True) if _have("patient", test) else [None] * len(test)
    digests = test.column("digests") if _have("digests", test) else [()] * len(test)
    for row, (patient, pictures) in enumerate(zip(patients, digests, strict=True)):
        nodes[row] = [node for node in (patient, *pictures) if node]
        for node in nodes[row]:
            owners.setdefault(node, []).append(row)
    direct, waiting = set(first), list(first)
    while waiting:
        row = waiting.pop()
        for node in nodes[row]:
            for other in owners.pop(node, ()):  # each is looked at once
                if other not in first:
                    first[other] = first[row]
                    waiting.append(other)
    return _pairs([(row, first[row]) for row in sorted(set(first) - direct)])


def _pairs(found: Sequence[tuple[int, int]]) -> Matches:
    rows, others = np.array(found, np.int64).reshape(-1, 2).T
    return rows, others


def _same(test: Sequence[Any], train: Sequence[Any]) -> Matches:
    """Returns the test records whose key is one of the training keys, and the first with it."""
    first: dict[Any, int] = {}
    for place, key in enumerate(train):
        if key is not None:
            first.setdefault(key, place)
    found = [(i, first[key]) for i, key in enumerate(test) if key is not None and key in first]
    return _pairs(found)


def _ids(train: Source, test: Source) -> Matches:
    if _one_set(train, test):  # ids are unique in a data set, whatever its parts are called
        return _same(test.column("id"), train.column("id"))
    return _same(*(_within(source, "id") for source in (test, train)))


def _patients(train: Source, test: Source) -> Matches:
    alike = _one_set(train, test)
    return _same(*(_within(source, "patient", alike) for source in (test, train)))


def _within(source: Source, field: str, one_address: bool = False) -> list[Any]:
    """Returns (data set, value) of each record, None where either is unknown.

    Within one address, records that name no data set belong to the same one.
    """
    return [
        (dataset, value) if value and (dataset or one_address) else None
        for dataset, value in zip(_datasets(source), source.column(field), strict=True)
    ]


def _flat(source: Source, field: str) -> tuple[np.ndarray, list[str]]:
    """Returns the hashes of all pictures, and the record that each belongs to."""
    found = [(i, text) for i, texts in enumerate(source.column(field)) for text in texts if text]
    return np.array([i for i, _ in found], np.int64), [text for _, text in found]


def _once(owners: np.ndarray, others: np.ndarray) -> Matches:
    """Keeps the first match of each record of several pictures."""
    kept = np.unique(owners, return_index=True)[1]
    return owners[kept], others[kept]


def _digests(train: Source, test: Source) -> Matches:
    owners, hashes = _flat(test, "digests")
    others, known = _flat(train, "digests")
    places, matches = _same(hashes, known)
    return _once(owners[places], others[matches])


def _perceptual(train: Source, test: Source) -> Matches:
    owners, hashes = _flat(test, "perceptual")
    others, known = _flat(train, "perceptual")
    if not len(owners) or not len(others):
        return _NOTHING
    index, bits = likeness.nearest(hashes, known)
    near = bits <= likeness.NEAR
    return _once(owners[near], others[index[near]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("train", "test"):
        parser.add_argument(f"--{name}", required=True, help="a built data set, ADDRESS:SPLIT")
    parser.add_argument("--data_dir", help="where data sets lie (default: TFDS's folder)")
    parser.add_argument(
        "--csv", type=places.argument, help="a file for all pairs: kind, test, train"
    )
    return parser


def _opened(text: str, data_dir: str | None) -> Source:
    address, separator, split = text.partition(":")
    if not separator:
        raise InputError(f"Name a data set and its split, e.g. odir/default:test; got '{text}'.")
    return sources.load(address, split, data_dir)


def _table(found: Overlap) -> str:
    lines = [f"{'overlap':28s}{'test records':>12s}"]
    for kind, what in KINDS.items():
        number = "not compared" if kind in found.skipped else len(found.pairs.get(kind, ()))
        lines.append(f"{what:28s}{number:>12}")
    lines.append(f"{'any':28s}{len(found.records()):12d} of {found.size}")
    lines += [f"not compared by {KINDS[kind]}: {why}" for kind, why in found.skipped.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 2 where the sets overlap."""
    options = _parser().parse_args(arguments)
    try:
        train, test = (
            _opened(getattr(options, name), options.data_dir) for name in ("train", "test")
        )
        found = check_overlap(train, test)
        print(_table(found))
        if options.csv:
            rows = ((kind, *pair) for kind, pairs in found.pairs.items() for pair in pairs)
            places.write_csv(options.csv, ("kind", "test", "train"), rows)
    except (InputError, OSError) as error:
        print(f"overlap: {error}", file=sys.stderr)
        return 2
    if found:
        print(f"overlap: {found.sentence()}.", file=sys.stderr)
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main())

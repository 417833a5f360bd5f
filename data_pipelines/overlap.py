"""Whether records of a test set are in the training data: by id, patient, bytes or look.

    python -m data_pipelines.overlap --train=manifest/mine:train --test=odir/default:test

Four kinds of overlap. Ids and patients mean something within one data set only: the same address,
or the same text in the field `dataset`. Content hashes find the same file anywhere, perceptual
hashes the same picture after it was encoded, resized or cropped to its field of view again, and
often the same eye photographed twice. The program ends with status 2 where anything overlaps.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import sources
from data_pipelines.errors import InputError
from data_pipelines.sources import Source

KINDS = {
    "id": "the same id",
    "patient": "the same patient",
    "digest": "the same file",
    "perceptual": "the same picture or nearly",
}
# Of 426 bits, chosen on ODIR-5K, IDRiD, the Kermany test set and 160 angiograms. Up to here, all
# pairs listed under different patients are the same eye when looked at: 13 of the 12 million pairs
# of ODIR-5K, 3 of IDRiD, 2 of the angiograms. Of copies at half or three times the size, squashed
# or prepared, at most 0.3 % are missed; at JPEG quality 30 4 % in ODIR-5K (256 pixels) and none
# elsewhere; with brightness clipped at 1.25 up to 0.5 %; but most copies cut by 4 % on each side.
NEAR = 85
_NAMED = 3
_LENGTH = 108


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What two sets have in common; false where that is nothing.

    Attributes:
        train, test: the sets, 'address:split'.
        size: number of records of `test`.
        pairs: {kind of `KINDS`: ((id of a test record, id of the first training record that it
            is), ...)}; kinds without any are left out.
    """

    train: str
    test: str
    size: int
    pairs: Mapping[str, tuple[tuple[str, str], ...]]

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
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for kind, matches in (("id", _ids), ("patient", _patients), ("digest", _digests),
                          ("perceptual", _perceptual)):
        found[kind] = matches(train, test)
    names = _names(test), _names(train)
    pairs = {
        kind: tuple((names[0][i], names[1][j]) for i, j in zip(*places, strict=True))
        for kind, places in found.items() if len(places[0])
    }
    return Overlap(str(train), str(test), len(test), pairs)


def nearest(test: Sequence[str], train: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest perceptual hash of `train` for each of `test`.

    Args:
        test, train: hashes of `preparation.perceptual`, at least one in `train`; none empty.

    Returns:
        (index in `train` int64 [n], number of bits that differ int64 [n]). It takes about 5 ms for
        each of `test` where `train` has 300,000, and 20 bytes of memory for each pair of one.
    """
    # Words first: each step is over contiguous memory.
    words = np.ascontiguousarray(_words(train).T)
    index, bits = np.zeros(len(test), np.int64), np.zeros(len(test), np.int64)
    for row, wanted in enumerate(_words(test)):
        distance = _distance(words, wanted)
        index[row] = distance.argmin()
        bits[row] = distance[index[row]]
    return index, bits


def twins(hashes: Sequence[str]) -> np.ndarray:
    """Returns the pairs of one set that are the same picture or nearly, int64 [n 2].

    Args:
        hashes: of `preparation.perceptual`; '' is like no other. The time grows with the square of
            their number: under a second for 5,000, about a minute for 50,000.
    """
    known = np.array([i for i, text in enumerate(hashes) if text], np.int64)
    words = np.ascontiguousarray(_words([hashes[i] for i in known]).T)
    found = [np.zeros((0, 2), np.int64)]
    for row in range(len(known) - 1):
        near = np.flatnonzero(_distance(words[:, row + 1 :], words[:, row]) <= NEAR) + row + 1
        found.append(np.stack([np.full(len(near), known[row]), known[near]], axis=1))
    return np.concatenate(found)


def _distance(words: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns by how many bits each hash of uint64 [7 n] differs from uint64 [7]: uint16 [n]."""
    distance = np.zeros(words.shape[1], np.uint16)
    for word, value in zip(words, wanted, strict=True):
        distance += np.bitwise_count(word ^ value)
    return distance


def _words(hashes: Sequence[str]) -> np.ndarray:
    """Returns hashes as uint64 [n 7]."""
    try:
        if any(len(text) != _LENGTH for text in hashes):
            raise ValueError
        rows = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8)
    except ValueError:
        raise InputError(
            "There are perceptual hashes of another version in a data set: build it again with "
            "--overwrite."
        ) from None
    rows = rows.reshape(len(hashes), _LENGTH // 2)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8))).view(np.uint64)


Matches = tuple[np.ndarray, np.ndarray]
_NOTHING: Matches = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def _have(field: str, *sets: Source) -> bool:
    return all(field in source.fields for source in sets)


def _names(source: Source) -> Sequence[str]:
    if _have("id", source):
        return source.column("id")
    return [f"record {i}" for i in range(len(source))]


def _datasets(source: Source) -> list[str]:
    return source.column("dataset") if _have("dataset", source) else [""] * len(source)


def _same(test: Sequence[Any], train: Sequence[Any]) -> Matches:
    """Returns the test records whose key is one of the training keys, and the first with it."""
    first: dict[Any, int] = {}
    for place, key in enumerate(train):
        if key is not None:
            first.setdefault(key, place)
    found = [(i, first[key]) for i, key in enumerate(test) if key is not None and key in first]
    return tuple(np.array(found, np.int64).reshape(-1, 2).T)


def _ids(train: Source, test: Source) -> Matches:
    if not _have("id", train, test):
        return _NOTHING
    if train.name == test.name:  # ids are unique in a data set, whatever its parts are called
        return _same(test.column("id"), train.column("id"))
    return _same(*(_within(source, "id") for source in (test, train)))


def _patients(train: Source, test: Source) -> Matches:
    if not _have("patient", train, test):
        return _NOTHING
    return _same(*(_within(source, "patient", train.name == test.name)
                   for source in (test, train)))


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
    if not _have("digests", train, test):
        return _NOTHING
    owners, hashes = _flat(test, "digests")
    others, known = _flat(train, "digests")
    places, matches = _same(hashes, known)
    return _once(owners[places], others[matches])


def _perceptual(train: Source, test: Source) -> Matches:
    if not _have("perceptual", train, test):
        return _NOTHING
    owners, hashes = _flat(test, "perceptual")
    others, known = _flat(train, "perceptual")
    if not len(owners) or not len(others):
        return _NOTHING
    index, bits = nearest(hashes, known)
    near = bits <= NEAR
    return _once(owners[near], others[index[near]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("train", "test"):
        parser.add_argument(f"--{name}", required=True, help="a built data set, ADDRESS:SPLIT")
    parser.add_argument("--data_dir", help="where data sets lie (default: TFDS's folder)")
    parser.add_argument("--csv", help="a file for all pairs: kind, test, train")
    return parser


def _opened(text: str, data_dir: str | None) -> Source:
    address, separator, split = text.partition(":")
    if not separator:
        raise InputError(f"Name a data set and its split, e.g. odir/default:test; got '{text}'.")
    return sources.load(address, split, data_dir)


def _table(found: Overlap) -> str:
    lines = [f"{'overlap':28s}{'test records':>12s}"]
    lines += [f"{what:28s}{len(found.pairs.get(kind, ())):12d}" for kind, what in KINDS.items()]
    lines.append(f"{'any':28s}{len(found.records()):12d} of {found.size}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 2 where the sets overlap."""
    options = _parser().parse_args(arguments)
    try:
        train, test = (_opened(getattr(options, name), options.data_dir)
                       for name in ("train", "test"))
        found = check_overlap(train, test)
        print(_table(found))
        if options.csv:
            with open(options.csv, "w", encoding="utf-8", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["kind", "test", "train"])
                rows.writerows((kind, *pair) for kind, pairs in found.pairs.items()
                               for pair in pairs)
    except (InputError, OSError) as error:
        print(f"overlap: {error}", file=sys.stderr)
        return 2
    if found:
        print(f"overlap: {found.sentence()}.", file=sys.stderr)
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main())

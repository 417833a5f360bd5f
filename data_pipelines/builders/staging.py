"""Records made once, by several processes, and kept until the data set is whole.

The entries of a corpus are cut into chunks; each becomes a file of records and a list of what
became of its entries, which is written last and so says that the chunk is complete. A build that
was interrupted goes on with the chunks that are missing, with any number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import tensorflow_datasets as tfds
import tqdm

# pyright does not look into modules that are made from C++ without stubs.
from array_record.python import array_record_module as array_record  # pyright: ignore

from data_pipelines import processes
from data_pipelines.builders import beams, entries, pictures
from data_pipelines.builders.entries import Entry, Listing, Skipped
from data_pipelines.errors import InputError
from data_pipelines.images import greys

# Entries of a chunk: little work is lost with one, and many fit into memory at once.
CHUNK = 32
_ENCODED = tfds.features.Tensor(shape=(), dtype=np.object_)


@dataclasses.dataclass(frozen=True)
class StagingOptions(pictures.PictureOptions):
    """How an entry becomes a record; the same for all of a corpus.

    Attributes:
        source: the folder that all paths are relative to.
        pictures: {picture field: 'one', 'many' or 'volume'}.
        texts, lists: fields that hold a text, and a list of texts.
    """

    source: str
    pictures: Mapping[str, str]
    texts: tuple[str, ...]
    lists: tuple[str, ...]

    def elsewhere(self) -> StagingOptions:
        """Returns the same options for another working directory."""
        return dataclasses.replace(self, source=str(pathlib.Path(self.source).resolve()))

    def features(self) -> tfds.features.FeaturesDict:
        """TFDS features of a record."""
        text, several = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text())
        found: dict[str, Any] = {
            "id": text,
            **dict.fromkeys(self.texts, text),
            **dict.fromkeys(self.lists, several),
        }
        if self.pictures:
            found |= {"digests": several, "perceptual": several}
        for field, kind in self.pictures.items():
            if kind == "one":
                found[field] = _ENCODED
                found[pictures.crop_field(field)] = tfds.features.Tensor(shape=(4,), dtype=np.int32)
            else:
                found[field] = tfds.features.Sequence(_ENCODED)
        return tfds.features.FeaturesDict(found)


@dataclasses.dataclass(frozen=True)
class RecordStatus:
    """What became of an entry, without its pictures.

    Attributes:
        number, name: the number and the name of the entry.
        digests, perceptual: hashes of the bytes, and of the look, of its pictures.
        patient, split, duplicate_of: the names that the corpus gives them.
        reason, detail: why it is left out, where it is.
        place: which record it is in the staged ones, of which each chunk has room for `CHUNK`;
            -1 where it is left out.
        values: the range of its OCT values, where they have more than 8 bits.
        scale: the range that became 0..255; () where that is not one.
        brightest: the greatest value of its darkest picture or volume.
        remarks: what is to be said of its files, in sentences.
    """

    number: int
    name: str
    digests: tuple[str, ...] = ()
    perceptual: tuple[str, ...] = ()
    patient: str = ""
    split: str = ""
    duplicate_of: str = ""
    reason: str = ""
    detail: str = ""
    place: int = -1
    values: greys.Range | tuple[()] = ()
    scale: greys.Range | tuple[()] = ()
    brightest: int = 255
    remarks: tuple[str, ...] = ()


# What JSON gives back as lists.
_SEVERAL = {f.name for f in dataclasses.fields(RecordStatus) if "tuple" in str(f.type)}


def make(entry: Entry, recipe: StagingOptions) -> tuple[dict[str, Any] | None, RecordStatus]:
    """Reads, checks and prepares the pictures of one entry.

    Returns:
        (the record, or None where a picture cannot be used; what became of the entry).
    """
    root = pathlib.Path(recipe.source).resolve()
    name = entry.name.replace("\\", "/").removeprefix("./")
    record: dict[str, Any] = {"id": entry.fields.get("id") or f"{name}#{entry.number}"}
    record |= {field: entry.fields.get(field, "") for field in recipe.texts}
    record |= {field: list(entry.fields.get(field, ())) for field in recipe.lists}
    fact = RecordStatus(entry.number, entry.name)
    found: list[pictures.Made] = []
    modality = entry.fields.get("modality", "")
    for field, kind in recipe.pictures.items():
        try:
            made = pictures.READERS[kind](entry.pictures.get(field, ()), root, recipe, modality)
        except InputError as error:
            reason = getattr(error, "reason", "picture not readable")
            return None, dataclasses.replace(fact, reason=reason, detail=str(error))
        except (OSError, ValueError) as error:
            return None, dataclasses.replace(fact, reason="file not readable", detail=str(error))
        record[field] = made.value
        if kind == "one":
            record[pictures.crop_field(field)] = np.array(made.crop, np.int32)
        found.append(made)
    digests = tuple(digest for made in found for digest in made.digests)
    perceptual = tuple(hashed for made in found for hashed in made.perceptual)
    if recipe.pictures:
        record |= {"digests": list(digests), "perceptual": list(perceptual)}
    ranges = {values for made in found for values in made.ranges}
    own = next(iter(ranges)) if len(ranges) == 1 else ()
    return record, dataclasses.replace(
        fact,
        digests=digests,
        perceptual=perceptual,
        values=greys.common(ranges) or (),
        scale=(recipe.scale or own) if ranges else (),
        brightest=min((made.brightest for made in found), default=255),
        remarks=tuple(remark for made in found for remark in made.remarks),
        **{name: entry.fields.get(name, "") for name in ("patient", "split", "duplicate_of")},
    )


class Stage:
    """The records of a corpus as they are made: what is there stays when a build is interrupted.

    Args:
        listing: the entries.
        recipe: how they become records.
        folder: where chunks are kept; those of an earlier, interrupted build are used.
        beam: options of the Apache Beam pipeline that makes them, see `beams`; None for processes.
    """

    def __init__(
        self,
        listing: Listing,
        recipe: StagingOptions,
        folder: pathlib.Path,
        beam: Any | None = None,
    ) -> None:
        self._listing, self._recipe, self.folder = listing, recipe, folder
        self._beam = beam
        self._features = recipe.features()

    def fill(self, workers: int) -> Statuses:
        """Makes the chunks that are missing and returns what became of every entry, in order.

        Args:
            workers: processes that make them; it does not change the result.
        """
        facts = self._fill(workers, self._recipe)
        scale = greys.common(values for values, _ in facts.scales)
        # Nearly all volumes of a device use the same bits; only those that do not are read again.
        again = {
            chunk for (_, own), chunks in facts.scales.items() if own != scale for chunk in chunks
        }
        if not again:
            return facts
        for chunk in again:
            _facts_file(self.folder, chunk).unlink()
        return self._fill(workers, dataclasses.replace(self._recipe, scale=scale))

    def _fill(self, workers: int, recipe: StagingOptions) -> Statuses:
        whole = len(self._listing.entries)
        chunks = range(-(-whole // CHUNK))
        missing = [i for i in chunks if not _facts_file(self.folder, i).exists()]
        if self._beam is not None and missing:
            write = functools.partial(_write_line, self.folder, recipe.elsewhere())
            lines = (json.dumps([i, list(map(entries.plain, self._chunk(i)))]) for i in missing)
            beams.run(beams.calls(write, lines, self.folder / "entries.jsonl"), self._beam)
            return Statuses(self.folder, whole)
        tasks = ((self.folder, i, self._chunk(i), recipe) for i in missing)
        left = sum(min(CHUNK, whole - i * CHUNK) for i in missing)
        with tqdm.tqdm(
            desc="reading", total=whole, initial=whole - left, unit=" records", leave=False
        ) as bar:
            # Starting processes takes longer than a few chunks do.
            for number in processes.each(_write_chunk, tasks, workers if len(missing) > 2 else 1):
                bar.update(number)
        return Statuses(self.folder, whole)

    def records(self, facts: Iterable[RecordStatus]) -> Iterator[tuple[RecordStatus, Any]]:
        """Yields the records {field: value} of `facts`, a file at a time."""
        for chunk, members in _by_chunk(facts):
            places = [fact.place % CHUNK for fact in members]
            stored = _stored(_records_file(self.folder, chunk), places, self._features)
            yield from zip(members, stored, strict=True)

    def transform(self, split: str, facts: Iterable[RecordStatus]) -> Any:
        """Returns what gives a pipeline the records of a split, (number, record) each."""
        lines = (
            json.dumps([chunk, [(fact.number, fact.place % CHUNK) for fact in members]])
            for chunk, members in _by_chunk(facts)
        )
        read = functools.partial(_read_line, self.folder, self._recipe)
        return beams.calls(read, lines, self.folder / f"split-{split}.jsonl")

    def _chunk(self, index: int) -> tuple[Entry, ...]:
        return tuple(self._listing.entries[index * CHUNK : (index + 1) * CHUNK])


class Statuses(Sequence[RecordStatus]):
    """What became of the entries, in their order, read from the files of a stage when asked for.

    Reading them in order takes as long as from a list of JSON; in any other one is slow.

    Args:
        folder: the folder of the stage, with all chunks.
        number: how many entries there are.

    Attributes:
        kept: whether a record was made of each, bool [n].
        scales: {(values, scale) of volumes of more than 8 bits: the chunks that they are in}.
    """

    def __init__(self, folder: pathlib.Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._read: tuple[int, list[RecordStatus]] = (-1, [])
        self.scales: dict[tuple[Any, Any], set[int]] = {}
        self.kept = np.zeros(number, bool)
        for chunk in range(-(-number // CHUNK)):
            for i, row in enumerate(self._rows(chunk), chunk * CHUNK):
                self.kept[i] = row["place"] >= 0
                if row.get("values"):
                    ranges = tuple(row["values"]), tuple(row["scale"])
                    self.scales.setdefault(ranges, set()).add(chunk)

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> RecordStatus: ...
    @overload
    def __getitem__(self, index: slice) -> list[RecordStatus]: ...
    def __getitem__(self, index: int | slice) -> RecordStatus | list[RecordStatus]:
        places = range(self._number)[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        chunk, place = divmod(places, CHUNK)
        if self._read[0] != chunk:
            self._read = (chunk, self._chunk(chunk))
        return self._read[1][place]

    def _chunk(self, chunk: int) -> list[RecordStatus]:
        rows = self._rows(chunk)
        for row in rows:
            for name in _SEVERAL & row.keys():
                row[name] = tuple(row[name])
            if row["place"] >= 0:
                row["place"] += chunk * CHUNK
        return [RecordStatus(**row) for row in rows]

    def _rows(self, chunk: int) -> list[dict[str, Any]]:
        return json.loads(_facts_file(self._folder, chunk).read_bytes())


def _by_chunk(facts: Iterable[RecordStatus]) -> Iterator[tuple[int, list[RecordStatus]]]:
    for chunk, members in itertools.groupby(facts, lambda fact: fact.place // CHUNK):
        yield chunk, list(members)


def _stored(
    file: pathlib.Path, places: Sequence[int], features: tfds.features.FeaturesDict
) -> Iterator[Any]:
    reader = array_record.ArrayRecordReader(str(file))
    with contextlib.closing(reader):
        for data in reader.read(places):
            yield features.deserialize_example_np(data)


def _read_line(
    folder: pathlib.Path, recipe: StagingOptions, line: str
) -> Iterator[tuple[int, Any]]:
    """Yields (number, record) of a chunk's records, on a worker of a pipeline."""
    chunk, members = json.loads(line)
    numbers, places = zip(*members, strict=True)
    stored = _stored(_records_file(folder, chunk), places, recipe.features())
    yield from zip(numbers, stored, strict=True)


def _write_line(folder: pathlib.Path, recipe: StagingOptions, line: str) -> Iterator[int]:
    """Writes a chunk on a worker of a pipeline, and yields its number of entries."""
    number, chunk = json.loads(line)
    read = [entry for names, row in chunk for entry in entries.read_plain(names, [row])]
    yield _write_chunk((folder, number, tuple(read), recipe))


def _facts_file(folder: pathlib.Path, chunk: int) -> pathlib.Path:
    return folder / f"{chunk:07d}.json"


def _records_file(folder: pathlib.Path, chunk: int) -> pathlib.Path:
    return folder / f"{chunk:07d}.array_record"


def _write_chunk(task: tuple[pathlib.Path, int, tuple[Entry, ...], StagingOptions]) -> int:
    """Writes the records of a chunk, then what became of its entries; returns their number."""
    folder, number, chunk, recipe = task
    features = recipe.features()
    target = _records_file(folder, number)
    partial = target.with_suffix(f".{uuid.uuid4().hex}.partial")
    writer = array_record.ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
    facts = []
    with contextlib.closing(writer):
        for entry in chunk:
            record, fact = make(entry, recipe)
            if record is not None:
                fact = dataclasses.replace(fact, place=sum(f.place >= 0 for f in facts))
                writer.write(features.serialize_example(record))
            facts.append(fact)
    os.replace(partial, target)
    text = json.dumps([vars(fact) for fact in facts])
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, _facts_file(folder, number))
    return len(chunk)


def skipped_of(facts: Iterable[RecordStatus]) -> list[Skipped]:
    """Returns the entries that no record was made of."""
    return [Skipped(f.number, f.name, f.reason, f.detail) for f in facts if f.place < 0]

"""Named streams of records to host batches, with Grain.

Batch k is a pure function of (seed, k): it does not depend on the number of workers, threads or
processes, nor on the batch one starts from, so a checkpoint needs the step and no iterator.
Process p of P holds the contiguous rows [p B/P, (p+1) B/P) of every global batch, and the random
stream of a row belongs to its global position: joining the processes gives the one-process batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from data_pipelines import batch as batch_contract
from data_pipelines.errors import InputError
from data_pipelines.records import groups, storage
from data_pipelines.records.mixup import Mixtures
from data_pipelines.records.rows import (
    Distinct,
    Nested,
    Padded,
    Records,
    Rows,
    SampledWithReplacement,
    Shuffled,
)
from data_pipelines.records.sources import Source
from data_pipelines.records.steps import Select, Steps

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Stream:
    """One source of training rows.

    Attributes:
        source: the records.
        transforms: built transforms, in order.
        batch_size: rows per GLOBAL batch.
        keys: batch keys to keep; None keeps every key of `batch.KEYS` that the transforms made.
        shuffle: a new order in each epoch; False keeps the order of the source.
        balance: a field, or several, whose values are made equally likely: a value is drawn
            uniformly, then one of its records, with replacement (FLAIR's balance over data sets;
            over the classes of each with ('dataset', 'labels')); see `groups.members`.
        replacement: draw records uniformly with replacement (KeepFIT's expert stream).
        distinct: a field, such as 'patient', that differs in all rows of a batch; see
            `rows.Distinct`. Records where it is empty differ from all others.
        mixup: alpha of Beta(alpha, alpha), from which each row's share of its mixture with its
            neighbour is drawn; 0 for no mixtures. See `mixup.Mixtures`.
    """

    source: Source
    transforms: tuple[Any, ...]
    batch_size: int
    keys: tuple[str, ...] | None = None
    shuffle: bool = True
    balance: str | Sequence[str] | None = None
    replacement: bool = False
    distinct: str | None = None
    mixup: float = 0.0


class Batches(Iterator[Batch]):
    """Host batches in order.

    Threads and workers end with the last batch and at an error. Who stops earlier closes it, or
    uses it in a ``with``.
    """

    def __init__(self, iterator: grain.DatasetIterator) -> None:
        self._iterator: grain.DatasetIterator | None = iterator

    def __next__(self) -> Batch:
        if self._iterator is None:
            raise StopIteration
        try:
            return next(self._iterator)
        except BaseException as error:
            self.close()
            if isinstance(error, RuntimeError) and "terminated unexpectedly" in str(error):
                raise InputError(
                    f"A loader process was killed ({error}) Perhaps memory ran out: use fewer "
                    "(num_workers), and run the command again."
                ) from error
            raise

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends reading ahead; closing twice does no harm."""
        if self._iterator is not None:
            self._iterator.close()
        # Grain's iterators close themselves again when they go, which fails at interpreter exit.
        self._iterator = None


@dataclasses.dataclass(frozen=True)
class TrainData:
    """An endless sequence of batches, of this process's rows.

    Attributes:
        records: {stream: number of records of its source}.
        batch_sizes: {stream: rows per global batch}.
    """

    records: dict[str, int]
    batch_sizes: dict[str, int]
    _dataset: grain.MapDataset
    _example: Mapping[str, _Example]
    _reading: _Reading

    def batches(self, start: int = 0, stop: int | None = None) -> Batches:
        """Returns the batches start, start + 1, ... (before `stop`, if given)."""
        return self._reading.iterate(self._dataset, start, stop)

    def example(self) -> Batch:
        """Returns a batch of the shapes and dtypes of all: its first row, read and repeated."""
        made = {name: example.batch() for name, example in self._example.items()}
        return made.get("", made)


@dataclasses.dataclass(frozen=True)
class EvalData:
    """Every record once, in order, in padded batches of this process's rows.

    Attributes:
        source: the records; ``_id`` in a batch is the index in here.
        transforms: built transforms, in order.
        batch_size: rows per global batch.
    """

    source: Source
    transforms: tuple[Any, ...]
    batch_size: int
    _dataset: grain.MapDataset
    _example: _Example
    _reading: _Reading

    def __len__(self) -> int:
        return len(self.source)

    def batches(self) -> Batches:
        """Returns all batches; each process gets the same number of them."""
        return self._reading.iterate(self._dataset, 0, None)

    def example(self) -> Batch:
        """Returns a batch of the shapes and dtypes of all: its first row, read and repeated."""
        return self._example.batch()


@dataclasses.dataclass(frozen=True)
class _Example:
    """What a batch looks like, out of one row of it: reading a batch of thousands takes a minute.

    Attributes:
        dataset: small batches, of at least one row.
        rows: those of a batch.
    """

    dataset: grain.MapDataset
    rows: int

    def batch(self) -> Batch:
        """Returns the first row, checked against the batch contract and repeated in no memory."""
        few: Any = self.dataset[0]
        batch_contract.check(few)
        return {k: np.broadcast_to(v[:1], (self.rows, *v.shape[1:])) for k, v in few.items()}


def train(
    streams: Mapping[str, Stream],
    *,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    num_threads: int | None = None,
) -> TrainData:
    """Builds the training batches of one process.

    Args:
        streams: {name: stream}. A single stream named '' gives flat batches {key: array}, several
            give nested ones {stream: {key: array}}.
        seed: any integer >= 0. Each stream draws from its own seed, made of this and its name.
        process_index, process_count: which rows of each batch this process holds.
        num_workers: worker processes (spawned); 0 reads in threads of this process.
        num_threads: reading threads in each process; None is one per available core, at most 16.

    Raises:
        InputError: no streams or records, a batch size that the processes cannot share.
    """
    if not streams or ("" in streams and len(streams) > 1):
        raise InputError("train: give one stream named '', or several that all have names.")
    reading = _Reading(num_workers, _threads(num_threads))
    parts = {
        name: _stream_batches(name, stream, seed, process_index, process_count)
        for name, stream in streams.items()
    }
    datasets = {name: dataset for name, (dataset, _) in parts.items()}
    dataset = datasets[""] if "" in parts else Nested(datasets)
    return TrainData(
        records={name: len(stream.source) for name, stream in streams.items()},
        batch_sizes={name: stream.batch_size for name, stream in streams.items()},
        _dataset=dataset,
        _example={name: example for name, (_, example) in parts.items()},
        _reading=reading,
    )


def evaluate(
    source: Source,
    transforms: Sequence[Any],
    *,
    batch_size: int,
    keys: Sequence[str] | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    num_threads: int | None = None,
) -> EvalData:
    """Builds batches that hold each record exactly once over all processes.

    Args:
        source: the records.
        transforms: built transforms; random ones are refused.
        batch_size: rows per global batch. The last rows of the last batches are padding: zeros,
            ``_mask`` False and ``_id`` -1.
        keys: batch keys to keep next to ``_mask`` and ``_id``; None keeps all that were made.
        process_index, process_count, num_workers, num_threads: the same as in `train`.

    Raises:
        InputError: a random transform, no records, a batch size the processes cannot share.
    """
    random = [type(t).__name__ for t in transforms if isinstance(t, grain.transforms.RandomMap)]
    if random:
        raise InputError(
            f"evaluate: {', '.join(random)} would make the result depend on chance; "
            "leave random transforms to training."
        )
    rows = _local_rows("", batch_size, process_count)
    _refuse_empty("", source)
    select = Select(None if keys is None else tuple(keys))
    dataset = Steps((*transforms, select), source.name).over(Records(source))
    dataset = Rows(Padded(dataset, batch_size), batch_size, rows, process_index)
    return EvalData(
        source,
        tuple(transforms),
        batch_size,
        dataset.batch(rows, batch_fn=batch_contract.stack),
        _Example(dataset.batch(1, batch_fn=batch_contract.stack), rows),
        _Reading(num_workers, _threads(num_threads)),
    )


def stream_seed(seed: int, name: str) -> int:
    """Returns the seed of a stream, in 0 .. 2**32 - 1: a hash of the run's seed and its name."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def _stream_batches(
    name: str, stream: Stream, seed: int, process_index: int, process_count: int
) -> tuple[grain.MapDataset, _Example]:
    """Returns the batches of one stream; random maps come before rows go to processes."""
    rows = _local_rows(name, stream.batch_size, process_count)
    _refuse_empty(name, stream.source)
    _check_sources(name, stream)
    own_seed = stream_seed(seed, name)
    dataset = _sampled(name, stream, own_seed)
    steps = Steps((*stream.transforms, Select(stream.keys)), stream.source.name)
    single = Rows(steps.over(dataset), stream.batch_size, rows, process_index)

    def batches(size: int, process: int) -> grain.MapDataset:
        made = single.batch(size, batch_fn=batch_contract.stack)
        if not stream.mixup:
            return made
        return Mixtures(made, stream.mixup, stream.batch_size, size, process, own_seed)

    few = min(rows, 2 if stream.mixup else 1)
    return batches(rows, process_index), _Example(batches(few, 0), rows)


def _sampled(name: str, stream: Stream, seed: int) -> grain.MapDataset:
    """Returns the records of a stream in the order in which they are drawn, without an end."""
    source = stream.source
    dataset = Records(source).seed(seed)
    ways = [way for way in ("balance", "replacement", "distinct") if getattr(stream, way)]
    ways += [] if stream.shuffle else ["shuffle=False"]
    if len(ways) > 1:
        raise InputError(
            f"Stream '{name}': '{ways[0]}' and '{ways[1]}' exclude each other; drop one."
        )
    if stream.balance:
        return SampledWithReplacement(dataset, groups.members(source, stream.balance), seed)
    if stream.replacement:
        return SampledWithReplacement(dataset, [np.arange(len(source))], seed)
    if stream.distinct:
        codes = groups.distinct(name, source, stream.distinct, stream.batch_size)
        return Distinct(dataset, codes, stream.batch_size, seed)
    return Shuffled(dataset, seed) if stream.shuffle else dataset.repeat()


def _local_rows(name: str, batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        where = f"Stream '{name}'" if name else "The batch"
        raise InputError(
            f"{where}: batch_size {batch_size} must be a positive multiple of the "
            f"{process_count} processes that share it."
        )
    return batch_size // process_count


def _refuse_empty(name: str, source: Source) -> None:
    if not len(source):
        where = f"Stream '{name}'" if name else "The pipeline"
        raise InputError(f"{where} has no records: {source.name} is empty after its selection.")


def _check_sources(name: str, stream: Stream) -> None:
    """Lets transforms that say nothing of some records, such as prompts, refuse them."""
    for check in (getattr(transform, "check_source", None) for transform in stream.transforms):
        try:
            if check is not None:
                check(stream.source)
        except InputError as error:
            raise InputError(f"Stream '{name}': {error}" if name else str(error)) from error


def _threads(number: int | None) -> int:
    return min(storage.cores(), 16) if number is None else number


@dataclasses.dataclass(frozen=True)
class _Reading:
    """How batches are read ahead; it changes the speed and never the batches."""

    num_workers: int
    num_threads: int

    def iterate(self, dataset: grain.MapDataset, start: int, stop: int | None) -> Batches:
        """Returns batches start..stop of a data set of batches."""
        if start < 0 or (stop is not None and stop < start):
            raise InputError(f"batches: start {start} and stop {stop} must be 0 <= start <= stop.")
        wanted = dataset[start:stop]
        # A batch is one unit of reading ahead: one per thread, and two that wait for the step.
        options = grain.ReadOptions(self.num_threads, prefetch_buffer_size=self.num_threads + 2)
        iterable = wanted.to_iter_dataset(options)
        workers = min(self.num_workers, len(wanted))
        if workers:
            # Grain reads a flag in its workers, which fails unless flags were parsed.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            # Through a pipe, not shared memory: containers have little of that, and Grain leaves
            # blocks behind when workers stop early.
            piped = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
            iterable = grain.experimental.WithOptionsIterDataset(iterable, piped)
            iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(workers))
        return Batches(iter(iterable))

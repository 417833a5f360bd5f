"""Entries to tables of answers, a batch at a time; memory does not grow with their number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from data_pipelines.transforms.pictures import CasePictures, Eyes
from data_pipelines.transforms.volumes import Volume
from retina_jax.out_of_distribution import unit
from retina_jax.prediction import answers, levels, rows
from retina_jax.prediction.requests import Request

Tables = Callable[[pa.Table, rows.Watch], Iterator[pa.Table]]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is written for entries.

    Attributes:
      name: the name of the files, 'predictions' or 'embeddings'.
      schema: the columns.
      tables: entries of `requests.arranged` -> tables of these columns, in their order.
    """

    name: str
    schema: pa.Schema
    tables: Tables


def prediction_job(request: Request, kept: Sequence[str] = ()) -> Job:
    """What a model says of the classes; `kept` are columns of the inputs that go along."""
    schema = answers.prediction_schema(request, kept)
    assert request.scorer is not None
    width = len(request.scorer.classes)

    def tables(entries: pa.Table, watch: rows.Watch) -> Iterator[pa.Table]:
        found = _answered(request, entries, watch, width)
        if request.options.level != "image" and not request.preparer.both_eyes:
            found = iter([levels.merged(request, list(found))])
        for part in found:
            yield answers.predictions(request, part, schema, entries)

    return Job("predictions", schema, tables)


def embedding_job(
    request: Request, layer: str, dtype: str, normalise: bool, kept: Sequence[str] = ()
) -> Job:
    """What the tower makes of the pictures."""
    width = _width(request)
    schema = answers.embedding_schema(request, kept, width, dtype, layer, normalise)

    def tables(entries: pa.Table, watch: rows.Watch) -> Iterator[pa.Table]:
        for part in _answered(request, entries, watch, width):
            if normalise:
                part.values = unit(part.values)
            yield answers.embeddings(request, part, schema)

    return Job("embeddings", schema, tables)


def _answered(
    request: Request, entries: pa.Table, watch: rows.Watch, width: int
) -> Iterator[answers.Answers]:
    grouped = request.preparer.both_eyes
    found = rows.read(request.preparer, rows.units(entries, grouped))
    for group, batch in rows.batches(found, request.options.batch_size, watch):
        part = answers.answered(request, group, batch, width)
        watch.see(
            [row.quality == "ungradable" for row in group], [bool(odd) for odd in part.strange]
        )
        yield part


def _width(request: Request) -> int:
    """Numbers that the model gives for a picture, by a black one."""
    reader, preparer = request.preparer.opener.reader, request.preparer
    black = np.zeros((64, 64, 3), np.uint8)
    example = {
        Eyes: (black, black),
        CasePictures: [black],
        Volume: [black[..., 0]] * getattr(reader, "slices", 1),
    }.get(type(reader), black)
    batch = preparer.preprocessing({preparer.key: example}, eye="OD")
    size = request.options.batch_size
    found, _ = request.ask({key: np.repeat(one, size, axis=0) for key, one in batch.items()})
    return found.shape[-1]

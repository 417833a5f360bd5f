"""Which records share a value that is made equally likely, or that batches must not repeat."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.records import rows
from data_pipelines.records.sources import Source
from data_pipelines.text.texts import plain

log = logging.getLogger(__name__)


def members(source: Source, fields: str | Sequence[str]) -> list[np.ndarray]:
    """Returns the records of each value of a field, int64 [n] each, in the order of the values.

    A record belongs to every item of a list, and to every name of a text that joins several by
    '+', such as "glaucoma+other"; one without a value belongs nowhere, which is logged. Case and
    runs of blanks do not count. Of several fields a value is one of each: with
    ('dataset', 'labels') the "normal" of one data set is another value than that of the next, and
    a record belongs nowhere where any of the fields is empty.

    Raises:
        InputError: no such field, no field at all, or no record with a value.
    """
    fields = [fields] if isinstance(fields, str) else list(fields)
    named = " and ".join(f"'{field}'" for field in fields)
    if not fields:
        raise InputError(f"'balance' names no field of {source}: name one, or leave it out.")
    # By what is compared: how it is written where it comes first, which orders, and its records.
    found: dict[tuple[str, ...], tuple[tuple[str, ...], list[int]]] = {}
    without = 0
    for i, row in enumerate(zip(*map(source.column, fields), strict=True)):
        values = {tuple(map(plain, v)): v for v in itertools.product(*map(_names, row))}
        without += not values
        for value, written in values.items():
            found.setdefault(value, (written, []))[1].append(i)
    if not found:
        raise InputError(
            f"All {len(source)} records of {source} have an empty {named}, so there is nothing "
            "to balance: name another field, or leave 'balance' out."
        )
    log.info(
        "%s: balanced over %d values of %s; %d of %d records have none and are not drawn",
        source,
        len(found),
        named,
        without,
        len(source),
    )
    return [np.array(records, np.int64) for _, records in sorted(found.values())]


def distinct(stream: str, source: Source, field: str, batch_size: int) -> np.ndarray:
    """Returns int64 [N]: equal numbers where the records of a source have an equal field.

    Records where it is empty are groups of their own, which is logged, as is the number of
    records that an epoch has to leave out because their group is too large.

    Raises:
        InputError: no such field, one of lists, or fewer groups than rows in a batch.
    """
    column = source.column(field)
    if column and not isinstance(column[0], (str, int)):
        raise InputError(
            f"Stream '{stream}': 'distinct' needs a field with one text a record, and "
            f"'{field}' of {source} is none."
        )
    texts = [str(value).strip() for value in column]
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)
    empty = np.array([not text for text in texts], bool)
    codes[empty] = len(numbers) + np.arange(empty.sum())
    sizes = np.unique(codes, return_counts=True)[1]
    if len(sizes) < batch_size:
        raise InputError(
            f"Stream '{stream}': a batch of {batch_size} rows with distinct '{field}' needs as "
            f"many values, and {source} has {len(sizes)}: lower batch_size, or leave 'distinct' "
            "out."
        )
    batches = rows.distinct_batches(sizes, batch_size)
    log.info(
        "%s: an epoch has %d batches of distinct '%s' and leaves out %d of %d records, drawn "
        "anew each time; %d are too many for their group, %d have an empty '%s' and count as "
        "different",
        source,
        batches,
        field,
        len(column) - batches * batch_size,
        len(column),
        np.maximum(sizes - batches, 0).sum(),
        empty.sum(),
        field,
    )
    return codes


def _names(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [name for item in items for part in str(item).split("+") if (name := part.strip())]

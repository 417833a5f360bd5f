"""Which records share a value that is made equally likely, or that batches must not repeat."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.records import rows
from data_pipelines.records.sources import Source

log = logging.getLogger(__name__)


def members(source: Source, field: str) -> list[np.ndarray]:
    """Returns the records of each value of a field, int64 [n] each, in the order of the values.

    A record belongs to every item of a list; one without a value belongs nowhere, which is logged.

    Raises:
        InputError: no such field, or no record with a value.
    """
    found: dict[str, list[int]] = {}
    without = 0
    for i, value in enumerate(source.column(field)):
        values = {text for item in _items(value) if (text := str(item).strip())}
        without += not values
        for text in values:
            found.setdefault(text, []).append(i)
    if not found:
        raise InputError(
            f"All {len(source)} records of {source} have an empty '{field}', so there is nothing "
            "to balance: name another field, or leave 'balance' out."
        )
    log.info(
        "%s: balanced over %d values of '%s'; %d of %d records have none and are not drawn",
        source,
        len(found),
        field,
        without,
        len(source),
    )
    return [np.array(found[text], np.int64) for text in sorted(found)]


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


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

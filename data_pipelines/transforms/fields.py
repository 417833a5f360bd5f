"""What transforms share: reading a record's fields, checking options, and one draw for many.

A decoded field is one of three things: a picture uint8 [H W 3], the two eyes of a patient uint8
[2 H W 3], the left one first, or an OCT volume [T H W 1], superior B-scan first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines.errors import InputError

Record = dict[str, Any]
Change = Callable[[np.ndarray], np.ndarray]


def field(record: Record, name: str) -> Any:
    """Returns a field, or raises `InputError` with the names of those that exist."""
    if name not in record:
        raise InputError(f"There is no field '{name}'; the record has {', '.join(sorted(record))}.")
    return record[name]


def names(value: str | Sequence[str]) -> list[str]:
    """Returns one name or several as a list."""
    return [value] if isinstance(value, str) else list(value)


def is_eyes(array: np.ndarray) -> bool:
    """Whether a decoded field is the two eyes of a patient, [2 H W 3]."""
    return array.ndim == 4 and array.shape[0] == 2 and array.shape[-1] == 3


def is_volume(array: np.ndarray) -> bool:
    """Whether a decoded field is an OCT volume, [T H W 1]."""
    return array.ndim == 4 and array.shape[-1] == 1


def decoded(record: Record, name: str, dtypes: tuple[str, ...] = ("uint8",)) -> np.ndarray:
    """Returns a picture, both eyes or an OCT volume, or raises `InputError` for anything else."""
    value = field(record, name)
    if isinstance(value, np.ndarray) and value.dtype.name in dtypes:
        if (value.ndim == 3 and value.shape[-1] == 3) or is_eyes(value) or is_volume(value):
            return value
    kind = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value)
    raise InputError(
        f"Field '{name}' must be decoded, {' or '.join(dtypes)} [H W 3], [2 H W 3] or [T H W 1], "
        f"but is {kind}: put the transform 'decode', 'eyes' or 'volume' before this one."
    )


def each(array: np.ndarray, change: Change) -> np.ndarray:
    """Applies `change` to each eye of a pair, or to a whole picture or volume."""
    return np.stack([change(eye) for eye in array]) if is_eyes(array) else change(array)


def augment(
    record: Record, source: str | Sequence[str], share: bool, draw: Callable[[np.ndarray], Change]
) -> Record:
    """Returns the record with randomly changed fields.

    Args:
        record: a record with decoded fields.
        source: names of the fields.
        share: one draw for all fields and both eyes, or a new one for each field and each eye; the
            B-scans of a volume always share theirs.
        draw: makes a change for a picture [H W 3] or a volume [T H W 1] like the one it is given.
    """
    arrays = {name: decoded(record, name) for name in names(source)}
    first = next(iter(arrays.values()))
    shared = draw(first[0] if is_eyes(first) else first) if share else None

    def change(part: np.ndarray) -> np.ndarray:
        return (shared or draw(part))(part)

    return {**record, **{name: each(array, change) for name, array in arrays.items()}}


def sometimes(
    probability: float, rng: np.random.Generator, draw: Callable[[np.ndarray], Change]
) -> Callable[[np.ndarray], Change]:
    """Returns `draw` of `augment` that changes anything only with a probability."""

    def maybe(part: np.ndarray) -> Change:
        return draw(part) if rng.random() < probability else lambda other: other

    return maybe


def check_sources(owner: str, source: str | Sequence[str]) -> None:
    """Raises `InputError` where `source` names no field, or one twice."""
    found = names(source)
    if not found or len(set(found)) < len(found):
        raise InputError(f"{owner}: 'source' is one field or several different ones, got {found}.")


def check_probability(value: float) -> None:
    """Raises `InputError` unless `value` lies in 0..1."""
    if not 0 <= value <= 1:
        raise InputError(f"A probability must lie in 0..1, got {value}.")


def check_range(
    owner: str, option: str, bounds: Sequence[float], least: float, most: float
) -> None:
    """Raises `InputError` unless bounds are two numbers with least <= first <= second <= most."""
    low, high = bounds if len(bounds) == 2 else (most, least)
    if not least <= low <= high <= most:
        raise InputError(
            f"{owner}: '{option}' is the least and the greatest value, {least:g} <= least <= "
            f"greatest <= {most:g}, got {tuple(bounds)}."
        )

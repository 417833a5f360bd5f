"""The batch contract: which arrays a model may be handed, and the check that refuses all others.

A batch is a dict of numpy arrays that share their first axis, or, where several streams feed one
step, a dict of such dicts: ``batch['expert']['image']``. A model names its towers by these keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.errors import InputError


@dataclasses.dataclass(frozen=True)
class Key:
    """What one batch key holds.

    Attributes:
        dtypes: the numpy dtype names it may have.
        axes: one letter per axis, the batch axis first; a digit is a fixed size.
        meaning: one line for error messages and documentation.
        like: another key whose shape it repeats wherever both are in the batch.
        missing: whether NaN stands for a value that nobody told; infinite ones are never allowed.
    """

    dtypes: tuple[str, ...]
    axes: str
    meaning: str
    like: str | None = None
    missing: bool = False


IMAGE = ("uint8", "float32")
KEYS: dict[str, Key] = {
    "image": Key(IMAGE, "B H W 3", "photograph, RGB; uint8 0..255, float32 as the model wants it"),
    "oct": Key(IMAGE, "B T H W 1", "stack of T OCT B-scans"),
    "eyes": Key(IMAGE, "B 2 H W 3", "both eyes of a patient, the left eye first"),
    "eye_mask": Key(("bool",), "B 2", "which of the two eyes is there"),
    "images": Key(IMAGE, "B K H W 3", "K pictures of a case"),
    "images_mask": Key(("bool",), "B K", "which of them are there"),
    "text": Key(("int32",), "B L", "token ids, padded with 0"),
    "text_mask": Key(("bool",), "B L", "True at tokens, False at padding", like="text"),
    "masked_text": Key(("int32",), "B L", "text after masking for language modelling", like="text"),
    "masked": Key(("bool",), "B L", "positions to predict", like="masked_text"),
    "patch_mask": Key(("bool",), "B P", "True at patches hidden from the image tower"),
    "group": Key(("int32",), "B", "equal ids mark equal classes or captions"),
    "label": Key(("int32",), "B", "class index, -1 where there is none"),
    "labels": Key(("float32",), "B C", "one target per class, NaN where it is missing", None, True),
    "target": Key(("float32",), "B", "regression target, NaN where it is missing", None, True),
    # Of the record that a row is mixed with (Stream.mixup), and the row's own share of the mixture.
    "mixup_label": Key(("int32",), "B", "class index of the other record", like="label"),
    "mixup_labels": Key(("float32",), "B C", "targets of the other record", "labels", True),
    "mixup_share": Key(("float32",), "B", "share of a row's own record in its mixture"),
    "modality": Key(("int32",), "B", "modality index"),
    "_mask": Key(("bool",), "B", "True at real rows, False at padding"),
    "_id": Key(("int64",), "B", "record index (-1 at padding); stays on the host"),
}
TOKEN_IDS = ("text", "masked_text")
# What `fits` asks of every value of every record: comparing it takes a tenth of working it out.
_ROWS = {
    name: {
        (kind.kind, kind.itemsize, len(key.axes.split()) - 1) for kind in map(np.dtype, key.dtypes)
    }
    for name, key in KEYS.items()
}


def fits(name: str, value: object) -> bool:
    """Whether `value`, ONE row without the batch axis, has the dtype and rank of key `name`."""
    if name not in KEYS or not isinstance(value, (np.ndarray, np.generic)):
        return False
    return (value.dtype.kind, value.dtype.itemsize, value.ndim) in _ROWS[name]


def unusable(name: str, array: np.ndarray | np.generic) -> int:
    """Returns how many values of key `name` are infinite, or NaN where none may be missing."""
    if array.dtype.kind != "f":
        return 0
    bad = np.isinf(array) if KEYS[name].missing else ~np.isfinite(array)
    return int(bad.sum())


def check(batch: Mapping[str, Any]) -> None:
    """Raises `InputError` unless `batch` keeps the contract of `KEYS`.

    Args:
        batch: {key: array[B ...]}, or {stream: {key: array[B ...]}} for several streams.

    Checked: known keys, dtype, rank and fixed sizes, one leading axis per stream, shapes of keys
    that belong together, finite floats, token ids that are not negative.
    """
    if not batch:
        raise InputError("The batch is empty: no stream produced any key.")
    nested = [isinstance(value, Mapping) for value in batch.values()]
    if any(nested) and not all(nested):
        raise InputError(f"The batch mixes streams and arrays at its top level: {sorted(batch)}.")
    for stream, arrays in batch.items() if all(nested) else [("", batch)]:
        _check_stream(stream, arrays)


def _check_stream(stream: str, arrays: Mapping[str, Any]) -> None:
    where = f"Stream '{stream}'" if stream else "The batch"
    if not arrays:
        raise InputError(f"{where} has no keys: name some of {', '.join(KEYS)}.")
    rows: dict[int, str] = {}
    for name, array in arrays.items():
        _check_array(where, name, array)
        rows.setdefault(array.shape[0], name)
    if len(rows) > 1:
        sizes = ", ".join(f"'{name}' has {size}" for size, name in rows.items())
        raise InputError(f"{where} has keys with different numbers of rows: {sizes}.")
    for name, array in arrays.items():
        like = KEYS[name].like
        if like is not None and like in arrays and arrays[like].shape != array.shape:
            raise InputError(
                f"{where}, key '{name}': expected the shape of '{like}', {arrays[like].shape}, "
                f"got {array.shape}."
            )


def _check_array(where: str, name: str, array: object) -> None:
    if name not in KEYS:
        raise InputError(f"{where} has an unknown key '{name}': known are {', '.join(KEYS)}.")
    key = KEYS[name]
    expected = f"expected {' or '.join(key.dtypes)} [{key.axes}] ({key.meaning})"
    if not isinstance(array, np.ndarray):
        raise InputError(f"{where}, key '{name}': {expected}, got a {type(array).__name__}.")
    sizes = key.axes.split()
    fixed = len(sizes) == array.ndim and all(
        not axis.isdigit() or int(axis) == size
        for axis, size in zip(sizes, array.shape, strict=True)
    )
    if array.dtype.name not in key.dtypes or not fixed:
        raise InputError(f"{where}, key '{name}': {expected}, got {array.dtype} {array.shape}.")
    _check_values(where, name, array)


def _check_values(where: str, name: str, array: np.ndarray) -> None:
    bad = unusable(name, array)
    if bad:
        raise InputError(
            f"{where}, key '{name}': {bad} of {array.size} values are NaN or infinite; "
            "repair or drop the records they come from."
        )
    if name in TOKEN_IDS and array.size and array.min() < 0:
        raise InputError(
            f"{where}, key '{name}': token ids start at 0, got {int(array.min())}; "
            "the tokenizer and the vocabulary do not belong together."
        )


def stack(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stacks records to a batch, and says so where they differ in shape."""
    shapes = {key: {record[key].shape for record in records} for key in records[0]}
    ragged = {key: sorted(sizes) for key, sizes in shapes.items() if len(sizes) > 1}
    if ragged:
        raise InputError(f"The rows of a batch differ in shape: {ragged}; resize or pad them.")
    # For equal shapes this is `np.stack`, which takes longer for numbers and texts.
    return {key: np.array([record[key] for record in records]) for key in records[0]}

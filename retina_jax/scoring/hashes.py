"""Hashes that tell test sets apart: SHA-256 of sorted lines of text, so that no order counts."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

Strings = Sequence[str] | np.ndarray
# What `image_hashes` returned for the last sources of this process.
_KNOWN: dict[tuple[str, str, str], list[str]] = {}
_MOST_KNOWN = 32


def image_hashes(source: Iterable[Mapping[str, Any]]) -> list[str]:
    """SHA-256 of the encoded pictures of each record, several joined by ','; '' of none.

    Evaluators share test sets: the records of a data set with a fingerprint are read once.

    Args:
      source: records; what is bytes in one, or a list of bytes, is a picture.
    """
    if (key := _records_of(source)) is None:
        return _image_hashes(source)
    if key not in _KNOWN:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.pop(next(iter(_KNOWN)))
        _KNOWN[key] = _image_hashes(source)
    return list(_KNOWN[key])


def _records_of(source: Any) -> tuple[str, str, str] | None:
    """What tells the records of a source from others; None where it is not known."""
    fingerprint = getattr(source, "fingerprint", None)
    if fingerprint is None or "id" not in source.fields:
        return None
    names = "\n".join(map(str, source.column("id")))
    return fingerprint, source.split, hashlib.sha256(names.encode()).hexdigest()


def _image_hashes(source: Iterable[Mapping[str, Any]]) -> list[str]:
    found = []
    for record in source:
        stored: list[bytes] = []
        for name in sorted(record):
            values = record[name] if isinstance(record[name], list | tuple) else [record[name]]
            stored += [value for value in values if isinstance(value, bytes) and value]
        found.append(",".join(hashlib.sha256(data).hexdigest() for data in stored))
    return found


def label_text(label: Any) -> str:
    """A label as text: '' where it is missing, several as 0 and 1 joined by ','."""
    if np.ndim(label):
        return ",".join(label_text(one) for one in label)
    if isinstance(label, np.floating):  # a quantity, which may be below 0
        return repr(float(label))
    return "" if np.isnan(label) or label < 0 else f"{label:g}"


def test_hash(
    records: Strings, images: Strings, labels: Sequence[Any] | np.ndarray, groups: Strings
) -> str:
    """The hash of what is scored: pictures, labels and which records belong together.

    Args:
      records: names of the records.
      images: what `image_hashes` returns.
      labels: i[N] or 0 / 1 [N C].
      groups: what is independent; only which records share one counts, and not how it is called.
    """
    smallest: dict[str, str] = {}
    for record, group in zip(records, groups, strict=True):
        smallest[group] = min(record, smallest.get(group, record))
    rows = zip(records, images, labels, groups, strict=True)
    return _hash(
        f"{record}\t{image}\t{label_text(label)}\t{smallest[group]}"
        for record, image, label, group in rows
    )


def images_hash(records: Strings, images: Strings) -> str:
    """The same without labels and groups: of the pictures alone."""
    return _hash(f"{record}\t{image}" for record, image in zip(records, images, strict=True))


def split_hash(records: Strings, splits: Strings) -> str:
    """The hash of which record is in which split."""
    return _hash(f"{record}\t{split}" for record, split in zip(records, splits, strict=True))


def weights_hash(variables: Mapping[str, Any]) -> str:
    """The hash of variables, collection -> tree of arrays, wherever and however they are stored.

    It is over name, dtype, shape and little-endian bytes of each array, in the order of the names
    'params/image/conv1/kernel' and so on.
    """
    digest = hashlib.sha256()
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    for name in sorted(flat):
        array = np.asarray(flat[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name}\t{array.dtype.str}\t{list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _hash(lines: Iterable[str]) -> str:
    text = "".join(f"{line}\n" for line in sorted(lines))
    return hashlib.sha256(text.encode()).hexdigest()

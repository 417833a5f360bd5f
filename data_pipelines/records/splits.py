"""Divides rows into splits so that no patient and no picture is in two of them."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import scipy.sparse.csgraph

from data_pipelines.builders.compact import Chosen
from data_pipelines.builders.staging import RecordStatus
from data_pipelines.images import likeness

# Upper ends of the hash range of each split: 70, 10 and 20 %.
SHARES = {"train": 0.7, "validation": 0.8, "test": 1.0}
_NAMES = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation",
          "testing": "test"}  # fmt: skip
# 'training_set', 'TestImages', 'val data'.
_OF = re.compile(r"(train|training|val|valid|validation|dev|test|testing)_?"
                 r"(?:set|data|dataset|split|images|imgs|pictures|photos)")  # fmt: skip
# Comparing all pairs takes a minute for so many pictures, and grows with their square.
MOST_COMPARED = 50_000
# Its functions are made when it is imported, where pyright does not see them.
_compute: Any = pyarrow.compute
# Rows whose texts are objects at a time.
_BATCH = 16_384


@dataclasses.dataclass(frozen=True)
class Columns:
    """What is asked of rows before they are divided; memory goes with arrays, not with objects.

    Attributes:
        names: the splits that rows name, in the order in which they come first.
        split: the place of each row's split in `names`, int64 [n].
        owner, text: what rows have in common with others, as (row, place in `texts`), int32 [m]
            each: 'patient/p7', 'picture/HASH', or the row's own number where it has no picture.
        texts: these, each once, as pyarrow strings in the order of their bytes.
        twins: pairs of rows of which one is said to be a duplicate of the other.
        hashes: (row, perceptual hash, patient) of each picture; none where there are too many.
        pictures: how many pictures have a perceptual hash.
    """

    names: list[str]
    split: np.ndarray
    owner: np.ndarray
    text: np.ndarray
    texts: pyarrow.Array
    twins: list[tuple[int, int]]
    hashes: list[tuple[int, str, str]]
    pictures: int


def columns(rows: Sequence[RecordStatus]) -> Columns:
    """Reads the rows once; twice where some are said to be duplicates."""
    names: dict[str, int] = {}
    named = functools.cache(split_name)
    split, owners, parts = np.zeros(len(rows), np.int64), [], []
    hashes: list[tuple[int, str, str]] = []
    marked: dict[int, tuple[str, str]] = {}
    pictures = 0
    numbered = enumerate(rows)
    while batch := list(itertools.islice(numbered, _BATCH)):
        shared = [(i, node) for i, row in batch for node in _nodes(row)]
        owners.append(np.array([i for i, _ in shared], np.int32))
        parts.append(pyarrow.array([node for _, node in shared], pyarrow.large_string()))
        for i, row in batch:
            split[i] = names.setdefault(named(row.split), len(names))
            pictures += len(row.perceptual)
            hashes += [(i, text, row.patient) for text in row.perceptual]
            if row.duplicate_of:
                marked[i] = (row.name, row.duplicate_of)
        if pictures > MOST_COMPARED:
            hashes = []
    twins = list(_twins(rows, marked))
    nodes = pyarrow.chunked_array(parts, pyarrow.large_string()).combine_chunks()
    parts.clear()
    pyarrow.default_memory_pool().release_unused()
    text, texts = _coded(nodes)
    owner = np.concatenate([np.zeros(0, np.int32), *owners])
    return Columns(list(names), split, owner, text, texts, twins, hashes, pictures)


def _coded(texts: pyarrow.Array) -> tuple[np.ndarray, pyarrow.Array]:
    """Returns (the place of each text, int32 [n]; the texts, each once, in their order).

    Sorting takes less memory than a table of hashes.
    """
    order = _compute.sort_indices(texts).to_numpy()
    new = np.ones(len(order), bool)
    for start in range(1, len(order), _BATCH):
        found = texts.take(pyarrow.array(order[start - 1 : start + _BATCH]))
        differ = _compute.not_equal(found[1:], found[:-1])
        new[start : start + _BATCH] = differ.to_numpy(zero_copy_only=False)
    places = np.empty(len(order), np.int32)
    places[order] = np.cumsum(new, dtype=np.int32)
    places -= 1
    order = order[new]
    return places, texts.take(pyarrow.array(order))


def divide(
    rows: Sequence[RecordStatus], keep_one: bool = False
) -> tuple[dict[str, Sequence[RecordStatus]], list[str]]:
    """Divides records by the splits that they name, and by patient where they name none.

    A split that all rows name divides nothing: a column of it does not count, while a folder of
    that name is meant (`keep_one`). Rows without a split, where
    others have one, go where other rows of their patient, or of the same picture, are; the rest
    is divided by patient into the splits that there are.

    Returns:
        ({split: rows}, remarks for the user).
    """
    found = columns(rows)
    given = sorted(filter(None, found.names))
    if keep_one and len(given) == len(found.names) == 1:
        absent = ", ".join(name for name in SHARES if name not in given)
        return {given[0]: rows}, [
            f"the only split that is named is '{given[0]}', which is kept whole; there is no "
            f"{absent}. To divide its pictures by patient, give that folder as the source"
        ]
    if len(found.names) >= 2:
        remarks = []
        if "" in found.names:
            found, remarks = _filled(found, given)
        return _parts(rows, found), [*remarks, *_straddling(found)]
    alike, remarks = look_alikes(found)
    shares = _shares(*_groups(found, alike))
    parts = _parts(rows, dataclasses.replace(found, names=list(SHARES), split=shares))
    remarks = ["splits made by patient (70 / 10 / 20 %)", *remarks]
    if given:
        remarks[0] += f", as the split column only says '{given[0]}'"
    if not any(text.startswith("patient/") for text in found.texts[:1].to_pylist()):
        remarks[0] = remarks[0].replace("by patient", "by image, as no row names a patient")
    remarks += [f"split '{name}' came out empty" for name in SHARES if name not in parts]
    return {name: parts[name] for name in SHARES if name in parts}, remarks


def _parts(rows: Sequence[RecordStatus], found: Columns) -> dict[str, Sequence[RecordStatus]]:
    """Returns the rows of each split, in the order in which splits come first."""
    codes, first = np.unique(found.split, return_index=True)
    return {
        found.names[code]: Chosen(rows, np.flatnonzero(found.split == code))
        for code in codes[np.argsort(first)]
    }


def _filled(found: Columns, given: Sequence[str]) -> tuple[Columns, list[str]]:
    """Gives rows without a split one of those that others name; returns remarks too."""
    alike, remarks = look_alikes(found)
    group, keys = _groups(found, alike)
    # What is nearest to a test stays out of training, should a patient be in both.
    order = [*(name for name in given if name not in SHARES), *(n for n in SHARES if n in given)]
    names = ["", *dict.fromkeys([*order, *SHARES])]
    split = np.array([names.index(name) for name in found.names])[found.split]
    homes = np.zeros(len(keys), np.int64)
    np.maximum.at(homes, group, split)
    empty = split == 0
    fitting = np.array([names.index(_fitting(name, set(given))) for name in SHARES])
    filled = np.where(homes[group] > 0, homes[group], fitting[_shares(group, keys)])
    split = np.where(empty, filled, split)
    joined = np.count_nonzero(homes[group][empty])
    told = zip(names, np.bincount(split[empty], minlength=len(names)), strict=True)
    counts = ", ".join(f"{number} to '{name}'" for name, number in sorted(told) if number)
    return dataclasses.replace(found, names=names, split=split), [
        f"{empty.sum()} rows name no split and got one by patient ({counts}); {joined} of them "
        "follow rows of the same patient or picture",
        *remarks,
    ]


def _fitting(share: str, given: set[str]) -> str:
    """Returns the split of a row by its share of 70 / 10 / 20 %, beside splits that others name."""
    if given == {"train"}:
        return share
    # Where training is what was left unnamed, a test that was chosen stays as it is.
    return "train" if (share in given) != ("train" in given) else share


def split_name(text: str) -> str:
    """Returns the usual name of a split: lower case, 'train', 'validation', 'test', or its own."""
    name = re.sub(r"\W+", "_", text.strip().lower()).strip("_")
    of = _OF.fullmatch(name)
    name = of[1] if of else name
    name = _NAMES.get(name, name)
    # TFDS reserves 'all', and a name must not start with a digit.
    return f"split_{name}" if name == "all" or name[:1].isdigit() else name


def look_alikes(found: Columns) -> tuple[list[tuple[int, int]], list[str]]:
    """Returns the pairs of rows with pictures that are the same or nearly, and remarks.

    Public sets hold eyes twice, under two patients: as training and test they would be a leak.
    """
    if found.pictures > MOST_COMPARED:
        return [], [f"{found.pictures} pictures are too many to look for the same eye twice"]
    pairs, odd = [], 0
    for i, j in likeness.twins([text for _, text, _ in found.hashes]):
        (one, _, patient), (other, _, another) = found.hashes[i], found.hashes[j]
        if one != other:
            pairs.append((one, other))
            # A patient's scans are often alike; what is told is what names do not tell.
            odd += not patient or patient != another
    told = f"{odd} pairs of pictures look the same under other names; they stay together"
    return pairs, [told] if odd else []


def group_keys(found: Columns, alike: Sequence[tuple[int, int]] = ()) -> list[str]:
    """Returns the key of each row's group: rows that share a patient, bytes, or a duplicate mark.

    Rows of pictures that look the same (`alike`, pairs of rows) are joined too. A row
    without a patient is a group of its own, with those that hold the same picture. The key depends
    on the members of the group only, so it stays when other rows come and go.
    """
    group, keys = _groups(found, alike)
    texts = keys.to_pylist()
    return [texts[i] for i in group]


def _groups(found: Columns, alike: Sequence[tuple[int, int]]) -> tuple[np.ndarray, pyarrow.Array]:
    """Returns (the group of each row, int64 [n]; the key of each group)."""
    rows = len(found.split)
    # Only texts of several rows join anything: each such row to the next one.
    several = np.flatnonzero(np.bincount(found.text, minlength=len(found.texts))[found.text] > 1)
    several = several[np.argsort(found.text[several], kind="stable")]
    text, owner = found.text[several], found.owner[several]
    same = text[1:] == text[:-1]
    pairs = np.array([*alike, *found.twins], np.int32).reshape(-1, 2)
    first = np.concatenate([owner[:-1][same], pairs[:, 0]])
    second = np.concatenate([owner[1:][same], pairs[:, 1]])
    edges = scipy.sparse.coo_array((np.ones(len(first), bool), (first, second)), (rows, rows))
    number, group = scipy.sparse.csgraph.connected_components(edges, directed=False)
    # Patients sort before pictures, so a group is named after its patient where it has one.
    key = np.full(number, len(found.texts), np.int32)
    np.minimum.at(key, group[found.owner], found.text)
    return group, found.texts.take(pyarrow.array(key))


def _shares(group: np.ndarray, keys: pyarrow.Array) -> np.ndarray:
    """Returns the split of each row by the key of its group, as its place in `SHARES`."""
    return np.fromiter((_share(key.as_py()) for key in keys), np.int64, len(keys))[group]


def _share(key: str) -> int:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "little") / 2**64
    return next(i for i, end in enumerate(SHARES.values()) if place < end)


def _twins(
    rows: Sequence[RecordStatus], marked: Mapping[int, tuple[str, str]]
) -> Iterator[tuple[int, int]]:
    """Pairs of rows, the second one said to be what the first one is a duplicate of.

    A table names it as it stands in it, perhaps without the ending and in other letters: it is
    looked for in the folder of the row and in those around it, and last by its file name alone.
    Of several of that name anyone may be meant, so that all of them are joined.

    Args:
        rows: gone through again where anything is marked.
        marked: row -> its own name, and the name of what it is a duplicate of.
    """
    # Without an ending, what looks like one is a part of the name.
    wanted = {stem for _, of in marked.values() for stem in (_stem(_last(of)), _last(of))}
    by_path: dict[str, list[int]] = collections.defaultdict(list)
    by_name: dict[str, list[int]] = collections.defaultdict(list)
    for i, row in enumerate(rows) if wanted else ():
        if (stem := _stem(_last(row.name))) in wanted:
            path = _plain(row.name)
            for key in {path, _stem(path)}:
                by_path[key].append(i)
            by_name[stem].append(i)
    chained: set[int] = set()
    for i, (name, of) in marked.items():
        others = next(_namesakes(i, name, of, by_path, by_name), None)
        if others is None:
            continue
        yield i, others[others[0] == i]
        if id(others) not in chained:  # lists of `by_path` and `by_name`, each once
            chained.add(id(others))
            yield from itertools.pairwise(others)


def _namesakes(
    row: int, name: str, of: str, by_path: Mapping[str, list[int]], by_name: Mapping[str, list[int]]
) -> Iterator[list[int]]:
    """Rows that may be meant by `of`, the nearest ones first; never the row alone."""
    folders = [_plain(name)]
    while folders[-1]:
        folders.append(folders[-1].rpartition("/")[0])
    for spelled in (_plain(of), _stem(_plain(of))):
        for folder in folders[1:]:
            found = by_path.get(f"{folder}/{spelled}".lstrip("/"), [])
            if len(found) > (row in found[:2]):
                yield found
    for alone in (_last(of), _stem(_last(of))):
        found = by_name.get(alone, [])
        if len(found) > (row in found[:2]):
            yield found


def _plain(path: str) -> str:
    return path.replace("\\", "/").lower()


def _last(path: str) -> str:
    return _plain(path).rpartition("/")[2]


def _stem(path: str) -> str:
    """Without an ending that its file name has."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _nodes(row: RecordStatus) -> list[str]:
    """What a record has in common with others; its own number where it has no picture."""
    nodes = [f"picture/{digest}" for digest in row.digests] or [f"record/{row.number}"]
    return nodes + ([f"patient/{row.patient}"] if row.patient else [])


def _straddling(found: Columns) -> list[str]:
    """Returns a remark for patients, and for pictures, that the given splits divide."""
    pairs = np.unique(found.text * np.int64(len(found.names)) + found.split[found.owner])
    places, homes = np.unique(pairs // len(found.names), return_counts=True)
    divided = found.texts.take(pyarrow.array(places[homes > 1]))
    remarks = []
    for what, kind in (("patients", "patient/"), ("byte-identical pictures", "picture/")):
        number = _compute.sum(_compute.starts_with(divided, kind)).as_py()
        if number:
            remarks.append(f"{number} {what} are in more than one split of the split column")
    return remarks

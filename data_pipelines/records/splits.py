"""Divides rows into splits so that no patient and no picture is in two of them."""

from __future__ import annotations

import collections
import hashlib
import re
from collections.abc import Hashable, Sequence

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


def divide(
    rows: Sequence[RecordStatus], keep_one: bool = False
) -> tuple[dict[str, list[RecordStatus]], list[str]]:
    """Divides records by the splits that they name, and by patient where they name none.

    A split that all rows name divides nothing: a column of it does not count, while a folder of
    that name is meant (`keep_one`). Rows without a split, where
    others have one, go where other rows of their patient, or of the same picture, are; the rest
    is divided by patient into the splits that there are.

    Returns:
        ({split: rows}, remarks for the user).
    """
    names = [split_name(row.split) for row in rows]
    given = sorted({name for name in names if name})
    parts: dict[str, list[RecordStatus]] = collections.defaultdict(list)
    if keep_one and len(given) == len(set(names)) == 1:
        absent = ", ".join(name for name in SHARES if name not in given)
        return {given[0]: list(rows)}, [
            f"the only split that is named is '{given[0]}', which is kept whole; there is no "
            f"{absent}. To divide its pictures by patient, give that folder as the source"
        ]
    if len(set(names)) >= 2:
        remarks = _fill(rows, names) if "" in names else []
        for row, name in zip(rows, names, strict=True):
            parts[name].append(row)
        return dict(parts), [*remarks, *_straddling(parts)]
    alike, remarks = look_alikes(rows)
    for row, key in zip(rows, group_keys(rows, alike), strict=True):
        parts[_share(key)].append(row)
    remarks = ["splits made by patient (70 / 10 / 20 %)", *remarks]
    if given:
        remarks[0] += f", as the split column only says '{given[0]}'"
    if not any(row.patient for row in rows):
        remarks[0] = remarks[0].replace("by patient", "by image, as no row names a patient")
    remarks += [f"split '{name}' came out empty" for name in SHARES if name not in parts]
    return {name: parts[name] for name in SHARES if name in parts}, remarks


def _fill(rows: Sequence[RecordStatus], names: list[str]) -> list[str]:
    """Writes a split for each empty one into `names`, the splits of the rows; returns remarks."""
    alike, remarks = look_alikes(rows)
    keys = group_keys(rows, alike)
    given = set(names) - {""}
    # What is nearest to a test stays out of training, should a patient be in both.
    order = [*sorted(given - set(SHARES)), *(name for name in SHARES if name in given)]
    homes: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if name and (key not in homes or order.index(name) > order.index(homes[key])):
            homes[key] = name
    empty = [i for i, name in enumerate(names) if not name]
    joined = sum(keys[i] in homes for i in empty)
    for i in empty:
        names[i] = homes.get(keys[i]) or _fitting(_share(keys[i]), given)
    told = collections.Counter(names[i] for i in empty)
    counts = ", ".join(f"{number} to '{name}'" for name, number in sorted(told.items()))
    return [
        f"{len(empty)} rows name no split and got one by patient ({counts}); {joined} of them "
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


def look_alikes(rows: Sequence[RecordStatus]) -> tuple[list[tuple[int, int]], list[str]]:
    """Returns the pairs of rows with pictures that are the same or nearly, and remarks.

    Public sets hold eyes twice, under two patients: as training and test they would be a leak.
    """
    owners = [i for i, row in enumerate(rows) for _ in row.perceptual]
    if len(owners) > MOST_COMPARED:
        return [], [f"{len(owners)} pictures are too many to look for the same eye twice"]
    twins = likeness.twins([text for row in rows for text in row.perceptual])
    pairs = [(owners[i], owners[j]) for i, j in twins if owners[i] != owners[j]]
    # A patient's scans are often alike; what is told is what names do not tell.
    odd = [1 for i, j in pairs if not rows[i].patient or rows[i].patient != rows[j].patient]
    told = f"{len(odd)} pairs of pictures look the same under other names; they stay together"
    return pairs, [told] if odd else []


def group_keys(rows: Sequence[RecordStatus], alike: Sequence[tuple[int, int]] = ()) -> list[str]:
    """Returns the key of each row's group: rows that share a patient, bytes, or a duplicate mark.

    Rows of pictures that look the same (`alike`, pairs of places in `rows`) are joined too. A row
    without a patient is a group of its own, with those that hold the same picture. The key depends
    on the members of the group only, so it stays when other rows come and go.
    """
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    by_name = {_last(row.name): row for row in rows}
    for row in rows:
        twin = by_name.get(_last(row.duplicate_of)) if row.duplicate_of else None
        for node in _nodes(row)[1:] + (_nodes(twin)[:1] if twin else []):
            parent[root(node)] = root(_nodes(row)[0])
    for i, j in alike:
        parent[root(_nodes(rows[i])[0])] = root(_nodes(rows[j])[0])
    keys: dict[Hashable, str] = {}
    for row in rows:
        group = root(_nodes(row)[0])
        # Patients sort before pictures, so a group is named after its patient where it has one.
        keys[group] = min([keys.get(group, "~"), *("/".join(node) for node in _nodes(row))])
    return [keys[root(_nodes(row)[0])] for row in rows]


def _last(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _nodes(row: RecordStatus) -> list[tuple[str, str]]:
    """What a record has in common with others; its own number where it has no picture."""
    nodes = [("picture", digest) for digest in row.digests] or [("record", str(row.number))]
    return nodes + ([("patient", row.patient)] if row.patient else [])


def _share(key: str) -> str:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "little") / 2**64
    return next(name for name, end in SHARES.items() if place < end)


def _straddling(parts: dict[str, list[RecordStatus]]) -> list[str]:
    """Returns a remark for patients, and for pictures, that the given splits divide."""
    remarks = []
    for what, read in (
        ("patients", lambda row: (row.patient,)),
        ("byte-identical pictures", lambda row: row.digests),
    ):
        homes: dict[str, set[str]] = collections.defaultdict(set)
        for name, rows in parts.items():
            for row in rows:
                for key in read(row):
                    homes[key].add(name)
        number = sum(len(names) > 1 for key, names in homes.items() if key)
        if number:
            remarks.append(f"{number} {what} are in more than one split of the split column")
    return remarks

"""Data sets of published tables: built, counted against what was published, and cleaned."""

from __future__ import annotations

import collections
import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines import build as builds
from data_pipelines import overlap
from data_pipelines.builders.corpus import REPORT, SKIPPED
from data_pipelines.errors import InputError
from data_pipelines.records import sources, storage
from data_pipelines.text import knowledge
from data_pipelines.text.texts import plain
from retina_jax.reproduction.tables import PublishedSplit

_OF_ANOTHER = "name not of this corpus"


def of_rows(name: str, root: Path, data_dir: str | None, clean: bool = False) -> str:
    """The address of a published test set that is a table, built where it is not there.

    Args:
      name: one of `knowledge.experiments`; `root` holds NAME.csv anywhere, and the pictures by the
        paths in it.
      root: folder.
      data_dir: where data sets lie, or None.
      clean: with the patients that names of files tell, which the published splits do not know.

    Raises:
      InputError: if the table or pictures of it are missing, the table is another version, or the
        counts are not the published.
    """
    about = knowledge.experiment(name)
    pattern = about.pattern if clean else ""
    config = f"{name.lower()}{'_by_patient' if pattern else ''}"
    address = f"flair/{config}"
    table = _table(name, root, about.tables)
    if storage.find(address, data_dir) is None:
        if table is None:
            raise InputError(f"There is no {name}.csv in {root}: it is in the repository's tables.")
        csv_of = str(table.relative_to(root))
        builds.build("flair", config, data_dir, source=str(root), csv=csv_of, pattern=pattern)
    classes = {label: (label,) for label in about.classes}
    published = {"train": tuple(about.counts or ())}
    _check(name, address, data_dir, "labels", classes, published)
    return address


def _table(name: str, root: Path, published: Mapping[str, str]) -> Path | None:
    """NAME.csv in a folder, of several that of a repository; None where there is none.

    Raises:
      InputError: if none of them is one that was published; says which repository's it is.
    """
    found = sorted(root.rglob(f"{name}.csv"))
    hashes = [hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
              for path in found]  # fmt: skip
    for path, digest in zip(found, hashes, strict=True):
        for repository, known in published.items():
            if digest.startswith(known):
                print(f"{name}: the table of {repository}")
                return path
    if found and published:
        known = " or ".join(f"{digest[:12]} ({name})" for name, digest in published.items())
        raise InputError(
            f"{found[0]} is no published version of {name}: its SHA-256 begins with "
            f"{hashes[0][:12]} instead of {known}; take the file of one of these repositories."
        )
    return found[0] if found else None


def divided(name: str, about: PublishedSplit, root: Path, data_dir: str | None) -> str:
    """The address of a corpus as its authors hand it on, built where it is not there.

    Args:
      name: what is told apart in it.
      about: the corpus, its classes and counts.
      root: the folder of the corpus, or one that has a folder of its name.
      data_dir: where data sets lie, or None.

    Raises:
      InputError: as the builder of the corpus, or if the counts are not the published.
    """
    address = f"{about.corpus}/default"
    if storage.find(address, data_dir) is None:
        own = (path for path in sorted(root.glob("*/")) if path.name.lower() == about.corpus)
        builds.build(about.corpus, "default", data_dir, source=str(next(own, root)))
    _check(name, address, data_dir, about.field, about.classes, about.counts)
    return address


def _check(
    name: str, address: str, data_dir: str | None, field: str,
    classes: Mapping[str, Sequence[str]], published: Mapping[str, Sequence[int]],
) -> None:  # fmt: skip
    """Raises InputError where a data set has not the published records of each class."""
    found: dict[str, tuple[int, ...]] = {}
    for split in published:
        column = sources.load(address, split, data_dir).column(field)
        number = collections.Counter(
            plain(label)
            for value in column
            for label in ([value] if isinstance(value, str) else value)
        )
        found[split] = tuple(
            sum(number[plain(label)] for label in labels) for labels in classes.values()
        )
    if found != published:
        other = [f"{label} {ours} instead of {theirs}"
                 for split, counts in published.items()
                 for label, ours, theirs in zip(classes, found[split], counts, strict=True)
                 if ours != theirs]  # fmt: skip
        raise InputError(
            f"{name} has {_counted(found)}, and the published one {_counted(published)} "
            f"({', '.join(other)}): {_missing(address, data_dir)}"
        )


def _counted(found: Mapping[str, Sequence[int]]) -> str:
    several = len(found) > 1
    return ", ".join(
        f"{sum(counts)} {f'{split} ' if several else ''}pictures {list(counts)}"
        for split, counts in found.items()
    )


def _missing(address: str, data_dir: str | None) -> str:
    """Which pictures or tables are not there, and what to do."""
    place = storage.find(address, data_dir)
    assert place is not None  # as it was counted
    report = json.loads((place / REPORT).read_text(encoding="utf-8"))
    absent = [line.removeprefix("note: ") for line in report["lines"] if "there is no" in line]
    with open(place / SKIPPED, encoding="utf-8", newline="") as file:
        # Other sets may lie in the same folder.
        skipped = [row for row in csv.DictReader(file) if row["reason"] != _OF_ANOTHER]
    if skipped:
        first = skipped[0]
        absent.append(f"{len(skipped)} pictures are left out, first {first['image']} "
                      f"({first['reason']})")  # fmt: skip
    if not absent:
        return f"its table, or what lies in its folder, is another version; {address} is {place}."
    return f"{'; '.join(absent)}. Add what is missing, remove {place}, and run this again."


def once(parts: Sequence[tuple[str, str]], data_dir: str | None) -> list[list[str]]:
    """Names of the records of each part that are there once; says how many are left out.

    Of files that are the same the first one stays, and none does of a part whose picture or patient
    is, or looks like one that is, in a later part.

    Args:
      parts: addresses and splits.
      data_dir: where data sets lie, or None.
    """
    loaded = [sources.load(address, split, data_dir) for address, split in parts]
    kept: list[list[str]] = []
    for place, (part, source) in enumerate(zip(parts, loaded, strict=True)):
        later = loaded[place + 1 :]
        again = {name for other in later
                 for pairs in overlap.check_overlap(other, source).pairs.values()
                 for name, _ in pairs}  # fmt: skip
        first: dict[tuple[str, ...], str] = {}
        for name, digests in zip(source.column("id"), source.column("digests"), strict=True):
            if name not in again:
                first.setdefault(tuple(digests), name)
        kept.append(list(first.values()))
        print(f"{':'.join(part)}: {len(kept[-1])} of {len(source)} pictures, each once")
    return kept

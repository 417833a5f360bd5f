"""What tells one corpus from another without opening its files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import stat

from data_pipelines.builders import entries, pictures
from data_pipelines.builders.entries import Listing
from data_pipelines.builders.staging import StagingOptions


@dataclasses.dataclass(frozen=True)
class Fingerprints:
    """What tells one corpus, built in one way, from another.

    Attributes:
        content: hash of the options, the entries, and the sizes of the files they name.
        times: hash of when these files were changed last; a copy of the same data differs in it.
    """

    content: str
    times: str


def fingerprints(listing: Listing, recipe: StagingOptions) -> Fingerprints:
    """Looks at every file that the entries name, once."""
    root = pathlib.Path(recipe.source).resolve()
    content, times = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    # Where the folder lies does not matter, the range of its OCT follows from its files, and JSON
    # has no order of its own for mappings.
    options = {**dataclasses.asdict(recipe), "source": ""}
    del options["scale"]
    del options["follow_links"]
    content.update(json.dumps([options, listing.extra], sort_keys=True).encode())
    encode = json.JSONEncoder(sort_keys=True).encode
    place = entries.Place(root, recipe.follow_links)
    looked_at = functools.lru_cache(2**16)(_looked_at)  # rows may name one file again
    for entry in listing.entries:
        content.update(encode([entry.number, entry.fields]).encode())
        for field, refs in entry.pictures.items():
            for ref in refs:
                sizes, changed = looked_at(ref.path, place)
                times.update(changed)
                content.update(repr((field, ref, sizes)).encode())
    return Fingerprints(content.hexdigest(), times.hexdigest())


def _looked_at(name: str, place: entries.Place) -> tuple[tuple[int, ...], bytes]:
    """Returns the sizes of what a row names, and when that was changed last."""
    stats = _stats(name, place)
    sizes = tuple(found.st_size for found in stats) if stats else (-1,)
    return sizes, repr([found.st_mtime_ns for found in stats]).encode()


def _stats(name: str, place: entries.Place) -> list[os.stat_result]:
    """Returns what the system tells of a file, or of all below a folder; [] where it cannot."""
    try:
        path, found = place.find(name)
        if not stat.S_ISDIR(found.st_mode):
            return [found]
        # Looking at a folder on some systems leaves hidden files in it.
        inside = (p for p in pathlib.Path(path).rglob("*") if not pictures.is_hidden(p.name))
        files = sorted(p for p in inside if p.is_file())
        return [file.stat() for file in files]
    except (OSError, ValueError):
        return []

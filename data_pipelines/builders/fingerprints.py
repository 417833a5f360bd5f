"""What tells one corpus from another without opening its files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib

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
    looked_at = functools.lru_cache(2**16)(_looked_at)  # rows may name one file again
    for entry in listing.entries:
        content.update(json.dumps([entry.number, entry.fields], sort_keys=True).encode())
        for field, refs in entry.pictures.items():
            for ref in refs:
                sizes, changed = looked_at(ref.path, root, recipe.follow_links)
                times.update(changed)
                content.update(repr((field, ref, sizes)).encode())
    return Fingerprints(content.hexdigest(), times.hexdigest())


def _looked_at(
    name: str, root: pathlib.Path, follow_links: bool
) -> tuple[tuple[int, ...], bytes]:  # fmt: skip
    """Returns the sizes of what a row names, and when that was changed last."""
    stats = _stats(name, root, follow_links)
    sizes = tuple(stat.st_size for stat in stats) if stats else (-1,)
    return sizes, repr([stat.st_mtime_ns for stat in stats]).encode()


def _stats(name: str, root: pathlib.Path, follow_links: bool) -> list[os.stat_result]:
    """Returns what the system tells of a file, or of all below a folder; [] where it cannot."""
    try:
        path = entries.confine(name, root, follow_links)
        if not path.is_dir():
            return [path.stat()]
        # Looking at a folder on some systems leaves hidden files in it.
        inside = (p for p in path.rglob("*") if not pictures.is_hidden(p.name))
        files = sorted(p for p in inside if p.is_file())
        return [file.stat() for file in files]
    except (OSError, ValueError):
        return []

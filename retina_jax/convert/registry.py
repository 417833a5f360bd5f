"""Released models: where they are, what they are, under which terms. Nothing here downloads."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError
from retina_jax.convert import files

NO_LICENCE = "none given"
_SHOWN = ("name", "source", "modality", "towers", "size", "licence", "where")
_CHUNK = 1 << 24
# Layouts that anybody's weights have: a file of them is a released one by its hash or size only.
LAYOUTS = ("timm", "open_clip")


@dataclasses.dataclass(frozen=True)
class Released:
    """One released model.

    Attributes:
      source: name in SOURCES by which its file is converted.
      where: how to get it; the user does so.
      file: name of the file there, None where releases do not fix it.
      megabytes: its size in 10^6 bytes, as precisely as is known, such as '767.61'; or None.
      sha256: the SHA-256 of the file, 64 hexadecimal digits; or None where it is not known.
      modality: what it was trained on.
      towers: batch key -> what reads it.
      preprocessing: `size` in pixels, `fit` as in `transforms.Decode`, `mean` and `std` per
        channel or None, and `short_side` where the short side is scaled to that before the cut;
        None for texts only.
      tokenizer: `name` in TOKENIZERS and its options but the file; or None.
      tokenizer_file: which file that is, in words; or None.
      text_length: most tokens of a text.
      template: sentence of a class in zero-shot, with {} for its name; or None.
      licence: the licence of the weights as their authors state it, None where they state none.
      citation: the publication.
      note: what else to know, or None.
    """

    source: str
    where: str
    file: str | None
    megabytes: str | None
    sha256: str | None
    modality: str
    towers: Mapping[str, str]
    preprocessing: Mapping[str, Any] | None
    tokenizer: Mapping[str, Any] | None
    tokenizer_file: str | None
    text_length: int | None
    template: str | None
    licence: str | None
    citation: str
    note: str | None

    def mismatch(self, path: Path, hashed: Callable[[Path], str] | None = None) -> str:
        """What of the size or hash of a file is not as released; '' if nothing is, or is known.

        Args:
          path: the file.
          hashed: `sha256`, or a function that remembers what that has returned.
        """
        if self.megabytes is not None:
            digits = len(self.megabytes.partition(".")[2])
            size = f"{sum(p.stat().st_size for p in files.parts(path)) / 1e6:.{digits}f}"
            if size != self.megabytes:
                return f"{size} MB instead of {self.megabytes} MB"
        if self.sha256 is not None and (found := (hashed or sha256)(path)) != self.sha256:
            return f"SHA-256 {found} instead of {self.sha256}"
        return ""

    @property
    def known(self) -> bool:
        """Whether size or hash of its file are known."""
        return self.megabytes is not None or self.sha256 is not None


@functools.cache
def released() -> dict[str, Released]:
    """All models of registry.json, by name."""
    file = importlib.resources.files("retina_jax.convert").joinpath("registry.json")
    entries = json.loads(file.read_text(encoding="utf-8"))
    return {name: Released(**entry) for name, entry in entries.items()}


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, or of those of a model's `files.parts` one after another."""
    digest = hashlib.sha256()
    for part in files.parts(path):
        with part.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def facts(
    source: str, path: Path, release: str | None = None, hashed: Callable[[Path], str] | None = None
) -> dict[str, Any]:
    """What is known about a file: what all models agree on that it may be.

    Args:
      source: name in SOURCES.
      path: the file.
      release: name of the model, where the user says so. Otherwise it may be any of its source,
        but where some of them have the size or the hash of the file only those, and none whose
        size or hash are others.
      hashed: the same as in `Released.mismatch`.

    Returns:
      {attribute of Released: value}, and `name` where there is one model only.

    Raises:
      InputError: for a release that is not known, or of another source.
    """
    entries = {name: entry for name, entry in released().items() if entry.source == source}
    if release is not None:
        if release not in entries:
            raise InputError(
                f"There is no release '{release}' of '{source}'; known are "
                f"{', '.join(entries) or 'none'} (--list shows them all)."
            )
        entries = {release: entries[release]}
    elif len(entries) > 1 or source in LAYOUTS:
        same = {n: e for n, e in entries.items() if e.known and not e.mismatch(path, hashed)}
        unknown = {n: e for n, e in entries.items() if not e.known}
        entries = same or ({} if source in LAYOUTS else unknown or entries)
    every = [dataclasses.asdict(entry) for entry in entries.values()]
    agreed = {k: v for k, v in every[0].items() if all(e[k] == v for e in every)} if every else {}
    return {**agreed, **({"name": next(iter(entries))} if len(entries) == 1 else {})}


def warning(source: str, path: Path, hashed: Callable[[Path], str] | None = None) -> str:
    """A sentence about a file that is not what was released for its source; '' if that is unknown.

    Args:
      source: name in SOURCES.
      path: the file that is converted.
      hashed: the same as in `Released.mismatch`.
    """
    entries = {name: entry for name, entry in released().items() if entry.source == source}
    found = {name: entry.mismatch(path, hashed) for name, entry in entries.items()}
    if not found or not all(found.values()):  # it may be one of which neither is known
        return ""
    what = "; ".join(f"of '{name}' it is {difference}" for name, difference in found.items())
    return (
        f"{path} is not the released file ({what}): it may be incomplete, trained further or a "
        "newer release."
    )


def table() -> str:
    """The released models as aligned columns for a terminal, without a final newline."""
    rows: list[tuple[str, ...]] = [_SHOWN]
    for name, entry in released().items():
        towers = " + ".join(entry.towers.values())
        size = f"{entry.megabytes} MB" if entry.megabytes else "-"
        licence = entry.licence or NO_LICENCE
        rows.append((name, entry.source, entry.modality, towers, size, licence, entry.where))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_SHOWN))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

"""Converts a folder of clinical files to pictures and a manifest, without identifiers."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines import places
from data_pipelines.builders import table
from data_pipelines.clinical.formats import read_anonymous
from data_pipelines.clinical.scan import Scan, digest, pseudonym
from data_pipelines.errors import InputError
from data_pipelines.text.texts import named_eye

COLUMNS = (
    "file", "kind", "modality", "eye", "eye_origin", "patient", "date", "device", "pair", "volume",
    "bscans", "layers", "scan_pattern", "between_mm", "down_mm", "across_mm", "remarks",
)  # fmt: skip
# A volume and the picture taken with it, as the builder of pairs reads them.
PAIR_COLUMNS = ("fundus", "oct", "modality", "eye", "patient", "date", "pair")
MANIFEST, PAIRS, SKIPPED = "manifest.csv", "pairs.csv", "skipped.csv"


@dataclasses.dataclass(frozen=True)
class Summary:
    """What became of the files of a folder.

    Attributes:
        files: files found.
        converted: files that became scans.
        rows: rows of the manifest.
        skipped: {reason: files}.
        without_eye: rows whose eye is unknown.
        remarked: rows with remarks, such as what of their file cannot be read.
        names: the table that tells which file each hash stands for; it stays with the owner.
    """

    files: int
    converted: int
    rows: int
    skipped: Mapping[str, int]
    without_eye: int
    remarked: int
    names: pathlib.Path


def export(
    source: pathlib.Path,
    output: pathlib.Path,
    key: bytes | None = None,
    override: pathlib.Path | None = None,
    burned_in: bool = False,
    progress: Callable[[Sequence[pathlib.Path]], Iterable[pathlib.Path]] = iter,
) -> Summary:
    """Converts every file below `source`; links are not followed.

    `output` gets `manifest.csv`, one row a scan, `pairs.csv`, one row a volume with the one picture
    of its series, and `skipped.csv`: hash and reason of every file that gave none. Pictures are PNG
    of the same values (see `encoded`), named by the hash of their file. `OUTPUT.sources.csv`,
    beside `output`, names the files and has to stay where they are.

    Args:
        source: folder of the clinical files.
        output: folder to make; a folder that holds anything is not touched.
        key: the same as in `formats.read`.
        override: CSV with the columns file (relative to `source`) and eye, which is believed more
            than the file.
        burned_in: the same as in `formats.read`.
        progress: wraps the files, to show how far it is.

    Raises:
        InputError: a folder or the override is not usable. Files that are not are listed instead.
    """
    anonymous = pseudonym(key)
    if not source.is_dir():
        raise InputError(f"The source folder {source} does not exist.")
    if output.resolve().is_relative_to(source.resolve()):
        raise InputError(f"The output folder {output} lies inside the source: choose another.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not empty: choose another output folder.")
    files = _files(source)
    eyes = _overrides(override, source, files) if override else {}
    with places.written(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch = pathlib.Path(tempfile.mkdtemp(prefix=".converting-", dir=output.parent))
    rows: list[tuple[str, ...]] = []
    names: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    try:
        for path in progress(files):
            name, mark, reason = path.relative_to(source).as_posix(), "", ""
            try:
                mark = _mark(path, seen)
                scans = read_anonymous(path, anonymous, burned_in)
                rows += [_write(scan, i, scratch, eyes.get(name)) for i, scan in enumerate(scans)]
            except InputError as error:
                reason = str(error)
            names.append((mark, name, reason))
        return _finish(scratch, output, rows, names)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _finish(
    scratch: pathlib.Path,
    output: pathlib.Path,
    rows: Sequence[tuple[str, ...]],
    names: Sequence[tuple[str, str, str]],
) -> Summary:
    """Writes the tables and moves the folder to its place, whole."""
    skipped = [(mark, reason) for mark, _, reason in names if reason]
    places.write_csv(scratch / MANIFEST, COLUMNS, sorted(rows))
    places.write_csv(scratch / PAIRS, PAIR_COLUMNS, _pairs(sorted(rows)))
    places.write_csv(scratch / SKIPPED, ("source", "reason"), sorted(skipped))
    listing = output.with_name(output.name + ".sources.csv")
    places.write_csv(listing, ("source", "file", "skipped_because"), names)
    # mkdtemp makes a folder for its owner alone; the result is as any other folder.
    scratch.chmod(0o777 & ~_umask())
    os.replace(scratch, output)
    reasons = collections.Counter(reason for _, reason in skipped)
    empty = {name: sum(not row[COLUMNS.index(name)] for row in rows) for name in ("eye", "remarks")}
    return Summary(
        files=len(names),
        converted=len(names) - len(skipped),
        rows=len(rows),
        skipped=reasons,
        without_eye=empty["eye"],
        remarked=len(rows) - empty["remarks"],
        names=listing,
    )


def _pairs(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    by_pair = collections.defaultdict(list)
    for row in rows:
        found = dict(zip(COLUMNS, row, strict=True))
        by_pair[found["pair"]].append(found)
    pairs = []
    for scans in by_pair.values():
        volumes = [scan for scan in scans if scan["volume"] and scan["modality"] != "octa"]
        pictures = [scan for scan in scans if not scan["volume"]]
        # Which of several pictures belongs to a volume is not stated.
        if len(volumes) == len(pictures) == 1:
            columns = {**pictures[0], "fundus": pictures[0]["file"], "oct": volumes[0]["volume"]}
            pairs.append(tuple(columns[name] for name in PAIR_COLUMNS))
    return pairs


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _files(source: pathlib.Path) -> list[pathlib.Path]:
    found = [
        pathlib.Path(folder, name)
        for folder, folders, names in os.walk(source)
        for name in (*names, *(f for f in folders if os.path.islink(os.path.join(folder, f))))
    ]
    return sorted(found)


def _mark(path: pathlib.Path, seen: set[str]) -> str:
    if path.is_symlink():
        raise InputError("It is a link, which is not followed.")
    if not path.is_file():
        raise InputError("It is no regular file.")
    try:
        mark = digest(path)
    except OSError as error:
        raise InputError(f"It cannot be opened ({error.strerror}).") from error
    if mark in seen:
        raise InputError("It is a copy of another file, byte for byte.")
    seen.add(mark)
    return mark


def _overrides(
    path: pathlib.Path, source: pathlib.Path, files: Sequence[pathlib.Path]
) -> dict[str, str]:
    found = table.read(path, {})
    if "eye" not in found.columns:
        raise InputError(f"The table {path} has no column 'eye'.")
    known = {file.relative_to(source).as_posix() for file in files}
    at = [found.header.index(found.columns[field]) for field in ("image", "eye")]
    eyes: dict[str, str] = {}
    for number, cells in found.rows:
        name, eye = (cells[i] if i < len(cells) else "" for i in at)
        if name not in known:
            raise InputError(f"Line {number} of {path} names '{name}', which is not in {source}.")
        side = named_eye(eye)
        if not side:
            raise InputError(f"Line {number} of {path} calls the eye '{eye}': write OD or OS.")
        if eyes.setdefault(name, side) != side:
            raise InputError(f"{path} names both eyes for '{name}'.")
    return eyes


def encoded(array: np.ndarray) -> np.ndarray:
    """Returns what a PNG holds of an array: floats in 0..1 as floor(255 x), NaN black."""
    if array.dtype == np.float32:
        return np.nan_to_num(np.floor(array * np.float32(255)), nan=0.0).astype(np.uint8)
    return array


def _write(scan: Scan, index: int, folder: pathlib.Path, eye: str | None) -> tuple[str, ...]:
    stem = f"{scan.source}/{index}"
    (folder / scan.source).mkdir(exist_ok=True)
    volume, layers, name = "", "", f"{stem}.png"
    if scan.kind == "volume":
        volume = stem
        (folder / stem).mkdir()
        for t, bscan in enumerate(encoded(scan.array)):
            _save(bscan, folder / stem / f"{t:04d}.png")
        # A table of pictures shows the volume by its middle B-scan.
        name = f"{stem}/{len(scan.array) // 2:04d}.png"
    else:
        _save(scan.array, folder / name)
    if scan.layers:
        layers = f"{stem}_layers.npz"
        arrays: dict[str, Any] = dict(scan.layers)
        np.savez(folder / layers, **arrays)
    origin = "override" if eye else "file" if scan.laterality else ""
    spacing = [repr(value) if value else "" for value in dataclasses.astuple(scan.spacing)]
    return (
        name, scan.kind, scan.modality or "unknown", eye or scan.laterality or "", origin,
        scan.patient or "", scan.date or "", scan.device or "",
        f"{scan.source}-{scan.series}", volume,
        str(len(scan.array)) if volume else "", layers, scan.scan_pattern or "", *spacing,
        " ".join(scan.remarks),
    )  # fmt: skip


def _save(image: np.ndarray, path: pathlib.Path) -> None:
    Image.fromarray(np.ascontiguousarray(image)).save(path, "PNG")

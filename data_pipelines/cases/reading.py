"""Reads an entry of a listing: the pictures in it that a model can be asked about.

A file of a device holds several; of those the pictures of another kind than the model's are left
out, and counted. Everything is read anew each time, so that memory does not grow.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.builders import entries, pictures
from data_pipelines.cases.listing import FACTS
from data_pipelines.errors import InputError
from data_pipelines.images import decoding, preparation, volumes
from data_pipelines.images.single import Reader
from data_pipelines.records import sources
from data_pipelines.transforms.pictures import Eyes
from data_pipelines.transforms.volumes import Volume


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture, or volume, that a model is asked about.

    Attributes:
        record: its id: that of its entry, with '#' and a number where that holds several.
        pictures: what `single.Preprocessing` takes.
        shown: what its quality is judged of: encoded bytes, or uint8 [H W] or [H W 3].
        sha256: the hash of the bytes of the file, or of the stored picture.
        facts: `listing.FACTS` -> text, '' where it is not known.
        prepared: the size to which the pictures of its data set were prepared; None for pictures
            as they came.
    """

    record: str
    pictures: Any
    shown: bytes | np.ndarray
    sha256: str
    facts: Mapping[str, str]
    prepared: int | None = None


@dataclasses.dataclass(frozen=True)
class Opener:
    """Reads entries for one input of a model.

    Attributes:
        reader: the transform that reads that input.
        modality: that of the pictures asked for, 'cfp' or 'oct' for instance.
        key: the secret for the hashes of patients in files of devices; None leaves them unknown.
        data_dir: where built data sets lie.
    """

    reader: Reader
    modality: str
    key: bytes | None = None
    data_dir: str | None = None

    def frames(self, entry: Mapping[str, Any]) -> tuple[list[Frame], int]:
        """The frames of an entry of a listing, and how many of another kind were left out.

        Raises:
            InputError: it cannot be read, or is of another modality.
        """
        facts = {name: entry[name] or "" for name in FACTS}
        stated = facts["modality"]
        if stated and stated != self.modality:
            raise InputError(
                f"It is of the modality '{stated}', and these predictions are of '{self.modality}'."
            )
        if entry["number"] >= 0:
            return [self._stored(entry, facts)], 0
        path = pathlib.Path(entry["place"])
        try:
            if path.is_dir():
                return [self._folder(entry["record"], path, facts)], 0
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            raise InputError(
                f"It cannot be read ({getattr(error, 'strerror', None) or error})."
            ) from None
        kind = pictures.kind(path)
        device = data.startswith(pictures.DEVICE_STARTS) or data[128:132] == b"DICM"
        if device or path.suffix.lower() == ".xml":
            return self._device(entry["record"], path, data, facts)
        if kind == "volume":
            return self._volume(entry["record"], path, data, facts)
        given: Any = [data] if isinstance(self.reader, Volume) else data
        return [Frame(entry["record"], given, data, _sha256(data), facts)], 0

    def _stored(self, entry: Mapping[str, Any], facts: dict[str, str]) -> Frame:
        """A record of a built data set."""
        name, _, split = entry["place"].partition(":")
        record = _source(name, split, self.data_dir)[entry["number"]]
        if isinstance(self.reader, Eyes):
            given: Any = tuple(
                record.get(field) or None for field in (self.reader.left, self.reader.right)
            )
            parts = [data for data in given if data]
        else:
            given = record.get(self.reader.source)
            parts = [given] if isinstance(given, bytes) else list(given or [])
        if not parts:
            raise InputError(f"The record has no picture in the field of '{self.reader.target}'.")
        shown = parts[len(parts) // 2]
        size = _prepared(name, self.data_dir)
        return Frame(entry["record"], given, shown, _sha256(*parts), facts, size)

    def _folder(self, record: str, path: pathlib.Path, facts: dict[str, str]) -> Frame:
        """A folder of B-scans that a table names."""
        self._refuse_volume()
        scans = _bscans(path)
        return Frame(record, list(scans), scans[len(scans) // 2], _sha256(*scans), facts)

    def _volume(
        self, record: str, path: pathlib.Path, data: bytes, facts: dict[str, str]
    ) -> tuple[list[Frame], int]:
        """A picture file of several pages, or an array."""
        if path.suffix.lower() == ".npy":
            scans = [decoding.pages(scan)[0] for scan in _bscans(path)]
        else:
            scans = volumes.scaled(decoding.pages(data))
        return self._of_scans(record, scans, _sha256(data), facts), 0

    def _of_scans(
        self, record: str, scans: Sequence[np.ndarray], sha256: str, facts: Mapping[str, str]
    ) -> list[Frame]:
        """A volume as one frame for a model of volumes, else a frame for each B-scan."""
        self._refuse_volume()
        if isinstance(self.reader, Volume):
            return [Frame(record, list(scans), scans[len(scans) // 2], sha256, facts)]
        return [Frame(f"{record}#{i}", scan, scan, sha256, facts) for i, scan in enumerate(scans)]

    def _device(
        self, record: str, path: pathlib.Path, data: bytes, facts: dict[str, str]
    ) -> tuple[list[Frame], int]:
        # Its readers are an extra, and slow to import.
        from data_pipelines.clinical.export import encoded
        from data_pipelines.clinical.formats import read_anonymous
        from data_pipelines.clinical.scan import pseudonym

        try:
            scans = read_anonymous(path, pseudonym(self.key), False)
        except OSError as error:
            raise InputError(f"It cannot be read ({error.strerror}).") from None
        found: list[Frame] = []
        skipped = 0
        for i, scan in enumerate(scans):
            is_volume = scan.kind == "volume"
            # A photograph of no stated modality is the model's; a localizer or a map is not one.
            photograph = scan.kind == "photograph" and not self._of_scans_only
            unknown = "oct" if is_volume else self.modality if photograph else ""
            if (scan.modality or unknown) != self.modality or (
                isinstance(self.reader, Volume) and not is_volume
            ):
                skipped += 1
                continue
            told = {"patient": scan.patient, "eye": scan.laterality, "date": scan.date,
                    "modality": scan.modality, "device": scan.device}  # fmt: skip
            own = {name: facts[name] or told[name] or "" for name in FACTS}
            if is_volume:
                arrays = volumes.scaled([encoded(one) for one in scan.array])
                found += self._of_scans(f"{record}#{i}", arrays, _sha256(data), own)
            else:
                found.append(Frame(f"{record}#{i}", scan.array, scan.array, _sha256(data), own))
        if not found:
            kinds = sorted({scan.modality or scan.kind for scan in scans})
            raise InputError(
                f"It holds {', '.join(kinds)}, and the model is for '{self.modality}'."
            )
        return found, skipped

    @property
    def _of_scans_only(self) -> bool:
        return isinstance(self.reader, Volume) or self.modality in preparation.BSCANS

    @property
    def one_by_one(self) -> bool:
        """Whether each B-scan of a volume is a frame of its own."""
        return self._of_scans_only and not isinstance(self.reader, Volume)

    def _refuse_volume(self) -> None:
        if not self._of_scans_only:
            raise InputError(
                "It is an OCT volume, and the model is for photographs; of a model of B-scans say "
                "so by --modality=oct."
            )


def _bscans(path: pathlib.Path) -> Sequence[bytes]:
    """The B-scans of a folder or an array; rows without names shall have none in what is wrong."""
    try:
        return pictures.volume(
            [entries.Ref(path.name)], path.parent.resolve(), pictures.PictureOptions(), "oct"
        ).value
    except InputError as error:
        names = (part.name for part in path.iterdir()) if path.is_dir() else ()
        inside = sorted(names, key=pictures.natural)
        instead = {path.name: "It"}
        for number, name in enumerate(inside, 1):
            own = f"file {number} of {len(inside)}"
            instead |= {name: own, f"{path.name}/{name}": own}
        # A number may be that of a B-scan too, unless a sentence begins with it or quotes it.
        ways = (("(?<![^('])" if name.isdigit() else r"(?<!\w)") + re.escape(name) + r"(?!\w)"
                for name in sorted(instead, key=len, reverse=True))  # fmt: skip
        told = re.sub("|".join(ways), lambda found: instead[found.group()], str(error))
        raise InputError(told) from None


@functools.lru_cache(maxsize=4)
def _source(name: str, split: str, data_dir: str | None) -> sources.Source:
    return sources.load(name, split, data_dir)


@functools.lru_cache(maxsize=4)
def _prepared(name: str, data_dir: str | None) -> int | None:
    return (preparation.of_dataset(name, data_dir) or {}).get("size")


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()

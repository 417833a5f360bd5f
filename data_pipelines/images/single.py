"""Pictures that a user brings, through the transforms of a data set: a batch of one row."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import batch as batch_contract
from data_pipelines import places
from data_pipelines.errors import InputError
from data_pipelines.images import decoding, functional, placement, preparation, volumes
from data_pipelines.transforms import TRANSFORMS
from data_pipelines.transforms.fields import Record, names
from data_pipelines.transforms.geometry import CanonicalLaterality
from data_pipelines.transforms.pictures import CasePictures, Decode, Eyes, ForegroundCrop
from data_pipelines.transforms.volumes import Volume

# A file, its bytes, or its pixels uint8 [H W 3] or [H W].
Picture = str | os.PathLike[str] | bytes | np.ndarray
Pictures = Picture | Sequence[Picture | None] | Mapping[str, Any]

Reader = Decode | Eyes | CasePictures | Volume
# Of what follows, those that put pixels elsewhere.
_MOVING = (Decode, ForegroundCrop, CanonicalLaterality)
# The transforms that make pixels of files, and need nothing else of a record but the eye.
USED = {
    name: TRANSFORMS[name]
    for name in (
        "decode",
        "eyes",
        "case_pictures",
        "volume",
        "foreground_crop",
        "canonical_laterality",
        "standardize",
    )
}


def encoded(picture: Picture) -> bytes:
    """The bytes of a picture file; pixels become those of a PNG, which keeps each of them.

    Raises:
      InputError: for a file that cannot be read, or an array that is no picture of bytes.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, np.ndarray):
        grey, colour = picture.ndim == 2, picture.ndim == 3 and picture.shape[-1] == 3
        if picture.dtype != np.uint8 or not (grey or colour):
            raise InputError(
                "Pixels of a picture are uint8 [H W 3] or [H W], got "
                f"{picture.dtype} {picture.shape}."
            )
        return functional.encode_image(picture)
    if not isinstance(picture, (str, os.PathLike)):
        raise InputError(
            f"A picture is a path, the bytes of a file or an array, not {type(picture).__name__}."
        )
    try:
        return places.local(picture, "A picture").read_bytes()
    except OSError as error:
        raise InputError(f"The picture {picture} cannot be read ({error.strerror}).") from None


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Makes the input of a model as its training data were made.

    Attributes:
        transforms: built transforms of `USED`, in order.
        preparation: the preparation of photographs before that, as the data set was prepared; None
            for none. What a prepared data set stores is not prepared again, see `of_stored`.
    """

    transforms: tuple[Any, ...]
    preparation: preparation.Preparation | None = None

    def __post_init__(self) -> None:
        if not self.readers:
            raise InputError(f"Preprocessing needs a transform that reads: {list(USED)[:4]}.")

    @property
    def readers(self) -> dict[str, Reader]:
        """Batch key -> the transform that decodes it."""
        return {step.target: step for step in self.transforms if isinstance(step, Reader)}

    def __call__(
        self, pictures: Pictures, *, eye: str = "", modality: str = "cfp"
    ) -> dict[str, np.ndarray]:
        """A batch of one row.

        Args:
          pictures: a picture; of 'eyes' one of either eye, or the left and the right one, None
            where there is none; of 'images' or 'oct' a sequence, an array uint8 [T H W] too, of
            'oct' a file of several pages; for a model of several such inputs some of them by batch
            key, {'image': ..., 'oct': ...}.
          eye: 'OD' or 'OS', for models that see all eyes as right ones.
          modality: 'cfp', 'ffa' or 'oct', whose field of view is not looked for.

        Raises:
          InputError: for what cannot be read, or does not fit the transforms.
        """
        record, steps = self._asked(pictures, eye, modality)
        for step in steps:
            record = step.map(record)
        return {
            key: np.asarray(value)[None]
            for key, value in record.items()
            if batch_contract.fits(key, value)
        }

    def of_stored(self) -> Preprocessing:
        """The same for pictures of a prepared data set, as an evaluation reads them."""
        return dataclasses.replace(self, preparation=None)

    def way(
        self, picture: Picture, *, eye: str = "", modality: str = "cfp"
    ) -> tuple[placement.Placement, ...]:
        """From the pixels of one picture to those that a model sees, for `placement.back`.

        Args:
          picture, eye, modality: the same as of a call.

        Raises:
          InputError: as for a call, or where the model reads anything but one picture at a time.
        """
        (reader, *more) = self.readers.values()
        if more or not isinstance(reader, Decode):
            raise InputError("Maps are made of models that read one picture at a time.")
        found = []
        if (asked := self._preparation(modality)) is not None:
            found.append(preparation.placed(functional.decode_image(encoded(picture)), asked))
        record, steps = self._asked(picture, eye, modality)
        for step in steps:
            if isinstance(step, _MOVING):
                found.append(step.placed(record))
            record = step.map(record)
        return tuple(found)

    def _asked(
        self, pictures: Pictures, eye: str, modality: str
    ) -> tuple[Record, Iterator[Any]]:  # fmt: skip
        """The record of what is given, and the transforms for it."""
        record: Record = {"eye": eye}
        given = self._given(pictures)
        for key, value in given.items():
            record |= self._fields(self.readers[key], value, modality)
        return record, self._steps(tuple(given), eye)

    def _given(self, pictures: Pictures) -> Mapping[str, Any]:
        readers = self.readers
        if not isinstance(pictures, Mapping):
            if len(readers) > 1:
                raise InputError(
                    f"The model sees {sorted(readers)}: give some of them by name, "
                    f"{{'{min(readers)}': ...}}."
                )
            return {next(iter(readers)): pictures}
        if not pictures or set(pictures) - set(readers):
            raise InputError(f"The model sees {sorted(readers)}, not {sorted(pictures)}.")
        return pictures

    def _fields(self, reader: Reader, value: Any, modality: str) -> Record:
        """The fields of a record that a reader reads."""
        if isinstance(reader, Decode):
            return {reader.source: self.prepared(value, modality)}
        if isinstance(reader, Eyes):
            both = value if _several(value) else (value, None)
            if len(both) != 2:
                raise InputError(f"A patient has a left and a right eye, not {len(both)} pictures.")
            sides = (b"" if one is None else self.prepared(one, modality) for one in both)
            return dict(zip((reader.left, reader.right), sides, strict=True))
        several = list(value) if _several(value) else [value]
        if isinstance(reader, Volume):
            scans = [encoded(_without_channel(scan)) for scan in several]
            # A file of several pages is a volume too.
            pages = decoding.pages(scans[0]) if len(scans) == 1 else []
            if len(pages) > 1:
                scans = [encoded(page) for page in volumes.scaled(pages)]
            return {reader.source: scans}
        return {reader.source: [self.prepared(one, modality) for one in several]}

    def prepared(self, picture: Picture, modality: str) -> bytes:
        """A photograph as the data set of the model stores it."""
        data, asked = encoded(picture), self._preparation(modality)
        return data if asked is None else preparation.photograph(data, asked).data

    def _preparation(self, modality: str) -> preparation.Preparation | None:
        if self.preparation is None or modality not in preparation.BSCANS:
            return self.preparation
        return dataclasses.replace(self.preparation, crop="none")

    def _steps(self, given: tuple[str, ...], eye: str) -> Iterator[Any]:
        """The transforms for what is given."""
        for step in self.transforms:
            if isinstance(step, Reader):
                if step.target in given:
                    yield step
                continue
            present = [name for name in names(step.source) if name in given]
            if isinstance(step, CanonicalLaterality) and not eye and step.unknown == "refuse":
                raise InputError("Say which eye it is, eye='OD' or eye='OS': the model sees all "
                                 "eyes as right ones.")  # fmt: skip
            if present:
                yield dataclasses.replace(
                    step, source=present[0] if isinstance(step.source, str) else tuple(present)
                )


def shown(value: Any) -> list[Picture]:
    """Of what one input is given, the pictures to look at: both eyes, of a volume its middle."""
    if not _several(value):
        return [value]
    given = [_without_channel(one) for one in value if one is not None]
    return given if len(given) <= 2 else [given[len(given) // 2]]


def _several(value: Any) -> bool:
    """Whether a value is several pictures: an array of more axes, or a sequence."""
    if isinstance(value, np.ndarray):
        return value.ndim == 4 or (value.ndim == 3 and value.shape[-1] not in (1, 3))
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _without_channel(scan: Any) -> Any:
    grey = isinstance(scan, np.ndarray) and scan.ndim == 3 and scan.shape[-1] == 1
    return scan[..., 0] if grey else scan

"""OCT volumes: from stored B-scans to [T H W 1]."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from grain.transforms import Map

from data_pipelines.errors import InputError
from data_pipelines.images import functional, volumes
from data_pipelines.transforms.fields import Record, decoded, field, is_volume


@dataclasses.dataclass(frozen=True)
class Volume(Map):
    """Reads an OCT volume as uint8 [slices height width 1].

    The field holds the bytes of one picture of B-scans below each other, or a list of pictures,
    one for each B-scan. Colours become grey; each B-scan is stretched to the wanted size.

    Bytes are the default because they are a quarter of what floats cost on the way to the device,
    and lose nothing but rounding: scaling to mean 0 and deviation 1 undoes any stretch, and can be
    done there, after the augmentation, or here at the end by `standardize`.

    Attributes:
        slices: B-scans to keep, T.
        size: height and width in pixels, or one number for both.
        source, target: fields of the stored and of the decoded volume.
        count: field of the number of B-scans, read where they are in one picture.
        select: 'uniform' spreads T over the scan without interpolation, 'centre' takes the middle.
        normalize: 'stretch' clips at the 0.5th and 99.5th percentile of the volume and spreads the
            rest over 0..255; 'none' keeps the stored values.
    """

    slices: int
    size: int | tuple[int, int]
    source: str = "oct"
    target: str = "oct"
    count: str = "oct_slices"
    select: str = "uniform"
    normalize: str = "stretch"

    def __post_init__(self) -> None:
        if self.select not in ("uniform", "centre"):
            raise InputError(f"volume: 'select' is uniform or centre, got '{self.select}'.")
        if self.normalize not in ("stretch", "none"):
            raise InputError(f"volume: 'normalize' is stretch or none, got '{self.normalize}'.")
        if self.slices < 1 or len(self._size()) != 2 or min(self._size()) < 1:
            raise InputError(
                "volume: 'slices' is at least 1 and 'size' one or two numbers of pixels, "
                f"got {self.slices} and {self.size}."
            )

    def _size(self) -> tuple[int, ...]:
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)

    def map(self, record: Record) -> Record:
        """Returns the record with `target`."""
        data = field(record, self.source)
        chosen = self._stacked(record, data) if isinstance(data, bytes) else self._listed(data)
        volume = np.concatenate([volumes.resize(scan[None], *self._size()) for scan in chosen])
        if self.normalize == "stretch":
            volume = volumes.stretch(volume)
        return {**record, self.target: volume}

    def _stacked(self, record: Record, data: bytes) -> np.ndarray:
        scans = volumes.split(functional.decode_image(data), int(field(record, self.count)))
        chosen = scans[volumes.choose(len(scans), self.slices, self.select)]
        return np.stack([volumes.grey(scan) for scan in chosen])

    def _listed(self, data: Any) -> list[np.ndarray]:
        parts: list[Any] = list(data) if isinstance(data, (list, tuple, np.ndarray)) else []
        if not parts or not all(isinstance(scan, bytes) for scan in parts):
            raise InputError(
                f"volume: field '{self.source}' must hold the bytes of a picture of all B-scans "
                "or a list of pictures that is not empty; leave out records without a scan."
            )
        indices = volumes.choose(len(parts), self.slices, self.select)
        # Twice the wanted size is enough, as in `Decode`; B-scans that repeat are decoded once.
        height, width = self._size()
        enough = (2 * height, 2 * width)
        once = sorted(set(indices))
        scans = dict(zip(once, volumes.decode([parts[i] for i in once], enough), strict=True))
        return [scans[i] for i in indices]


@dataclasses.dataclass(frozen=True)
class Standardize(Map):
    """Scales each OCT volume to mean 0 and deviation 1, float32 [T H W 1]; put it last.

    For models that do not do so on the device; a batch then is four times as large.
    """

    source: str = "oct"

    def map(self, record: Record) -> Record:
        """Returns the record with the volume as floats."""
        volume = decoded(record, self.source)
        if not is_volume(volume):
            raise InputError(f"standardize: field '{self.source}' is no OCT volume [T H W 1].")
        return {**record, self.source: volumes.standardize(volume)}

"""Where pixels go: crops, turns and mirrors, with one draw for all fields that belong together.

What is right and left in a picture says which eye it is: the disc lies to the right of the fovea
in a right eye (OD), to the left in a left one (OS). The field `eye` ('OD', 'OS' or '' where it is
not known) and the slots of both eyes tell how the pictures look, so mirrors change them too. Texts
are never changed: leave mirrors out where a text names sides ("right eye: ...").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from grain.transforms import Map, RandomMap

from data_pipelines.errors import InputError
from data_pipelines.images import functional, placement, volumes
from data_pipelines.transforms.fields import (
    Change,
    Record,
    augment,
    check_probability,
    check_range,
    check_sources,
    decoded,
    each,
    field,
    is_eyes,
    is_volume,
    names,
    sometimes,
)

_OTHER = {"OD": "OS", "OS": "OD"}
_ANY = ("uint8", "float32")
_SIDES = ("left_", "right_")


def _refuse_mixed(owner: str, record: Record, source: str | Sequence[str], share: bool) -> None:
    """Rows are depth in a B-scan and height in a photograph: no box and no turn fits both."""
    kinds = {is_volume(decoded(record, name)) for name in names(source)}
    if share and len(kinds) > 1:
        raise InputError(
            f"{owner}: {names(source)} mixes photographs and OCT volumes, whose rows are not the "
            "same direction; use one transform for each."
        )


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(RandomMap):
    """Cuts a random box and resizes it, by the rule of torchvision and timm, bicubic.

    Up to 10 boxes are tried until one fits; then the largest one in the middle that keeps `ratio`.
    Fields of different size share the box in parts of their height and width.

    Attributes:
        size: side of the square result in pixels; None keeps the height and width of each field.
        area: least and greatest share of the picture's area.
        ratio: least and greatest width / height, drawn on a log scale.
        source: a decoded field or several.
        share: one box for all fields and both eyes; RET-CLIP draws one for each eye (False).
    """

    size: int | None
    area: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    source: str | tuple[str, ...] = "image"
    share: bool = True

    def __post_init__(self) -> None:
        check_range("random_resized_crop", "area", self.area, 1e-6, 1)
        check_range("random_resized_crop", "ratio", self.ratio, 0.01, 100)
        check_sources("random_resized_crop", self.source)
        if self.size is not None and self.size < 1:
            raise InputError(f"random_resized_crop: 'size' is at least 1 pixel, got {self.size}.")

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record with the fields cut."""
        _refuse_mixed("random_resized_crop", record, self.source, self.share)

        def draw(part: np.ndarray) -> Change:
            height, width = shape = part.shape[-3:-1]
            box = functional.crop_box(height, width, rng, area=self.area, ratio=self.ratio)
            return lambda other: self._cut(other, functional.scale_box(box, shape, other.shape))

        return augment(record, self.source, self.share, draw)

    def _cut(self, part: np.ndarray, box: functional.Box) -> np.ndarray:
        top, left, height, width = box
        cut = part[..., top : top + height, left : left + width, :]
        height, width = (self.size, self.size) if self.size else part.shape[-3:-1]
        resize = volumes.resize if is_volume(part) else functional.resize
        return resize(cut, height, width)


@dataclasses.dataclass(frozen=True)
class RandomCrop(RandomMap):
    """Cuts a random square and resizes nothing; every place is equally likely.

    Fields of different size are cut at the same part of what their height and width leave open.

    Attributes:
        size: side of the square in pixels.
        source: a decoded field or several.
        share: one draw for all fields and both eyes.
    """

    size: int
    source: str | tuple[str, ...] = "image"
    share: bool = True

    def __post_init__(self) -> None:
        check_sources("random_crop", self.source)
        if self.size < 1:
            raise InputError(f"random_crop: 'size' is at least 1 pixel, got {self.size}.")

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record with the fields cut."""
        _refuse_mixed("random_crop", record, self.source, self.share)

        def draw(_: np.ndarray) -> Change:
            place = rng.random(2)
            return lambda part: self._cut(part, place)

        return augment(record, self.source, self.share, draw)

    def _cut(self, part: np.ndarray, place: np.ndarray) -> np.ndarray:
        if min(part.shape[-3:-1]) < self.size:
            height, width = part.shape[-3:-1]
            raise InputError(
                f"random_crop: a picture of {height} x {width} pixels has no square of "
                f"{self.size}; decode it larger."
            )
        top, left = (place * (np.array(part.shape[-3:-1]) - self.size + 1)).astype(int)
        return np.ascontiguousarray(part[..., top : top + self.size, left : left + self.size, :])


@dataclasses.dataclass(frozen=True)
class RandomAffine(RandomMap):
    """Rotates, scales and shifts with a probability, black outside (FLAIR's defaults, no shift).

    Attributes:
        probability: the probability of changing the picture at all.
        degrees: largest rotation to either side.
        scale: least and greatest isotropic scale.
        shift: largest shift to either side, as a share of the height and of the width.
        source: a decoded field or several.
        share: one draw for all fields and both eyes.
    """

    probability: float = 0.25
    degrees: float = 5.0
    scale: tuple[float, float] = (0.9, 1.0)
    shift: float = 0.0
    source: str | tuple[str, ...] = "image"
    share: bool = True

    def __post_init__(self) -> None:
        check_probability(self.probability)
        check_range("random_affine", "scale", self.scale, 0.01, 100)
        check_sources("random_affine", self.source)
        if not 0 <= self.degrees <= 180 or not 0 <= self.shift <= 1:
            raise InputError(
                "random_affine: 'degrees' must lie in 0..180 and 'shift' in 0..1, "
                f"got {self.degrees} and {self.shift}."
            )

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, its fields turned, scaled and shifted or not."""
        _refuse_mixed("random_affine", record, self.source, self.share)

        def draw(_: np.ndarray) -> Change:
            degrees, scale = rng.uniform(-self.degrees, self.degrees), rng.uniform(*self.scale)
            down, right = rng.uniform(-self.shift, self.shift, 2) if self.shift else (0.0, 0.0)

            def turn(image: np.ndarray) -> np.ndarray:
                return functional.affine(image, degrees, scale, (down, right))

            return lambda part: np.stack([*map(turn, part)]) if is_volume(part) else turn(part)

        return augment(record, self.source, self.share, sometimes(self.probability, rng, draw))


def _mirror(record: Record, array: np.ndarray, scan: str | None) -> np.ndarray:
    """Mirrors left to right: columns, or the order of B-scans that run from top to bottom."""
    if scan is None or not is_volume(array):
        return functional.flip(array)
    direction = field(record, scan)
    if direction not in ("horizontal", "vertical"):
        raise InputError(
            f"Only horizontal and vertical scans can be mirrored, but '{scan}' is '{direction}'."
        )
    return functional.flip(array) if direction == "horizontal" else array[::-1].copy()


@dataclasses.dataclass(frozen=True)
class RandomFlip(RandomMap):
    """Mirrors left to right with a probability, as one draw: a mirrored patient is a patient.

    The mirror image of a left eye is a right eye. So with `share` the record follows the mirror:
    `eye` becomes the other side; both eyes, mirrored, change places, and so do `eye_mask` and all
    fields left_... and right_..., so that the left slot holds a picture that looks like a left eye.

    Attributes:
        probability: the probability of mirroring.
        source: a decoded field or several, e.g. a photograph and the OCT volume of the same eye.
        share: one draw for everything. False is RET-CLIP: each field and each eye has its own
            draw, and nothing but pixels changes, so that pictures no longer tell the side.
        swap_sides: False keeps `eye` and the slots although the pictures are mirrored.
        scan: field that says 'horizontal' or 'vertical' of OCT volumes: of vertical scans the
            order of the B-scans is mirrored. None: all are horizontal.
    """

    probability: float = 0.5
    source: str | tuple[str, ...] = "image"
    share: bool = True
    swap_sides: bool = True
    scan: str | None = None

    def __post_init__(self) -> None:
        check_probability(self.probability)
        check_sources("random_flip", self.source)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, mirrored or not."""
        arrays = {name: decoded(record, name, _ANY) for name in names(self.source)}

        def mirror(part: np.ndarray) -> np.ndarray:
            return _mirror(record, part, self.scan)

        if not self.share:

            def own(part: np.ndarray) -> np.ndarray:
                return mirror(part) if rng.random() < self.probability else part

            return {**record, **{name: each(array, own) for name, array in arrays.items()}}
        if rng.random() >= self.probability:
            return record
        mirrored = {**record, **{name: mirror(array) for name, array in arrays.items()}}
        if not self.swap_sides:
            return mirrored
        return _swap_sides(mirrored, [name for name, array in arrays.items() if is_eyes(array)])


def _swap_sides(record: Record, eyes: list[str]) -> Record:
    swapped = dict(record)
    if record.get("eye"):
        swapped["eye"] = _other_side(record["eye"])
    if not eyes:
        return swapped
    for name in [*eyes, *(["eye_mask"] if "eye_mask" in record else [])]:
        swapped[name] = record[name][::-1].copy()
    for here, present in (_SIDES, _SIDES[::-1]):
        for name, value in record.items():
            if name.startswith(here) and (other := present + name.removeprefix(here)) in record:
                swapped[other] = value
    return swapped


def _other_side(eye: str) -> str:
    if eye not in _OTHER:
        raise InputError(f"The field 'eye' is 'OD', 'OS' or '' where it is unknown, got '{eye}'.")
    return _OTHER[eye]


@dataclasses.dataclass(frozen=True)
class CanonicalLaterality(Map):
    """Mirrors left eyes, so that all look like right ones, and calls them 'OD'.

    For fundus and OCT of one eye: the columns of both are mirrored, which in a volume is the fast
    axis of horizontal B-scans; their order stays. Nothing random is left to the side of the eye.

    Attributes:
        source: decoded fields of one eye.
        eye: field of the side, 'OD', 'OS' or '' where it is unknown.
        unknown: 'refuse' raises an error for an unknown side, 'keep' leaves such pictures alone.
        scan: the same as in `RandomFlip`.
    """

    source: str | tuple[str, ...] = "image"
    eye: str = "eye"
    unknown: str = "refuse"
    scan: str | None = None

    def __post_init__(self) -> None:
        check_sources("canonical_laterality", self.source)
        if self.unknown not in ("refuse", "keep"):
            raise InputError(
                f"canonical_laterality: 'unknown' is refuse or keep, got '{self.unknown}'."
            )

    def map(self, record: Record) -> Record:
        """Returns the record as that of a right eye."""
        eye = field(record, self.eye)
        if not eye and self.unknown == "refuse":
            raise InputError(
                f"Field '{self.eye}' does not say which eye it is; select the records by 'where', "
                "or set canonical_laterality's 'unknown' to 'keep'."
            )
        arrays = {name: decoded(record, name, _ANY) for name in names(self.source)}
        if both := [name for name, array in arrays.items() if is_eyes(array)]:
            raise InputError(f"canonical_laterality: {both} is both eyes; name fields of one eye.")
        if not self._mirrors(record):
            return record
        mirrored = {name: _mirror(record, array, self.scan) for name, array in arrays.items()}
        return {**record, **mirrored, self.eye: "OD"}

    def placed(self, record: Record) -> placement.Placement:
        """Where the photograph of a record goes, the first of its fields."""
        image = decoded(record, names(self.source)[0])
        return placement.mirror(image, self._mirrors(record))

    def _mirrors(self, record: Record) -> bool:
        eye = field(record, self.eye)
        return bool(eye) and _other_side(eye) == "OD"

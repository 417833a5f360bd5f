"""Bytes to pixels: photographs, both eyes of a patient, and the colours and noise of pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
from grain.transforms import Map, RandomMap

from data_pipelines.errors import InputError
from data_pipelines.images import decoding, functional, placement, preparation, released
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
    is_volume,
    names,
    sometimes,
)

FITS = ("canvas", "squash", "crop")  # into a square
FIELDS = {"steepest": preparation.field_of_view, "li": released.li_field}


def check_fit(owner: str, fit: str, size: int, fits: tuple[str, ...] = FITS) -> None:
    """Raises `InputError` for an unknown way to fit a picture, or for no pixels."""
    if fit not in fits or size < 1:
        raise InputError(
            f"{owner}: 'fit' is {', '.join(fits[:-1])} or {fits[-1]} and 'size' at least 1 pixel, "
            f"got '{fit}' and {size}."
        )


def _read(
    owner: str,
    record: Record,
    source: str,
    size: int,
    fit: str,
    short_side: int | None = None,
    antialias: bool = True,
) -> np.ndarray:
    data = field(record, source)
    if not isinstance(data, bytes):
        raise InputError(
            f"{owner}: field '{source}' must hold the bytes of a picture file, "
            f"got {type(data).__name__}."
        )
    if not antialias:  # a scaled decoding would be one
        return functional.fitted(
            functional.decode_image(data), size, fit, resizing=released.bilinear
        )
    image = functional.decode_image(data, _enough(data, short_side or size, fit))
    return functional.fitted(image, size, fit, short_side)


def _enough(data: bytes, size: int, fit: str) -> tuple[int, int]:
    """Twice the wanted size: half of the gain of scaled decoding, nearly all the quality."""
    double = 2 * size
    if fit != "canvas":
        return double, double
    height, width = decoding.size(data)
    return (double, 0) if height >= width else (0, double)


@dataclasses.dataclass(frozen=True)
class Decode(Map):
    """Decodes an encoded picture to uint8 [size size 3], or by 'short' [at least size each, 3].

    Attributes:
        size: side in pixels.
        source, target: fields of the bytes and of the picture.
        fit: 'canvas' keeps proportions and pads right or below (FLAIR), 'squash' stretches,
            'crop' scales the short side and cuts the middle, 'short' scales the short side and
            cuts nothing: a random crop has to make pictures of one size.
        short_side: pixels to which 'crop' scales the short side, so that some of it is cut as
            well: 256 for 224 in torchvision, MAE and RETFound. None for `size`.
        antialias: whether pictures are filtered before they shrink. Without, 'canvas' and 'squash'
            are as in FLAIR with the image library of its time; see `released.bilinear`.
    """

    size: int
    source: str = "image"
    target: str = "image"
    fit: str = "canvas"
    short_side: int | None = None
    antialias: bool = True

    def __post_init__(self) -> None:
        check_fit("decode", self.fit, self.size, (*FITS, "short"))
        if self.short_side is not None and (self.fit != "crop" or self.short_side < self.size):
            raise InputError(
                f"decode: 'short_side' is for the fit 'crop' and at least 'size', {self.size}, "
                f"got {self.short_side} with '{self.fit}'."
            )
        if not self.antialias and self.fit not in FITS[:2]:
            raise InputError(
                f"decode: '{self.fit}' is antialiased; only canvas and squash can do without."
            )

    def map(self, record: Record) -> Record:
        """Returns the record with `target`."""
        image = _read(
            "decode", record, self.source, self.size, self.fit, self.short_side, self.antialias
        )
        return {**record, self.target: image}

    def placed(self, record: Record) -> placement.Placement:
        """Where the picture of a record lies on the canvas."""
        image = functional.decode_image(field(record, self.source))
        return placement.fitted(image, self.size, self.fit, self.short_side)


@dataclasses.dataclass(frozen=True)
class Eyes(Map):
    """Decodes both photographs of a patient to uint8 [2 size size 3], the left eye first.

    An eye whose bytes are empty is black and False in the mask; a patient with neither is an error.

    Attributes:
        size: side in pixels.
        left, right: fields of the bytes, b'' where there is no photograph.
        target, mask: fields of the pictures and of bool [2].
        fit: the same as in `Decode`; RET-CLIP stretches ('squash').
    """

    size: int
    left: str = "left_image"
    right: str = "right_image"
    target: str = "eyes"
    mask: str = "eye_mask"
    fit: str = "canvas"

    def __post_init__(self) -> None:
        check_fit("eyes", self.fit, self.size)

    def map(self, record: Record) -> Record:
        """Returns the record with `target` and `mask`."""
        sides = [field(record, name) for name in (self.left, self.right)]
        present = np.array([not isinstance(data, bytes) or len(data) > 0 for data in sides])
        if not present.any():
            raise InputError(
                f"eyes: both '{self.left}' and '{self.right}' are empty; leave out patients "
                "without any photograph."
            )
        eyes = np.zeros((2, self.size, self.size, 3), np.uint8)
        for slot, name in enumerate((self.left, self.right)):
            if present[slot]:
                eyes[slot] = _read("eyes", record, name, self.size, self.fit)
        return {**record, self.target: eyes, self.mask: present}


@dataclasses.dataclass(frozen=True)
class CasePictures(Map):
    """Decodes the pictures of a case to uint8 [count size size 3].

    Of more pictures than `count` evenly spaced ones are kept. Where there are fewer, free places
    repeat the first: a model's batch statistics should see no black pictures.

    Attributes:
        count: pictures of each record, at least 1.
        size: side in pixels.
        source: field of the list of encoded pictures.
        target, mask: fields of the pictures and of bool [count], True where one is not a repeat.
        fit: the same as in `Decode`.
    """

    count: int
    size: int
    source: str = "images"
    target: str = "images"
    mask: str = "images_mask"
    fit: str = "canvas"

    def __post_init__(self) -> None:
        check_fit("case_pictures", self.fit, self.size)
        if self.count < 1:
            raise InputError(f"case_pictures: 'count' is at least 1, got {self.count}.")

    def map(self, record: Record) -> Record:
        """Returns the record with `target` and `mask`."""
        stored = list(field(record, self.source))
        if not stored:
            raise InputError(f"case_pictures: field '{self.source}' is empty; leave out the case.")
        kept = min(len(stored), self.count)
        places = np.rint(np.linspace(0, len(stored) - 1, kept)).astype(int)
        pictures = [
            _read("case_pictures", {self.source: stored[i]}, self.source, self.size, self.fit)
            for i in places
        ]
        pictures += [pictures[0]] * (self.count - kept)
        present = np.arange(self.count) < kept
        return {**record, self.target: np.stack(pictures), self.mask: present}


@dataclasses.dataclass(frozen=True)
class ForegroundCrop(Map):
    """Cuts a photograph, or each of two eyes, to its field of view, and fits it to a new size.

    For photographs that were not prepared: decode at about twice the size, so that what is cut out
    is not enlarged. Each picture has its own box, so pairs that lie pixel on pixel come apart.

    Attributes:
        size: side of the result in pixels.
        source: field of the decoded picture or of both eyes.
        fit: the same as in `Decode`.
        border: 'steepest', the contour with the steepest change of brightness, or 'li', the largest
            part that is redder than Li's threshold, as FLAIR's `crop_foreground`.
    """

    size: int
    source: str = "image"
    fit: str = "canvas"
    border: str = "steepest"

    def __post_init__(self) -> None:
        check_fit("foreground_crop", self.fit, self.size)
        if self.border not in FIELDS:
            raise InputError(
                f"foreground_crop: 'border' is one of {', '.join(FIELDS)}, got '{self.border}'."
            )

    def map(self, record: Record) -> Record:
        """Returns the record with the field cut."""
        array = decoded(record, self.source)
        if is_volume(array):
            raise InputError("foreground_crop: an OCT volume has no field of view.")
        return {**record, self.source: each(array, self._cut)}

    def placed(self, record: Record) -> placement.Placement:
        """Where the picture of a record lies on its new canvas."""
        image = decoded(record, self.source)
        return placement.fitted(image, self.size, self.fit, box=FIELDS[self.border](image))

    def _cut(self, image: np.ndarray) -> np.ndarray:
        return functional.fitted(image, self.size, self.fit, box=FIELDS[self.border](image))


@dataclasses.dataclass(frozen=True)
class ColorJitter(RandomMap):
    """Changes brightness, contrast and saturation, in random order, with a probability.

    The mean grey that contrast keeps is that of a picture or of a whole volume, which has no
    colours and so no saturation. RET-CLIP: probability 1, all three 0.2, `share` False.

    Attributes:
        probability: the probability of changing the picture at all.
        brightness, contrast, saturation: a factor is drawn from 1 - x .. 1 + x; 0 leaves it out.
        source: a decoded field or several.
        share: one draw for all fields and both eyes.
    """

    probability: float = 0.25
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.0
    source: str | tuple[str, ...] = "image"
    share: bool = True

    def __post_init__(self) -> None:
        check_probability(self.probability)
        check_sources("color_jitter", self.source)
        for name in functional.ENHANCERS:
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"color_jitter: '{name}' must lie in 0..1, got {getattr(self, name)}."
                )

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, the colours of its pictures changed or not."""

        def draw(_: np.ndarray) -> Change:
            ranges = {name: getattr(self, name) for name in functional.ENHANCERS}
            used = [name for name, reach in ranges.items() if reach]
            order = [used[i] for i in rng.permutation(len(used))]
            factors = {name: rng.uniform(1 - ranges[name], 1 + ranges[name]) for name in order}
            return lambda part: _jittered(part, factors)

        return augment(record, self.source, self.share, sometimes(self.probability, rng, draw))


def _jittered(part: np.ndarray, factors: dict[str, float]) -> np.ndarray:
    if not is_volume(part):
        return functional.colour_jitter(part, factors)
    # The B-scans below each other are one grey picture: one mean for all of them.
    tall = part.reshape(-1, part.shape[2])
    return functional.colour_jitter(tall, factors).reshape(part.shape)


@dataclasses.dataclass(frozen=True)
class GaussianNoise(RandomMap):
    """Adds independent normal noise to every value with a probability.

    Attributes:
        probability: the probability of adding any.
        strength: least and greatest standard deviation, as a share of the range 0..255.
        source: a decoded field or several, which share the strength and not the noise.
    """

    probability: float = 0.5
    strength: tuple[float, float] = (0.0, 0.05)
    source: str | tuple[str, ...] = "oct"

    def __post_init__(self) -> None:
        check_probability(self.probability)
        check_range("gaussian_noise", "strength", self.strength, 0, 1)
        check_sources("gaussian_noise", self.source)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, its fields noisy or not."""
        if rng.random() >= self.probability:
            return record
        deviation = 255 * rng.uniform(*self.strength)
        noisy = {
            name: functional.add_noise(decoded(record, name), deviation, rng)
            for name in names(self.source)
        }
        return {**record, **noisy}


@dataclasses.dataclass(frozen=True)
class RandomErasing(RandomMap):
    """Fills one random box of each picture with a colour (Zhong et al. 2020), by timm's rule.

    Up to 10 boxes are tried until one is smaller than the picture. Every picture, and each of two
    eyes, has its own draw. timm erases normalised pixels with 0, which is the mean colour.

    Attributes:
        probability: the probability of erasing a picture; RET-CLIP: 0.1.
        area: least and greatest share of the picture's area.
        ratio: least and greatest height / width, drawn on a log scale.
        colour: red, green and blue of the box; the default is the mean that CLIP subtracts.
        source: a field of decoded photographs or several.
    """

    probability: float = 0.1
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    colour: tuple[int, int, int] = (123, 117, 104)
    source: str | tuple[str, ...] = "image"

    def __post_init__(self) -> None:
        check_probability(self.probability)
        check_range("random_erasing", "area", self.area, 1e-6, 1)
        check_range("random_erasing", "ratio", self.ratio, 0.01, 100)
        check_sources("random_erasing", self.source)
        if len(self.colour) != 3 or not all(0 <= value <= 255 for value in self.colour):
            raise InputError(
                f"random_erasing: 'colour' is three values in 0..255, got {self.colour}."
            )

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, a box of its pictures erased or not."""

        def draw(part: np.ndarray) -> Change:
            if is_volume(part):
                raise InputError("random_erasing: OCT volumes are grey; name photographs.")
            if rng.random() >= self.probability:
                return lambda picture: picture
            height, width = part.shape[:2]
            box = functional.erase_box(height, width, rng, area=self.area, ratio=self.ratio)
            return lambda picture: functional.fill(picture, box, self.colour)

        return augment(record, self.source, False, draw)

"""From a photograph as it came to the picture that is stored: field of view, square, one resize.

Everything here is a pure function of bytes and arrays. Pictures are uint8 [H W 3] in RGB.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import numpy as np
from PIL import Image
from scipy import fft, ndimage

from data_pipelines.errors import InputError
from data_pipelines.images import functional
from data_pipelines.images.placement import Box, Placement
from data_pipelines.records import storage

CROPS, PADS, FORMATS = ("field_of_view", "none"), ("square", "none"), ("jpeg", "png")
FILE = "preparation.json"
# Modalities of B-scans, which have no field of view.
BSCANS = ("oct", "octa")
# Raised whenever the same parameters would make other pixels.
VERSION = 1

_REDUCED = 256
# Below this brightness, differences are noise of the border.
_DARK = 8.0
_LEAST_CONTRAST = 0.4


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How photographs become stored pictures; it travels with the data set.

    Attributes:
        size: the long side in pixels. Smaller pictures are not enlarged: training resizes anyway,
            and what is resized twice is blurred twice.
        crop: 'field_of_view' cuts the dark border of a photograph away; 'none' keeps all, for OCT.
        pad: 'square' adds black rows or columns on both sides; 'none' keeps the proportions.
        format: 'jpeg' without colour subsampling, or 'png', which keeps every pixel.
        quality: the quality of JPEG, 1..100.
        version: the version of the rules in this module.
    """

    size: int = 512
    crop: str = "field_of_view"
    pad: str = "square"
    format: str = "jpeg"
    quality: int = 95
    version: int = VERSION

    def __post_init__(self) -> None:
        for name, known in (("crop", CROPS), ("pad", PADS), ("format", FORMATS)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} of a preparation is one of {', '.join(known)}, not "
                    f"'{getattr(self, name)}'."
                )
        if self.size < 1 or not 1 <= self.quality <= 100:
            raise InputError(
                f"A preparation needs a size of 1 pixel or more and a quality of 1..100, got "
                f"{self.size} and {self.quality}."
            )
        if self.version != VERSION:
            raise InputError(
                f"This library prepares by version {VERSION} of its rules, not {self.version}."
            )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared picture.

    Attributes:
        data: its encoded bytes.
        box: what was kept of the original, upright as its EXIF orientation says.
        size_before: (height, width) of the upright original.
    """

    data: bytes
    box: Box
    size_before: tuple[int, int]


def photograph(data: bytes, preparation: Preparation) -> Prepared:
    """Prepares one encoded picture; the same bytes and libraries give the same bytes.

    Args:
        data: a picture in any format of `functional.decode_image`. Its EXIF orientation is
            applied, its EXIF is not copied.
        preparation: what to do.

    Raises:
        InputError: not a readable picture.
    """
    image = functional.decode_image(data)
    where = placed(image, preparation)
    image = functional.place(image, where)
    if preparation.format == "png":
        data = functional.encode_image(image)
    else:
        data = functional.encode_image(image, "JPEG", quality=preparation.quality, subsampling=0)
    return Prepared(data, where.box, where.before)


def placed(image: np.ndarray, preparation: Preparation) -> Placement:
    """Where a preparation puts uint8 [H W 3]."""
    before = (image.shape[0], image.shape[1])
    box = field_of_view(image) if preparation.crop == "field_of_view" else Box(0, 0, *before)
    tall, wide = sides = (box.height, box.width)
    if max(sides) > preparation.size:
        tall, wide = (max(round(side * preparation.size / max(sides)), 1) for side in sides)
    if preparation.pad != "square":
        return Placement(before, box, (tall, wide), (0, 0), (tall, wide))
    side = max(tall, wide)  # an odd pixel goes right or below
    corner = ((side - tall) // 2, (side - wide) // 2)
    return Placement(before, box, (tall, wide), corner, (side, side))


def field_of_view(image: np.ndarray) -> Box:
    """Returns the box of the illuminated field of a photograph, or the whole where none is seen.

    The field is the largest connected part whose red is above a threshold, as in FLAIR's
    `crop_foreground`; the threshold is not Li's, which cuts off fields that are bright on one
    side, but that whose contour is steepest: the border of the field is where brightness changes
    by the largest factor within a few pixels, in dim fields and beside glowing borders alike.

    Args:
        image: uint8 [H W 3]: colour photograph or angiogram. The box is exact to 1/256 of the
            long side.
    """
    return field_and_mask(image)[0]


def field_and_mask(image: np.ndarray) -> tuple[Box, np.ndarray | None]:
    """Returns the box of `field_of_view`, and which parts of it are the field.

    Returns:
        The box, and bool [h w] of that box, each sample some pixels wide; None for the latter
        where no field is seen.
    """
    height, width = image.shape[:2]
    factor = -(-max(height, width) // _REDUCED)
    red = np.asarray(Image.fromarray(np.ascontiguousarray(image[..., 0])).reduce(factor))
    threshold = _steepest(red)
    whole = Box(0, 0, height, width)
    if threshold is None:
        return whole, None
    found: Any = ndimage.label(red > threshold)  # SciPy has no types
    parts: np.ndarray = found[0]
    largest = 1 + int(np.bincount(parts.ravel())[1:].argmax())
    rows, columns = ndimage.find_objects(parts)[largest - 1]
    top, left = rows.start * factor, columns.start * factor
    box = Box(
        top, left, min(rows.stop * factor, height) - top, min(columns.stop * factor, width) - left
    )
    mask = parts[rows, columns] == largest
    # A disc fills 0.78 of its box, the tree of vessels of a borderless angiogram at most a third.
    filled = mask.mean() >= 0.5
    seen = filled and box.height * 3 >= height and box.width * 3 >= width
    return (box, mask) if seen else (whole, None)


def _steepest(red: np.ndarray) -> int | None:
    """Returns the lowest threshold whose contour is nearly the steepest, or None if all are flat.

    For each threshold, the steepness is the mean ratio of brightness, as a logarithm, over all
    pairs of pixels two apart of which one is above it and one is not.
    """
    logarithm = np.log(np.arange(256) + _DARK)
    total, number = np.zeros(257), np.zeros(257)
    for one, other in ((red[2:], red[:-2]), (red[:, 2:], red[:, :-2])):
        low, high = np.minimum(one, other).ravel(), np.maximum(one, other).ravel()
        differ = high > low
        low, high = low[differ].astype(np.intp), high[differ].astype(np.intp)
        ratio = logarithm[high] - logarithm[low]
        # A pair counts for the thresholds low .. high - 1: it opens at low and closes at high.
        total += np.bincount(low, ratio, 257) - np.bincount(high, ratio, 257)
        number += np.bincount(low, minlength=257) - np.bincount(high, minlength=257)
    total, number = np.cumsum(total)[:256], np.cumsum(number)[:256]
    # The contour of a disc has eight such pairs per pixel of its diameter; a quarter will do.
    long_enough = number >= 2 * min(red.shape)
    steepness = np.where(long_enough, total / np.maximum(number, 1), 0)
    if steepness.max() < _LEAST_CONTRAST:
        return None
    return int(np.argmax(steepness >= 0.8 * steepness.max()))


def digest(data: bytes) -> str:
    """Returns the content hash of a file's bytes: 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def perceptual(image: np.ndarray, crop: str = "field_of_view") -> str:
    """Returns a hash that stays nearly the same when a picture is encoded or resized again.

    Args:
        image: uint8 [H W 3].
        crop: 'field_of_view' for photographs and angiograms, 'none' for OCT, of which only
            padding is cut off.

    Returns:
        426 bits as 108 hexadecimal digits, of which `data_pipelines.overlap` counts those that
        differ; '' for a picture without any detail, which could be any other.
    """
    box = field_of_view(image) if crop == "field_of_view" else _without_padding(image)
    image = box.cut(image)
    green = Image.fromarray(np.ascontiguousarray(image[..., 1]))
    grey = np.asarray(green.resize((64, 64), Image.Resampling.BILINEAR), np.float64)
    # Photographs of all eyes have the same disc and shading: vessels and lesions tell them apart.
    detail = grey - ndimage.gaussian_filter(grey, 4)
    if np.abs(detail).max() < 0.5:
        return ""
    detail /= np.sqrt(ndimage.gaussian_filter(detail**2, 4)) + 4
    radius = np.hypot(*(np.mgrid[:64, :64] - 31.5)) / 32
    frequency = np.hypot(*np.mgrid[:64, :64])
    spectrum = fft.dctn(detail * np.clip((1 - radius) / 0.25, 0, 1), norm="ortho")
    return np.packbits(spectrum[(frequency >= 3) & (frequency < 23)] > 0).tobytes().hex()


def _without_padding(image: np.ndarray) -> Box:
    """Returns the box without the black rows and columns around a picture, as padding leaves."""
    lit = image.max(axis=2) > _DARK
    rows, columns = (np.flatnonzero(lit.any(axis)) for axis in (1, 0))
    if not len(rows):
        return Box(0, 0, *image.shape[:2])
    top, left = int(rows[0]), int(columns[0])
    return Box(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left)


def parameters(preparation: Preparation) -> dict[str, Any]:
    """Returns what `preparation.json` holds: the options, and the libraries behind the bytes."""
    libraries = {}
    for name in ("pillow", "simplejpeg", "cykooz.resizer"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # the last is not everywhere
            libraries[name] = metadata.version(name)
    return {**dataclasses.asdict(preparation), "libraries": libraries}


def stored(
    root: pathlib.Path, names: Iterable[str], now: Preparation | None
) -> tuple[dict[str, Any] | None, str]:
    """Returns the `parameters` of how pictures came from photographs, or None; and a remark or ''.

    What `data_pipelines.prepare` wrote as files says how, in the corpus or in each of its folders.

    Args:
        root: the corpus.
        names: those of the pictures, inside the root; read only where they matter.
        now: what is done to these pictures, perhaps after an earlier preparation.
    """
    made = None if now is None else parameters(now)
    files = [root / FILE] if (root / FILE).is_file() else sorted(root.glob(f"*/{FILE}"))
    used = {name.split("/")[0] for name in names} if files and files[0].parent != root else set()
    before = {file.parent.name: _read(file) for file in files
              if file.parent == root or file.parent.name in used}  # fmt: skip
    if not before:
        return made, ""
    first, *others = before.values()
    if used - set(before) or any(other != first for other in others):
        return made, (
            f"the pictures in {', '.join(sorted(before))} were prepared before, others not or in "
            "another way: a model of them all takes photographs as they come; prepare all alike"
        )
    if now is None:
        return first, ""
    if now.crop == now.pad == "none":  # what was cut and added before stays
        kept = {name: first[name] for name in ("crop", "pad")}
        return {**parameters(now), **kept, "size": min(now.size, first["size"])}, ""
    return made, ""


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        return {name: (found := json.loads(file.read_text(encoding="utf-8")))[name]
                for name in ("crop", "pad", "size")} | found  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{file} says no preparation: put back what was written.") from None


def difference(now: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> str:
    """Returns in words what of two `parameters` differs, '' if nothing; None: as they came."""
    if not now or not before:
        states = ["prepared" if one else "not prepared" for one in (now, before)]
        return "" if states[0] == states[1] else f"{states[0]} instead of {states[1]}"
    names = [name for name in {**now, **before} if now.get(name) != before.get(name)]
    return ", ".join(f"{name} {now.get(name)} instead of {before.get(name)}" for name in names)


def unlike(
    evaluated: Mapping[str, Mapping[str, Any] | None],
    trained: Mapping[str, Mapping[str, Any] | None],
) -> str:
    """Returns in words which data sets were prepared like none that was trained on, '' if none.

    Args:
        evaluated, trained: address -> `parameters` or None; versions of libraries do not count.
    """
    known = [options(parameters) for parameters in trained.values()]
    parts = [
        f"{name}: {difference(options(parameters), known[0])}"
        for name, parameters in evaluated.items()
        if known and options(parameters) not in known
    ]
    return "; ".join(parts)


def options(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options among `parameters`, without the versions of libraries; {} of None."""
    return {name: value for name, value in (parameters or {}).items() if name != "libraries"}


def of_dataset(
    dataset: str, data_dir: str | os.PathLike[str] | None = None
) -> dict[str, Any] | None:
    """Returns the `parameters` that a built data set was prepared with, or None if it was not."""
    folder = storage.find(dataset, data_dir)
    if folder is None or not (folder / FILE).is_file():
        return None
    return json.loads((folder / FILE).read_text(encoding="utf-8"))

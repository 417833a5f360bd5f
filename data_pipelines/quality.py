"""Whether a picture can be judged at all: figures of its pixels, and limits of them.

Rules without weights, that are not validated on anybody's camera. The figures of a photograph are
those of its field of view at 256 pixels, of a B-scan those of all of it; none takes more than a few
milliseconds. A picture is 'ok', 'check' or 'ungradable', with the codes of the reasons.
Figures are in greys 0..255 where nothing else is said.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageChops
from scipy import ndimage

from data_pipelines.images import decoding, functional, preparation

OK, CHECK, UNGRADABLE = "ok", "check", "ungradable"
STATES = (OK, CHECK, UNGRADABLE)
SIDE = 256
# Nothing at all is in such a picture: no option asks a model about it.
BLANK = "blank"
# Decoding further down would blur what sharpness is measured of.
_DECODED = (2 * SIDE, 2 * SIDE)
_BORDER = 12  # pixels of the field that are left out at its border, at 256
_BLOCKS, _WHOLE_BLOCK = 8, 0.9
_BAND = 3.0  # median absolute deviations
_FLAT = 3  # greys from the darkest to the brightest pixel of what is blank

# Figure -> (at least, at most) of a picture that can be judged -> the code otherwise.
_HARD: Mapping[str, tuple[float, float, str]] = {
    "fov_found": (1, math.inf, "no_field"),
    "fov_share": (0.35, math.inf, "small_field"),
    "size_px": (128, math.inf, "few_pixels"),
    "brightness": (15, 240, "brightness"),
    "saturated": (0, 0.5, "saturated"),
    "dark": (0, 0.6, "dark"),
    "contrast": (0.04, math.inf, "low_contrast"),
    "band_found": (1, math.inf, "no_band"),
}
_FEWER_PIXELS = 300
# What is true or false, or depends on how training pictures were stored, has no usual range.
_NOT_USUAL = frozenset(("fov_found", "band_found", "size_px"))


@dataclasses.dataclass(frozen=True)
class Quality:
    """What was found of a picture.

    Attributes:
        state: one of `STATES`.
        reasons: the codes of what keeps it from being 'ok'.
        figures: name -> number; a figure that is not defined is NaN.
    """

    state: str
    reasons: tuple[str, ...] = ()
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)


def of_bytes(
    data: bytes,
    modality: str = "cfp",
    limits: Mapping[str, Sequence[float]] | None = None,
    prepared: int | None = None,
) -> Quality:
    """Judges an encoded picture; for the rest see `judge`.

    Raises:
        InputError: not a readable picture.
    """
    image = functional.decode_image(data, _DECODED)
    scale = max(decoding.size(data)) / max(image.shape[:2])
    return judge(image, modality, limits, scale, prepared)


def judge(
    image: np.ndarray,
    modality: str = "cfp",
    limits: Mapping[str, Sequence[float]] | None = None,
    scale: float = 1.0,
    prepared: int | None = None,
) -> Quality:
    """Judges a picture.

    Args:
        image: uint8 [H W 3], upright.
        modality: 'cfp'; 'oct' or 'octa' for B-scans; others are photographs that need neither
            colours nor a border.
        limits: the usual range of figures, as `limits` makes it; what lies outside is a 'check'.
        scale: pixels of the file for one of `image`.
        prepared: the size that larger pictures were prepared to; of one that has it nobody knows
            from how many pixels it was made, so that these are not judged. None for a file as it
            came.
    """
    if int(image.max()) - int(image.min()) <= _FLAT:
        return Quality(UNGRADABLE, (BLANK,))
    if modality in preparation.BSCANS:
        figures = bscan(image)
    else:
        figures = photograph(image, scale)
        if prepared is not None and max(image.shape[:2]) * scale >= prepared:
            del figures["size_px"]
    hard = [
        code
        for name, (least, most, code) in _HARD.items()
        if name in figures and not least <= figures[name] <= most
        if modality == "cfp" or not name.startswith("fov_")
    ]
    soft = []
    if _HARD["size_px"][0] <= figures.get("size_px", math.inf) < _FEWER_PIXELS:
        soft.append("few_pixels")
    # A picture of one grey level has medians that are equal.
    if modality == "cfp" and max(figures["red_blue"], figures["red_green"]) <= 0:
        soft.append("not_colour_fundus")
    soft += unusual(figures, limits or {})
    state = UNGRADABLE if hard else CHECK if soft else OK
    return Quality(state, (*hard, *soft), figures)


def unusual(figures: Mapping[str, float], limits: Mapping[str, Sequence[float]]) -> list[str]:
    """The codes of figures outside their usual range."""
    found = []
    for name, (low, high) in limits.items():
        value = figures.get(name, math.nan)
        if value < low or value > high:
            found.append(f"{'low' if value < low else 'high'}_{name}")
    return found


def limits(figures: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """The 1st and 99th percentile of the figures of training pictures, for `judge`."""
    names = {name for found in figures for name in found} - _NOT_USUAL
    usual = {}
    for name in sorted(names):
        values = np.array([found[name] for found in figures if name in found], np.float64)
        values = values[np.isfinite(values)]
        if len(values):
            low, high = np.percentile(values, (1, 99))
            usual[name] = (float(low), float(high))
    return usual


def photograph(image: np.ndarray, scale: float = 1.0) -> dict[str, float]:
    """The figures of a photograph, uint8 [H W 3]; `scale` as in `judge`.

    `fov_found` (1 or 0) and `fov_share` tell of the field of view, as a share of the disc that fits
    its box; `size_px` is the short side of that box in the file. The others are of the field
    without its border: `brightness`, the median of green; `saturated` and `dark`, shares of pixels
    with a channel of 250 or more and with green below 8; `contrast`, from the 5th to the 95th
    percentile of green, 1 for all greys; `sharpness`; `evenness`; `red_blue` and `red_green`,
    differences of medians.
    """
    box, seen = _field(image)
    cut = box.cut(image)
    factor = SIDE / max(box.height, box.width)
    shape = [max(round(side * factor), 1) for side in (box.height, box.width)]
    small = functional.resize(np.ascontiguousarray(cut), *shape, method="bilinear")
    field = np.ones(shape, bool) if seen is None else _stretched(seen, shape)
    inside = _stretched(inner(field if seen is None else seen), shape)
    inside = inside if inside.any() else field
    picture, mask = Image.fromarray(small), Image.fromarray(inside.astype(np.uint8))
    counts = np.reshape(picture.histogram(mask), (3, 256))
    one, other, third = picture.split()
    brightest = ImageChops.lighter(ImageChops.lighter(one, other), third).histogram(mask)
    (red,), (low, brightness, high), (blue,) = map(
        _percentiles, counts, ((50,), (5, 50, 95), (50,))
    )
    green = np.asarray(other)
    return {
        "fov_found": float(seen is not None),
        "fov_share": float(field.sum() / (math.pi / 4 * SIDE**2)),
        "size_px": min(box.height, box.width) * scale,
        "brightness": brightness,
        "saturated": sum(brightest[250:]) / sum(brightest),
        "dark": float(counts[1, :8].sum() / counts[1].sum()),
        "contrast": (high - low) / 255,
        "sharpness": sharpness(green, inside),
        "evenness": evenness(green, field),
        "red_blue": red - blue,
        "red_green": red - brightness,
    }


def bscan(image: np.ndarray) -> dict[str, float]:
    """The figures of a B-scan, uint8 [H W 3].

    `contrast` and `saturated` are as in `photograph`; `band_found` is 1 where the profile of the
    rows, smoothed, rises at least 3 median absolute deviations above its median; `white_wedge` is
    the share of constant columns at the borders, with which some sets fill what turning left open.
    """
    grey = image[..., 1]
    low, high = _percentiles(np.bincount(grey.ravel(), minlength=256), (5, 95))
    profile = grey.mean(axis=1, dtype=np.float64)
    smooth = ndimage.uniform_filter1d(profile, max(len(profile) // 32, 1))
    middle = np.median(profile)
    rise, spread = smooth.max() - middle, np.median(np.abs(profile - middle))
    varied = np.flatnonzero(np.ptp(grey, axis=0) > _FLAT)
    width = grey.shape[1]
    constant = width if not len(varied) else width - (varied[-1] - varied[0] + 1)
    return {
        "contrast": (high - low) / 255,
        "saturated": float((grey >= 250).mean()),
        "band_found": float(rise > 0 and rise >= _BAND * spread),
        "white_wedge": float(constant / width),
    }


def _field(image: np.ndarray) -> tuple[preparation.Box, np.ndarray | None]:
    """As `preparation.field_and_mask`, for a quarter of the work: exact to 1/128 of the side."""
    height, width = image.shape[:2]
    factor = max(-(-max(height, width) // (SIDE // 2)), 1)
    # Red is all that is looked at.
    red = Image.fromarray(np.ascontiguousarray(image[..., 0])).reduce(factor)
    box, seen = preparation.field_and_mask(np.asarray(red)[..., None])
    top, left = box.top * factor, box.left * factor
    bottom, right = (box.top + box.height) * factor, (box.left + box.width) * factor
    return preparation.Box(top, left, min(bottom, height) - top, min(right, width) - left), seen


def _percentiles(counts: np.ndarray, at: Sequence[float]) -> list[float]:
    """The least of the values 0 .. 255, so often there, that so many per cent do not exceed."""
    below = np.cumsum(counts)
    return [float(np.searchsorted(below, share / 100 * below[-1])) for share in at]


def inner(field: np.ndarray) -> np.ndarray:
    """A field bool [H W] without its border, nor what is as near to the edge of the picture."""
    away: Any = ndimage.distance_transform_cdt(np.pad(field, 1), "taxicab")
    return away[1:-1, 1:-1] > _BORDER * max(field.shape) / SIDE


def sharpness(green: np.ndarray, inside: np.ndarray) -> float:
    """The variance of the Laplacian by that of green, uint8 or float [H W].

    Args:
        green: the channel.
        inside: what counts of it, bool [H W].
    """
    values = np.asarray(green, np.float32)
    variance = float(values[inside].var())
    padded = np.pad(values, 1, "edge")  # `ndimage.laplace`, which takes six times as long
    curved = (
        padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * values
    )
    return float(curved[inside].var()) / variance if variance else math.nan


def evenness(green: np.ndarray, field: np.ndarray) -> float:
    """The deviation by the mean of the means of 8 x 8 blocks, of those nearly all in the field."""
    height, width = green.shape
    rows, columns = _in_blocks(height), _in_blocks(width)
    size = np.outer(rows.sum(axis=1), columns.sum(axis=1))
    seen, total = (rows @ np.asarray(x, np.float32) @ columns.T for x in (field, green))
    means = (total.astype(np.float64) / size)[seen >= _WHOLE_BLOCK * size]
    return float(means.std() / means.mean()) if len(means) and means.mean() else math.nan


def _in_blocks(length: int) -> np.ndarray:
    """Which of `length` pixels are in which of the blocks, f32[blocks length], 0 or 1."""
    blocks = min(_BLOCKS, length)
    starts = np.arange(blocks + 1) * length // blocks
    place = np.arange(length)
    return ((starts[:-1, None] <= place) & (place < starts[1:, None])).astype(np.float32)


def _stretched(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A mask by its nearest samples in another shape."""
    rows, columns = (
        np.arange(wanted) * have // wanted for wanted, have in zip(shape, mask.shape, strict=True)
    )
    return mask[rows].take(columns, axis=1)

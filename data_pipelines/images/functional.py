"""Pure functions of arrays: resizing and augmenting pictures, and files decoded to 8 bits.

Pictures are uint8 [H W 3] in RGB throughout; what draws random numbers is handed its generator.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from data_pipelines.images import decoding, greys, placement

try:
    # What PIL computes, by vector instructions: a fifth of the time.
    import cykooz_resizer
except ImportError:  # there is no wheel for Linux on ARM
    cykooz_resizer = None

# Boxes drawn until one fits, as in torchvision and timm.
TRIES = 10
Box = tuple[int, int, int, int]  # top, left, height, width in pixels
Resizing = Callable[[np.ndarray, int, int], np.ndarray]  # as `resize` without its method
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
if cykooz_resizer is not None:
    _RGB = cykooz_resizer.PixelType.U8x3
    _RESIZING = {
        name: cykooz_resizer.ResizeOptions(cykooz_resizer.ResizeAlg.convolution(kind))
        for name, kind in (
            ("bicubic", cykooz_resizer.FilterType.catmull_rom),
            ("bilinear", cykooz_resizer.FilterType.bilinear),
        )
    }


def decode_image(data: bytes, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes an encoded picture to uint8 [H W 3].

    Args:
        data: the bytes of a JPEG, PNG, TIFF, BMP, WebP, GIF or PPM file. It becomes RGB of 8 bits:
            greys are repeated, more bits are scaled by the range that is used (`greys.used`), and
            transparency is dropped. It is turned as its EXIF orientation says.
        min_size: (height, width) of the stored picture that is enough, 0 for "any". A JPEG may
            then come back at 1/8 to 1/2 of its size, never smaller than this, up to twice as fast.

    Raises:
        InputError: not a picture, truncated, or more than `decoding.MAX_PIXELS` by its header.
    """
    image = decoding.pixels(data, min_size)
    if image.dtype == np.uint8:
        return image
    image = greys.eight_bits(image, greys.used(image))
    return image if image.ndim == 3 else np.dstack([image] * 3)


def encode_image(image: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    """Returns uint8 [H W 3] or [H W] as the bytes of a picture file; options are those of PIL."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form, **options)
    return stream.getvalue()


def resize(image: np.ndarray, height: int, width: int, method: str = "bicubic") -> np.ndarray:
    """Resizes uint8 [H W 3] to [height width 3] with an antialiasing filter.

    The filters are those of PIL, rounded elsewhere: 'bilinear', and 'bicubic' with a = -0.5.
    """
    if image.shape[:2] == (height, width):
        return image
    if cykooz_resizer is None:
        picture = Image.fromarray(image)
        return np.asarray(picture.resize((width, height), FILTERS[method]))
    before = cykooz_resizer.ImageData(image.shape[1], image.shape[0], _RGB, image.tobytes())
    after = cykooz_resizer.ImageData(width, height, _RGB)
    cykooz_resizer.Resizer().resize(before, after, _RESIZING[method])
    return np.frombuffer(after.get_buffer(), np.uint8).reshape(height, width, 3)


def canvas(image: np.ndarray, size: int) -> np.ndarray:
    """Fits uint8 [H W 3] into [size size 3] without changing its proportions (FLAIR, section 3).

    The long side becomes `size`, the short one is cut to an integer; the content lies top-left
    and the rest, right or below, is black. 400 x 320 at 512 fills 512 x 409.
    """
    return fitted(image, size, "canvas")


def fitted(
    image: np.ndarray,
    size: int,
    fit: str,
    short_side: int | None = None,
    box: placement.Box | None = None,
    resizing: Resizing | None = None,
) -> np.ndarray:
    """Fits uint8 [H W 3] as `placement.fitted` says; None resizes as is usual for the fit."""
    method = "bilinear" if fit == "canvas" else "bicubic"
    where = placement.fitted(image, size, fit, short_side, box)
    return place(image, where, resizing or functools.partial(resize, method=method))


def place(image: np.ndarray, where: placement.Placement, resizing: Resizing = resize) -> np.ndarray:
    """Returns the canvas of a placement with uint8 [H W 3] on it, black around it."""
    content = resizing(where.box.cut(image), *where.size)
    if (where.size, where.corner) != (where.canvas, (0, 0)):
        result = np.zeros((*where.canvas, 3), np.uint8)
        there, here = [], []
        for side, corner, canvas in zip(where.size, where.corner, where.canvas, strict=True):
            first, last = max(corner, 0), min(corner + side, canvas)
            there.append(slice(first, last))
            here.append(slice(first - corner, last - corner))
        result[tuple(there)] = content[tuple(here)]
        content = result
    return flip(content) if where.mirrored else content


def crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Draws the box of a random resized crop, by the rule of torchvision and timm.

    Args:
        height, width: the sides of the picture in pixels.
        rng: generator of this record.
        area: least and greatest share of the picture's area.
        ratio: least and greatest width / height of the box, drawn on a log scale.

    Returns:
        The first of `TRIES` drawn boxes that fits; else the largest one in the middle within
        `ratio`.
    """
    for _ in range(TRIES):
        pixels = rng.uniform(*area) * height * width
        aspect = math.exp(rng.uniform(*np.log(ratio)))
        tall, wide = round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))
        if 0 < tall <= height and 0 < wide <= width:
            top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
            return int(top), int(left), tall, wide
    tall = min(height, max(round(width / ratio[0]), 1))
    wide = min(width, max(round(height * ratio[1]), 1))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def erase_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> Box | None:
    """Draws the box that random erasing fills, by timm's rule (Zhong et al. 2020, algorithm 1).

    Args:
        height, width: the sides of the picture in pixels.
        rng: generator of this record.
        area: least and greatest share of the picture's area.
        ratio: least and greatest height / width of the box, drawn on a log scale.

    Returns:
        The first of `TRIES` drawn boxes that is smaller than the picture on both sides, or None.
    """
    for _ in range(TRIES):
        pixels = rng.uniform(*area) * height * width
        aspect = math.exp(rng.uniform(*np.log(ratio)))
        tall, wide = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if tall < height and wide < width:
            top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
            return int(top), int(left), tall, wide
    return None


def scale_box(box: Box, before: tuple[int, ...], after: tuple[int, ...]) -> Box:
    """Returns the box at the same place of a picture [... H W C], drawn for height and width."""
    height, width = after[-3:-1]
    top, left = round(box[0] * height / before[0]), round(box[1] * width / before[1])
    tall, wide = round(box[2] * height / before[0]), round(box[3] * width / before[1])
    tall, wide = max(tall, 1), max(wide, 1)
    return min(top, height - tall), min(left, width - wide), tall, wide


def fill(image: np.ndarray, box: Box | None, colour: tuple[int, int, int]) -> np.ndarray:
    """Returns uint8 [H W 3] with a box of one colour; None fills nothing."""
    if box is None:
        return image
    top, left, height, width = box
    result = image.copy()
    result[top : top + height, left : left + width] = colour
    return result


def add_noise(array: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Adds normal noise of a standard deviation in grey levels to uint8 [...], clipped."""
    noise = deviation * rng.standard_normal(array.shape, np.float32)
    return np.clip(np.rint(array + noise), 0, 255).astype(np.uint8)


def scaled(array: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiplies uint8 [...] by factors that broadcast to it, clipped."""
    return np.clip(np.rint(array * factors), 0, 255).astype(np.uint8)


def gamma(array: np.ndarray, power: float) -> np.ndarray:
    """Raises uint8 [...], as shares of 255, to a power."""
    return np.rint(255 * (np.arange(256) / 255) ** power).astype(np.uint8)[array]


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs uint8 [H W 3] or [H W 1] by PIL's Gaussian of a deviation in pixels."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(sigma))).reshape(image.shape)


def flip(image: np.ndarray) -> np.ndarray:
    """Mirrors [... H W C] of any dtype left to right."""
    result = np.empty(image.shape, image.dtype)
    # One colour at a time is several times as fast as copying pixels of three bytes.
    for colour in range(image.shape[-1]):
        result[..., colour] = image[..., ::-1, colour]
    return result


def affine(
    image: np.ndarray, degrees: float, scale: float, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Rotates counter-clockwise and scales uint8 [H W C] about its centre, black outside.

    Args:
        image: uint8 [H W 3] or [H W 1].
        degrees: the angle of rotation.
        scale: greater than 1 enlarges.
        shift: down and right afterwards, as shares of the height and the width.
    """
    height, width = image.shape[:2]
    cosine, sine = np.cos(np.deg2rad(degrees)) / scale, np.sin(np.deg2rad(degrees)) / scale
    # PIL wants the map from the result to the source, and counts from pixel corners, so that the
    # centre is at half of the width.
    x, y = width / 2, height / 2
    right, down = x + shift[1] * width, y + shift[0] * height
    across = (cosine, -sine, x - cosine * right + sine * down)
    matrix = (*across, sine, cosine, y - sine * right - cosine * down)
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).transform(
        (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=0
    )
    return np.asarray(picture).reshape(image.shape)


ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


def colour_jitter(image: np.ndarray, factors: dict[str, float]) -> np.ndarray:
    """Changes brightness, contrast and saturation of uint8 [H W 3], or of grey uint8 [H W].

    Args:
        image: uint8 [H W 3] or [H W].
        factors: {'brightness' | 'contrast' | 'saturation': factor}, 1 keeps; applied in the order
            of the dict. Each blends with black, the mean grey, or the picture's grey version.
    """
    picture = Image.fromarray(image)
    for name, factor in factors.items():
        picture = ENHANCERS[name](picture).enhance(factor)
    return np.asarray(picture)


def mask_patches(patches: int, visible: int, rng: np.random.Generator) -> np.ndarray:
    """Hides all but `visible` patches, chosen uniformly: bool [patches], True where hidden."""
    hidden = np.ones(patches, bool)
    hidden[rng.permutation(patches)[:visible]] = False
    return hidden

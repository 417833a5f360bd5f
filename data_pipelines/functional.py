"""Pure functions of arrays: decoding, resizing, augmenting pictures, and ids of texts.

Pictures are uint8 [H W 3] in RGB throughout; nothing here draws random numbers but
`mask_tokens`, which is handed its generator.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
import simplejpeg
from PIL import Image, ImageEnhance

from data_pipelines.errors import InputError

MAX_PIXELS = 200_000_000
# Formats that PIL reads in its own process; others (EPS, for one) start outside programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# PIL warns at 89 million pixels and refuses twice its limit; we refuse at our own, by the header.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


def decode_image(data: bytes, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes an encoded picture to uint8 [H W 3].

    Args:
        data: the bytes of a JPEG, PNG, TIFF, BMP, WebP, GIF or PPM file. Grey and 16-bit pictures
            become RGB of 8 bits; transparency is dropped.
        min_size: (height, width) that is enough, 0 for "any". A JPEG may then come back at 1/2,
            1/4 or 1/8 of its size, never smaller than this, several times faster.

    Raises:
        InputError: not a picture, truncated, or more than `MAX_PIXELS` by its header.
    """
    if data[:2] == b"\xff\xd8":
        decoded = _decode_jpeg(data, min_size or (0, 0), scaled=min_size is not None)
        if decoded is not None:
            return decoded
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _refuse_huge(picture.height, picture.width)
            if min_size is not None:
                picture.draft("RGB", (min_size[1] or 1, min_size[0] or 1))
            picture.load()
            return np.asarray(_eight_bits(picture).convert("RGB"))
    except InputError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(data, error) from error


def _decode_jpeg(data: bytes, min_size: tuple[int, int], scaled: bool) -> np.ndarray | None:
    """Decodes with libjpeg-turbo, or returns None where only PIL can tell what is wrong."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _refuse_huge(height, width)
        if colours == "CMYK":
            return None
        # The smallest scale is 1/8: a zero means that this side does not matter.
        sizes = {"min_height": min_size[0], "min_width": min_size[1]} if any(min_size) else {}
        return simplejpeg.decode_jpeg(data, "RGB", **(sizes if scaled else {}))
    except InputError:
        raise
    except ValueError:
        return None


def _refuse_huge(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise InputError(
            f"The picture claims {width} x {height} pixels, more than the {MAX_PIXELS:,} allowed: "
            "scale it down first, or it is damaged."
        )


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scales 16-bit grey values to 8 bits, where PIL's own conversion would clip them."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        values = np.asarray(picture, np.float64)
        top = 255.0 if values.max() <= 255 else 65535.0
        return Image.fromarray((np.clip(values / top, 0, 1) * 255).astype(np.uint8))
    return picture


def _unreadable(data: bytes, error: Exception) -> InputError:
    # PIL names the in-memory file it read from, which tells the user nothing.
    reason = str(error).split("<_io")[0].strip().rstrip(".") or type(error).__name__
    return InputError(
        f"The {len(data)} bytes are not a readable picture ({reason}): "
        "it is truncated, damaged or of another format."
    )


def image_size(data: bytes) -> tuple[int, int]:
    """Returns (height, width) from the header alone; the pixels may still be damaged."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return picture.height, picture.width
    except _UNREADABLE as error:
        raise _unreadable(data, error) from error


def resize(image: np.ndarray, height: int, width: int, method: str = "bicubic") -> np.ndarray:
    """Resizes uint8 [H W 3] to [height width 3] with an antialiasing filter."""
    if image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((width, height), FILTERS[method]))


def canvas(image: np.ndarray, size: int) -> np.ndarray:
    """Fits uint8 [H W 3] into [size size 3] without changing its proportions (FLAIR, section 3).

    The long side becomes `size`, the short one is cut to an integer; the content lies top-left
    and the rest, right or below, is black. 400 x 320 at 512 fills 512 x 409.
    """
    height, width = image.shape[:2]
    longest = max(height, width)
    # Integer division, not a float scale: the long side must come out as exactly `size`.
    content = resize(image, max(height * size // longest, 1), max(width * size // longest, 1),
                     "bilinear")
    if content.shape[:2] == (size, size):
        return content
    result = np.zeros((size, size, 3), np.uint8)
    result[: content.shape[0], : content.shape[1]] = content
    return result


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Scales the short side of uint8 [H W 3] to `size` and cuts the middle [size size 3]."""
    height, width = image.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    return resize(image[top : top + short, left : left + short], size, size)


def random_resized_crop(
    image: np.ndarray, size: int, area: float, ratio: float, top: float, left: float
) -> np.ndarray:
    """Cuts a box and resizes it to [size size 3].

    Args:
        image: uint8 [H W 3].
        size: side of the result in pixels.
        area: share of the picture's area, in (0, 1].
        ratio: width / height of the box; a box that would not fit is narrowed to the picture.
        top, left: place of the box in the room it leaves, 0..1.
    """
    height, width = image.shape[:2]
    pixels = area * height * width
    box_height = min(max(round((pixels / ratio) ** 0.5), 1), height)
    box_width = min(max(round((pixels * ratio) ** 0.5), 1), width)
    y, x = round(top * (height - box_height)), round(left * (width - box_width))
    return resize(image[y : y + box_height, x : x + box_width], size, size)


def flip(image: np.ndarray) -> np.ndarray:
    """Mirrors uint8 [... H W 3] left to right."""
    return np.ascontiguousarray(image[..., ::-1, :])


def affine(image: np.ndarray, degrees: float, scale: float) -> np.ndarray:
    """Rotates counter-clockwise and scales uint8 [H W 3] about its centre, black outside."""
    height, width = image.shape[:2]
    cosine, sine = np.cos(np.deg2rad(degrees)) / scale, np.sin(np.deg2rad(degrees)) / scale
    x, y = (width - 1) / 2, (height - 1) / 2
    # PIL wants the map from the result to the source, and counts from pixel corners (+0.5).
    x, y = x + 0.5, y + 0.5
    matrix = (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)
    picture = Image.fromarray(image).transform(
        (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=0
    )
    return np.asarray(picture)


ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


def colour_jitter(image: np.ndarray, factors: dict[str, float]) -> np.ndarray:
    """Changes brightness, contrast and saturation of uint8 [H W 3].

    Args:
        image: uint8 [H W 3].
        factors: {'brightness' | 'contrast' | 'saturation': factor}, 1 keeps; applied in the order
            of the dict. Each blends with black, the mean grey, or the picture's grey version.
    """
    picture = Image.fromarray(image)
    for name, factor in factors.items():
        picture = ENHANCERS[name](picture).enhance(factor)
    return np.asarray(picture)


def text_group(text: str) -> np.int32:
    """A stable id in [0, 2**31) of a class name or caption; case and outer blanks do not count."""
    digest = hashlib.blake2b(text.strip().lower().encode(), digest_size=4).digest()
    return np.int32(int.from_bytes(digest, "little") & 0x7FFFFFFF)


def mask_tokens(
    ids: np.ndarray,
    allowed: np.ndarray,
    rng: np.random.Generator,
    *,
    probability: float,
    mask_id: int,
    random_ids: tuple[int, int],
    starts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Corrupts a text for masked-language modelling (BERT, section 3.1: 80 / 10 / 10).

    Of the chosen positions 80 % become the mask, 10 % a random token and 10 % stay. The number of
    chosen units is `probability` of them rounded, and at least one, so no text is left without a
    target.

    Args:
        ids: int32 [L].
        allowed: bool [L], True where a token may be chosen (no padding, no special token).
        rng: generator of this record.
        probability: share of the units to choose, in (0, 1].
        mask_id: the id of the mask token.
        random_ids: [first, last) ids that a random replacement is drawn from.
        starts: bool [L], True where a word starts: whole words are chosen; None: single tokens.

    Returns:
        (corrupted int32 [L], chosen bool [L]).
    """
    words = np.cumsum(starts) if starts is not None else np.arange(len(ids))
    units = np.unique(words[allowed])
    if not len(units):
        return ids.copy(), np.zeros(len(ids), bool)
    number = max(1, int(np.floor(probability * len(units) + 0.5)))
    picked = rng.choice(units, size=number, replace=False)
    chosen = np.isin(words, picked) & allowed
    fate = rng.random(len(ids))
    noise = rng.integers(*random_ids, size=len(ids))
    corrupted = np.where(chosen & (fate < 0.8), mask_id, ids)
    corrupted = np.where(chosen & (fate >= 0.8) & (fate < 0.9), noise, corrupted)
    return corrupted.astype(np.int32), chosen

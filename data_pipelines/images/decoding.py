"""Picture files to arrays: upright, in RGB, and greys in all the bits that the file holds."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from data_pipelines.errors import InputError
from data_pipelines.images import greys

MAX_PIXELS = 200_000_000
# A volume may be larger than a picture: 977 B-scans of 1000 x 1024. Greater claims are refused.
MAX_VOXELS = 1_000_000_000
# Formats that PIL reads in its own process; others (EPS, for one) start outside programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
# Pixels of a byte: of black ones deflate holds 1,032 (of one bit each 8,256), JPEG 512, LZW 2,700.
_MOST_PIXELS, _MOST_BITS = 3_000, 10_000
_ORIENTATION, _PHOTOMETRIC, _MIN_IS_WHITE = 0x0112, 262, 0
# What libjpeg says of a stream of which it has to make up a part, which PIL then does silently.
_LOST = re.compile(r"Corrupt JPEG data|Premature end|Inconsistent progression")
# Said of many a whole picture, too; but no coded pixels are a row of zero bytes.
_SPARE = re.compile(r"extraneous bytes before marker")
_ZEROS = bytes(256)
# Tags of TIFF: where strips or tiles begin, and their bytes.
_STRIPS, _TILES = (273, 279), (324, 325)

# PIL warns at 89 million pixels and refuses twice its limit; we refuse at our own, by the header.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


def pixels(
    data: bytes, min_size: tuple[int, int] | None = None, formats: tuple[str, ...] = FORMATS
) -> np.ndarray:
    """Decodes a picture, turned as its orientation says.

    Args:
        data: the bytes of a picture file; of several pages the first one counts.
        min_size: the same as in `functional.decode_image`.
        formats: the formats of PIL that the picture may have.

    Returns:
        uint8 [H W 3]; of more than 8 bits the stored values, [H W] or [H W 3] of uint16, int32 or
        float32, which `greys` scales. Transparency is dropped; where white is 0 that is undone.

    Raises:
        InputError: not a picture, truncated, or more than `MAX_PIXELS` by its header.
    """
    if data[:2] == b"\xff\xd8" and "JPEG" in formats:
        decoded = _decode_jpeg(data, min_size or (0, 0))
        if decoded is not None:
            return decoded
    try:
        with Image.open(io.BytesIO(data), formats=formats) as picture:
            _refuse_huge(picture.height, picture.width, len(data), picture.mode)
            if min_size is not None:
                picture.draft("RGB", (min_size[1] or 1, min_size[0] or 1))
            if picture.format == "WEBP":
                _refuse_zeros(data)
            if picture.format == "TIFF":
                # Raises where the list of pages leads out of the file, which has then been cut.
                getattr(picture, "n_frames", 1)
            array = _loaded(picture, data)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 (PIL raises a dozen kinds over damaged files)
        raise unreadable(data, error) from error
    return array if array.ndim == 3 or array.dtype != np.uint8 else np.dstack([array] * 3)


def pages(data: bytes) -> list[np.ndarray]:
    """Decodes every page of a picture file, as `pixels` but for 8-bit greys, which are uint8 [H W].

    Raises:
        InputError: not a picture, truncated, or larger than `MAX_PIXELS` or `MAX_VOXELS`.
    """
    found: list[np.ndarray] = []
    total = 0
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            for i in range(getattr(picture, "n_frames", 1)):
                picture.seek(i)
                total += picture.height * picture.width
                if total > min(MAX_VOXELS, _MOST_BITS * len(data)):
                    raise InputError(
                        f"The {i + 1} first pages claim {total:,} pixels in {len(data):,} bytes, "
                        f"{MAX_VOXELS:,} at most: split the volume, or it is damaged."
                    )
                _refuse_huge(picture.height, picture.width, len(data), picture.mode)
                found.append(_loaded(picture, data))
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 (as above)
        raise unreadable(data, error) from error
    return found


def size(data: bytes) -> tuple[int, int]:
    """Returns (height, width) as stored, from the header alone; pixels may still be damaged."""
    try:
        if data[:2] == b"\xff\xd8":
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            return int(height), int(width)
    except ValueError:  # PIL knows what is wrong
        pass
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return picture.height, picture.width
    except Exception as error:  # noqa: BLE001 (as above)
        raise unreadable(data, error) from error


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields (marker, content) of the segments before the pixels of a JPEG or JPEG-LS stream."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xDA:
            return
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, data[position + 4 : position + 2 + length]
        position += 2 + max(length, 2)


def unreadable(data: bytes, error: Exception) -> InputError:
    """Returns the error of bytes that a library could not decode."""
    return InputError(
        f"The {len(data)} bytes are not a readable picture ({reason(error)}): "
        "it is truncated, damaged or of another format."
    )


def reason(error: Exception) -> str:
    """Returns what a library says of bytes in one line, else the kind of its exception.

    PIL names the file in memory that it read from, which tells the user nothing; others quote what
    they read.
    """
    text = " ".join(str(error).split("<_io")[0].split()).rstrip(".")
    return "".join(c if c.isprintable() else "?" for c in text[:200]) or type(error).__name__


def _decode_jpeg(data: bytes, min_size: tuple[int, int]) -> np.ndarray | None:
    """Decodes with libjpeg-turbo, or returns None where PIL has to decode.

    Raises:
        InputError: a part of the pixels is lost.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _refuse_huge(int(height), int(width), len(data))
        if colours == "CMYK":  # only looked at: its polarity is PIL's affair
            simplejpeg.decode_jpeg(data, "CMYK")
            return None
        # A zero means that this side does not matter. Scales between 1/2 and 1 would take longer
        # than no scaling.
        factor = 2 if any(min_size) else 1
        image = simplejpeg.decode_jpeg(
            data, "RGB", min_height=min_size[0], min_width=min_size[1], min_factor=factor
        )
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 (PIL says what else it is)
        if _LOST.search(str(error)) and (not _SPARE.search(str(error)) or _ZEROS in data):
            raise unreadable(data, error) from error
        return None
    # EXIF and XMP are segments E1 of any length and order; few files have any.
    if not any(marker == 0xE1 for marker, _ in segments(data)):
        return image
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            return _turned(image, picture)
    except Exception:  # noqa: BLE001 (the picture itself was decoded before)
        return image


def _loaded(picture: ImageFile.ImageFile, data: bytes) -> np.ndarray:
    """Returns the pixels of an open picture: uint8 [H W] or [H W 3], or the values of more bits."""
    stored, page = _stored_mode(picture), picture.tell()
    if picture.format == "TIFF" or (picture.format == "GIF" and not page):
        _refuse_gaps(picture)
    if picture.info.get("compression") == "jpeg":
        _refuse_lost_strips(picture, data)
    picture.load()
    if picture.mode.startswith("I;16"):
        array = np.asarray(picture).astype(np.uint16)
    elif picture.mode in ("I", "F", "L"):
        array = np.asarray(picture)
    else:
        array = np.asarray(picture.convert("RGB"))
    if ";16" in stored and array.dtype == np.uint8 and array.max() < 128:
        # PIL keeps the upper bytes, which are nearly black where the file uses 12 bits.
        array = array.astype(np.uint16) << 8 | _lower_bytes(data, page, stored)
    if array.dtype != np.uint8 and _is_white_zero(picture):
        low, high = greys.used(array)
        array = (low + high - array).astype(array.dtype)
    return _turned(array, picture)


def _turned(array: np.ndarray, picture: Image.Image) -> np.ndarray:
    """Turns the pixels as the orientation says that the picture still has.

    PIL turns a TIFF while it loads it, and takes the tag away; of other formats it turns nothing.
    """
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 (broken EXIF says nothing about the pixels)
        return array
    turns, mirrored = _TURNS.get(orientation, (0, False))
    if turns or mirrored:
        array = np.rot90(array, turns)
        array = np.ascontiguousarray(array[:, ::-1] if mirrored else array)
    return array


# EXIF 2.3, tag 0x0112: quarter turns counter-clockwise, then whether it is mirrored left-right.
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False),
          7: (1, True), 8: (1, False)}  # fmt: skip


def _stored_mode(picture: ImageFile.ImageFile) -> str:
    """Returns how the pixels of a picture that is not loaded lie in its file, 'RGB;16B'; or ''."""
    modes = {t.args[0] if isinstance(t.args, tuple) else t.args for t in picture.tile}
    return str(modes.pop()) if len(modes) == 1 else ""


def _lower_bytes(data: bytes, page: int, stored: str) -> np.ndarray:
    """Returns the lower bytes of colours of 16 bits, uint8 [H W 3].

    PIL drops them; told that the two bytes lie in the other order, it drops the others.
    """
    if not stored.startswith("RGB"):
        raise InputError(
            "Its values use fewer than 16 bits, beside transparency: store it without."
        )
    kind, order = stored.split(";16")
    other = f"{kind};16{'L' if order == 'B' else 'B'}"
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        picture.seek(page)
        picture.tile = [
            tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
            for tile in picture.tile
        ]
        return np.asarray(picture.convert("RGB"))


def _refuse_gaps(picture: ImageFile.ImageFile) -> None:
    """Raises `InputError` if the strips of a TIFF, or the first page of a GIF, leave parts black.

    Later pages of a GIF are what differs from the first one.
    """
    boxes = [tile.extents for tile in picture.tile]
    filled = sum((box[2] - box[0]) * (box[3] - box[1]) for box in boxes if box)
    if filled < picture.height * picture.width:
        raise InputError(
            f"It claims {picture.height} x {picture.width} pixels and stores {filled:,}: it is "
            "truncated or damaged."
        )


def _refuse_lost_strips(picture: ImageFile.ImageFile, data: bytes) -> None:
    """Raises `InputError` if strips or tiles of JPEG in a TIFF hold a row of zero bytes."""
    tags = getattr(picture, "tag_v2", {})
    tiled = _TILES[0] in tags
    places, sizes = (tags.get(tag, ()) for tag in (_TILES if tiled else _STRIPS))
    for place, length in zip(places, sizes, strict=False):
        if _ZEROS in data[place : place + length]:
            raise InputError("Coded pixels of it are zero bytes: it is truncated or damaged.")


def _refuse_zeros(data: bytes) -> None:
    """Raises `InputError` if a WebP ends in zeros, which its decoder takes for pixels.

    A flat picture ends in some, up to a twentieth of it; a tenth, or a block of a disk, is no code.
    """
    zeros = len(data) - len(data.rstrip(b"\0"))
    if zeros > max(64, min(len(data) // 10, 4096)):
        raise InputError(f"Its last {zeros:,} bytes are zeros: it is truncated or damaged.")


def _is_white_zero(picture: Image.Image) -> bool:
    """Whether a TIFF says that white is 0, which PIL undoes of 8 bits only."""
    return getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == _MIN_IS_WHITE


def _refuse_huge(height: int, width: int, size: int, mode: str = "") -> None:
    """Raises `InputError` if a picture claims more pixels than are allowed, or than it can hold."""
    if height * width > MAX_PIXELS:
        raise InputError(
            f"The picture claims {height} x {width} pixels, more than the {MAX_PIXELS:,} allowed: "
            "scale it down first, or it is damaged."
        )
    if height * width > (_MOST_BITS if mode == "1" else _MOST_PIXELS) * size:
        raise InputError(
            f"The picture claims {height} x {width} pixels in {size:,} bytes: it is damaged."
        )

"""The pictures of an entry: read, checked, prepared, and encoded as they are stored."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from data_pipelines.builders import entries
from data_pipelines.builders.entries import Ref, Unusable
from data_pipelines.images import functional, preparation

PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm")
)

# Arrays [T H W], and files that `data_pipelines.clinical` reads.
VOLUME_SUFFIXES = frozenset((".npy", ".dcm", ".dicom", ".vol", ".e2e", ".fda", ".fds", ".xml"))
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"GIF8")
_ARRAY_START = b"\x93NUMPY"
_VOLUME_STARTS = (_ARRAY_START, b"HSF-OCT", b"CMDb", b"FOCT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """The options that pictures depend on.

    Attributes:
        preparation: how photographs are prepared; None keeps their bytes.
        slices: B-scans to choose of a volume, evenly spaced; None keeps all.
        follow_links: read what lies behind links out of the folder.
    """

    preparation: preparation.Preparation | None = None
    slices: int | None = None
    follow_links: bool = False


@dataclasses.dataclass(frozen=True)
class Made:
    """The value of a picture field.

    Attributes:
        value: encoded bytes, or a list of them; b'' for a picture that is missing.
        digests: content hash of each file that was read.
        perceptual: perceptual hash of each picture (of the middle B-scan of a volume).
        crop: (top, left, height, width) of what was kept, in pixels of the file.
    """

    value: Any
    digests: tuple[str, ...] = ()
    perceptual: tuple[str, ...] = ()
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)


def crop_field(field: str) -> str:
    """Returns the field that holds the crop box of a picture field: 'left_image', 'left_crop'."""
    return field.replace("image", "crop") if "image" in field else f"{field}_crop"


def one(refs: Sequence[Ref], root: pathlib.Path, recipe: PictureOptions, modality: str) -> Made:
    """Returns one picture, prepared if asked for, else with its bytes as they are.

    A B-scan (modality 'oct') has no field of view: it is never cropped.
    """
    if not refs:
        return Made(b"")
    data = entries.read(refs[0], root, recipe.follow_links)
    digests = (preparation.digest(data),)
    crop = "none" if modality == "oct" else "field_of_view"
    if recipe.preparation is None:
        image = functional.decode_image(data)
        hashed = preparation.perceptual(image, crop)
        return Made(data, digests, (hashed,), (0, 0, *image.shape[:2]))
    wanted = recipe.preparation
    if modality == "oct":
        wanted = dataclasses.replace(wanted, crop="none")
    prepared = preparation.photograph(data, wanted)
    hashed = preparation.perceptual(functional.decode_image(prepared.data), crop)
    return Made(prepared.data, digests, (hashed,), dataclasses.astuple(prepared.box))


def many(refs: Sequence[Ref], root: pathlib.Path, recipe: PictureOptions, modality: str) -> Made:
    """Returns several pictures of one case, each treated as by `one`."""
    parts = [one([ref], root, recipe, modality) for ref in refs]
    return Made(
        [part.value for part in parts],
        tuple(digest for part in parts for digest in part.digests),
        tuple(hashed for part in parts for hashed in part.perceptual),
    )


def volume(refs: Sequence[Ref], root: pathlib.Path, recipe: PictureOptions, modality: str) -> Made:
    """Returns the B-scans of a volume in their order, `recipe.slices` evenly spaced ones of them.

    A volume is several references to pictures, a folder of pictures, a picture file of several
    pages, an .npy array [T H W], or a file that `data_pipelines.clinical` reads.
    """
    del modality  # of the fundus picture beside it
    if not refs:
        return Made([])
    if len(refs) > 1:
        scans = [entries.read(ref, root, recipe.follow_links) for ref in refs]
        digests = [preparation.digest(data) for data in scans]
    else:
        scans, digests = _scans(refs[0], root, recipe.follow_links)
    if not scans:
        raise Unusable("no B-scans", f"There is no B-scan in {refs[0].path}.")
    chosen = [scans[i] for i in evenly(len(scans), recipe.slices)]
    images = [functional.decode_image(data) for data in chosen]
    shapes = {image.shape[:2] for image in images}
    if len(shapes) > 1:
        raise Unusable("B-scans of several sizes", f"{refs[0].path} has B-scans of {shapes}.")
    return Made(chosen, tuple(digests), (preparation.perceptual(images[len(images) // 2], "none"),))


# What NumPy raises on a header that is damaged, or claims more than there is memory.
_BROKEN_ARRAY = (ValueError, EOFError, OSError, MemoryError, OverflowError, TypeError, SyntaxError,
                 tokenize.TokenError)  # fmt: skip
READERS: dict[str, Callable[[Sequence[Ref], pathlib.Path, PictureOptions, str], Made]] = {
    "one": one,
    "many": many,
    "volume": volume,
}


def evenly(total: int, number: int | None) -> list[int]:
    """Returns `number` evenly spaced indices below `total` (their middles), all of them for None.

    A volume of fewer B-scans keeps those it has.
    """
    if number is None or number >= total:
        return list(range(total))
    return [int((2 * i + 1) * total // (2 * number)) for i in range(number)]


def _scans(ref: Ref, root: pathlib.Path, follow_links: bool) -> tuple[list[bytes], list[str]]:
    """Returns the encoded B-scans that one reference leads to, and the hashes of its files."""
    path = entries.confine(ref.path, root, follow_links)
    if path.is_dir():
        inside = (p.name for p in path.iterdir() if not is_hidden(p.name))
        names = sorted(
            (name for name in inside if pathlib.PurePath(name).suffix.lower() in PICTURE_SUFFIXES),
            key=natural,
        )
        files = [entries.read(Ref(f"{ref.path}/{name}"), root, follow_links) for name in names]
        return files, [preparation.digest(data) for data in files]
    data = entries.read(ref, root, follow_links)
    digests = [preparation.digest(data)]
    suffix = path.suffix.lower()
    if suffix == ".npy" or data.startswith(_ARRAY_START):
        return list(_encoded(_array(data, ref.path))), digests
    if suffix in PICTURE_SUFFIXES or data.startswith(_PICTURE_STARTS):
        return list(_pages(data)), digests
    return list(_encoded(_clinical(path))), digests


def kind(path: pathlib.Path) -> str:
    """Returns 'picture', 'volume' or '' for another file: by its ending, whatever its case.

    The first bytes tell where there is no ending; a TIFF file of several pages is a volume.
    """
    suffix = path.suffix.lower()
    if suffix in VOLUME_SUFFIXES - {".xml"}:
        return "volume"
    if suffix in PICTURE_SUFFIXES:
        return "volume" if suffix in (".tif", ".tiff") and _has_pages(path) else "picture"
    try:
        with open(path, "rb") as file:
            head = file.read(2048)
    except OSError:
        return ""
    if suffix == ".xml":  # annotations have this ending, too
        return "volume" if b"<HEDX" in head else ""
    if head.startswith(_VOLUME_STARTS) or head[128:132] == b"DICM":
        return "volume"
    return "picture" if head.startswith(_PICTURE_STARTS) else ""


def _has_pages(path: pathlib.Path) -> bool:
    try:
        with Image.open(path, formats=("TIFF",)) as picture:
            return getattr(picture, "n_frames", 1) > 1
    except Exception:  # noqa: BLE001 (whatever a damaged header raises; reading it tells)
        return False


def is_hidden(name: str) -> bool:
    """Tells whether a file or folder is no data: hidden, or what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that counts: scan_2 comes before scan_10."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)
    ]


def _array(data: bytes, name: str) -> np.ndarray:
    try:
        # Not np.load, which takes an archive for one, too.
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except _BROKEN_ARRAY as error:
        raise Unusable("volume not readable", f"{name} is not an .npy array ({error}).") from error
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if (
        array.ndim != 3
        or 0 in array.shape
        or not (array.dtype.kind == "f" or array.dtype in (np.uint8, np.uint16))
    ):
        raise Unusable(
            "volume not readable",
            f"{name} holds {array.dtype} {array.shape}, not [T H W] of uint8, uint16 or float.",
        )
    return array


def _encoded(array: np.ndarray) -> Iterator[bytes]:
    """Yields the B-scans of [T H W] as PNG of 8 bits: 16 bits lose their lower half, floats in
    0..1 are scaled by 255, other floats from the least to the greatest of the volume."""
    if array.dtype == np.uint16:
        array = array >> 8
    elif array.dtype.kind == "f":
        array = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 1:
            array = (array - low) / max(high - low, 1e-12)
        array = np.round(array * 255)
    for scan in array.astype(np.uint8):
        stream = io.BytesIO()
        Image.fromarray(scan).save(stream, "PNG")
        yield stream.getvalue()


def _pages(data: bytes) -> Iterator[bytes]:
    functional.decode_image(data)  # refuses what is huge or no picture
    with Image.open(io.BytesIO(data), formats=functional.FORMATS) as picture:
        if getattr(picture, "n_frames", 1) == 1:
            yield data
            return
        for page in ImageSequence.Iterator(picture):
            stream = io.BytesIO()
            page.convert("RGB" if page.mode in ("P", "CMYK") else page.mode).save(stream, "PNG")
            yield stream.getvalue()


def _clinical(path: pathlib.Path) -> np.ndarray:
    from data_pipelines import clinical  # its readers are an extra, and slow to import

    volumes = [scan.array for scan in clinical.read(path) if scan.kind == "volume"]
    if len(volumes) != 1:
        raise Unusable("not one volume", f"{path.name} holds {len(volumes)} OCT volumes.")
    return volumes[0]

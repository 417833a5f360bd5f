"""The pictures of an entry: read, checked, prepared, and encoded as they are stored."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.builders import entries
from data_pipelines.builders.entries import Ref, Unusable
from data_pipelines.errors import InputError
from data_pipelines.images import decoding, functional, greys, preparation, volumes

PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm")
)

# Arrays [T H W], and files that `data_pipelines.clinical` reads.
VOLUME_SUFFIXES = frozenset((".npy", ".dcm", ".dicom", ".vol", ".e2e", ".fda", ".fds", ".xml"))
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"GIF8")
_ARRAY_START = b"\x93NUMPY"
DEVICE_STARTS = (b"HSF-OCT", b"CMDb", b"FOCT")
_VOLUME_STARTS = (_ARRAY_START, *DEVICE_STARTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """The options that pictures depend on.

    Attributes:
        preparation: how photographs are prepared; None keeps their bytes.
        slices: B-scans to choose of a volume, evenly spaced; None keeps all.
        scale: the range of B-scans of more than 8 bits in the whole data set; None for that of each
            volume, where the former is not known yet.
        follow_links: read what lies behind links out of the folder.
    """

    preparation: preparation.Preparation | None = None
    slices: int | None = None
    scale: greys.Range | None = None
    follow_links: bool = False


@dataclasses.dataclass(frozen=True)
class Made:
    """The value of a picture field.

    Attributes:
        value: encoded bytes, or a list of them; b'' for a picture that is missing.
        digests: content hash of each file that was read.
        perceptual: perceptual hash of each picture (of the middle B-scan of a volume).
        crop: (top, left, height, width) of what was kept, in pixels of the file.
        ranges: ranges of OCT values of more than 8 bits; 0..1, which needs no other, is not named.
        brightest: the greatest value of the darkest picture or volume, 255 where there is none.
        remarks: what the reader of a device's file has to say, in sentences.
    """

    value: Any
    digests: tuple[str, ...] = ()
    perceptual: tuple[str, ...] = ()
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    ranges: frozenset[greys.Range] = frozenset()
    brightest: int = 255
    remarks: tuple[str, ...] = ()


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Puts a name before what a decoder says of bytes."""
    try:
        yield
    except Unusable:
        raise
    except InputError as error:
        raise Unusable("picture not readable", f"{name}: {error}") from error


def crop_field(field: str) -> str:
    """Returns the field that holds the crop box of a picture field: 'left_image', 'left_crop'."""
    return field.replace("image", "crop") if "image" in field else f"{field}_crop"


def one(refs: Sequence[Ref], root: pathlib.Path, recipe: PictureOptions, modality: str) -> Made:
    """Returns one picture, prepared if asked for, else with its bytes as they are.

    A B-scan (modality 'oct' or 'octa') has no field of view: it is never cropped. One of more than
    8 bits is stored in 8, scaled by the range of the data set.
    """
    if not refs:
        return Made(b"")
    with _naming(refs[0].path):
        return _one(refs[0], root, recipe, modality)


def _one(ref: Ref, root: pathlib.Path, recipe: PictureOptions, modality: str) -> Made:
    data = entries.read(ref, root, recipe.follow_links)
    digests = (preparation.digest(data),)
    oct_scan = modality in preparation.BSCANS
    crop = "none" if oct_scan else "field_of_view"
    ranges: frozenset[greys.Range] = frozenset()
    if oct_scan and (values := decoding.pixels(data)).dtype != np.uint8:
        scale, ranges = _scale([values], recipe)
        data = functional.encode_image(greys.eight_bits(values, scale))
    if recipe.preparation is None:
        image = functional.decode_image(data)
        box = (0, 0, *image.shape[:2])
    else:
        wanted = recipe.preparation
        wanted = dataclasses.replace(wanted, crop="none") if oct_scan else wanted
        prepared = preparation.photograph(data, wanted)
        data, box = prepared.data, dataclasses.astuple(prepared.box)
        image = functional.decode_image(data)
    hashed = (preparation.perceptual(image, crop),)
    return Made(data, digests, hashed, box, ranges, int(image.max()))


def many(refs: Sequence[Ref], root: pathlib.Path, recipe: PictureOptions, modality: str) -> Made:
    """Returns several pictures of one case, each treated as by `one`."""
    parts = [one([ref], root, recipe, modality) for ref in refs]
    return Made(
        [part.value for part in parts],
        tuple(digest for part in parts for digest in part.digests),
        tuple(hashed for part in parts for hashed in part.perceptual),
        ranges=frozenset().union(*(part.ranges for part in parts)),
        brightest=min((part.brightest for part in parts), default=255),
    )


def volume(refs: Sequence[Ref], root: pathlib.Path, recipe: PictureOptions, modality: str) -> Made:
    """Returns the B-scans of a volume in their order, `recipe.slices` evenly spaced ones of them.

    A volume is several references to pictures, a folder of pictures, a picture file of several
    pages, an .npy array [T H W], or a file that `data_pipelines.clinical` reads. Files of 8 bits
    keep their bytes; what has more is stored in 8, scaled by the range of the data set.
    """
    del modality  # of the fundus picture beside it
    if not refs:
        return Made([])
    remarks: tuple[str, ...] = ()
    scans: Sequence[bytes | np.ndarray]
    if len(refs) > 1:
        scans = [entries.read(ref, root, recipe.follow_links) for ref in refs]
        digests = [preparation.digest(data) for data in scans]
    else:
        scans, digests, remarks = _scans(refs[0], root, recipe.follow_links)
    if not len(scans):
        raise Unusable("no B-scans", f"There is no B-scan in {refs[0].path}.")
    chosen = [scans[i] for i in evenly(len(scans), recipe.slices)]
    stored = []
    for i, scan in enumerate(chosen):
        with _naming(f"{refs[0].path}, B-scan {i + 1} of {len(chosen)} to keep"):
            stored.append(decoding.pixels(scan) if isinstance(scan, bytes) else scan)
    shapes = {image.shape[:2] for image in stored}
    if len(shapes) > 1:
        raise Unusable("B-scans of several sizes", f"{refs[0].path} has B-scans of {shapes}.")
    scale, ranges = _scale([image for image in stored if image.dtype != np.uint8], recipe)
    images = volumes.scaled(stored, scale)
    value = [
        scan if isinstance(scan, bytes) and before is after else functional.encode_image(after)
        for scan, before, after in zip(chosen, stored, images, strict=True)
    ]
    middle = images[len(images) // 2]
    middle = middle if middle.ndim == 3 else np.dstack([middle] * 3)
    return Made(
        value,
        tuple(digests),
        (preparation.perceptual(middle, "none"),),
        ranges=ranges,
        brightest=max(int(image.max()) for image in images),
        remarks=remarks,
    )


def _scale(
    values: Sequence[np.ndarray], recipe: PictureOptions
) -> tuple[greys.Range, frozenset[greys.Range]]:
    """Returns the range to scale B-scans of more than 8 bits by, and theirs if it may be another's.

    Floats in 0..1 are of no other range, whatever else is in the data set.
    """
    if not values:
        return greys.UNIT, frozenset()
    own = greys.used(*values)
    if own == greys.UNIT:
        return own, frozenset()
    return recipe.scale or own, frozenset((own,))


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


def _scans(
    ref: Ref, root: pathlib.Path, follow_links: bool
) -> tuple[Sequence[bytes | np.ndarray], list[str], tuple[str, ...]]:
    """Returns the B-scans that one reference leads to, the hashes of its files, and remarks."""
    path = entries.confine(ref.path, root, follow_links)
    if path.is_dir():
        inside = (p.name for p in path.iterdir() if not is_hidden(p.name))
        names = sorted(
            (name for name in inside if pathlib.PurePath(name).suffix.lower() in PICTURE_SUFFIXES),
            key=natural,
        )
        files = [entries.read(Ref(f"{ref.path}/{name}"), root, follow_links) for name in names]
        return files, [preparation.digest(data) for data in files], ()
    data = entries.read(ref, root, follow_links)
    digests = [preparation.digest(data)]
    suffix = path.suffix.lower()
    if suffix == ".npy" or data.startswith(_ARRAY_START):
        return list(_array(data, ref.path)), digests, ()
    if suffix in PICTURE_SUFFIXES or data.startswith(_PICTURE_STARTS):
        with _naming(ref.path):
            found = decoding.pages(data)
        return (found if len(found) > 1 else [data]), digests, ()
    array, remarks = _clinical(path)
    return list(array), digests, remarks


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
    """Tells whether a file or folder is no data: hidden, or what macOS and Windows add."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db")


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that counts: scan_2 comes before scan_10."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)
    ]


def _array(data: bytes, name: str) -> np.ndarray:
    try:
        # Not np.load, which takes an archive for one, too.
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # noqa: BLE001 (NumPy raises a dozen kinds over damaged headers)
        raise Unusable(
            "volume not readable", f"{name} is not an .npy array ({decoding.reason(error)})."
        ) from error
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


def _clinical(path: pathlib.Path) -> tuple[np.ndarray, tuple[str, ...]]:
    from data_pipelines import clinical  # its readers are an extra, and slow to import

    found = [scan for scan in clinical.read(path) if scan.kind == "volume"]
    structural = [scan for scan in found if scan.modality != "octa"]
    if len(structural) != 1:
        flow = len(found) - len(structural)
        raise Unusable(
            "not one volume",
            f"{path.name} holds {len(structural)} OCT volumes and {flow} of angiography.",
        )
    return structural[0].array, structural[0].remarks

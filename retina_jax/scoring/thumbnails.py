"""Small pictures of records, to look at: single ones, both eyes, the central B-scan of a volume."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.images import functional
from data_pipelines.transforms import Volume

SIDE = 128  # of one picture beside others, in pixels
MOST = 256  # of what is embedded in a page
_QUALITY = 80
EYES = ("left_image", "right_image")


def picture(stored: bytes | Sequence[bytes], side: int = SIDE) -> np.ndarray:
    """An encoded picture, or the first of a case, as u8[side side 3]; b'' is black."""
    data = stored if isinstance(stored, bytes) else stored[0]
    if not data:
        return np.zeros((side, side, 3), np.uint8)
    return functional.canvas(functional.decode_image(data, (side, side)), side)


def of_field(record: Mapping[str, Any], field: str, side: int = SIDE) -> np.ndarray:
    """The picture of a field, or the central B-scan of a volume, as u8[side side 3]."""
    if field == "oct":
        read = Volume(1, side, source=field, target=field)
        return np.repeat(read.map(dict(record))[field][0], 3, axis=-1)
    return picture(record[field], side)


def of_eyes(record: Mapping[str, Any]) -> np.ndarray:
    """Both eyes side by side, the left one first, u8[SIDE 2*SIDE 3]; a missing one is black."""
    return np.concatenate([of_field(record, name) for name in EYES], axis=1)


def of_record(record: Mapping[str, Any]) -> np.ndarray | None:
    """Both eyes, or else the first picture of a record; None where it has none."""
    if all(name in record for name in EYES):
        return of_eyes(record)
    pictured = [name for name in sorted(record) if _is_picture(record[name])]
    return of_field(record, pictured[0], MOST) if pictured else None


def _is_picture(value: Any) -> bool:
    several = value if isinstance(value, list | tuple) else [value]
    return bool(several) and all(isinstance(one, bytes) for one in several)


def encoded(image: np.ndarray) -> bytes:
    """A JPEG of at most MOST pixels a side, with nothing in it but the picture.

    Args:
      image: u8[H W 3], [H W 1] or [H W].
    """
    made = Image.fromarray(np.asarray(image, np.uint8).squeeze()).convert("RGB")
    made.thumbnail((MOST, MOST))
    buffer = io.BytesIO()
    made.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()

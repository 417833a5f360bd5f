"""A picture beside the same picture below its map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from retina_jax.saliency.study import Finding

_SIDE, _HEAD, _BAR, _GAP = 400, 28, 14, 12  # pixels
_WEIGHT = 0.45  # of the map over its picture
# Dark to light in even steps of lightness, also in grey and to those who see fewer colours.
_COLOURS = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64
)


def coloured(values: np.ndarray) -> np.ndarray:
    """u8[... 3] of values in [0, 1]."""
    at = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(values, at, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def draw(finding: Finding, caption: str, path: Path) -> None:
    """Writes the picture with its mask outlined, the picture below its map, and the scale.

    Args:
      finding: what is drawn.
      caption: what the map is.
      path: a .png.
    """
    picture = np.asarray(finding.case.picture, np.uint8)
    mask = finding.case.mask
    outlined = picture.copy()
    outlined[mask & ~ndimage.binary_erosion(mask)] = 255
    most = float(finding.saliency.max())
    over = coloured(finding.saliency / most if most > 0 else finding.saliency)
    mixed = ((1 - _WEIGHT) * picture + _WEIGHT * over).astype(np.uint8)
    sheet = Image.new("RGB", (2 * _SIDE + 3 * _GAP + _BAR + 60, _SIDE + _HEAD + _GAP), "white")
    for place, part in enumerate((outlined, mixed)):
        shown = Image.fromarray(part).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        sheet.paste(shown, (place * (_SIDE + _GAP), _HEAD))
    scale = coloured(np.linspace(1, 0, _SIDE)[:, None].repeat(_BAR, axis=1))
    left = 2 * (_SIDE + _GAP)
    sheet.paste(Image.fromarray(scale), (left, _HEAD))
    text = ImageDraw.Draw(sheet)
    height, width = finding.cells
    text.text((4, 8), f"{caption}, {height} x {width} cells", fill="black")
    text.text((left + _BAR + 4, _HEAD), f"{most:.3g}", fill="black")
    text.text((left + _BAR + 4, _HEAD + _SIDE - 12), "0", fill="black")
    sheet.save(path)

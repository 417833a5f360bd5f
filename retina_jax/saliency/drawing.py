"""A picture beside the same picture below its map."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from data_pipelines.images import functional
from retina_jax.saliency import maps, verdict
from retina_jax.saliency.study import Finding

# Pixels. Letters stay legible where a phone shows the sheet at half of its width.
_SIDE, _BAR, _GAP, _LETTER = 320, 14, 12, 22
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
      finding: what is drawn, its picture as it came.
      caption: what the map is.
      path: a .png.
    """
    outlined, mixed, most = _both(finding)
    height, width = outlined.shape[:2]
    font = ImageFont.load_default(_LETTER)
    rows, columns = finding.cells
    bar = 2 * (width + _GAP)
    sheet_width = bar + _BAR + 4 * _LETTER
    lines = textwrap.wrap(f"{caption}; {rows} x {columns} cells.", 2 * sheet_width // _LETTER)
    top = len(lines) * (_LETTER + 6) + _GAP
    sheet = Image.new("RGB", (sheet_width, top + height + _GAP), "white")
    for place, part in enumerate((outlined, mixed)):
        sheet.paste(Image.fromarray(part), (place * (width + _GAP), top))
    scale = coloured(np.linspace(1, 0, height)[:, None].repeat(_BAR, axis=1))
    sheet.paste(Image.fromarray(scale), (bar, top))
    text = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        text.text((4, 4 + number * (_LETTER + 6)), line, fill="black", font=font)
    text.text((bar + _BAR + 4, top), f"{most:.2g}", fill="black", font=font)
    text.text((bar + _BAR + 4, top + height - _LETTER), "0", fill="black", font=font)
    sheet.save(path)


def _both(finding: Finding) -> tuple[np.ndarray, np.ndarray, float]:
    """The picture with the mask, and with the map, u8[h w 3], and the map's largest value."""
    case = finding.case
    picture = functional.decode_image(case.file.read_bytes())
    tall, wide = (max(round(side * _SIDE / max(case.mask.shape)), 1) for side in case.mask.shape)
    picture = functional.resize(picture, tall, wide)

    def shrunk(values: np.ndarray, how: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(values).resize((wide, tall), how))

    # Marks of less than a pixel count too, and the line goes around them.
    mask = shrunk(case.mask.astype(np.float32), Image.Resampling.BOX) > 0
    outlined = picture.copy()
    outlined[np.asarray(ndimage.binary_dilation(mask), bool) & ~mask] = 255
    saliency = case.back(finding.saliency)
    most = float(saliency.max())
    share = np.clip(shrunk(saliency, Image.Resampling.BILINEAR) / (most or 1.0), 0, 1)
    mixed = (1 - _WEIGHT) * picture + _WEIGHT * coloured(share)
    return outlined, mixed.astype(np.uint8), most


def write(
    out: Path,
    about: Mapping[str, Any],
    found: list[Finding],
    told: verdict.Judgement,
    classes: Sequence[str],
    anyway: bool,
) -> None:
    """Writes maps on the pixels of their pictures, the verdict, and drawings if they may be."""
    (out / "maps").mkdir(parents=True, exist_ok=True)
    caption = maps.CAPTIONS[about["method"]]
    best = max(mean for mean, _, _ in told.controls.values())
    for one in found:
        np.save(out / "maps" / f"{one.case.file.stem}.npy", one.case.back(one.saliency))
        if told.passes or anyway:
            title = f"{caption.format(classes[one.predicted])}. Lift of all maps {told.lift:.2f}"
            title += f", of the best control {best:.2f}"
            title += "" if told.passes else f". {told.sentence}"
            draw(one, title, out / f"{one.case.file.stem}.png")
    text = json.dumps(about, indent=2) + "\n"
    (out / "saliency.json").write_text(text, encoding="utf-8")

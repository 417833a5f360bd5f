"""Photographs of the size and content of real ones, and data sets of them, for the benchmarks."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines import build
from data_pipelines.images import preparation
from data_pipelines.records import sources

QUALITY = 92
_FINDINGS = ("microaneurysms", "hard exudates", "cotton wool spots", "a large cup", "drusen")
_LABELS = ("normal", "diabetic retinopathy", "glaucoma", "age-related macular degeneration")


def fundus(height: int, width: int, seed: int) -> bytes:
    """Returns a JPEG like a fundus photograph: a lit disc with texture and grain, black outside.

    Args:
        height, width: in pixels.
        seed: another picture for each.
    """
    rng = np.random.default_rng(seed)
    y = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None]
    x = np.linspace(-width / height, width / height, width, dtype=np.float32)
    radius = np.sqrt(y * y + x * x)
    texture = np.zeros((height, width), np.float32)
    for cells in (12, 48, 192):
        coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        texture += 5 * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    texture += rng.normal(size=(height, width)).astype(np.float32) * 2.5  # grain of the sensor
    pixels = np.empty((height, width, 3), np.uint8)
    for channel, (middle, rim) in enumerate(((190, 130), (100, 60), (50, 25))):
        values = middle - (middle - rim) * radius + texture
        pixels[..., channel] = np.clip(np.where(radius < 0.97, values, 0), 0, 255)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def dataset(folder: Path, name: str, pictures: list[bytes], records: int) -> sources.Source:
    """Builds a manifest of `records` rows that name the pictures in turn, as a user would.

    Args:
        folder: where the files and the data set go.
        name: of the data set.
        pictures: encoded; two rows in turn are the eyes of a patient.
        records: number of rows.
    """
    source = folder / name
    source.mkdir()
    for i, picture in enumerate(pictures):
        (source / f"{i}.jpg").write_bytes(picture)
    with open(source / "manifest.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "labels", "patient", "eye", "split"])
        # One more, in a split of its own: pictures that repeat would keep patients together.
        for i in range(records + 1):
            label, finding = _LABELS[i % len(_LABELS)], _FINDINGS[i % len(_FINDINGS)]
            caption = (
                f"Colour photograph {i} of the {('right', 'left')[i % 2]} eye: {finding} "
                f"in {1 + i % 3} quadrants near the macula, consistent with {label}."
            )
            writer.writerow(
                [
                    f"{i % len(pictures)}.jpg",
                    caption,
                    label,
                    f"p{i // 2}",
                    ("OD", "OS")[i % 2],
                    "train" if i < records else "test",
                ]
            )
    data_dir = folder / "data"
    build.build("manifest", name, str(data_dir), source=str(source), processes=1)
    return sources.load(f"manifest/{name}", "train", data_dir)


def prepared(picture: bytes, size: int) -> bytes:
    """Returns the photograph as `data_pipelines.prepare` stores it at `size` pixels."""
    return preparation.photograph(picture, preparation.Preparation(size=size)).data

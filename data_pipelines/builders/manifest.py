"""A data set out of any CSV that names pictures.

    python -m data_pipelines.build --dataset=manifest --name=NAME --source=FOLDER

FOLDER holds ``manifest.csv`` and the pictures it names. Of the columns only the image is needed;
captions (English, Chinese), labels, patient, eye, modality, dataset and split are used where they
are, under any of the usual names, and all others are kept as text. The licence is that of your
pictures.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import hashlib
import io
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from PIL import Image

from data_pipelines import functional
from data_pipelines.builders import splits, table
from data_pipelines.builders.plan import Plan
from data_pipelines.errors import InputError

RECORD = (
    "id", "image", "modality", "caption", "caption_zh", "labels", "patient", "eye", "dataset",
    "duplicate_of",
)  # fmt: skip
_MODALITIES = {"fundus": "cfp", "color fundus": "cfp", "colour fundus": "cfp", "fa": "ffa"}


@dataclasses.dataclass(eq=False, kw_only=True)
class ManifestConfig(tfds.core.BuilderConfig):
    """What to build.

    Attributes:
        source: folder of the table and of the pictures; nothing outside it is read.
        csv: file name of the table in `source`.
        columns: {field: column} where the usual names do not fit, e.g. {'caption': 'keywords'}.
        label_separator: between labels in one cell; '' splits at ';' and '|'.
        modality: of rows that name none.
        max_side: pictures whose long side is longer are scaled down to it; None keeps all bytes.
    """

    source: str
    csv: str = "manifest.csv"
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_separator: str = ""
    modality: str = "cfp"
    max_side: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise InputError(f"A data set's name is letters, digits, _ . -; got '{self.name}'.")
        if not pathlib.Path(self.source).is_dir():
            raise InputError(f"The source folder {self.source} does not exist.")
        if pathlib.Path(self.csv).name != self.csv:
            raise InputError(f"csv is a file name inside the source folder, got '{self.csv}'.")
        if self.max_side is not None and self.max_side < 1:
            raise InputError(f"max_side is a number of pixels, got {self.max_side}.")

    def read(self) -> table.Table:
        """Reads the table."""
        return table.read(pathlib.Path(self.source) / self.csv, self.columns)

    def fingerprint(self) -> str:
        """Returns a hash of the options, the table, and the names and sizes of its pictures."""
        found, root = self.read(), pathlib.Path(self.source).resolve()
        column = found.header.index(found.columns["image"])
        sizes = []
        for _, cells in found.rows:
            name = cells[column] if column < len(cells) else ""
            try:
                sizes.append((name, table.confine(name, root).stat().st_size))
            except (OSError, ValueError):
                sizes.append((name, -1))
        options = (sorted(self.columns.items()), self.label_separator, self.modality, self.max_side)
        content = json.dumps([options, found.header, found.rows, sizes])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


class Manifest(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of a `ManifestConfig`; one record is one picture.

    Broken rows are left out, counted, and listed by `write_skipped`. Splits are those of the table
    if it names two or more, else 70 / 10 / 20 % by patient.
    """

    embedded = False
    config_class = ManifestConfig
    # Nothing is downloaded, so there is no file of checksums to look for.
    url_infos = None
    VERSION = tfds.core.Version("1.0.0")

    @functools.cached_property
    def plan(self) -> Plan:
        """Checks every row and every picture once; raises `InputError` if none is usable."""
        config = self.builder_config
        found = config.read()
        bar = functools.partial(
            tqdm.tqdm, desc="checking", total=len(found.rows), unit=" rows", leave=False
        )
        rows, skipped = table.verify(found, pathlib.Path(config.source), bar)
        parts, unnamed, remarks = splits.divide(rows)
        plan = Plan(parts, tuple(sorted(skipped + unnamed, key=lambda row: row.number)),
                    (*remarks, *_eye_remarks(rows)))
        if not plan.kept:
            reasons = ", ".join(f"{n} x {reason}" for reason, n in plan.reasons().items())
            raise InputError(f"No row of {found.path} can be used: {reasons or 'it has no rows'}.")
        return plan

    @property
    def sizes(self) -> dict[str, int]:
        """Number of records of each split, known before they are written."""
        return {name: len(rows) for name, rows in self.plan.rows.items()}

    def write_skipped(self, path: pathlib.Path) -> None:
        """Writes the skipped rows as CSV: line, image, reason, detail."""
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in dataclasses.fields(table.Skipped)])
            writer.writerows(dataclasses.astuple(row) for row in self.plan.skipped)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features: dict[str, Any] = {name: text for name in RECORD}
        features["image"] = tfds.features.Tensor(shape=(), dtype=np.object_)
        features["labels"] = tfds.features.Sequence(tfds.features.Text())
        for column in self.builder_config.read().extra:
            features[_extra_name(column)] = text
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        return {name: self._generate_examples(name) for name in self.plan.rows}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for row in self.plan.rows[split]:
            yield row.number, self._record(row)

    def _record(self, row: table.Row) -> dict[str, Any]:
        config, fields = self.builder_config, row.fields
        path = row.path.relative_to(pathlib.Path(config.source).resolve()).as_posix()
        modality = fields["modality"].lower() or config.modality
        return {
            # A picture may be in several rows, each with a text of its own.
            "id": f"{path}#{row.number}",
            "image": shrink(row.path.read_bytes(), config.max_side),
            "modality": _MODALITIES.get(modality, modality),
            "caption": fields["caption"],
            "caption_zh": fields["caption_zh"],
            "labels": table.labels(fields["labels"], config.label_separator),
            "patient": fields["patient"],
            "eye": table.EYES.get(fields["eye"].lower(), ""),
            "dataset": fields["dataset"] or config.name,
            "duplicate_of": fields["duplicate_of"],
            **{_extra_name(column): value for column, value in row.extra.items()},
        }


def shrink(data: bytes, max_side: int | None) -> bytes:
    """Returns an encoded picture whose long side is at most `max_side` pixels.

    Smaller pictures keep their bytes; others are resized with antialiasing and written as PNG if
    they came as PNG, else as JPEG of quality 95.
    """
    if max_side is None or max(functional.image_size(data)) <= max_side:
        return data
    image = functional.decode_image(data)
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    image = functional.resize(image, max(round(height * scale), 1), max(round(width * scale), 1))
    result = io.BytesIO()
    if data[:4] == b"\x89PNG":
        Image.fromarray(image).save(result, "PNG")
    else:
        Image.fromarray(image).save(result, "JPEG", quality=95, subsampling=0)
    return result.getvalue()


def _extra_name(column: str) -> str:
    """Returns the field of a column of no known meaning; it never hides a field of a record."""
    name = re.sub(r"\W+", "_", column.strip()).strip("_") or "column"
    return f"csv_{name}" if name in RECORD else name


def _eye_remarks(rows: list[table.Row]) -> list[str]:
    odd = collections.Counter(row.fields["eye"] for row in rows
                              if row.fields["eye"].lower() not in table.EYES)
    if not odd:
        return []
    return [f"{sum(odd.values())} rows name an eye that is neither left nor right, "
            f"such as '{odd.most_common(1)[0][0]}'; it is stored as unknown"]

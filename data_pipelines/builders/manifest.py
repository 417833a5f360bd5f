"""A data set out of any CSV that names pictures.

    python -m data_pipelines.build --dataset=manifest --name=NAME --source=FOLDER

FOLDER holds ``manifest.csv`` and the pictures it names. Of the columns only the image is needed;
captions (English, Chinese), labels, patient, eye, modality, dataset and split are used where they
are, under any of the usual names, and all others are kept as text. The licence is that of your
pictures.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

from data_pipelines.builders import corpus, table
from data_pipelines.builders.entries import Listing
from data_pipelines.errors import InputError


@dataclasses.dataclass(eq=False, kw_only=True)
class ManifestConfig(corpus.CorpusConfig):
    """What to build.

    Attributes:
        csv: file name of the table in `source`.
        columns: {field: column} where the usual names do not fit, e.g. {'caption': 'keywords'}.
        label_separator: between labels in one cell; '' splits at ';' and '|'.
        modality: of rows that name none.
    """

    csv: str = "manifest.csv"
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_separator: str = ""
    modality: str = "cfp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if pathlib.Path(self.csv).name != self.csv:
            raise InputError(f"csv is a file name inside the source folder, got '{self.csv}'.")


class Manifest(corpus.Corpus):
    """TFDS builder of a `ManifestConfig`; one record is one picture."""

    config_class = ManifestConfig

    def listing(self, config: ManifestConfig) -> Listing:
        """Returns an entry for every row of the table."""
        found = table.read(config.root / config.csv, config.columns)
        return table.listing(
            found, dataset=config.name, modality=config.modality,
            label_separator=config.label_separator,
        )

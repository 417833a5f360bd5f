"""A data set out of any CSV that names pictures.

    python -m data_pipelines.build --dataset=manifest --name=NAME --source=FOLDER

FOLDER holds ``manifest.csv`` and the pictures it names. Of the columns only the image is needed;
captions (English, Chinese), labels, patient, eye, modality, dataset and split are used where they
are, under any of the usual names, and all others are kept as text. The licence is that of your
pictures.

Several such folders in one become one data set, whose field ``dataset`` tells them apart:

    python -m data_pipelines.build --dataset=manifest --name=NAME --source=FOLDER \\
        --csv='*/manifest.csv'

Equal names of patients are different patients then, and the split column of a table counts only
where it names two splits.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

from data_pipelines.builders import corpus, lookup, table
from data_pipelines.builders.entries import Entry, Listing
from data_pipelines.records import splits


@dataclasses.dataclass(eq=False, kw_only=True)
class ManifestConfig(corpus.CorpusConfig):
    """What to build.

    Attributes:
        csv: file name of the table in `source`, or a pattern of several, such as
            '*/manifest.csv'; the pictures of each lie in its own folder.
        columns: {field: column} where the usual names do not fit, e.g. {'caption': 'keywords'}.
        label_separator: between labels in one cell; '' splits at ';' and '|'.
        modality: the modality of rows that name none.
    """

    csv: str = "manifest.csv"
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_separator: str = ""
    modality: str = "cfp"


class Manifest(corpus.Corpus):
    """TFDS builder of a `ManifestConfig`; one record is one picture."""

    config_class = ManifestConfig

    def listing(self, config: ManifestConfig) -> Listing:
        """Returns an entry for every row of the tables."""
        names = lookup.files(config.root, config.csv)
        return table.joined((name, _rows(config, name, len(names) > 1)) for name in names)


def _rows(config: ManifestConfig, name: str, several: bool) -> Listing:
    place = pathlib.PurePosixPath(name)
    inside = place.parent.as_posix() != "."
    dataset = place.parent.as_posix() if inside else place.stem
    rows = table.listing(
        table.read(config.root / name, config.columns),
        dataset=dataset if several else config.name,
        modality=config.modality,
        label_separator=config.label_separator,
    )
    entries = rows.entries
    if inside:
        entries = tuple(_placed(entry, place.parent) for entry in entries)
    if several:
        named = {splits.split_name(entry.fields["split"]) for entry in entries} - {""}
        entries = tuple(_apart(entry, dataset, divided=len(named) > 1) for entry in entries)
    return dataclasses.replace(rows, entries=entries)


def _placed(entry: Entry, folder: pathlib.PurePosixPath) -> Entry:
    """The entry of a table in a folder, as one of the folder above."""
    pictures = {
        field: tuple(dataclasses.replace(ref, path=str(folder / ref.path)) for ref in refs)
        for field, refs in entry.pictures.items()
    }
    return dataclasses.replace(entry, pictures=pictures)


def _apart(entry: Entry, dataset: str, divided: bool) -> Entry:
    """The entry as one of several sets, in which a name may be that of another patient."""
    patient = entry.fields["patient"]
    fields = {"patient": patient and f"{dataset}/{patient}"}
    if not divided:
        fields["split"] = ""
    return dataclasses.replace(entry, fields={**entry.fields, **fields})

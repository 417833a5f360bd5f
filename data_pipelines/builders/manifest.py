"""A data set out of any CSV that names pictures.

    python -m data_pipelines.build --dataset=manifest --name=NAME --source=FOLDER

FOLDER holds ``manifest.csv`` and the pictures it names. Of the columns only the image is needed;
captions (English, Chinese), labels, patient, eye, modality, dataset and split are used where they
are, under any of the usual names, and all others are kept as text. Labels that are codes need
``--label_names``, classes in a column each ``--column labels=normal,dr,amd``. The licence is that
of your pictures.

Several such folders in one become one data set, whose field ``dataset`` tells them apart:

    python -m data_pipelines.build --dataset=manifest --name=NAME --source=FOLDER \\
        --csv='*/manifest.csv'

Equal names of patients are different patients then, and the split column of a table counts only
where it divides its rows.
"""

from __future__ import annotations

import dataclasses
import pathlib

from data_pipelines.builders import corpus, graded, lookup, table
from data_pipelines.builders.entries import Entries, Entry, Listing
from data_pipelines.errors import InputError
from data_pipelines.records import splits


@dataclasses.dataclass(eq=False, kw_only=True)
class ManifestConfig(corpus.TableConfig):
    """What to build.

    Attributes:
        csv: file name of the table in `source`, or a pattern of several, such as
            '*/manifest.csv'; the pictures of each lie in its own folder.
        modality: the modality of rows that name none.
        dr_grade: fields or columns, with commas between them, whose keywords grade diabetic
            retinopathy, e.g. 'caption' of ODIR-5K or 'labels' of IDRiD. Each record then has the
            text field `dr_grade`, 'no diabetic retinopathy', 'mild diabetic retinopathy' and so
            on, '' where they tell none; see `graded.retinopathy_grade`. '' for no such field.
    """

    csv: str = "manifest.csv"
    modality: str = "cfp"
    dr_grade: str = ""


class Manifest(corpus.Corpus):
    """TFDS builder of a `ManifestConfig`; one record is one picture."""

    config_class = ManifestConfig

    def listing(self, config: ManifestConfig) -> Listing:
        """Returns an entry for every row of the tables."""
        names = lookup.files(config.root, config.csv, config.follow_links)
        rows = table.joined((name, _rows(config, name, len(names) > 1)) for name in names)
        return _graded(rows, config.dr_grade) if config.dr_grade else rows


def _rows(config: ManifestConfig, name: str, several: bool) -> Listing:
    place = pathlib.PurePosixPath(name)
    inside = place.parent.as_posix() != "."
    dataset = place.parent.as_posix() if inside else place.stem
    rows = table.listing(
        table.read(config.root / name, config.columns),
        dataset=dataset if several else config.name,
        modality=config.modality,
        options=config.label_options,
    )
    entries = rows.entries
    if inside:
        entries = Entries(_placed(entry, place.parent) for entry in entries)
    if several:
        named = {splits.split_name(entry.fields["split"]) for entry in entries}
        entries = Entries(_apart(entry, dataset, divided=len(named) > 1) for entry in entries)
    return dataclasses.replace(rows, entries=entries)


def _graded(rows: Listing, sources: str) -> Listing:
    """The rows with the field `dr_grade`, of what the fields `sources` tell."""
    named = [name.strip() for name in sources.split(",")]
    known = {name for entry in rows.entries for name in entry.fields}
    unknown = [name for name in named if name not in known]
    if rows.entries and unknown:
        raise InputError(
            f"dr_grade: there is no field '{unknown[0]}'; fields are {', '.join(sorted(known))}."
        )
    if "dr_grade" in known:
        raise InputError("dr_grade: the table has a column of that name; leave the option out.")
    entries = Entries()
    for entry in rows.entries:
        cells = [entry.fields.get(name, "") for name in named]  # another table may lack a column
        words = [w for cell in cells for w in (cell if isinstance(cell, list) else [cell])]
        keywords = [keyword for word in words for keyword in graded.keyword_list(word)]
        grade = {"dr_grade": graded.retinopathy_grade(keywords)}
        entries.append(dataclasses.replace(entry, fields={**entry.fields, **grade}))
    return dataclasses.replace(rows, entries=entries, extra=(*rows.extra, "dr_grade"))


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

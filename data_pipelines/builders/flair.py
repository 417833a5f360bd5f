"""The image-label data sets that FLAIR and KeepFIT were trained on, by their tables.

    python -m data_pipelines.build --dataset=flair --name=NAME --source=FOLDER \\
        --csv='dataframes/pretraining/*.csv' --images=datasets

Obtain the photographs of each data set from its owner, and the tables from the repositories
jusiro/FLAIR (transfer) and lxirich/MM-Retinal (pre-training), folder ``local_data/dataframes``.
FOLDER holds both: the tables, which ``--csv`` selects by a pattern, and below ``--images`` the
pictures by the paths of the tables. FLAIR and KeepFIT spell folders differently (03_IDRID,
03_IDRiD), so case does not matter. A table has the columns ``image``, ``atributes`` (so spelt)
and ``categories``, the latter two as Python lists, e.g. ::

    ,image,atributes,categories
    0,08_ODIR-5K/Training Images/0_left.jpg,[],['cataract']

Licence: FLAIR's code and tables are Apache-2.0, KeepFIT's name none; each data set has its own.

FLAIR numbers 38 data sets of 288,307 images and 101 conditions, of which 31 are for pre-training;
the tables that KeepFIT ships list 91,579 rows of 29 sets (its EYEPACS is a part, AIROGS is not in
them). 08_ODIR lists 10,053 rows of 5,460 images; ``--repeated=drop`` takes each picture once, and
``--pattern='(?P<patient>[0-9]+)_(?P<eye>left|right)'`` reads its patients from names of files.
Records are in one split 'train', as training draws from all; balance them with
``balance='dataset'`` and leave classes out with ``ban``.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar

from data_pipelines.builders import corpus, lookup, table
from data_pipelines.builders.entries import Entries, Entry, Listing, Ref, Skipped
from data_pipelines.errors import InputError
from data_pipelines.text.texts import shown

_GROUPS = frozenset(("patient", "eye"))


@dataclasses.dataclass(eq=False, kw_only=True)
class FlairConfig(corpus.TableConfig):
    """What to build.

    Attributes:
        csv: pattern of the tables inside `source`.
        images: folder inside `source` that the paths of the tables are relative to.
        repeated: 'keep' every row of a picture that tables list again, or 'drop' all but the first.
        pattern: a regular expression that tells patient and eye by names of files, where it fits
            and the row tells none; '' for none.
    """

    csv: str = "*.csv"
    images: str = ""
    repeated: str = "keep"
    pattern: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeated not in ("keep", "drop"):
            raise InputError(f"--repeated is keep or drop, got '{self.repeated}'.")
        lookup.compiled(self.pattern, _GROUPS)


class Flair(corpus.Corpus):
    """TFDS builder of a `FlairConfig`; one record is one row, its labels are the categories.

    The data set of a row is the first folder of its path.
    """

    config_class = FlairConfig
    SPLIT: ClassVar[str | None] = "train"

    def listing(self, config: FlairConfig) -> Listing:
        """Returns an entry for every row of all tables whose picture is there."""
        folder = lookup.Folder(config.root, config.follow_links)
        start = f"{config.images}/" if config.images else ""
        pattern = lookup.compiled(config.pattern, _GROUPS)
        rows = table.joined(
            (
                name,
                table.listing(
                    table.read(config.root / name, config.columns),
                    dataset=config.name,
                    modality="cfp",
                    options=config.label_options,
                ),
            )
            for name in lookup.files(config.root, config.csv, config.follow_links)
        )
        entries, missing = Entries(), []
        again: list[Skipped] = []
        seen: set[str] = set()
        for entry in rows.entries:
            found = folder.find(start + entry.name)
            entry = _of_dataset(_named(entry, pattern))
            if found is None:
                missing.append((entry, Skipped(entry.number, entry.name, "no such file")))
                continue
            if config.repeated == "drop" and found in seen:
                again.append(Skipped(entry.number, entry.name, "picture listed before"))
                continue
            seen.add(found)
            entries.append(dataclasses.replace(entry, pictures={"image": (Ref(found),)}))
        if missing and not entries:
            first = shown(start + missing[0][0].name)
            raise InputError(
                f"None of the {len(missing)} pictures of the tables is in {config.source}; the "
                f"first would be {first}: give the folder by --images."
            )
        remarks = (*rows.remarks, *_absent(entries, [entry for entry, _ in missing]))
        skipped = (*rows.skipped, *(row for _, row in missing), *again)
        return dataclasses.replace(rows, entries=entries, skipped=skipped, remarks=remarks)


def _named(entry: Entry, pattern: re.Pattern[str]) -> Entry:
    """Returns the entry with what the name of its file tells, where its row does not."""
    name = entry.name.replace("\\", "/").rsplit("/", 1)[-1]
    match = pattern.fullmatch(lookup.stem(name))
    told = {} if match is None else match.groupdict("")
    fields = {name: value for name, value in told.items() if not entry.fields.get(name)}
    return dataclasses.replace(entry, fields={**entry.fields, **fields})


def _of_dataset(entry: Entry) -> Entry:
    parts = pathlib.PurePosixPath(entry.name.replace("\\", "/")).parts
    name = parts[0] if len(parts) > 1 else entry.fields["dataset"]
    return dataclasses.replace(entry, fields={**entry.fields, "dataset": name})


def _absent(entries: Sequence[Entry], missing: list[Entry]) -> list[str]:
    present = {entry.fields["dataset"].casefold() for entry in entries}
    absent = collections.Counter(
        entry.fields["dataset"]
        for entry in missing
        if entry.fields["dataset"].casefold() not in present
    )
    if not absent:
        return []
    names = ", ".join(f"{name} ({rows} rows)" for name, rows in sorted(absent.items()))
    return [f"no picture is there of {len(absent)} data sets: {names}"]

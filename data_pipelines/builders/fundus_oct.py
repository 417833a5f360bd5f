"""Pairs of a fundus picture and the OCT volume of the same eye at the same visit.

    python -m data_pipelines.build --dataset=fundus_oct --name=NAME --source=FOLDER --slices=32

FOLDER holds a table, or one folder for each pair.

With ``pairs.csv`` (another file by ``--csv``): columns ``fundus`` and ``oct`` name the two files;
``patient``, ``eye``, ``split``, ``caption``, ``labels``, ``modality`` (of the fundus picture)
and ``dataset`` are used where they are, and all others, such as ``visit`` and ``spacing``, are kept
as text. Other usual names are understood.

Without a table, a pair is a folder, at any depth, with a picture ``fundus.*`` and the volume
``oct.*`` or ``oct``::

    FOLDER/PATIENT/OD/fundus.jpg
    FOLDER/PATIENT/OD/oct/001.png ...

The first folder is the patient if there is another below it; without, the patient is unknown. A
folder that is called exactly OD or OS says which eye it is; nothing is guessed from other names.

A volume is a folder of pictures (in the order of the numbers in their names), a TIFF of several
pages, an .npy array [T H W], or a file of a device (.vol, .e2e, .fda, .fds, .dcm; these need the
extra `clinical`). ``--slices`` keeps so many evenly spaced B-scans.

Licence: that of your data. The 153,306 pairs of Sukei et al. (2024), which this is made for, are
not public; FairVision, OLIVES and GAMMA have such pairs.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

from data_pipelines.builders import corpus, shapes, table, tree
from data_pipelines.builders.entries import Listing, Numbered, Ref
from data_pipelines.builders.pictures import PICTURE_SUFFIXES
from data_pipelines.builders.shapes import Shape
from data_pipelines.errors import InputError

TABLE = "pairs.csv"
_ALIASES = {
    **table.ALIASES,
    "image": ("fundus", "fundus_image", "cfp", "slo", "image"),
    "oct": ("oct", "oct_volume", "oct_path", "volume"),
}


@dataclasses.dataclass(eq=False, kw_only=True)
class FundusOctConfig(corpus.TableConfig):
    """What to build.

    Attributes:
        csv: file name of the table in `source`; '' takes `TABLE`, or the folders if there is none.
        slices: B-scans to keep of a volume, evenly spaced; None keeps all.
        modality: the modality of fundus pictures that the table gives none.
    """

    csv: str = ""
    slices: int | None = None
    modality: str = "cfp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if pathlib.Path(self.csv).name != self.csv:
            raise InputError(f"csv is a file name inside the source folder, got '{self.csv}'.")
        if self.slices is not None and self.slices < 1:
            raise InputError(f"slices is at least 1, got {self.slices}.")


class FundusOct(corpus.Corpus):
    """TFDS builder of a `FundusOctConfig`; one record is one pair."""

    config_class = FundusOctConfig
    SHAPES: ClassVar[Mapping[str, Shape]] = {"pair": shapes.PAIR}

    def listing(self, config: FundusOctConfig) -> Listing:
        """Returns an entry for every row of the table, or every folder of a pair."""
        if config.csv or (config.root / TABLE).exists():
            path = config.root / (config.csv or TABLE)
            found = table.read(path, config.columns, _ALIASES, ("image", "oct"))
            return table.listing(
                found,
                dataset=config.name,
                modality=config.modality,
                options=config.label_options,
                pictures=("image", "oct"),
            )
        return _folders(config)


def _folders(config: FundusOctConfig) -> Listing:
    rows = Numbered()
    for folder, fundus, volumes in _pairs(config):
        for what, files in (("fundus picture", fundus), ("OCT volume", volumes)):
            if len(files) != 1:
                reason = f"several {what}s" if files else f"no {what}"
                rows.skip(folder.as_posix(), reason, ", ".join(files))
                break
        else:
            fields = {
                "modality": config.modality,
                "dataset": config.name,
                "patient": folder.parts[0] if len(folder.parts) > 1 else "",
                "eye": folder.name if folder.name in ("OD", "OS") else "",
            }
            refs = {
                "image": (Ref((folder / fundus[0]).as_posix()),),
                "oct": (Ref((folder / volumes[0]).as_posix()),),
            }
            rows.keep(refs, fields)
    if not rows.entries and not rows.skipped:
        raise InputError(
            f"There is neither {TABLE} nor a folder with fundus.* and oct.* in {config.source}."
        )
    return Listing(rows.entries, tuple(rows.skipped))


def _pairs(config: FundusOctConfig) -> Iterator[tuple[pathlib.PurePosixPath, list[str], list[str]]]:
    """Yields (folder, its fundus pictures, its volumes) of each folder that has one of them."""
    for place, folders, files in tree.walk(config.root, config.follow_links):
        volumes = sorted(name for name in (*folders, *files) if _stem(name) == "oct")
        fundus = sorted(
            name
            for name in files
            if _stem(name) == "fundus" and pathlib.PurePath(name).suffix.lower() in PICTURE_SUFFIXES
        )
        folders[:] = (name for name in folders if _stem(name) != "oct")
        folder = pathlib.PurePosixPath(place)
        if (fundus or volumes) and folder.parts:
            yield folder, fundus, volumes


def _stem(name: str) -> str:
    return pathlib.PurePath(name).stem.lower()

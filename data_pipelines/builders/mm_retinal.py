"""MM-Retinal: pictures of textbooks with English and Chinese captions.

    python -m data_pipelines.build --dataset=mm_retinal --name=NAME --source=FOLDER
    python -m data_pipelines.build --dataset=mm_retinal --name=cfp --source=FOLDER --modality=cfp

Obtain it from the authors' repository, lxirich/MM-Retinal. FOLDER is the unpacked
``MM_Retinal_dataset_v1``: folders ``CFP``, ``FFA``, ``OCT`` of pictures, and a table for each,
CSV or Excel, such as ``CFP_translated_v1.csv``::

    Image_ID,cn_caption,en_caption
    figure01-01A,...

``Image_ID`` is a file name without ending (.png, .jpg and .jpeg are tried), with it, or a path.
Also understood are the tables derived from it: KeepFIT's ``39_MM_Retinal_dataset.csv`` (``image``,
``caption``) and ``FFA.csv`` (the caption is the one item of ``categories``), RetCoP's
(``Image_ID, Label, cn_caption, en_caption`` and empty columns), RetiXfer's (``fundus_status``), and
those with ``attributes`` for OCT. How version 2 lies on disk is not public; its tables are read
where they have one of these forms. ``--csv`` selects tables by a pattern; by default all of FOLDER.

RetCoP's tables are damaged: their Chinese was read in a wrong encoding, which lost a byte wherever
it met an ASCII character. Where that was the comma before the English caption, both are one cell;
the English is taken from there. Chinese is restored where no byte is lost, and empty elsewhere.

Licence: none is given, and the pictures come from copyrighted books: do not pass it on. File names
of the OCT table of RetCoP may name patients: do not publish ids of those records.

Version 1 has 2,169 CFP, 1,947 FFA and 233 OCT pictures. KeepFIT's CFP table has 2,167 rows of
2,087 distinct captions, 32 words in the mean; RetCoP's OCT table has 5,328. In one split, 'train'.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator
from typing import ClassVar

from data_pipelines.builders import corpus, labels, lookup, misread, table
from data_pipelines.builders.entries import Entries, Entry, Listing, Ref, Skipped
from data_pipelines.builders.pictures import PICTURE_SUFFIXES
from data_pipelines.errors import InputError

MODALITIES = ("cfp", "ffa", "oct")
SUFFIXES = (".png", ".jpg", ".jpeg")
_ALIASES = {
    **table.ALIASES,
    "caption": (*table.ALIASES["caption"], "categories"),
    "labels": ("labels", "label"),
}
_OTHER = "another modality"


@dataclasses.dataclass(eq=False, kw_only=True)
class MMRetinalConfig(corpus.CorpusConfig):
    """What to build.

    Attributes:
        csv: pattern of the tables inside `source`; '' takes its .csv files, else its .xlsx files.
        modality: 'cfp', 'ffa' or 'oct' to take one; '' takes all.
    """

    csv: str = ""
    modality: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.modality not in ("", *MODALITIES):
            raise InputError(f"modality is one of {', '.join(MODALITIES)}, not '{self.modality}'.")


class MMRetinal(corpus.Corpus):
    """TFDS builder of a `MMRetinalConfig`; one record is one picture with its captions."""

    config_class = MMRetinalConfig
    SPLIT: ClassVar[str | None] = "train"

    def listing(self, config: MMRetinalConfig) -> Listing:
        """Returns an entry for every row of all tables that has a caption and its picture."""
        folder = lookup.Folder(config.root, config.follow_links)
        return table.joined((name, _rows(config, name, folder)) for name in _tables(config))


def _tables(config: MMRetinalConfig) -> list[str]:
    if config.csv:
        return lookup.files(config.root, config.csv, config.follow_links)
    suffixes = {path.suffix.lower() for path in config.root.iterdir()}
    return lookup.files(config.root, "*.csv" if ".csv" in suffixes else "*.xlsx")


def _rows(config: MMRetinalConfig, name: str, folder: lookup.Folder) -> Listing:
    found = table.read(config.root / name, {}, _ALIASES, strip=False)
    found, damaged, remarks = misread.repaired(found)
    whole = _modality(pathlib.PurePosixPath(name).stem)
    rows = table.listing(found, dataset="mm_retinal", modality=whole)
    entries = Entries()
    skipped = [*damaged, *rows.skipped]
    for entry in rows.entries:
        modality = entry.fields["modality"] or _modality(entry.name)
        paths = _files(entry.name, modality, folder)
        modality = modality or (_modality(paths[0]) if len(paths) == 1 else "")
        captions = {
            "caption": _sentence(entry.fields["caption"]),
            "caption_zh": entry.fields["caption_zh"],
        }
        reason = _fault(modality, config.modality, captions, paths)
        if reason:
            skipped.append(Skipped(entry.number, entry.name, reason, ", ".join(paths[1:])))
            continue
        fields = {**entry.fields, **captions, "modality": modality}
        entries.append(Entry(entry.number, {"image": (Ref(paths[0]),)}, fields))
    remarks = (*remarks, *rows.remarks)
    return dataclasses.replace(rows, entries=entries, skipped=tuple(skipped), remarks=remarks)


def _fault(modality: str, wanted: str, captions: dict[str, str], paths: list[str]) -> str:
    """Returns why a row cannot be used, or ''."""
    if wanted and modality not in ("", wanted):
        return _OTHER
    if not any(captions.values()):
        return "no caption"
    if len(paths) != 1:
        return "several files of this name" if paths else "no such file"
    return "" if modality else "modality unknown"


def _modality(name: str) -> str:
    """Returns the one modality that a name has as a word: 'CFP_translated_v1', 'FFA/a.png'."""
    words = {word.lower() for word in re.split(r"[^A-Za-z0-9]+", name)}
    found = words.intersection(MODALITIES)
    return found.pop() if len(found) == 1 else ""


def _sentence(caption: str) -> str:
    """Returns a caption, also one that is the item of a list as Python writes it."""
    items = labels.literal_list(caption)
    return caption if items is None else ", ".join(items)


def _files(name: str, modality: str, folder: lookup.Folder) -> list[str]:
    """Returns the different files that a table may mean by a name; usually one or none."""
    path = pathlib.PurePosixPath(name.replace("\\", "/"))
    places = [path]
    if len(path.parts) == 1:
        kinds = [modality] if modality else MODALITIES
        places += [pathlib.PurePosixPath(kind) / path for kind in kinds]
    # The folder above those of the modalities has several names.
    places += [
        pathlib.PurePosixPath(*path.parts[i:])
        for i, part in enumerate(path.parts[:-1])
        if part.lower() in MODALITIES
    ]
    found = (next(filter(None, map(folder.find, _endings(place))), None) for place in places)
    return sorted({one for one in found if one is not None})


def _endings(path: pathlib.PurePosixPath) -> Iterator[str]:
    if path.suffix.lower() in PICTURE_SUFFIXES:
        yield str(path)
        path = path.with_suffix("")
    for suffix in SUFFIXES:
        yield f"{path}{suffix}"

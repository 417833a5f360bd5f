"""REFUGE: file names tell the part, tables or index files the glaucoma."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import ClassVar

from data_pipelines.builders import corpus, table, tree
from data_pipelines.builders.entries import Listing, Numbered, Ref, Unusable
from data_pipelines.builders.graded import TablesConfig, by_field
from data_pipelines.builders.tree import FileTree
from data_pipelines.errors import InputError

_NAME = re.compile(r"([gnvt])\d{4}\.jpg")
_SPLITS = {"g": "train", "n": "train", "v": "validation", "t": "test"}
_LABELS = {"0": "no glaucoma", "1": "glaucoma"}
# Folders that pictures lie in directly. Those of the first REFUGE come first: the second one names
# its validation pictures in the same way.
_FOLDERS = ("glaucoma", "non-glaucoma", "training400", "refuge-training400", "refuge-validation400",
            "validation400", "refuge-test400", "test400", "images")  # fmt: skip
_TABLES = ("Fovea_locations.xlsx", "Glaucoma_label_and_Fovea_location.xlsx")
_COLUMNS = {"image": ("imgname",), "labels": ("label(glaucoma=1)", "glaucoma_label")}


class Refuge(corpus.Corpus):
    """REFUGE, the Retinal Fundus Glaucoma Challenge of MICCAI 2018.

    Get: refuge.grand-challenge.org (registration). Licence: not stated beyond the terms of the
    challenge (recalled).

        python -m data_pipelines.build --dataset=refuge --source=FOLDER

    Expected, at any depth: ``Training400/Glaucoma/g0001.jpg`` and
    ``Training400/Non-Glaucoma/n0001.jpg``; ``REFUGE-Validation400/V0001.jpg`` with
    ``Fovea_locations.xlsx`` (columns ``ImgName``, ``Glaucoma Label``); ``Test400/T0001.jpg`` with
    ``Glaucoma_label_and_Fovea_location.xlsx`` (``ImgName``, ``Label(Glaucoma=1)``). Or a mirror:
    ``train``, ``val`` and ``test``, each with ``Images`` and ``index.json`` ({number: {"ImgName",
    "Label", ...}}). The letter of a training picture is its class; a picture of the other parts
    for which no file tells the class is skipped and counted.

    Statistics: 400 pictures in each part, of which 40 with glaucoma. FLAIR evaluates on those for
    training. Patients are not named.
    """

    config_class = TablesConfig
    LAYOUT: ClassVar[str] = (
        "'Training400/Glaucoma/g0001.jpg', 'REFUGE-Validation400/V0001.jpg', "
        "'Test400/T0001.jpg' and the tables, or 'train/Images/g0001.jpg'"
    )

    def listing(self, config: TablesConfig) -> Listing:
        """Returns an entry for every picture whose class is known.

        Raises:
            InputError: there is no picture of REFUGE, or a table or index file is broken.
        """
        files = tree.index(config.root, config.follow_links)
        known = {**_tables(files, config.columns), **_indices(files)}
        rows = Numbered()
        seen: set[str] = set()
        # Masks have the same names in another format.
        paths = sorted(
            (path for path in files.pictures(_FOLDERS) if path.lower().endswith(".jpg")),
            key=lambda path: _FOLDERS.index(path.lower().split("/")[-2]),
        )
        for path in paths:
            name = path.rsplit("/", 1)[-1].lower()
            match = _NAME.fullmatch(name)
            if match is None:
                rows.skip(path, "name not of this corpus")
                continue
            letter = match[1]
            label = {"g": "1", "n": "0"}.get(letter) or known.get(name, "")
            if name in seen:
                rows.skip(path, "another file of this name")
            elif label not in _LABELS:
                rows.skip(path, "unknown grade" if label else "no label", label)
            else:
                seen.add(name)
                fields = {
                    "modality": "cfp",
                    "dataset": self.name,
                    "split": _SPLITS[letter],
                    "labels": [_LABELS[label]],
                }
                rows.keep({"image": (Ref(path),)}, fields)
        if not paths:
            raise files.missing(["picture of this corpus"], self.LAYOUT)
        return Listing(rows.entries, tuple(rows.skipped))


def _tables(files: FileTree, columns: Mapping[str, str]) -> dict[str, str]:
    """Returns {picture: '0' or '1'} out of the tables of the validation and the test part."""
    known: dict[str, str] = {}
    for path in filter(None, (files.table((name,)) for name in _TABLES)):
        found = table.read(files.root / path, columns, _COLUMNS, tuple(_COLUMNS))
        for line, cells in found.rows:
            try:
                row = by_field(found, cells)
            except Unusable as error:
                raise InputError(
                    f"Line {line} of {files.root / path} cannot be read: {error}."
                ) from error
            known[row["image"].lower()] = row["labels"]
    return known


def _indices(files: FileTree) -> dict[str, str]:
    """Returns {picture: '0' or '1'} out of the index files of the mirror."""
    known: dict[str, str] = {}
    for path in files.named("index.json"):
        try:
            rows = json.loads((files.root / path).read_text(encoding="utf-8-sig"))
            known |= {
                str(row["ImgName"]).lower(): str(row["Label"])
                for row in rows.values()
                if "Label" in row
            }
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"{files.root / path} is no index of pictures {{number: {{'ImgName', 'Label'}}}}: "
                f"{error!r}."
            ) from error
    return known

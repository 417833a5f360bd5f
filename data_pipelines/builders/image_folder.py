r"""A data set out of folders whose names are classes, without a table.

    python -m data_pipelines.build --dataset=folder --name=NAME --source=FOLDER

FOLDER holds ``CLASS/a.jpg``, or ``SPLIT/CLASS/a.jpg`` with splits of the usual names (train, val,
test, training_set and the like). A split that is alone is kept, and the build says which are not
there. Pictures without a folder of a class have no label. Classes that are numbers get their names
by ``--label_names``. Names of files tell patient and eye where ``--pattern`` says how: a regular
expression with groups of these names, of a name without its ending ::

    --pattern='(?P<patient>\d+)_(?P<eye>left|right)'

or, where it has a slash, of the whole path inside FOLDER, also with the groups ``label`` and
``split``: '(?P<label>[^/]+)/(?P<patient>[^/]+)/.*'.

OCT volumes are found at the same places: files of devices and DICOM (these need the extra
`clinical`), .npy arrays [T H W], TIFF files of several pages, and, with ``--unit=volume``, folders
of B-scans, each a volume: ``CLASS/NAME/001.png``. Where there are volumes and no pictures, that
unit is chosen. Single B-scans are pictures with ``--modality=oct``.

Endings may be in capitals or missing. The licence is that of your pictures.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from data_pipelines.builders import corpus, labels, lookup, pictures, shapes, tree
from data_pipelines.builders.entries import Entry, Listing, Numbered, Ref
from data_pipelines.builders.shapes import Shape
from data_pipelines.errors import InputError
from data_pipelines.records import splits
from data_pipelines.text.texts import given, shown

_GROUPS = frozenset(("patient", "eye", "label", "split"))


@dataclasses.dataclass(eq=False, kw_only=True)
class FolderConfig(corpus.CorpusConfig):
    """What to build.

    Attributes:
        pattern: a regular expression that tells patient and eye by names of files; '' for none.
        modality: the modality of all records; '' is 'cfp' for pictures and 'oct' for volumes.
        label_names: names of the classes that names of folders are codes of: '0:normal,1:mild', or
            the name of a scale, 'icdr5'.
        slices: B-scans to keep of a volume, evenly spaced; None keeps all.
    """

    pattern: str = ""
    modality: str = ""
    label_names: str = ""
    slices: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slices is not None and self.slices < 1:
            raise InputError(f"slices is at least 1, got {self.slices}.")
        lookup.compiled(self.pattern, _GROUPS)
        if self.unit is None:
            found = _found(self)
            self.unit = "volume" if found.volumes and not found.pictures else "image"


@dataclasses.dataclass
class _Found:
    """Paths below a folder, by what they are; of other files the number of each ending."""

    pictures: list[str] = dataclasses.field(default_factory=list)
    volumes: list[str] = dataclasses.field(default_factory=list)
    others: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


class ImageFolder(corpus.Corpus):
    """TFDS builder of a `FolderConfig`; one record is one picture, patient, or volume."""

    name = "folder"
    config_class = FolderConfig
    KEEPS_ONE: ClassVar[bool] = True
    SHAPES: ClassVar[Mapping[str, Shape]] = {
        "image": shapes.PICTURE,
        "patient": shapes.PATIENT,
        "volume": shapes.VOLUME,
    }

    def listing(self, config: FolderConfig) -> Listing:
        """Returns an entry for every picture, or every volume.

        Raises:
            InputError: there are none, or folders that are not understood.
        """
        found, of_volumes = _found(config), config.unit == "volume"
        stacks: collections.Counter[str] = collections.Counter()
        loose: list[str] = []
        paths, others = found.pictures, found.volumes
        if of_volumes:
            stacks.update(os.path.dirname(path) for path in found.pictures)
            loose = [path for path in found.pictures if not os.path.dirname(path)]
            stacks.pop("", None)
            paths, others = [*found.volumes, *stacks], []
        if not paths:
            raise InputError(
                f"There is no {config.unit} in {config.source} or below: expected is "
                "CLASS/a.jpg or SPLIT/CLASS/a.jpg."
            )
        fields = _Fields(config, paths)
        rows = Numbered()
        for path in loose:
            rows.skip(path, "a picture in no folder, which would be its volume")
        for path in sorted(paths, key=pictures.natural):
            told = fields.of(path)
            if told is None:
                rows.skip(path, "name does not match the pattern")
                continue
            told |= {"dataset": config.name, "modality": config.modality}
            told["modality"] = told["modality"] or ("oct" if of_volumes else "cfp")
            rows.keep({"oct" if of_volumes else "image": (Ref(path),)}, told)
        _refuse_codes(rows.entries, config)
        remarks = _remarks(found, others, stacks, rows.entries)
        return Listing(rows.entries, tuple(rows.skipped), remarks)


class _Fields:
    """What a path tells, by folders and by the pattern."""

    def __init__(self, config: FolderConfig, paths: list[str]) -> None:
        self._config, self._pattern = config, re.compile(config.pattern)
        self._names = labels.class_names(config.label_names)
        tops = {path.split("/")[0] for path in paths if "/" in path}
        splitting = {top for top in tops if splits.split_name(top) in splits.SHARES}
        self._whole = "/" in config.pattern
        self._split = bool(splitting)
        other = shown(", ".join(sorted(tops - splitting)))
        if splitting and other and not self._whole:
            raise InputError(
                f"In {config.source}, {', '.join(sorted(splitting))} are splits and {other} are "
                "not: put classes into the splits, or say by --pattern what the folders are."
            )

    def of(self, path: str) -> dict[str, Any] | None:
        """Returns the fields of a path, or None where the pattern does not fit."""
        name = path if self._whole else path.rsplit("/", 1)[-1]
        told: dict[str, str] = {}
        if self._config.pattern:
            match = self._pattern.fullmatch(lookup.stem(name))
            if match is None:
                return None
            # A folder may be called None; a patient is so where a program knew none.
            groups = match.groupdict("").items()
            told = {name: v if name == "label" else given(v) for name, v in groups}
        if not self._whole:
            told = {**self._by_folders(path), **told}
        label = labels.words(told.pop("label", ""))
        named = self._names.get(labels.whole(label), label)
        return {**told, "labels": [named] if named else []}

    def _by_folders(self, path: str) -> dict[str, str]:
        folders = path.split("/")[:-1]
        split = folders.pop(0) if self._split and folders else ""
        if len(folders) > 1:
            raise InputError(
                f"{shown(path)} in {self._config.source} lies deeper than CLASS/a.jpg or "
                "SPLIT/CLASS/a.jpg: call splits train, validation and test, give a folder inside "
                "as the source, or say by --pattern what the folders are, such as "
                "'(?P<label>[^/]+)/(?P<patient>[^/]+)/.*'."
            )
        return {"split": split, "label": folders[0] if folders else ""}


def _found(config: FolderConfig) -> _Found:
    """Looks at names, and at the first bytes of files without an ending."""
    found = _Found()
    for place, _, names in tree.walk(config.root, config.follow_links):
        # The pictures beside an .xml of Heidelberg belong to it.
        kinds = {name: pictures.kind(config.root / place / name) for name in names}
        described = any(
            kind == "volume" and name.lower().endswith(".xml") for name, kind in kinds.items()
        )
        for name, kind in kinds.items():
            path = f"{place}/{name}" if place else name
            if kind == "volume":
                found.volumes.append(path)
            elif kind == "picture" and not described:
                found.pictures.append(path)
            elif kind == "":
                found.others[os.path.splitext(name)[1].lower() or "no ending"] += 1
    return found


def _refuse_codes(entries: Sequence[Entry], config: FolderConfig) -> None:
    codes = {label for entry in entries for label in entry.fields["labels"]}
    codes = sorted(filter(labels.is_code, codes))
    if codes:
        named = shown(", ".join(codes[:6]))
        raise InputError(
            f"The folders of classes in {config.source} look like codes ({named}), which say "
            f"nothing in a prompt: name them by {labels.ASK}."
        )


def _remarks(
    found: _Found, others: list[str], stacks: Mapping[str, int], entries: Sequence[Entry]
) -> tuple[str, ...]:
    remarks = []
    if found.others:
        kinds = ", ".join(f"{number} {ending}" for ending, number in found.others.most_common(5))
        table = {".csv", ".xlsx", ".tsv"} & set(found.others)
        hint = "; --dataset=manifest reads a table" if table else ""
        remarks.append(f"files that are neither pictures nor volumes are not read: {kinds}{hint}")
    if others:
        remarks.append(f"{len(others)} OCT volumes are not read; --unit=volume reads them")
    if stacks:
        folder, number = max(stacks.items(), key=lambda item: item[1])
        remarks.append(
            f"{len(stacks)} folders of pictures are volumes, such as '{folder}' of {number} B-scans"
        )
    if not any(entry.fields["labels"] for entry in entries):
        remarks.append("no folder names a class, so there are no labels")
    return tuple(remarks)

"""Targets and masks: indices of classes, quantities, and patches hidden from a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from grain.transforms import Map, RandomMap

from data_pipelines.errors import InputError
from data_pipelines.images import functional
from data_pipelines.text.texts import listed, plain
from data_pipelines.transforms.fields import Record, field, names

Classes = tuple[str | tuple[str, ...], ...]


def _class_places(classes: Classes) -> dict[str, list[int]]:
    """The indices of the classes that a name stands for."""
    found: dict[str, list[int]] = {}
    for place, synonyms in enumerate(classes):
        for name in names(synonyms):
            found.setdefault(plain(name), []).append(place)
    return found


def _class_names(
    record: Record, source: str | Sequence[str], within: str | None
) -> tuple[list[str], str]:
    """Returns the labels of a record as they are compared with classes, and what begins them."""
    values = [field(record, one) for one in names(source)]
    items = [i for v in values for i in (v if isinstance(v, (list, tuple)) else [v])]
    found = [name for item in items if (name := plain(str(item)))]
    start = "" if within is None else f"{plain(field(record, within))}/"
    return [start + name for name in found], start


def _check_classes(owner: str, classes: Classes, within: str | None) -> None:
    """Raises `InputError` where a name does not say of which data set, or two classes are one."""
    if isinstance(classes, str):
        raise InputError(f"{owner}: 'classes' is a list of names, got '{classes}'.")
    first: dict[str, int] = {}
    for number, synonyms in enumerate(classes):
        # Only the name that a class is called by has to be its own.
        for name in listed(names(synonyms), "classes")[: None if owner == "label" else 1]:
            if first.setdefault(plain(name), number) != number:
                raise InputError(f"{owner}: 'classes' has '{name}' twice, as two classes.")
    if within is not None:
        bare = [name for synonyms in classes for name in names(synonyms) if "/" not in name]
        if bare:
            raise InputError(
                f"{owner}: with within='{within}' a class is named as '{within}/label', such as "
                f"'odir/normal', got '{bare[0]}'."
            )


@dataclasses.dataclass(frozen=True)
class Label(Map):
    """The index of a record's class, int32 [].

    Attributes:
        classes: names, or tuples of synonyms, in the order of the indices; case and runs of blanks
            do not count.
        source: field of a label, a number or a list, or several fields; the first label that is a
            class counts.
        target: field of the index.
        within: field that says where a label belongs, such as 'dataset'. Classes are then named
            'odir/normal' and 'kermany_oct/normal', and a record has those of its own only; those
            that are the same in two data sets are synonyms: ('idrid/mild', 'odir/mild').
        missing: whether a record that has none of the classes gets -1; otherwise it is refused.
    """

    classes: Classes
    source: str | tuple[str, ...] = "labels"
    target: str = "label"
    within: str | None = None
    missing: bool = False

    def __post_init__(self) -> None:
        _check_classes("label", self.classes, self.within)

    def map(self, record: Record) -> Record:
        """Returns the record with `target`, or raises `InputError` where no label is a class."""
        found, _ = _class_names(record, self.source, self.within)
        places = _class_places(self.classes)
        classes = [places[name][0] for name in found if name in places]
        if not classes and not self.missing:
            raise InputError(
                f"label: none of {found} in field {' or '.join(map(repr, names(self.source)))} is "
                f"one of the classes {list(self.classes)}: add it as a synonym, select the records "
                "by 'where', or set missing=True."
            )
        return {**record, self.target: np.int32(classes[0] if classes else -1)}


@dataclasses.dataclass(frozen=True)
class MultiLabel(Map):
    """One 0 / 1 target per class, float32 [C]: 1 where a label of the record is that class.

    A target is NaN, missing, where nobody looked for the class: in a record of another data set
    than the class, and in one without any label if these are `missing`.

    Attributes:
        classes: names, or tuples of synonyms; case and runs of blanks do not count. A synonym may
            be that of several classes: a normal fundus is of grade 0 too.
        source: field of a label, a number or a list, or several fields.
        target: field of the targets.
        within: the field that names the data set, as in `Label`.
        missing: whether a record without any label has none of the targets; otherwise all are 0.
    """

    classes: Classes
    source: str | tuple[str, ...] = "labels"
    target: str = "labels"
    within: str | None = None
    missing: bool = False

    def __post_init__(self) -> None:
        _check_classes("multi_label", self.classes, self.within)

    def map(self, record: Record) -> Record:
        """Returns the record with `target`."""
        found, start = _class_names(record, self.source, self.within)
        places = _class_places(self.classes)
        targets = np.full(len(self.classes), np.nan, np.float32)
        if found or not self.missing:
            asked = [i for name, all_ in places.items() if name.startswith(start) for i in all_]
            targets[asked] = 0
        targets[[i for name in found for i in places.get(name, ())]] = 1
        return {**record, self.target: targets}


@dataclasses.dataclass(frozen=True)
class Quantity(Map):
    """A number as a regression target, float32 [], in the unit that it is stored in.

    Attributes:
        source: field of the number, or of a text that is one, as tables give it: '312.5'.
        target: field of the target.
        missing: whether a record without a number, '' or NaN, gets NaN; otherwise it is refused.
    """

    source: str
    target: str = "target"
    missing: bool = False

    def map(self, record: Record) -> Record:
        """Returns the record with `target`, or raises `InputError` where there is no number."""
        value = field(record, self.source)
        stated = value.strip() if isinstance(value, str) else value
        try:
            number = float("nan" if stated == "" else stated)
        except (TypeError, ValueError):
            raise InputError(
                f"quantity: '{self.source}' is {value!r}, which is no number."
            ) from None
        if np.isinf(number) or (np.isnan(number) and not self.missing):
            raise InputError(
                f"quantity: '{self.source}' is {value!r} in a record, no finite number: leave such "
                f"records out by ban={{'mode': 'exact', 'field': '{self.source}', 'words': ('',)}} "
                "or set missing=True."
            )
        return {**record, self.target: np.float32(number)}


@dataclasses.dataclass(frozen=True)
class MaskPatches(RandomMap):
    """Hides patches of a picture at random: bool [patches], True where hidden (MAE).

    Exactly round((1 - ratio) * patches) patches are visible: 49 of 196 by default, as in MAE and
    for SKKU.

    Attributes:
        patches: (height / patch size) * (width / patch size) of the model.
        ratio: share of the patches to hide.
        target: field of the mask.
    """

    patches: int = 196
    ratio: float = 0.75
    target: str = "patch_mask"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 or not 0 < self._visible() < self.patches:
            raise InputError(
                "mask_patches: 'ratio' lies between 0 and 1 and leaves at least one patch visible "
                f"and one hidden, got {self.ratio} of {self.patches} patches."
            )

    def _visible(self) -> int:
        return round((1 - self.ratio) * self.patches)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record with `target`."""
        return {**record, self.target: functional.mask_patches(self.patches, self._visible(), rng)}

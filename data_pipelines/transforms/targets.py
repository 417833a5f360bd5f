"""Targets and masks: indices of classes, and patches hidden from a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from grain.transforms import Map, RandomMap

from data_pipelines.errors import InputError
from data_pipelines.images import functional
from data_pipelines.transforms.fields import Record, field, names


def _class_index(classes: Sequence[str | Sequence[str]]) -> dict[str, int]:
    return {name.lower(): i for i, synonyms in enumerate(classes) for name in names(synonyms)}


@dataclasses.dataclass(frozen=True)
class Label(Map):
    """The index of a record's class, int32 [].

    Attributes:
        classes: names, or tuples of synonyms, in the order of the indices; case does not count.
        source: field of a label or a list; the first one that is a class counts.
        target: field of the index.
    """

    classes: tuple[str | tuple[str, ...], ...]
    source: str = "labels"
    target: str = "label"

    def map(self, record: Record) -> Record:
        """Returns the record with `target`, or raises `InputError` where no label is a class."""
        found = names(field(record, self.source))
        index = _class_index(self.classes)
        classes = [index[name.lower()] for name in found if name.lower() in index]
        if not classes:
            raise InputError(
                f"label: none of {found} in field '{self.source}' is one of the classes "
                f"{list(self.classes)}: add it as a synonym, or select the records by 'where'."
            )
        return {**record, self.target: np.int32(classes[0])}


@dataclasses.dataclass(frozen=True)
class MultiLabel(Map):
    """One 0 / 1 target per class, float32 [C]: 1 where a label of the record is that class.

    Attributes:
        classes: names, or tuples of synonyms; case does not count.
        source: field of a label or a list.
        target: field of the targets.
    """

    classes: tuple[str | tuple[str, ...], ...]
    source: str = "labels"
    target: str = "labels"

    def map(self, record: Record) -> Record:
        """Returns the record with `target`."""
        index = _class_index(self.classes)
        targets = np.zeros(len(self.classes), np.float32)
        for name in names(field(record, self.source)):
            if name.lower() in index:
                targets[index[name.lower()]] = 1
        return {**record, self.target: targets}


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

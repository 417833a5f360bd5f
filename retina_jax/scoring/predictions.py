"""What a classifier said of records: all that its figures are computed from."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.metrics import subgroups
from retina_jax.scoring import hashes, thumbnails

TEST, VALIDATION = "test", "validation"
# Fields of records by which patients are grouped, where a data set has them.
ATTRIBUTES = ("sex", "age", "eye", "device", "site", "quality", "ethnicity", "race", "language")
_MOST_MISSING = 0.05
# Fields whose values tell patients apart, and a field that tells as many groups apart does so too.
_IDENTIFY, _MOST_SUBGROUPS = ("id", "patient", "image"), 30
# Columns of a file of records that a grouping cannot be called as.
_RESERVED = ("record", "image_sha256", "group", "setting", "repeat", "fold", "split", "target",
             "label", "predicted", "place_x", "place_y")  # fmt: skip
_COLUMNS = ("record", "group", "labels", "scores", "setting", "repeat", "fold", "split")
_OPTIONAL = ("probabilities", "images", "places")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Rows of one evaluator; a record has several where it is scored again and again.

    Attributes:
      record: str[N], the name of the record.
      group: str[N], what is independent: the name of the first record of the patient.
      labels: i[N]; 0 / 1 [N C] with -1 where one is not known; or f64[N], a quantity.
      scores: f32[N C], higher for a likelier class; the largest one decides. f32[N 1] predicts a
        quantity.
      setting: str[N], which of several ways of fitting gave the row ('5_shots'), or ''.
      repeat, fold: i[N]; a fold of -1 is none.
      split: str[N], 'test', or 'validation' for rows that thresholds are chosen on.
      probabilities: f32[N C], or None where the scores are no probabilities.
      images: str[N], hashes of the pictures, or None before they are known.
      places: f32[N 2], where the features of a record lie in the plane in which those of the test
        records vary most (`adapters.plane`), NaN for rows that have no place there, or None.
      attributes: name -> str[N], what patients are grouped by.
      about: what else the figures depend on, as JSON holds it; see `of_records`.
      source: the test records, to hash their pictures; None once that is done.
    """

    record: np.ndarray
    group: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    setting: np.ndarray
    repeat: np.ndarray
    fold: np.ndarray
    split: np.ndarray
    probabilities: np.ndarray | None = None
    images: np.ndarray | None = None
    places: np.ndarray | None = None
    attributes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: Any = None

    def where(self, rows: np.ndarray) -> Predictions:
        """The rows int[n] or bool[N]."""
        changed = {name: getattr(self, name)[rows] for name in _COLUMNS}
        for name in _OPTIONAL:
            value = getattr(self, name)
            changed[name] = None if value is None else value[rows]
        attributes = {name: value[rows] for name, value in self.attributes.items()}
        return dataclasses.replace(self, **changed, attributes=attributes)

    @property
    def repeats(self) -> int:
        """How many there are among the rows of one setting and split; 1 without any."""
        return max(len(np.unique(self.repeat)), 1)

    @property
    def share(self) -> np.ndarray:
        """f64[N], what each row of one setting and split counts for, so that each record is one."""
        _, number, counts = np.unique(self.record, return_inverse=True, return_counts=True)
        return 1.0 / counts[number]

    def once(self) -> Predictions:
        """The rows of the first repeat."""
        return self.where(self.repeat == min(self.repeat, default=0))

    def told(self, **about: Any) -> Predictions:
        """With more of what it is about."""
        return dataclasses.replace(self, about={**self.about, **about})

    def grouped(self, fields: Sequence[str]) -> Predictions:
        """With more fields of its records by which patients are grouped, before it is `hashed`.

        Raises:
          InputError: for a field that no record has, or whose values are no groups.
        """
        if not fields:
            return self
        found: dict[str, dict[str, str]] = {}
        for source in self.source or ():
            for field in fields:
                name, values = _grouping(source, field)
                found.setdefault(name, {}).update(zip(names_of(source), values, strict=True))
        own = {
            name: np.array([of.get(str(record), subgroups.UNKNOWN) for record in self.record])
            for name, of in found.items()
        }
        return dataclasses.replace(self, attributes={**self.attributes, **own})

    def of(self, setting: str, split: str = TEST) -> Predictions:
        """The rows of one setting and split."""
        return self.where((self.setting == setting) & (self.split == split))

    def sorted(self) -> Predictions:
        """In an order that does not depend on that of the data, so that no figure does."""
        return self.where(np.lexsort((self.record, self.repeat, self.setting, self.split)))

    def hashed(self) -> Predictions:
        """With the hashes of the pictures, which reads them."""
        if self.images is not None or self.source is None:
            return self
        by_record: dict[str, str] = {}
        for source in self.source:
            by_record |= dict(zip(names_of(source), hashes.image_hashes(source), strict=True))
        images = np.array([by_record.get(str(name), "") for name in self.record])
        return dataclasses.replace(self, images=images, source=None)

    @functools.cached_property
    def test_hash(self) -> str:
        """The hash of the records that are scored, see `hashes.test_hash`."""
        rows = self._once()
        images = [""] * len(rows.record) if rows.images is None else rows.images
        return hashes.test_hash(rows.record, images, rows.labels, rows.group)

    @functools.cached_property
    def images_hash(self) -> str:
        """The hash of their pictures."""
        rows = self._once()
        images = [""] * len(rows.record) if rows.images is None else rows.images
        return hashes.images_hash(rows.record, images)

    def split_hash(self, split: str | None = None) -> str:
        """The hash of which record is in which split, or of the records of one."""
        keep = np.ones(len(self.record), bool) if split is None else self.split == split
        pairs = sorted(set(zip(self.record[keep], self.split[keep], strict=True)))
        return hashes.split_hash([p[0] for p in pairs], [p[1] for p in pairs])

    def pictures(self) -> list[tuple[str, str]]:
        """Name and hash of the picture of each test record, each once."""
        rows = self._once()
        images = [""] * len(rows.record) if rows.images is None else rows.images
        return [(str(name), str(image)) for name, image in zip(rows.record, images, strict=True)]

    def sizes(self) -> dict[str, int | None]:
        """How many patients, eyes, images and records are scored; see `_sizes`."""
        rows = self._once()
        images = [""] if rows.images is None else rows.images
        both = self.about.get("level") == "patient"
        sides = rows.attributes.get("eye", ())
        return _sizes(rows.group, bool(self.about.get("groups_known")), images, sides, both)

    def _once(self) -> Predictions:
        """Each test record once."""
        test = self.where(self.split == TEST)
        return test.where(np.unique(test.record, return_index=True)[1])


def of_records(
    source: Any,
    labels: np.ndarray,
    scores: np.ndarray,
    about: Mapping[str, Any],
    *,
    probabilities: np.ndarray | None = None,
    places: np.ndarray | None = None,
    setting: str = "",
    repeat: int = 0,
    fold: np.ndarray | None = None,
    split: str = TEST,
) -> Predictions:
    """What was said of the records of a source.

    Args:
      source: the records, in the order of the arrays; its `column` gives a field of all of them.
      labels: i[N], 0 / 1 [N C], or f[N], a quantity.
      scores: f[N C], or f[N 1] of a quantity.
      about: 'classes' (names), 'metrics' (keys of METRICS), and anything else of `figures.about`.
      probabilities, places, setting, repeat, fold, split: attributes of `Predictions`.

    Raises:
      InputError: there are no records, or more than 5 % of the scores are NaN; fewer are left out
        and counted as 'missing_scores'.
    """
    labels, scores, count = np.asarray(labels), np.asarray(scores, np.float32), len(labels)
    names, patients = names_of(source), [str(name or "") for name in source.column("patient")]
    missing = np.asarray(np.isnan(scores).any(axis=1), bool) if count else np.zeros(0, bool)
    if not count or missing.sum() > _MOST_MISSING * count:
        raise InputError(
            f"{missing.sum()} of {count} records have a score that is NaN: the model or its data "
            "are broken." if count else "There is no record to score: the test split is empty."
        )  # fmt: skip
    return Predictions(
        record=np.array(names),
        group=_groups(names, patients),
        labels=np.asarray(labels, np.float64)
        if about.get("task") == "regression"
        else np.nan_to_num(labels, nan=-1).astype(np.int64),  # NaN: nobody looked for it
        scores=scores,
        setting=np.full(count, setting),
        repeat=np.full(count, repeat),
        fold=np.full(count, -1) if fold is None else np.asarray(fold, np.int64),
        split=np.full(count, split),
        probabilities=None if probabilities is None else np.asarray(probabilities, np.float32),
        places=None if places is None else np.asarray(places, np.float32),
        attributes=_attributes(source, count),
        about={
            **about,
            "data": getattr(source, "name", ""),
            "data_split": getattr(source, "split", ""),
            "groups_known": all(patients),
            "found": count,
            "left_out": getattr(source, "left_out", 0),
            "missing_scores": int(missing.sum()),
            "settings": [setting],
        },
        source=(source,),
    ).where(~missing)


def hashes_of(source: Any) -> dict[str, Any]:
    """What tells records that have no label for a figure from others, as JSON holds it."""
    names, images = names_of(source), hashes.image_hashes(source)
    patients = [str(patient or "") for patient in source.column("patient")]
    groups = [patient or f"record {name}" for patient, name in zip(patients, names, strict=True)]
    return {
        "name": getattr(source, "name", ""),
        "split": getattr(source, "split", ""),
        "test_hash": hashes.test_hash(names, images, [-1] * len(names), groups),
        "images_hash": hashes.images_hash(names, images),
        "records": len(names),
        "groups": len(set(groups)),
        "groups_known": all(patients),
    }


def sizes_of(source: Any) -> dict[str, int | None]:
    """How many patients, eyes, images and records a source has; see `_sizes`."""
    patients = [str(patient or "") for patient in source.column("patient")]
    fields = getattr(source, "fields", ())
    sides = source.column("eye") if "eye" in fields else ()
    both = all(name in fields for name in thumbnails.EYES)
    return _sizes(patients, all(patients), hashes.image_hashes(source), sides, both)


def _sizes(
    groups: Sequence[str] | np.ndarray, known: bool, images: Sequence[str] | np.ndarray,
    sides: Sequence[str] | np.ndarray, both: bool = False,
) -> dict[str, int | None]:  # fmt: skip
    """Numbers of patients, eyes, images and records, None for what is not known.

    Args:
      groups: the patient of each record.
      known: whether these are names of patients.
      images: what `hashes.image_hashes` returns.
      sides: which eye each record is of, or nothing.
      both: whether a record is of both eyes, so that its pictures are its eyes.
    """
    pictures = sum(image.count(",") + 1 for image in images) if all(images) else None
    eyes = pictures if both else None
    if known and len(sides) == len(groups) and not {"", subgroups.UNKNOWN} & set(sides):
        eyes = eyes or len(set(zip(groups, sides, strict=True)))
    patients = len(set(groups)) if known else None
    return {"patients": patients, "eyes": eyes, "images": pictures, "records": len(groups)}


def joined(parts: Sequence[Predictions]) -> Predictions:
    """The rows of several, in an order of their own; what they are about is that of the first."""

    def both(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values)

    columns = {name: both(name) for name in (*_COLUMNS, "probabilities", "images")}
    if any(part.places is not None for part in parts):  # test records have one, others none
        unplaced = [np.full((len(part.record), 2), np.nan, np.float32) for part in parts]
        columns["places"] = np.concatenate([
            none if part.places is None else part.places
            for part, none in zip(parts, unplaced, strict=True)
        ])  # fmt: skip
    shared = [name for name in parts[0].attributes if all(name in p.attributes for p in parts)]
    attributes = {name: np.concatenate([p.attributes[name] for p in parts]) for name in shared}
    settings = list(dict.fromkeys(name for part in parts for name in part.about["settings"]))
    # Folds are parts of the test records, settings and repeats have them all.
    every = [(part.split[0] != TEST, part.setting[0], part.repeat[0]) for part in parts]
    first = [part for part, of in zip(parts, every, strict=True) if of == min(every)]
    counts = {name: sum(part.about[name] for part in first) for name in ("found", "missing_scores")}
    about = {**parts[0].about, "settings": settings, **counts}
    sources = {id(s): s for part in parts for s in part.source or ()}
    return Predictions(
        **columns, attributes=attributes, about=about, source=tuple(sources.values())
    ).sorted()


def names_of(source: Any) -> list[str]:
    """Names of records: their 'id', or their place where they have none."""
    fields = getattr(source, "fields", ("id",))
    return [str(name) for name in source.column("id")] if "id" in fields else [
        f"{place:09d}" for place in range(len(source))
    ]  # fmt: skip


def _groups(names: Sequence[str], patients: Sequence[str]) -> np.ndarray:
    """The first record of the patient of each record; itself where the patient is not known."""
    smallest: dict[str, str] = {}
    for name, patient in zip(names, patients, strict=True):
        if patient:
            smallest[patient] = min(name, smallest.get(patient, name))
    return np.array([smallest.get(p) or n for n, p in zip(names, patients, strict=True)])


def _attributes(source: Any, count: int) -> dict[str, np.ndarray]:
    """What patients can be grouped by, as text; an age as its band."""
    found: dict[str, np.ndarray] = {}
    for name in ATTRIBUTES:
        if name in getattr(source, "fields", ()):
            column = source.column(name)
            if name == "age" or all(isinstance(value, str) for value in column):
                key, values = _groups_by(name, column)
                found[key] = values
    return {name: value for name, value in found.items() if len(value) == count}


def _grouping(source: Any, field: str) -> tuple[str, np.ndarray]:
    """The name of a grouping and the group str[N] of each record of a source, by a field of it."""
    fields = [
        name for name in getattr(source, "fields", ()) if name not in (*_IDENTIFY, *_RESERVED)
    ]
    if field not in fields:
        raise InputError(
            f"'{field}' groups no patients of {getattr(source, 'name', 'the records')}; its "
            f"fields are {', '.join(sorted(fields))}."
        )
    name, values = _groups_by(field, source.column(field))
    if (count := len(set(values))) > _MOST_SUBGROUPS:
        raise InputError(
            f"'{field}' has {count} values, and patients are grouped by at most "
            f"{_MOST_SUBGROUPS}; name a field of few."
        )
    return name, values


def _groups_by(field: str, column: Sequence[Any]) -> tuple[str, np.ndarray]:
    """An age as its band; of another field the text of each value, 'unknown' where it has none."""
    if field == "age":
        return "age_band", subgroups.age_bands(np.array([_number(value) for value in column]))
    texts = ["" if value is None else str(value) for value in column]
    return field, np.array([text or subgroups.UNKNOWN for text in texts])


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")

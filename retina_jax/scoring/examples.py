"""Which records are looked at: the surest errors, and then some drawn at random.

Successes are seen too. Their pictures are small files beside the records, so that a page needs no
data set; they are called by the beginning of the hash of the pictures, like the records in a page.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import places
from retina_jax.scoring import thumbnails
from retina_jax.scoring.predictions import Predictions, names_of

FOLDER = "records/pictures"
MOST = 60  # pictures of a page
_ERRORS, _RANDOM = 8, 12


@dataclasses.dataclass(frozen=True)
class ChosenRecord:
    """A record to look at.

    Attributes:
      row: its row of the predictions.
      says: what it is and what was answered.
      right: whether that is right.
      value: the score or probability of the answer, or of the finding that was missed; NaN where
        several labels are answered at once.
    """

    row: int
    says: str
    right: bool
    value: float


def chosen(
    part: Predictions, points: Sequence[Mapping[str, Any]]
) -> list[tuple[str, list[ChosenRecord]]]:
    """Titles and examples.

    Args:
      part: test records of one setting; of a quantity there are none.
      points: operating points of `results.json`, which decide between two and for each label.
    """
    if part.labels.dtype.kind == "f":
        return []
    classes = [str(name) for name in part.about["classes"]]
    calls = _calls(part, classes, points)
    by_threshold = part.labels.ndim == 2 or (
        len(classes) == 2 and any(point.get("confusion") for point in points)
    )
    made = _wrong_calls(calls) if by_threshold else _wrong_classes(part, classes)
    drawn = np.random.default_rng(0).permutation(len(part.record))[:_RANDOM]
    random = [_answered(part, classes, calls, int(i)) for i in drawn]
    return [*made, ("Records drawn at random (seed 0), right or wrong", random)]


def _wrong_classes(
    part: Predictions, classes: Sequence[str]
) -> list[tuple[str, list[ChosenRecord]]]:
    """Of one class of several: grades the farthest off first, then the surest."""
    answers = part.scores.argmax(axis=1)
    sure = values(part)[np.arange(len(answers)), answers]
    apart = np.abs(answers - part.labels)
    graded = part.about.get("task") == "ordinal"
    steps = apart if graded else np.sign(apart)
    wrong = [int(i) for i in np.lexsort((-sure, -steps)) if apart[i]]
    title = f"The surest of {len(wrong)} errors{', the farthest off first' if graded else ''}"
    found = [_answered(part, classes, (), i) for i in wrong[:_ERRORS]]
    return [(title, found)] if found else []


_Call = tuple[str, np.ndarray, np.ndarray, float]


def _wrong_calls(calls: Sequence[_Call]) -> list[tuple[str, list[ChosenRecord]]]:
    """Of findings that are called at a threshold: those missed, and false alarms."""
    made: list[tuple[str, list[ChosenRecord]]] = []
    for title, says, label, sign in (("missed", "missed", 1, 1),
                                     ("false alarms", "false alarm", 0, -1)):  # fmt: skip
        found = [
            (sign * float(scores[i]), int(i), name)
            for name, labels, scores, threshold in calls
            for i in np.flatnonzero((labels == label) & ((scores >= threshold) != label))
        ]
        rows = [ChosenRecord(i, f"{says}: {name}", False, abs(value))
                for value, i, name in sorted(found)[:_ERRORS]]  # fmt: skip
        made += [(f"The surest of {len(found)} {title}", rows)] if rows else []
    return made


def _calls(
    part: Predictions, classes: Sequence[str], points: Sequence[Mapping[str, Any]]
) -> list[_Call]:
    """Name, labels, scores and threshold of each finding that has a threshold."""
    found = values(part)
    known = [(point, classes.index(str(point["class"]))) for point in points
             if point.get("confusion") and str(point["class"]) in classes]  # fmt: skip
    return [
        (classes[k], part.labels[:, k] if part.labels.ndim == 2 else (part.labels == k).astype(int),
         found[:, k], math.inf if point.get("value") is None else float(point["value"]))
        for point, k in known
    ]  # fmt: skip


def _answered(
    part: Predictions, classes: Sequence[str], calls: Sequence[_Call], row: int
) -> ChosenRecord:  # fmt: skip
    """A record with what it is and what was answered."""
    several = part.labels.ndim == 2
    if several:
        truth = (
            " + ".join(classes[k] for k in np.flatnonzero(part.labels[row] == 1).tolist()) or "none"
        )
    else:
        truth = classes[int(part.labels[row])]
    if not several and not calls:
        place = int(part.scores[row].argmax())
        answer, value = classes[place], float(values(part)[row, place])
    else:
        called = [name for name, _, scores, threshold in calls if scores[row] >= threshold]
        answer = " + ".join(called) or ("none" if several else classes[0])
        value = float("nan") if several else float(values(part)[row, classes.index(answer)])
    return ChosenRecord(row, f"{truth} → {answer}", truth == answer, value)


def values(part: Predictions) -> np.ndarray:
    """Probabilities f64[N C], or scores where there are none."""
    found = part.scores if part.probabilities is None else part.probabilities
    return found.astype(np.float64)


def short(part: Predictions, row: int) -> str:
    """What a record is called on the page."""
    image = "" if part.images is None else str(part.images[row])
    return (image or hashlib.sha256(str(part.record[row]).encode()).hexdigest())[:10]


def write_pictures(
    workdir: Path, found: Predictions, sources: Iterable[Any], entry: Mapping[str, Any]
) -> set[str]:
    """Writes a picture of each example of an evaluator, and returns the names of the files.

    Args:
      workdir: the run's directory.
      found: all rows, with the hashes of their pictures.
      sources: the records that they are of.
      entry: what `results.json` says of them.
    """
    settings: Mapping[str, Any] = entry.get("settings") or {"": entry}
    wanted: dict[str, str] = {}
    for setting, about in settings.items():
        part = found.of(setting)
        for _, rows in chosen(part, about.get("operating_points") or ()):
            wanted |= {str(part.record[one.row]): short(part, one.row) for one in rows}
        if len(wanted) >= MOST:
            break
    names: set[str] = set()
    (Path(workdir) / FOLDER).mkdir(parents=True, exist_ok=True)
    for source in sources:
        for place, record in enumerate(names_of(source)):
            if record not in wanted:
                continue
            image = thumbnails.of_record(source[place])
            if image is not None:
                names.add(name := f"{wanted[record]}.jpg")
                places.write_whole(Path(workdir) / FOLDER / name, thumbnails.encoded(image))
    return names


def keep_only(workdir: Path, names: set[str]) -> None:
    """Removes the pictures of an earlier evaluation, which were of other errors."""
    for path in (Path(workdir) / FOLDER).glob("*.jpg"):
        if path.name not in names:
            path.unlink(missing_ok=True)

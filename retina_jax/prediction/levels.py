"""From pictures to eyes and patients: probabilities are merged, and decided anew."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from data_pipelines import quality
from retina_jax.metrics import levels
from retina_jax.prediction.answers import Answers, point_scores
from retina_jax.prediction.requests import Request
from retina_jax.prediction.rows import Row


def merged(request: Request, parts: Sequence[Answers]) -> Answers:
    """The eyes, or the patients, of whole units.

    An eye has the mean of the probabilities of its pictures, of which those of no probability do
    not count; what could not be read at all is an error of the eye only where nothing else is
    there. A patient has, of its eyes, what the option `merge` says; one of them without an answer
    leaves none, and the patient its reason, unless a missing eye is allowed. Of an unknown eye each
    picture, and each volume, is an eye of its own.
    """
    answers = Answers(
        [row for part in parts for row in part.rows],
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Answers)[1:]
        ),
    )
    keys = [(row.unit, row.facts["patient"], row.facts["eye"] or _picture(request, row))
            for row in answers.rows]  # fmt: skip
    eyes = _grouped(answers, keys, "mean")
    eyes.point_scores = point_scores(request, eyes.probabilities)
    if request.options.level == "eye":
        return _named(eyes)
    keys = [(row.unit, row.facts["patient"]) for row in eyes.rows]
    whole = request.options.missing_eye != "allowed"
    patients = _grouped(eyes, keys, request.options.merge, whole)
    for row in patients.rows:
        row.facts = {**row.facts, "eye": ""}
    return _named(patients)


def _picture(request: Request, row: Row) -> str:
    """What tells a picture from others; of B-scans that are asked one by one their volume."""
    return re.sub(r"#\d+$", "", row.record) if request.preparer.opener.one_by_one else row.record


def _grouped(answers: Answers, keys: Sequence[tuple], way: str, whole: bool = False) -> Answers:
    """One answer for those of equal keys; `whole`, none where one of them has none."""
    places: dict[tuple, list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault(key, []).append(i)
    groups = list(places.values())
    has = np.asarray(~np.isnan(answers.probabilities).all(axis=1))

    def over(array: np.ndarray) -> np.ndarray:
        empty, found = np.full(array.shape[1:], np.nan, np.float32), []
        for group in groups:
            values = array[[i for i in group if has[i]]]
            enough = len(values) == len(group) if whole else len(values)
            found.append(levels.merged(values, way) if enough else empty)
        return np.array(found, np.float32).reshape(len(groups), *array.shape[1:])

    strange = np.array([answers.strange[group].any() if whole else answers.strange[group].all()
                        for group in groups], bool)  # fmt: skip
    ood = np.array([_least(answers.ood[group]) for group in groups], np.float32)
    rows = [_row([answers.rows[i] for i in group], [bool(has[i]) for i in group], whole)
            for group in groups]  # fmt: skip
    return Answers(
        rows,
        over(answers.values),
        ood,
        strange,
        over(answers.probabilities),
        over(answers.point_scores),
    )


def _least(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.min()) if len(known) else np.nan


def _row(rows: Sequence[Row], answered: Sequence[bool], whole: bool) -> Row:
    """One row of several, of which the best picture says how good it is; of eyes the worst."""
    read = [row for row in rows if not row.error]
    used = [row for row, has in zip(rows, answered, strict=True) if has] or read or list(rows)
    first = used[0]
    states = [row.quality for row in used if row.quality]
    common = {name: value for name, value in first.facts.items()
              if all(row.facts[name] == value for row in used)}  # fmt: skip
    error, best = "" if read else first.error, min
    if whole and not all(answered):
        lacking = [row for row, has in zip(rows, answered, strict=True) if not has]
        used, best = list(rows), max
        states = [row.quality for row in lacking if row.quality]
        error = next((row.error for row in lacking if row.error), "")
    return dataclasses.replace(
        first,
        sha256=",".join(sorted({row.sha256 for row in used if row.sha256})),
        facts={name: common.get(name, "") for name in first.facts},
        quality=best(states, key=quality.STATES.index, default=""),
        reasons=tuple(dict.fromkeys(code for row in used for code in row.reasons)),
        error=error,
        images=sum(row.images for row in rows if any(row is one for one in used)),
    )


def _named(answers: Answers) -> Answers:
    """With ids that say whose eye or patient it is; what is unknown or unread has its first's."""
    for row in answers.rows:
        patient, eye = row.facts["patient"], row.facts["eye"]
        if patient and row.sha256:
            row.record = f"{patient}/{eye}" if eye else patient
    return answers

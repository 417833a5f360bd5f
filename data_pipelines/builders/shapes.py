"""What records look like: which fields hold pictures, texts, and lists of texts."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipelines.builders.entries import Entry, Listing, Skipped
from data_pipelines.records import splits

_NORMAL = frozenset(("normal", "normal fundus"))
SIDES = {"left": "OS", "right": "OD"}


@dataclasses.dataclass(frozen=True)
class Shape:
    """The fields of a record, beside its id and what the pictures add.

    Attributes:
        pictures: {field: 'one', 'many' or 'volume'}; see `pictures.READERS`.
        texts: fields that hold a text.
        lists: fields that hold a list of texts.
    """

    pictures: Mapping[str, str]
    texts: tuple[str, ...]
    lists: tuple[str, ...] = ("labels", "attributes")


_TEXTS = ("modality", "caption", "caption_zh", "patient", "eye", "dataset", "duplicate_of")
# One photograph, angiogram or B-scan.
PICTURE = Shape({"image": "one"}, _TEXTS)
# Several pictures of one examination under one report.
CASE = Shape({"images": "many"}, _TEXTS)
# A fundus picture and the OCT volume of the same eye.
PAIR = Shape({"image": "one", "oct": "volume"}, _TEXTS)
# An OCT volume alone.
VOLUME = Shape({"oct": "volume"}, _TEXTS)
# Both eyes of a patient under one report; an eye that is missing is b''.
PATIENT = Shape(
    {"left_image": "one", "right_image": "one"},
    ("modality", "report", "report_zh", "patient", "dataset"),
    ("labels", "left_labels", "right_labels"),
)
TEXT = Shape({}, ("text", "language", "patient", "dataset"), ())


def by_patient(rows: Listing) -> Listing:
    """Returns one entry per patient out of entries of one eye each.

    A patient has at most one picture of each eye: the first one of the listing. Rows without
    patient or eye, and further pictures of an eye, are skipped with that reason. The report joins
    the captions of both eyes, or is the one caption that both have. Labels are those of either
    eye; "normal" counts only where there is no other. Extra fields are kept per eye, 'left_age'.
    """
    skipped = list(rows.skipped)
    patients: dict[tuple[str, str], dict[str, Entry]] = collections.defaultdict(dict)
    for entry in rows.entries:
        patient, eye = entry.fields.get("patient", ""), entry.fields.get("eye", "")
        key = (entry.fields.get("dataset", ""), patient)
        if not patient or eye not in SIDES.values():
            reason = "no patient named" if not patient else "eye unknown"
            skipped.append(Skipped(entry.number, entry.name, reason))
        elif eye in patients[key]:
            skipped.append(Skipped(entry.number, entry.name, "another picture of the same eye"))
        else:
            patients[key][eye] = entry
    made: list[Entry] = []
    joined = 0
    for (_, patient), found in patients.items():
        named = {splits.split_name(entry.fields.get("split", "")) for entry in found.values()} - {
            ""
        }
        if len(named) > 1:
            reason = "the eyes of the patient are in different splits"
            skipped += [Skipped(entry.number, entry.name, reason) for entry in found.values()]
        elif found:
            eyes = {side: found.get(eye) for side, eye in SIDES.items()}
            made.append(_patient(patient, eyes, next(iter(named), ""), rows.extra))
            joined += len(found) - 1
    remarks = (*rows.remarks, f"{joined} rows joined another row of the same patient")
    extra = tuple(f"{side}_{name}" for name in rows.extra for side in SIDES)
    return Listing(tuple(made), tuple(skipped), remarks, extra)


def _patient(
    patient: str, eyes: Mapping[str, Entry | None], split: str, extra: Sequence[str]
) -> Entry:  # fmt: skip
    present = {side: entry for side, entry in eyes.items() if entry is not None}
    first = next(iter(present.values()))
    fields: dict[str, Any] = {
        "id": f"{first.fields.get('dataset', '')}/{patient}",
        "patient": patient,
        "labels": _union(entry.fields.get("labels", ()) for entry in present.values()),
        "report": _report(present, "caption", {"left": "left eye: ", "right": "right eye: "}, "; "),
        "report_zh": _report(present, "caption_zh", {"left": "左眼：", "right": "右眼："}, "；"),
        **{name: first.fields.get(name, "") for name in ("modality", "dataset")},
        "split": split,
    }
    for side, entry in present.items():
        fields[f"{side}_labels"] = list(entry.fields.get("labels", ()))
        fields |= {f"{side}_{name}": entry.fields.get(name, "") for name in extra}
    pictures = {f"{side}_image": entry.pictures["image"] for side, entry in present.items()}
    return Entry(min(entry.number for entry in present.values()), pictures, fields)


def _union(labels: Iterable[Sequence[str]]) -> list[str]:
    found = list(dict.fromkeys(name for names in labels for name in names))
    return [name for name in found if name.lower() not in _NORMAL] or found


def _report(
    eyes: Mapping[str, Entry], field: str, prefixes: Mapping[str, str], separator: str
) -> str:
    """Joins what is said of each eye, or returns the one text that already speaks of both."""
    texts = {side: entry.fields.get(field, "") for side, entry in eyes.items()}
    texts = {side: text for side, text in texts.items() if text}
    if len(texts) == 2 and len(set(texts.values())) == 1 and _of_both(next(iter(texts.values()))):
        return next(iter(texts.values()))
    return separator.join(f"{prefixes[side]}{text}" for side, text in texts.items())


def _of_both(text: str) -> bool:
    return bool(re.search(r"\b(left|right|both|od|os|ou)\b|[左右双]眼", text.lower()))

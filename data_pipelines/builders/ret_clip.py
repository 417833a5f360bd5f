"""RET-CLIP's format: both eyes of a patient as base64 text, under one report.

    python -m data_pipelines.build --dataset=ret_clip --name=NAME --source=FOLDER

The 193,865 patients that RET-CLIP was trained on are not public; this reads what its released code
reads before it makes a database of them, and so your own data in that form. For each split, FOLDER
holds two files:

``train_imgs.tsv``, no header, three cells separated by tabs: patient, and the bytes of the left and
of the right photograph in base64 (either alphabet). An empty cell is a missing eye.

``train_texts.jsonl``, one object on each line, whose ``image_ids`` are patients::

    {"text_id": 0, "text": "...", "image_ids": ["1004"]}

A record is a text with one of its patients; the text is ``report_zh`` where it has Chinese
characters, else ``report``. The lines of the .tsv are megabytes long: only where the cells are is
kept, and each is read when its record is made. Licence: that of your data.
"""

from __future__ import annotations

import json
import mmap
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from data_pipelines.builders import corpus, lookup, shapes
from data_pipelines.builders.entries import Listing, Numbered, Ref
from data_pipelines.builders.shapes import Shape
from data_pipelines.errors import InputError
from data_pipelines.text.texts import encodable, given

IMAGES, TEXTS = "_imgs.tsv", "_texts.jsonl"
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_BLANK = b" \r"

Eyes = dict[str, tuple[Ref, ...]]


class RetClip(corpus.Corpus):
    """TFDS builder of pairs of files; one record is one patient under one text."""

    SHAPES: ClassVar[Mapping[str, Shape]] = {"patient": shapes.PATIENT}

    def listing(self, config: corpus.CorpusConfig) -> Listing:
        """Returns an entry for every pair of a text and a patient, by the offsets of its eyes."""
        rows = Numbered()
        for name in lookup.files(config.root, f"*{IMAGES}", config.follow_links):
            split = name.removesuffix(IMAGES)
            texts = config.root / f"{split}{TEXTS}"
            if not texts.is_file():
                raise InputError(f"{name} has no reports: {texts} does not exist.")
            patients = _patients(config.root, name, rows)
            _pairs(texts, split, patients, rows)
        return Listing(rows.entries, tuple(rows.skipped), (), ("text_id",))


def _patients(root: pathlib.Path, name: str, rows: Numbered) -> dict[str, Eyes]:
    """Returns {patient: where the eyes are} of a .tsv; what cannot be used is skipped."""
    found: dict[str, Eyes] = {}
    for line, (cells, reason) in enumerate(_cells(root / name), start=1):
        where = f"line {line} of {name}"
        if reason:
            rows.skip("", reason, where)
            continue
        patient, *eyes = cells
        if patient in found:
            rows.skip(patient, "patient listed twice", where)
            continue
        found[patient] = {
            field: (Ref(name, start, length),) if length else ()
            for field, (start, length) in zip(("left_image", "right_image"), eyes, strict=True)
        }
    return found


def _cells(path: pathlib.Path) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yields ((patient, (start, length) of the left eye, of the right), why it cannot be used)."""
    try:
        with open(path, "rb") as file:
            if path.stat().st_size == 0:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield from _lines(data)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error


def _lines(data: mmap.mmap) -> Iterator[tuple[tuple[Any, ...], str]]:
    start = 3 if data[:3] == b"\xef\xbb\xbf" else 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        first = data.find(b"\t", start, end)
        second = data.find(b"\t", first + 1, end) if first >= 0 else -1
        if second < 0 or data.find(b"\t", second + 1, end) >= 0:
            # A line end at the end of the file begins no row.
            if end - start > 80 or data[start:end].strip():
                yield (), "not three cells"
        else:
            yield _row(data, (start, first), (first + 1, second), (second + 1, end))
        start = end + 1


def _row(data: mmap.mmap, *cells: tuple[int, int]) -> tuple[tuple[Any, ...], str]:
    (start, end), *eyes = cells
    try:
        patient = data[start:end].decode("utf-8").strip()
    except UnicodeDecodeError:
        return (), "patient not UTF-8"
    spans = []
    for left, right in eyes:
        while right > left and data[right - 1] in _BLANK:
            right -= 1
        while right > left and data[left] in _BLANK:
            left += 1
        spans.append((left, right - left))
    if not patient:
        return (), "no patient named"
    if not any(length for _, length in spans):
        return (), "both eyes missing"
    return (patient, *spans), ""


def _pairs(path: pathlib.Path, split: str, patients: dict[str, Eyes], rows: Numbered) -> None:
    """Adds a record for each text and patient; a text or patient without the other is skipped."""
    named: set[str] = set()
    for line, (text_id, text, ids, reason) in enumerate(_texts(path), start=1):
        where = f"line {line} of {path.name}"
        if reason:
            rows.skip("", reason, where)
            continue
        field = "report_zh" if _CHINESE.search(text) else "report"
        for patient in ids:
            if patient not in patients:
                rows.skip(patient, "patient has no pictures", where)
                continue
            named.add(patient)
            fields = {
                "id": f"{split}/{patient}/{text_id}#{line}",
                field: text,
                "patient": patient,
                "modality": "cfp",
                "dataset": "ret_clip",
                "split": split,
                "text_id": text_id,
            }
            rows.keep(patients[patient], fields)
    for patient in patients:
        if patient not in named:
            rows.skip(patient, "patient has no text", f"{split}{IMAGES}")


def _texts(path: pathlib.Path) -> Iterator[tuple[str, str, list[str], str]]:
    """Yields (text_id, text, patients, why it cannot be used) of each line."""
    try:
        with open(path, "rb") as file:  # lines end at a newline only, not at U+2028
            for number, line in enumerate(file):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
                if line.strip():
                    yield _text(line)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error


def _text(line: bytes) -> tuple[str, str, list[str], str]:
    try:
        found = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "", "", [], "text not UTF-8"
    except (ValueError, RecursionError):
        return "", "", [], "not JSON"
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        return "", "", [], "no text"
    ids = found.get("image_ids")
    if not isinstance(ids, list) or not ids:
        return "", "", [], "text names no patient"
    text = _plain(found["text"])
    return (
        _plain(found.get("text_id", "")),
        text,
        [_plain(one) for one in ids],
        "" if text else "no text",
    )


def _plain(value: Any) -> str:
    return given(encodable(str(value)))

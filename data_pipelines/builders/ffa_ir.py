"""FFA-IR: fluorescein angiograms, many of each case, with the report of the case.

    python -m data_pipelines.build --dataset=ffa_ir --name=images --source=FOLDER
    python -m data_pipelines.build --dataset=ffa_ir --name=cases --source=FOLDER --unit=case \\
        --max_images=16

Obtain "FFA-IR" from PhysioNet (credentialed access; it was withdrawn at times): join the parts
``FAIR.tar.gz.*`` and unpack them into FOLDER, beside ``ffair_annotation.json``::

    {"train": {CASE: {"Image_path": [PATH, ...], "En_Report": TEXT, ...}}, "val": ..., "test": ...}

with the paths relative to FOLDER. Without that file, ``fair_annotation.csv`` is read, which the
released code derives from it: ``Split``, ``name`` (the case), and a column for each key, with lists
as Python writes them. All other keys are kept as text.

A record is one picture with the report of its case, as in the released code, or with --unit=case a
case with its pictures, at most ``--max_images`` evenly chosen ones. A case is the patient of its
records, so that no case is divided.

Licence: PhysioNet's credentialed data terms. Statistics: 10,790 reports, 1,048,584 pictures, 46
classes of lesions (which are in a file of their own and not read).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from data_pipelines.builders import corpus, labels, pictures, shapes, table
from data_pipelines.builders.entries import Listing, Numbered, Ref
from data_pipelines.builders.shapes import Shape
from data_pipelines.errors import InputError
from data_pipelines.text.texts import encodable, given

ANNOTATION, DERIVED = "ffair_annotation.json", "fair_annotation.csv"
# Key of a case: the field it becomes. The Chinese report's key differs between copies.
_FIELDS = {"en_report": "caption", "ch_report": "caption_zh", "cn_report": "caption_zh",
           "zh_report": "caption_zh"}  # fmt: skip
_PATHS = "image_path"
_COLUMNS = {"split": ("split",), "case": ("name",), "images": (_PATHS,)}

Case = tuple[str, str, Any]


@dataclasses.dataclass(eq=False, kw_only=True)
class FfaIrConfig(corpus.CorpusConfig):
    """What to build.

    Attributes:
        max_images: pictures of a case, where a record is a case; None keeps all.
    """

    max_images: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_images is not None and (self.max_images < 1 or self.unit != "case"):
            raise InputError("max_images is at least 1, and needs --unit=case.")


class FfaIr(corpus.Corpus):
    """TFDS builder of a `FfaIrConfig`."""

    config_class = FfaIrConfig
    SHAPES: ClassVar[Mapping[str, Shape]] = {"image": shapes.PICTURE, "case": shapes.CASE}

    def listing(self, config: FfaIrConfig) -> Listing:
        """Returns an entry for every picture, or every case."""
        cases = list(_cases(config.root))
        extra = _extra_keys(cases)
        rows = Numbered()
        for split, case, record in cases:
            paths, reason = _paths(record)
            if reason:
                rows.skip("", reason, f"case {case} of {split}")
                continue
            fields = {
                "modality": "ffa",
                "dataset": "ffa_ir",
                "patient": case,
                "split": split,
                **_texts(record, extra),
            }
            refs = tuple(Ref(path) for path in paths)
            if config.unit == "case":
                chosen = pictures.evenly(len(refs), config.max_images)
                rows.keep({"images": tuple(refs[i] for i in chosen)}, fields)
            else:
                for ref in refs:
                    rows.keep({"image": (ref,)}, fields)
        silent = sum(not entry.fields.get("caption") for entry in rows.entries)
        remarks = (f"{silent} records have no English report",) if silent else ()
        return Listing(rows.entries, tuple(rows.skipped), remarks, tuple(extra.values()))


def _cases(root: pathlib.Path) -> Iterator[Case]:
    """Yields (split, case, what is known of it), by whichever file is there."""
    if (root / ANNOTATION).is_file():
        yield from _json_cases(root / ANNOTATION)
    elif (root / DERIVED).is_file():
        found = table.read(root / DERIVED, {}, _COLUMNS, tuple(_COLUMNS))
        for _, cells in found.rows:
            row = table.named(found, cells)
            split, case, images = (
                (row or {}).pop(found.columns[field], "") for field in ("split", "case", "images")
            )
            yield split, case, row and {**row, _PATHS: labels.literal_list(images)}
    else:
        raise InputError(f"There is neither {ANNOTATION} nor {DERIVED} in {root}.")


def _json_cases(path: pathlib.Path) -> Iterator[Case]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_unique)
    except InputError as error:
        raise InputError(f"{path} is broken: {error}") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is broken at line {error.lineno}, column {error.colno}: {error.msg}; "
            "fetch it again."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): fetch it again.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no annotation of FFA-IR ({error}).") from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise InputError(f"{path} is no annotation of FFA-IR: it is not {{split: {{case: ...}}}}.")
    for split, cases in content.items():
        for case, record in cases.items():
            yield split, case, record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        key = encodable(key)
        if key in found:
            raise InputError(f"the key {key[:80]!r} comes twice in one object.")
        found[key] = value
    return found


def _paths(record: Any) -> tuple[list[str], str]:
    """Returns the paths of a case, or why there are none."""
    if not isinstance(record, Mapping):
        return [], "case not readable"
    paths = next((value for key, value in record.items() if key.lower() == _PATHS), None)
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return [], "no list of pictures"
    paths = [path for path in map(encodable, paths) if path]
    return paths, "" if paths else "no pictures named"


def _extra_keys(cases: list[Case]) -> dict[str, str]:
    """Returns {key: field} of the keys that have no meaning here."""
    keys = dict.fromkeys(
        key for _, _, record in cases if isinstance(record, Mapping) for key in record
    )
    return table.extra_fields(
        [key for key in keys if key and key.lower() not in (_PATHS, *_FIELDS)]
    )


def _texts(record: Mapping[str, Any], extra: Mapping[str, str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for key, value in record.items():
        field = _FIELDS.get(key.lower()) or extra.get(key)
        if field:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            fields[field] = "" if value is None else given(encodable(text))
    return fields

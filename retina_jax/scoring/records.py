"""Predictions as a file, one row a record and setting, from which all figures are made again.

Names of patients are not in it: they are numbered. The file stays beside the run, and no page
shows its rows.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines import places
from data_pipelines.errors import InputError
from retina_jax.scoring import figures, operating_points, summary
from retina_jax.scoring.predictions import ATTRIBUTES, Predictions
from retina_jax.types import Score

SCHEMA = "retina_jax.records/1"
FOLDER = "records"
_PLACES = ("place_x", "place_y")
_LATER = ("size", "grade_cuts")  # of an evaluation, which older files have not
_KEPT_ATTRIBUTES = ("age_band", *ATTRIBUTES)


def score_row(evaluator: str, metric: str, score: Score) -> dict[str, Any]:
    """A figure as `results.json` has it: None for what is not there or not finite."""
    return summary.plain({"evaluator": evaluator, "metric": metric, **dataclasses.asdict(score)})


def write(
    path: Path, found: Predictions, made: Mapping[str, Any], model_hash: str | None = None
) -> None:  # fmt: skip
    """Writes the file of an evaluator.

    Args:
      path: the file's path; its folder is made.
      found: all rows, with the hashes of their pictures.
      made: what `summary.evaluation` says of them, of which probabilities are calibrated.
      model_hash: the hash of the model that said it, or None.
    """
    classes, count = found.about["classes"], len(found.record)
    numbers = {name: i for i, name in enumerate(sorted(set(found.group)))}
    images = [""] * count if found.images is None else found.images
    columns: dict[str, Any] = {
        "record": pa.array(found.record.astype(str)),
        "image_sha256": pa.array([str(image) for image in images]),
        "patient": pa.array([f"p{numbers[name]:06d}" for name in found.group]),
        "group": pa.array(found.group.astype(str)),
        "setting": pa.array(found.setting.astype(str)),
        "repeat": pa.array(found.repeat, pa.int16()),
        "fold": pa.array(found.fold, pa.int16(), mask=found.fold < 0),
        "split": pa.array(found.split.astype(str)),
    }
    if found.labels.dtype.kind == "f":
        columns["target"] = pa.array(found.labels, pa.float64())
    elif found.labels.ndim == 1:
        columns["label"] = pa.array(found.labels, pa.int32())
        columns["predicted"] = pa.array(found.scores.argmax(axis=1), pa.int32())
    for k, name in enumerate(classes):
        if found.labels.ndim == 2:
            label = found.labels[:, k]
            columns[f"label_{name}"] = pa.array(label, pa.int8(), mask=label < 0)
        columns[f"score_{name}"] = pa.array(found.scores[:, k], pa.float32())
        if found.probabilities is not None:
            columns[f"p_{name}"] = pa.array(found.probabilities[:, k], pa.float32())
    for k, values in _calibrated(found, made):
        columns[f"p_calibrated_{classes[k]}"] = pa.array(values, pa.float32())
    if found.places is not None:
        for name, place in zip(_PLACES, found.places.T, strict=True):
            columns[name] = pa.array(place, pa.float32(), mask=np.isnan(place))
    columns |= {name: pa.array(values.astype(str)) for name, values in found.attributes.items()}
    about = {
        "schema": SCHEMA,
        "about": json.dumps(summary.plain(found.about), sort_keys=True),
        "test_hash": found.test_hash,
        "model_hash": model_hash or "",
        "attributes": json.dumps(list(found.attributes)),
        "classes": json.dumps(list(classes)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with places.replaced(path) as partial:
        pq.write_table(pa.table(columns).replace_schema_metadata(about), partial)


def read(path: Path) -> Predictions:
    """The predictions of a file that `write` wrote.

    Raises:
      InputError: for no or another file, or a damaged one.
    """
    if not path.is_file():
        raise InputError(f"There are no records in {path}: evaluate again to have them.")
    try:
        table = pq.read_table(path)
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        if metadata.get("schema") != SCHEMA:
            raise InputError(
                f"{path} holds no records of schema {SCHEMA}, but {metadata.get('schema')}: use "
                "the version of this library that wrote it, or evaluate again."
            )
        # Older files do not list them.
        attributes = json.loads(metadata.get("attributes", "null")) or _KEPT_ATTRIBUTES
        return _of_table(table, json.loads(metadata["about"]), attributes)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({error}): evaluate again.") from None


def _of_table(
    table: pa.Table, about: Mapping[str, Any], attributes: Sequence[str]
) -> Predictions:  # fmt: skip
    names, classes = table.column_names, about["classes"]

    def text(name: str) -> np.ndarray:
        return np.array(table[name].to_pylist(), dtype=np.str_)

    def number(name: str, missing: int = -1) -> np.ndarray:
        return table[name].fill_null(missing).to_numpy().astype(np.int64)

    def matrix(prefix: str) -> np.ndarray:
        columns = [table[f"{prefix}_{name}"].to_numpy() for name in classes]
        return np.stack(columns, axis=1).astype(np.float32)

    placed = [table[name].to_numpy() for name in _PLACES if name in names]
    places = np.stack(placed, axis=1) if placed else None  # older files have none
    if "target" in names:
        labels = table["target"].to_numpy()
    elif "label" in names:
        labels = number("label")
    else:
        labels = np.stack([number(f"label_{name}") for name in classes], axis=1)
    return Predictions(
        **{name: text(name) for name in ("record", "group", "setting", "split")},
        labels=labels,
        scores=matrix("score"),
        repeat=number("repeat"),
        fold=number("fold"),
        probabilities=matrix("p") if f"p_{classes[0]}" in names else None,
        images=text("image_sha256"),
        places=places,
        attributes={name: text(name) for name in attributes if name in names},
        about=about,
    ).sorted()


def _calibrated(found: Predictions, made: Mapping[str, Any]) -> list[tuple[int, np.ndarray]]:
    """Calibrated probabilities f64[N] of each class, where a temperature was fitted."""
    temperature = made.get("calibration", {}).get("T")
    if temperature is None or found.probabilities is None:
        return []
    return list(enumerate(operating_points.tempered(found.probabilities, temperature).T))


def of_file(evaluator: str, path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of 'scores' and the entry of 'evaluations', computed from a file."""
    found = read(path)
    rows = [score_row(evaluator, name, score) for name, score in figures.scores(found).items()]
    return rows, summary.evaluation(found)


def differences(folder: Path) -> list[str]:
    """What the `results.json` of a folder says otherwise than its records do; [] is bit-equal.

    Raises:
      InputError: where there is no such file, or no records beside it.
    """
    folder = Path(folder)
    try:
        stored = json.loads((folder / "results.json").read_text("utf-8"))
        scores, evaluations = stored["scores"], stored.get("evaluations", {})
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{folder} holds no results.json that can be read ({error}).") from None
    files = {name: folder / entry["records_file"] for name, entry in evaluations.items()
             if entry.get("records_file")}  # fmt: skip
    if not files:
        raise InputError(f"{folder}/results.json names no records that figures could be made of.")
    found: list[str] = []
    for evaluator, path in files.items():
        rows, entry = of_file(evaluator, path)
        said = {row["metric"]: row for row in scores if row["evaluator"] == evaluator}
        for row in rows:
            # Older files have no chance of a mean absolute error.
            if said.get(row["metric"]) not in (row, {**row, "chance": None}):
                found.append(f"{evaluator}/{row['metric']}")
        told = evaluations[evaluator]
        found += [f"{evaluator}: {key}" for key, value in entry.items()
                  if told.get(key) != value and (key not in _LATER or key in told)]  # fmt: skip
    return found

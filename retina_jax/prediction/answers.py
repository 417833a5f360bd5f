"""The columns that come out: what is known of each picture, and what the model says of it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from data_pipelines.cases.listing import FACTS
from retina_jax.prediction.requests import Request
from retina_jax.prediction.rows import Row
from retina_jax.types import Batch

pc: Any = compute  # its functions are made when it is imported
PREDICTIONS, EMBEDDINGS = "retina_jax.predictions/1", "retina_jax.embeddings/1"
RESEARCH = "research use only"
NO_NUMBER = "The model gives no number for it (NaN)."


@dataclasses.dataclass
class Answers:
    """Rows, and what a model says of them.

    Attributes:
      rows: what is known of each, `n` of them.
      values: scores or features, float32 [n C], NaN of a row that was not asked about.
      ood: distances to the training pictures, float32 [n], NaN where there is none.
      strange: which are out of distribution, bool [n].
      probabilities: float32 [n C] of the scores; () of features.
      point_scores: what the operating point is compared with, float32 [n].
    """

    rows: list[Row]
    values: np.ndarray
    ood: np.ndarray
    strange: np.ndarray
    probabilities: np.ndarray
    point_scores: np.ndarray


def answered(request: Request, rows: list[Row], batch: Batch | None, width: int) -> Answers:
    """Asks the model about a batch of `rows.batches`.

    Args:
      request: what is asked.
      rows: the rows.
      batch: the rows that the model is asked about; None for none.
      width: numbers that the model gives for each.
    """
    values = np.full((len(rows), width), np.nan, np.float32)
    ood = np.full(len(rows), np.nan, np.float32)
    strange = np.zeros(len(rows), bool)
    at = np.array([i for i, row in enumerate(rows) if row.arrays is not None], np.int64)
    if batch is not None and len(at):
        found, pooled = request.ask(batch)
        found = np.asarray(found, np.float32)[: len(at)]
        if request.familiar is not None and pooled is not None:
            ood[at] = request.familiar.scores(pooled[: len(at)])
            strange = ood > request.familiar.threshold
        sound = np.isfinite(found).all(axis=1)
        for i in at[~sound]:
            rows[i].error = NO_NUMBER
        values[at[sound]] = found[sound]
        if not request.options.force:
            values[strange] = np.nan
    for row in rows:
        row.arrays = None  # so that a part of a run holds no pictures
    return scored(request, Answers(rows, values, ood, strange, *(np.zeros(0, np.float32),) * 2))


def scored(request: Request, answers: Answers) -> Answers:
    """With probabilities, and the scores of the operating point, of the scores."""
    if request.scorer is None:
        return answers
    probabilities = request.scorer.decision.probabilities(answers.values)
    if request.prevalence is not None:
        probabilities = request.prevalence.of(probabilities)
    return dataclasses.replace(
        answers, probabilities=probabilities, point_scores=point_scores(request, probabilities)
    )


def point_scores(request: Request, probabilities: np.ndarray) -> np.ndarray:
    """What the operating point is compared with, float32 [n]; NaN without one."""
    if request.scorer is None or request.point is None:
        return np.full(len(probabilities), np.nan, np.float32)
    asked = request.scorer
    return asked.decision.score(probabilities, asked.classes, request.point[1].labels)


def slugs(names: Sequence[str]) -> list[str]:
    """Names as those of columns: lower case, '_' for what is no letter or digit; of equal ones the
    second gets '_2'."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[\W_]+", "_", name.lower()).strip("_") or "class"
        slug, number = plain, 1
        while slug in found or slug == "predicted":  # p_predicted is another column
            number += 1
            slug = f"{plain}_{number}"
        found.append(slug)
    return found


def predictions(
    request: Request, answers: Answers, schema: pa.Schema, entries: pa.Table
) -> pa.Table:
    """The rows that were made of `entries` as a table of `prediction_schema`."""
    asked, rows = request.scorer, answers.rows
    assert asked is not None
    columns = _known(answers)
    probabilities = answers.probabilities
    none = np.asarray(np.isnan(probabilities).all(axis=1))
    kind = "value" if asked.decision.task == "regression" else "p"
    for i, slug in enumerate(slugs(asked.classes)):
        columns[f"{kind}_{slug}"] = pa.array(probabilities[:, i], mask=none)
        if request.options.scores:
            columns[f"score_{slug}"] = pa.array(answers.values[:, i], mask=none)
    called = asked.decision.decide(probabilities)
    names = np.array(asked.classes, object)
    columns["predicted"] = pa.array(
        [
            None if empty or kind == "value" else "|".join(names[row])
            for empty, row in zip(none, called, strict=True)
        ],
        pa.string(),
    )
    greatest = np.where(called, probabilities, -1).max(axis=1, initial=-1)
    columns["p_predicted"] = pa.array(greatest, pa.float32(), mask=none | ~called.any(axis=1))
    columns["decision"] = _constant(asked.decision.rule, len(rows), none)
    columns |= _called(request, answers)
    fitted = _calibration(request, entries)
    columns["calibration"] = _constant(fitted, len(rows), none)
    columns["images"] = pa.array(
        np.array([row.images for row in rows], np.int32),
        mask=np.array([bool(row.error) for row in rows], bool),
    )
    return _finished(request, rows, columns, schema)


def embeddings(request: Request, answers: Answers, schema: pa.Schema) -> pa.Table:
    """The rows as a table of `embedding_schema`."""
    columns = _known(answers)
    field = schema.field("embedding").type
    none = np.isnan(answers.values).any(axis=1)
    flat = pa.array(
        np.ascontiguousarray(answers.values, field.value_type.to_pandas_dtype()).reshape(-1)
    )
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(
        flat, field.list_size, mask=pa.array(none)
    ).cast(field)
    return _finished(request, answers.rows, columns, schema)


def _known(answers: Answers) -> dict[str, pa.Array]:
    """Columns of what is known before a model is asked, and whether it is like its training."""
    rows = answers.rows
    error = np.array([bool(row.error) for row in rows], bool)
    columns: dict[str, pa.Array] = {
        "record": _texts([row.record for row in rows]),
        "image_sha256": _texts([row.sha256 for row in rows]),
        **{name: _texts([row.facts[name] for row in rows]) for name in FACTS},
        "quality": _texts([row.quality for row in rows]),
        "quality_reasons": _texts([";".join(row.reasons) for row in rows]),
    }
    unknown = np.isnan(answers.ood) | error
    columns["ood"] = pa.array(answers.strange, mask=unknown)
    columns["ood_score"] = pa.array(answers.ood, mask=unknown)
    return columns


def _texts(values: Sequence[str]) -> pa.Array:
    return pa.array([value or None for value in values], pa.string())


def _constant(value: str, count: int, none: np.ndarray) -> pa.Array:
    return pa.array(np.full(count, value, object), pa.string(), mask=none)


def _called(request: Request, answers: Answers) -> dict[str, pa.Array]:
    """`call`, `threshold` and `operating_point`, null without one."""
    count = len(answers.rows)
    if request.point is None:
        empty = pa.nulls(count, pa.string())
        return {"call": empty, "threshold": pa.nulls(count, pa.float32()),
                "operating_point": empty}  # fmt: skip
    name, point = request.point
    scores = answers.point_scores.astype(np.float64)
    none = np.isnan(scores)
    words = np.where(scores >= point.value, "positive", "negative").astype(object)
    return {
        "call": pa.array(words, pa.string(), mask=none),
        "threshold": pa.array(np.full(count, point.value, np.float32), mask=none),
        "operating_point": _constant(name, count, none),
    }


def _calibration(request: Request, entries: pa.Table) -> str:
    """'none', 'fitted' on the data set that is asked about, or 'transferred' from another."""
    asked = request.scorer
    assert asked is not None
    if asked.decision.calibration.method == "none":
        return "none"
    trained = request.model.description.source.get("trained", ())
    known = {spec.get("dataset") for spec in trained if isinstance(spec, Mapping)}
    built = entries.filter(pc.greater_equal(entries["number"], 0))
    names = {place.partition(":")[0] for place in pc.unique(built["place"]).to_pylist()}
    own = bool(names) and len(built) == len(entries) and names <= known
    return "fitted" if own else "transferred"


def _finished(
    request: Request, rows: Sequence[Row], columns: dict[str, pa.Array], schema: pa.Schema
) -> pa.Table:
    """With the error, after which all else is null, what is kept, and whose answer it is."""
    count = len(rows)
    errors = [row.error or None for row in rows]
    broken = np.array([error is not None for error in errors], bool)
    if broken.any():
        for name, column in columns.items():
            if name != "record":
                columns[name] = pc.if_else(pa.array(broken), pa.scalar(None, column.type), column)
    columns["error"] = pa.array(errors, pa.string())
    columns["model"] = pa.array([request.model.description.title] * count, pa.string())
    columns["model_hash"] = pa.array([request.model.model_hash[:12]] * count, pa.string())
    for name in schema.names:
        if name.startswith("in_"):
            columns[name] = _texts([row.kept.get(name) or "" for row in rows])
    return pa.table([columns[name] for name in schema.names], schema=schema)


def prediction_schema(request: Request, kept: Sequence[str]) -> pa.Schema:
    """The columns of predictions, in order, with what they depend on as metadata."""
    asked = request.scorer
    assert asked is not None
    number, text = pa.float32(), pa.string()
    kind = "value" if asked.decision.task == "regression" else "p"
    names = slugs(asked.classes)
    fields = [*_first_fields(), *((f"{kind}_{name}", number) for name in names)]
    if request.options.scores:
        fields += [(f"score_{name}", number) for name in names]
    fields += [("predicted", text), ("p_predicted", number), ("decision", text), ("call", text),
               ("threshold", number), ("operating_point", text), ("calibration", text),
               ("images", pa.int32())]  # fmt: skip
    point = None
    if request.point is not None:
        point = {"name": request.point[0], **dataclasses.asdict(request.point[1])}
    about = {
        "schema": PREDICTIONS,
        "task": asked.task,
        "classes": list(asked.classes),
        "columns": {f"{kind}_{slug}": name for slug, name in zip(names, asked.classes,
                                                                strict=True)},
        "template": asked.template,
        "decision": dataclasses.asdict(asked.decision),
        "operating_point": point,
        "prevalence": request.prevalence and dataclasses.asdict(request.prevalence),
        "level": request.options.level,
    }  # fmt: skip
    return _schema(request, fields, kept, about)


def embedding_schema(
    request: Request, kept: Sequence[str], width: int, dtype: str, layer: str, normalise: bool
) -> pa.Schema:
    """The columns of embeddings, in order, with what they depend on as metadata."""
    vector = pa.list_(pa.float16() if dtype == "float16" else pa.float32(), width)
    about = {"schema": EMBEDDINGS, "layer": layer, "dim": width, "normalised": normalise,
             "dtype": dtype}  # fmt: skip
    return _schema(request, [*_first_fields(), ("embedding", vector)], kept, about)


def _first_fields() -> list[tuple[str, Any]]:
    text = pa.string()
    names = ("record", "image_sha256", *FACTS, "quality", "quality_reasons")
    return [*((name, text) for name in names), ("ood", pa.bool_()), ("ood_score", pa.float32())]


def _schema(
    request: Request, fields: list[tuple[str, Any]], kept: Sequence[str], about: dict[str, Any]
) -> pa.Schema:
    text, description = pa.string(), request.model.description
    fields += [(name, text) for name in ("error", "model", "model_hash", *kept)]
    about |= {
        "model": description.title,
        "model_hash": request.model.model_hash,
        "licence": request.model.licence,
        "modality": request.preparer.opener.modality,
        "input": request.preparer.key,
        "preparation": description.preparation,
        "transforms": list(description.transforms),
        "use": RESEARCH,
    }
    return pa.schema(fields, metadata={"retina_jax": json.dumps(about, sort_keys=True)})

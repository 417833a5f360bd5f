"""Features that `retina_jax.embed` wrote, in the place of a model that runs again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data_pipelines import pipelines, places
from data_pipelines.errors import InputError
from data_pipelines.images import single
from data_pipelines.pipelines import EvalData
from data_pipelines.transforms.pictures import Eyes
from retina_jax import distributed
from retina_jax.evals.encoder import Encoder, Need
from retina_jax.types import TrainState

SCHEMA = "retina_jax.embeddings/1"
# Layer of `embed` -> the method of a model that makes it.
METHODS = {"pooled": "features", "projected": "embed"}


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of a folder.

    Attributes:
      folder: where they lie.
      key: the batch key of the pictures.
      method: the method of the model that made them.
      vectors: f32[N D]; NaN where a picture has none.
      rows: hash of a picture's bytes -> its row.
    """

    folder: Path
    key: str
    method: str
    vectors: np.ndarray
    rows: dict[str, int]

    def check(self, needs: Sequence[Need]) -> None:
        """Raises InputError unless an evaluator asks for these features."""
        asked = {(name, key) for need in needs for name in need.methods for key in need.inputs}
        if (self.method, self.key) not in asked:
            layers = {method: layer for layer, method in METHODS.items()}
            wanted = sorted({layers[name] for name, _ in asked if name in layers})
            raise InputError(
                f"The features in {self.folder} are '{layers[self.method]}' of '{self.key}', and "
                f"the evaluator asks for {' and '.join(wanted) or 'none'}: embed with "
                f"--layer={wanted[0] if wanted else 'pooled'}."
            )

    def of(self, data: EvalData) -> np.ndarray:
        """f32[n D], one row for each record of evaluation data; no picture is decoded.

        Raises:
          InputError: where a record has no features here.
        """
        reader = next(
            (t for t in data.transforms
             if isinstance(t, single.Reader) and t.target == self.key), None
        )  # fmt: skip
        if reader is None:
            raise InputError(f"No transform makes '{self.key}' of the records of {data.source}.")
        fields = (reader.left, reader.right) if isinstance(reader, Eyes) else (reader.source,)
        found = [self.rows.get(_hashed(record, fields), -1) for record in data.source]
        made = self.vectors[found]
        made[np.array(found) < 0] = np.nan
        missing = int(np.isnan(made).any(axis=1).sum())
        if missing:
            raise InputError(
                f"{missing} of {len(made)} records of {data.source} have no features in "
                f"{self.folder}: embed that data set itself, NAME:SPLIT, and with --force what is "
                "ungradable."
            )
        return made


def _hashed(record: Any, fields: Sequence[str]) -> str:
    """The hash that `embed` gives a record of a data set."""
    digest = hashlib.sha256()
    for field in fields:
        value = record.get(field)
        for part in [value] if isinstance(value, bytes) else list(value or []):
            digest.update(part)
    return digest.hexdigest()


def read(folder: Path | str, model_hash: str, title: str) -> Features:
    """The features of all parts of a folder.

    Args:
      folder: what `retina_jax.embed` wrote.
      model_hash: that of the model which they have to be of.
      title: what that model is called.

    Raises:
      InputError: for another folder, or features of another model.
    """
    place = places.local(folder, "'features'")
    parts = sorted(place.glob("part-*.parquet"))
    if not parts:
        raise InputError(f"{place} holds no features: write them by python -m retina_jax.embed.")
    vectors, rows = [], {}
    for part in parts:
        about = _about(part)
        if about["model_hash"] != model_hash:
            raise InputError(
                f"The features in {place} are of the model '{about['model']}' "
                f"({about['model_hash'][:12]}), not of '{title}' ({model_hash[:12]}): embed the "
                "pictures with that one."
            )
        method = METHODS[about["layer"]]
        if about["normalised"] and method == "features":
            raise InputError(
                f"The features in {place} are unit vectors, and probes need them as they are: "
                "embed without --normalise."
            )
        table = pq.read_table(part, columns=["image_sha256", "embedding"])
        start = sum(map(len, vectors))
        rows |= {name: start + i for i, name in enumerate(table["image_sha256"].to_pylist())}
        vectors.append(_matrix(table["embedding"], about["dim"]))
    return Features(place, about.get("input", "image"), method, np.concatenate(vectors), rows)


def _about(part: Path) -> dict[str, Any]:
    try:
        about = json.loads((pq.read_schema(part).metadata or {})[b"retina_jax"])
        if about["schema"] == SCHEMA:
            return about
    except (OSError, ValueError, KeyError):
        pass
    raise InputError(f"{part} holds no features of schema {SCHEMA}.")


def _matrix(column: Any, width: int) -> np.ndarray:
    """f32[N width] of a column of lists; NaN where there is none."""
    found = np.full((len(column), width), np.nan, np.float32)
    there = ~column.is_null().to_numpy()
    flat = column.drop_null().combine_chunks().flatten().to_numpy(zero_copy_only=False)
    found[there] = flat.reshape(-1, width)
    return found


class StoredEncoder(Encoder):
    """An encoder that looks up what a folder has, and runs the model for everything else.

    Args:
      encoder: runs the model.
      features: what is looked up.
    """

    def __init__(self, encoder: Encoder, features: Features):
        super().__init__(encoder.model, encoder.mesh, encoder.flip, encoder.padding)
        self.features = features

    def encode_dataset_methods(
        self, state: TrainState, data: EvalData, methods: Sequence[str], inputs: Sequence[str],
        keep: Sequence[str] = (),
    ) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
        """As of any encoder, in the order of the data's records."""
        key, method = self.features.key, self.features.method
        if key not in inputs or method not in methods:
            return super().encode_dataset_methods(state, data, methods, inputs, keep)
        more = [name for name in methods if name != method]
        made = super().encode_dataset_methods(state, data, more, inputs, keep) if more else {}
        others = [name for name in inputs if name != key]
        rest = _without(data, key, everywhere=not others)
        if others:
            found = super().encode_dataset_methods(state, rest, methods, others, keep)[method]
        else:
            found = _kept(rest, keep)
        return {**made, method: {**found, key: self.features.of(data)}}


def _without(data: EvalData, key: str, everywhere: bool) -> EvalData:
    """The same records without the picture of a key, on each process its rows or all of them."""
    used = tuple(single.USED.values())
    kept = [t for t in data.transforms
            if not (isinstance(t, used) and key in (getattr(t, "target", ""),
                                                    getattr(t, "source", "")))]  # fmt: skip
    share = {} if everywhere else distributed.share()
    return pipelines.evaluate(data.source, tuple(kept), batch_size=data.batch_size, **share)


def _kept(data: EvalData, keep: Sequence[str]) -> dict[str, np.ndarray]:
    """Batch keys of all records, read without any model."""
    if not keep:
        return {}
    parts = [{name: batch[name][batch["_mask"]] for name in keep} for batch in data.batches()]
    return {name: np.concatenate([part[name] for part in parts]) for name in keep}

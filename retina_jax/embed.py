"""Features of pictures, with ids: python -m retina_jax.embed SOURCE... --model=FOLDER --out=DIR.

docs/predict.md has what may be asked, and the columns that come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from absl import flags

from retina_jax import cli, loading
from retina_jax.prediction import command, output, requests, running
from retina_jax.prediction.scoring import Model

command.define("embeddings")
_LAYER = flags.DEFINE_enum("layer", "pooled", ("pooled", "projected"), "Of the tower, or the "
                           "unit embedding that is compared with texts")  # fmt: skip
_NORMALISE = flags.DEFINE_bool("normalise", False, "Unit vectors")
_DTYPE = flags.DEFINE_enum("dtype", "float16", ("float16", "float32"), "Of the numbers")
_FORMAT = flags.DEFINE_enum("format", "parquet", ("parquet", "npz", "npy"), "What is written "
                            "beside the parts: nothing, one .npz, or .npy and .csv")  # fmt: skip


def _make(
    model: Model, options: requests.Options, kept: Sequence[str]
) -> tuple[requests.Request, running.Job]:
    request = requests.embedding(model, options, _LAYER.value)
    job = running.embedding_job(request, _LAYER.value, _DTYPE.value, _NORMALISE.value, kept)
    return request, job


def _finish(
    job: running.Job, out: Path, parts: Sequence[Path], summary: Mapping[str, Any]
) -> Sequence[Path]:
    if _FORMAT.value == "parquet":
        return [*parts, out / output.SUMMARY]
    written = out / f"embeddings.{_FORMAT.value}"
    count = sum(
        len(batch) - batch.column("embedding").null_count
        for part in parts
        for batch in pq.ParquetFile(part).iter_batches(4096, columns=["embedding"])
    )
    width = job.schema.field("embedding").type.list_size
    beside = out / "embeddings.npy.partial"
    kept = np.lib.format.open_memmap(beside, "w+", np.dtype(_DTYPE.value), (count, width))
    ids: dict[str, list[str]] = {"record": [], "patient": []}
    start = 0
    for part in parts:
        with pq.ParquetFile(part) as stored:
            for batch in stored.iter_batches(4096, columns=[*ids, "embedding"]):
                found = batch.filter(batch.column("embedding").is_valid())
                rows = found.column("embedding").flatten().to_numpy().reshape(-1, width)
                kept[start : start + len(rows)] = rows
                start += len(rows)
                for name, texts in ids.items():
                    texts += [text or "" for text in found.column(name).to_pylist()]
    kept.flush()
    if _FORMAT.value == "npy":
        beside.replace(written)
        (out / "embeddings.txt").write_text("".join(f"{r}\n" for r in ids["record"]), "utf-8")
        return [written, out / "embeddings.txt", out / output.SUMMARY]
    arrays: dict[str, Any] = {name: np.array(texts) for name, texts in ids.items()}
    np.savez(written, embedding=kept, **arrays)
    beside.unlink()
    return [written, out / output.SUMMARY]


def main(arguments: list[str]) -> int:
    """Writes features of pictures."""
    options = requests.Options(**command.options())
    asked = {"layer": _LAYER.value, "normalise": _NORMALISE.value, "dtype": _DTYPE.value}
    return command.work(arguments, loading.load, _make, options, asked, _finish, csv=False)


if __name__ == "__main__":
    cli.run(main, inputs=True)

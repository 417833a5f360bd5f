"""Embeddings out of parts as arrays with ids, for programs that read no Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from retina_jax.prediction.running import Job

_ROWS = 4096


def write(job: Job, out: Path, parts: Sequence[Path], kind: str) -> list[Path]:
    """Writes the embeddings of those that have one; returns the files.

    Args:
      job: what the parts are of.
      out: the folder.
      parts: the parts.
      kind: 'npz' for a file with `embedding`, `record` and `patient`; 'npy' for the first of these
        in a file that can be mapped into memory, and the ids in a text beside it, a line each.
    """
    count = sum(
        len(batch) - batch.column("embedding").null_count
        for part in parts
        for batch in pq.ParquetFile(part).iter_batches(_ROWS, columns=["embedding"])
    )
    vector: Any = job.schema.field("embedding").type
    dtype, width = vector.value_type.to_pandas_dtype(), vector.list_size
    mapped, texts = out / "embeddings.npy", out / "embeddings.txt"
    kept = np.lib.format.open_memmap(mapped, "w+", dtype, (count, width))
    ids: dict[str, list[str]] = {"record": [], "patient": []}
    start = 0
    for part in parts:
        for batch in pq.ParquetFile(part).iter_batches(_ROWS, columns=[*ids, "embedding"]):
            found = batch.filter(batch.column("embedding").is_valid())
            rows = found.column("embedding").flatten().to_numpy().reshape(-1, width)
            kept[start : start + len(rows)] = rows
            start += len(rows)
            for name, values in ids.items():
                values += [text or "" for text in found.column(name).to_pylist()]
    kept.flush()
    if kind == "npy":
        texts.write_text("".join(f"{record}\n" for record in ids["record"]), encoding="utf-8")
        return [mapped, texts]
    named: dict[str, Any] = {name: np.array(values) for name, values in ids.items()}
    np.savez(out / "embeddings.npz", embedding=kept, **named)
    mapped.unlink()
    return [out / "embeddings.npz"]

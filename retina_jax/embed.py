"""Features of pictures, with ids: python -m retina_jax.embed SOURCE... --model=FOLDER --out=DIR.

docs/predict.md has what may be asked, and the columns that come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from retina_jax import cli, loading
from retina_jax.prediction import arrays, command, output, requests, running
from retina_jax.prediction.scoring import Model

command.define("embeddings")
_LAYER = flags.DEFINE_enum("layer", "pooled", ("pooled", "projected"), "Of the tower, or the "
                           "unit embedding that is compared with texts")  # fmt: skip
_NORMALISE = flags.DEFINE_bool("normalise", False, "Unit vectors")
_DTYPE = flags.DEFINE_enum("dtype", "float16", ("float16", "float32"), "Of the numbers")
_FORMAT = flags.DEFINE_enum("format", "parquet", ("parquet", "npz", "npy"), "What is written "
                            "beside the parts: nothing, one .npz, or .npy and its ids")  # fmt: skip


def _make(
    model: Model, options: requests.Options, kept: Sequence[str]
) -> tuple[requests.Request, running.Job]:
    request = requests.embedding(model, options, _LAYER.value)
    job = running.embedding_job(request, _LAYER.value, _DTYPE.value, _NORMALISE.value, kept)
    return request, job


def _finish(
    job: running.Job, out: Path, parts: Sequence[Path], summary: Mapping[str, Any]
) -> Sequence[Path]:
    del summary
    written = parts if _FORMAT.value == "parquet" else arrays.write(job, out, parts, _FORMAT.value)
    return [*written, out / output.SUMMARY]


def main(arguments: list[str]) -> int:
    """Writes features of pictures."""
    options = requests.Options(**command.options())
    asked = {"layer": _LAYER.value, "normalise": _NORMALISE.value, "dtype": _DTYPE.value}
    return command.work(arguments, loading.load, _make, options, asked, _finish, csv=False)


if __name__ == "__main__":
    cli.run(main, inputs=True)

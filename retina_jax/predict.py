"""What a model says of pictures: python -m retina_jax.predict SOURCE... --model=FOLDER --out=DIR.

docs/predict.md has what may be asked, and the columns that come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from absl import flags

from retina_jax import cli, loading
from retina_jax.prediction import command, output, requests, running
from retina_jax.prediction.scoring import TASKS, Model

command.define("predictions")
_FORMAT = flags.DEFINE_enum("format", "both", ("csv", "parquet", "both"), "What is written")
_TASK = flags.DEFINE_enum("task", None, TASKS, "By the head of a classifier, or by sentences")
_CLASSES = cli.define_list("classes", None, "Classes of zero-shot; by default the model's own")
_TEMPLATE = flags.DEFINE_string("template", None, "Sentence with {} for the name of a class")
_LEVEL = flags.DEFINE_enum("level", "image", requests.LEVELS, "What a row is")
_MERGE = flags.DEFINE_enum("merge", "max", requests.MERGES, "How eyes become a patient")
_POINT = flags.DEFINE_string("operating_point", None, "Name of a threshold that the model stores")
_THRESHOLD = flags.DEFINE_string("threshold", None, "CLASS=NUMBER, a threshold of one's own")
_PREVALENCE = cli.define_list(
    "prevalence", None, "CLASS=SHARE,... of the population; by default as in training"
)
_SCORES = flags.DEFINE_bool("scores", False, "Write the scores behind the probabilities too")


def _make(
    model: Model, options: requests.Options, kept: Sequence[str]
) -> tuple[requests.Request, running.Job]:
    request = requests.predicting(model, options)
    return request, running.prediction_job(request, kept)


def _finish(
    job: running.Job, out: Path, parts: Sequence[Path], summary: Mapping[str, Any]
) -> Sequence[Path]:
    if summary["rows"] == 1 and not flags.FLAGS["quiet"].value:
        print(_one(job, parts[0]))
    written = [out / f"{job.name}.csv"] if _FORMAT.value != "parquet" else []
    if _FORMAT.value != "csv":
        written += parts
    return [*written, out / output.SUMMARY]


def _one(job: running.Job, part: Path) -> str:
    """The row of one picture: probabilities, best first, and what is known of it."""
    (row,) = pq.read_table(part).to_pylist()
    numbers = {name: row[name] for name in job.schema.names if name.startswith(("p_", "value_"))}
    numbers.pop("p_predicted", None)
    best = sorted(((v, k) for k, v in numbers.items() if v is not None), reverse=True)
    lines = [f"{value:.4f} {name}" for value, name in best]
    for name in ("quality", "quality_reasons", "ood", "call", "threshold", "error"):
        if row[name] is not None:
            lines.append(f"{name}: {row[name]}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Asks a model about pictures and writes its answers."""
    options = requests.Options(
        **command.options(),
        task=_TASK.value,
        classes=_CLASSES.value,
        template=_TEMPLATE.value,
        level=_LEVEL.value,
        merge=_MERGE.value,
        operating_point=_POINT.value,
        threshold=_THRESHOLD.value,
        prevalence=tuple(_PREVALENCE.value) if _PREVALENCE.value else None,
        scores=_SCORES.value,
    )
    csv = _FORMAT.value != "parquet"
    return command.work(arguments, loading.load, _make, options, {}, _finish, csv)


if __name__ == "__main__":
    cli.run(main, inputs=True)

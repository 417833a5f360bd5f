"""The figures of a run and its page for those who keep their runs in MLflow or Weights & Biases.

Neither package is needed for anything else, so that both are imported when they are asked for.
"""

# Libraries that need not be there:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingImports=false
from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError
from retina_jax.report import records

_Files = list[tuple[str, Path]]  # a folder, '' or that of a stage, and what goes there


def log(tracker: str, project: str, workdir: Path, page: Path) -> None:
    """Makes a new run of a tracker with the scores of results.json, that file, and the page.

    Args:
      tracker: a key of TRACKERS.
      project: the experiment of MLflow, or the project of Weights & Biases.
      workdir: what `records.load` takes.
      page: what `page.write` has written of it.

    Raises:
      InputError: the package is not installed, or it does not take what it is given.
    """
    module = imported(tracker)
    run = records.load(workdir)
    scores = {
        # MLflow takes these characters alone.
        re.sub(r"[^\w./ -]", "_", "/".join(filter(None, (stage.name, row.evaluator, row.metric)))):
        row.score.value for stage in run.stages for row in stage.entries
        if math.isfinite(row.score.value)
    }  # fmt: skip
    results = [(stage.name, stage.folder / "results.json") for stage in run.stages]
    files = [(folder, path) for folder, path in results if path.is_file()]
    try:
        TRACKERS[tracker](module, project, run.name, scores, [*files, ("", page)])
    except Exception as error:  # each package and each server has errors of its own
        raise InputError(
            f"The page is written, but {tracker} did not take it: {type(error).__name__}: {error}"
        ) from None


def imported(tracker: str) -> Any:
    """The package of a tracker."""
    try:
        if tracker == "mlflow":
            import mlflow

            return mlflow
        import wandb

        return wandb
    except ImportError:
        raise InputError(
            f"--{tracker} needs a package that is not installed: pip install {tracker}"
        ) from None


def _mlflow(
    mlflow: Any, project: str, name: str, scores: dict[str, float], files: _Files
) -> None:  # fmt: skip
    mlflow.set_experiment(project)
    with mlflow.start_run(run_name=name):
        mlflow.log_metrics(scores)
        for folder, path in files:
            mlflow.log_artifact(str(path), artifact_path=folder or None)


def _wandb(
    wandb: Any, project: str, name: str, scores: dict[str, float], files: _Files
) -> None:  # fmt: skip
    with wandb.init(project=project, name=name, job_type="evaluation") as run:
        run.log(scores)
        kept = wandb.Artifact(name=f"report-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}", type="report")
        for folder, path in files:
            kept.add_file(str(path), name="/".join(filter(None, (folder, path.name))))
        run.log_artifact(kept)


TRACKERS: dict[str, Callable[[Any, str, str, dict[str, float], _Files], None]] = {
    "mlflow": _mlflow,
    "wandb": _wandb,
}

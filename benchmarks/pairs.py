"""Two methods on the same eyes, such as CLIP and CLOOB: figures of each seed, paired differences.

    for seed in 0 1 2; do for loss in clip cloob; do
        retina-jax train --config=fundus_oct_$loss --config.seed=$seed --workdir=runs/$loss$seed
    done; done
    python -m benchmarks.pairs --first=runs/clip0,runs/clip1,runs/clip2 \
        --second=runs/cloob0,runs/cloob1,runs/cloob2
    python -m benchmarks.pairs --first_config=odir:retclip_eyes --second_config=odir:retclip \
        --first=runs/eyes0,runs/eyes1 --second=runs/retclip0,runs/retclip1
    python -m benchmarks.pairs --records=odir_zeroshot:balanced_accuracy,odir_probe:auc \
        --first=runs/flair0/flair,runs/flair1/flair --second=runs/k0/keepfit,runs/k1/keepfit

Runs that are compared differ in the method alone: run i of both has the same seed, so what they
share begins with the same parameters, and all are scored on the same eyes. One JSON line a figure:
its values by run, and `difference`, second - first, as the mean over seeds with a 95 % interval
over patients, who are drawn for all runs together; beside it the difference of each seed, which
tells what the interval does not: how much trainings differ. The probe is the poster's, frozen
(`evaluation_presets.downstream`), with the same folds in all runs. With `--records` runs are not
opened: what their evaluators wrote of the test records is read, of classes that exclude each other
or of several labels, whose figure is the mean over labels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import retina_jax
from retina_jax import experiment
from retina_jax.evals.encoder import bootstrap_groups
from retina_jax.metrics import bootstrap, weighted
from retina_jax.scoring import records
from retina_jax.scoring.figures import METRICS, macro_of_labels
from retina_jax.train import loop
from retina_jax.train.checkpoint import Checkpointer, Retention


class Found(NamedTuple):
    """What one run says of each record for one figure.

    Attributes:
      values: f64[N ...], whether a right answer is found, its rank (a smaller one is better), or
        scores.
      shared: arrays [N ...] that are the same in all runs: targets, folds, ids of records.
      statistic: (values, *shared) -> the figure.
      patients: str[N].
    """

    values: np.ndarray
    shared: tuple[np.ndarray, ...]
    statistic: Callable[..., float]
    patients: np.ndarray


def mean_over_folds(metric: str) -> Callable[..., float]:
    """(scores f[N], targets [N], folds int[N]) -> the mean of a figure over the folds."""

    def statistic(scores: np.ndarray, targets: np.ndarray, numbers: np.ndarray) -> float:
        columns = scores[:, None] if METRICS[metric].quantity else np.stack([-scores, scores], 1)
        parts = [numbers == number for number in range(int(numbers.max()) + 1)]
        return float(np.mean([METRICS[metric].of(targets[p], columns[p]) for p in parts]))

    return statistic


def compare(first: Sequence[Found], second: Sequence[Found]) -> dict[str, Any]:
    """Values of both by seed, and the mean of their differences with an interval over patients."""
    one, shared = first[0], first[0].shared
    for other in (*first, *second):
        if not all(np.array_equal(a, b) for a, b in zip(shared, other.shared, strict=True)):
            raise ValueError("Runs that are compared are scored on the same records.")
    columns = [np.stack([found.values for found in runs], axis=1) for runs in (first, second)]

    def each(values: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        return np.array([one.statistic(run, *rest) for run in np.moveaxis(values, 1, 0)])

    def difference(a: np.ndarray, b: np.ndarray, *rest: np.ndarray) -> float:
        return float(np.mean(each(b, *rest) - each(a, *rest)))

    values = [each(column, *shared) for column in columns]
    ends = bootstrap.interval(difference, *columns, *shared, groups=one.patients)
    return {
        "first": values[0].tolist(), "second": values[1].tolist(),
        "difference": float(np.mean(values[1] - values[0])), "low": ends.low, "high": ends.high,
        "of_seeds": (values[1] - values[0]).tolist(), "records": len(one.values),
        "patients": len(set(one.patients)),
    }  # fmt: skip


def retrieved(evaluator: Any, state: Any) -> dict[str, Found]:
    """Recall and mean rank in both directions, among all records."""
    return {
        f"{direction}_{name}": Found(each, (asking,), _mean, bootstrap_groups(patients))
        for direction, (figures, asking, patients) in evaluator.per_query(state).items()
        for name, each in figures.items()
    }


def _mean(values: np.ndarray, _: np.ndarray) -> float:
    return float(values.mean())


def probed(evaluator: Any, state: Any) -> Found:
    """What the frozen probe says of each record while it is held out."""
    said = evaluator.run(state).predictions
    statistic = mean_over_folds(evaluator.metrics[0])
    return Found(said.scores[:, -1], (said.labels, said.fold), statistic, said.group)


def recorded(stage: Path, evaluator: str, metric: str) -> Found:
    """What an evaluator of a run wrote of its test records."""
    found = records.read(stage / f"records/{evaluator}.parquet")
    found = found.where(found.split == "test")

    def statistic(scores: np.ndarray, labels: np.ndarray, _: np.ndarray) -> float:
        if labels.ndim == 1:
            return METRICS[metric].of(labels, scores)
        return float(macro_of_labels(metric, labels, scores, weighted.ones(len(labels)))[0])

    return Found(found.scores, (found.labels, found.record), statistic, found.group)


def read(config: str, workdir: Path, data_dir: str | None) -> dict[str, Found]:
    """Retrieval, and the probes over folds, of the last stage of a run."""
    settings = {**retina_jax.get_config(config), **({"data_dir": data_dir} if data_dir else {})}
    stage = experiment.build_all(settings, workdir)[-1]
    abstract = loop.abstract_state(stage)
    folder = experiment.stage_directory(workdir, stage.name)
    kept = Checkpointer(folder / "checkpoints", Retention(1, None), read_only=True)
    state = kept.restore_model(abstract, None)
    if state is None:
        raise FileNotFoundError(f"There is no checkpoint in {folder}.")
    made = retrieved(stage.evaluators["retrieval"], state)
    tasks = [name for name in stage.evaluators if name.endswith("_probe")]
    return made | {name: probed(stage.evaluators[name], state) for name in tasks}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the lines."""
    parser = argparse.ArgumentParser(description="Compares runs of two methods on the same eyes")
    for side, config in (("first", "fundus_oct_clip"), ("second", "fundus_oct_cloob")):
        parser.add_argument(f"--{side}", required=True, help="run directories, one a seed")
        parser.add_argument(f"--{side}_config", default=config)
    parser.add_argument("--data_dir")
    parser.add_argument("--records", help="EVALUATOR:METRIC of stages' folders, in place of all")
    given = parser.parse_args(arguments)
    sides = []
    for side in ("first", "second"):
        folders = [Path(name) for name in getattr(given, side).split(",")]
        config = getattr(given, f"{side}_config")
        if given.records:
            asked = [name.split(":") for name in given.records.split(",")]
            sides.append([
                {f"{name}/{metric}": recorded(folder, name, metric) for name, metric in asked}
                for folder in folders
            ])  # fmt: skip
        else:
            sides.append([read(config, folder, given.data_dir) for folder in folders])
    for name in sides[0][0]:
        both = ([run[name] for run in runs] for runs in sides)
        print(json.dumps({"figure": name, **compare(*both)}), flush=True)


if __name__ == "__main__":
    main()

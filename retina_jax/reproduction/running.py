"""Evaluators of a table's cells and of many models, and what is said of their results."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import build as builds
from data_pipelines.errors import InputError
from data_pipelines.records import sources, storage
from data_pipelines.text import knowledge
from data_pipelines.text.texts import plain
from retina_jax import classifier, experiment, presets
from retina_jax.convert import model_folder
from retina_jax.metrics import comparison
from retina_jax.reproduction.tables import PublishedTable
from retina_jax.scoring import beside
from retina_jax.types import Results

_TEMPLATE = {"cfp": "A fundus photograph of {}"}
_PROBED = {"name": "fewshot", "methods": ("linear_probe",), "shots": (1.0,), "official": True}


def dataset(name: str, root: Path, data_dir: str | None) -> str:
    """The address of a published test set, built from its table where it is not there.

    Args:
      name: one of `knowledge.experiments`; `root` holds NAME.csv anywhere, and the pictures by the
        paths in it.
      root: folder.
      data_dir: where data sets lie, or None.

    Raises:
      InputError: if the table or pictures of it are missing, or the counts are not the published.
    """
    about = knowledge.experiment(name)
    address = f"flair/{name.lower()}"
    if storage.find(address, data_dir) is None:
        found = sorted(root.rglob(f"{name}.csv"))
        if not found:
            raise InputError(f"There is no {name}.csv in {root}: it is in the repository's tables.")
        where = str(found[0].relative_to(root))
        builds.build("flair", name.lower(), data_dir, source=str(root), csv=where)
    source = sources.load(address, "train", data_dir)
    counted = collections.Counter(
        plain(label) for labels in source.column("labels") for label in labels
    )
    counts = [counted[plain(label)] for label in about.classes]
    if len(source) != about.n or (about.counts and tuple(counts) != tuple(about.counts)):
        raise InputError(
            f"{name} has {len(source)} pictures, {counts} of its classes, and the published one "
            f"{about.n}, {list(about.counts or ())}: pictures are missing (skipped.csv of "
            f"{address} names them), or it is another version of the table."
        )
    return address


def specs(
    table: PublishedTable, model: str, root: Path, data_dir: str | None, clean: bool
) -> presets.Config:
    """Evaluators of all sets of a table about one model; clean by patient, each picture once.

    Raises:
      InputError: as `dataset`, or for a model without what the table asks for.
    """
    about = model_folder.read_folder(model)[0]
    made: presets.Config = {}
    for name in dict.fromkeys(cell.experiment for cell in table.cells):
        published = knowledge.experiment(name)
        label = {"name": "label", "classes": published.classes, "source": "labels"}
        chosen = {"where": {"duplicate_of": ""}} if clean else {}
        read = (*map(dict, about.transforms), label)
        data = presets.data(dataset(name, root, data_dir), "train", 64, read, **chosen)
        metrics = tuple(
            dict.fromkeys(
                "auc" if cell.metric.endswith("auc") else "balanced_accuracy"
                for cell in table.cells
                if cell.experiment == name
            )
        )
        shared = {"classes": published.classes, "metrics": metrics, "of": model}
        if table.task != "probe":
            if about.text_length is None:
                raise InputError(f"'{about.title}' reads no texts, which {table.name} asks for.")
            shared |= {"template": about.template or _TEMPLATE[published.modality],
                       "length": about.text_length, "knowledge": about.knowledge}  # fmt: skip
        if table.task == "zero_shot":
            made[name] = {"name": "zeroshot", "data": data, **shared}
        elif clean:
            made[name] = {"name": "linear_probe", "train": data, **shared}
        else:
            how = _PROBED if table.task == "probe" else {
                "name": "fewshot", "official": True,
                "methods": ("clip_adapter", "tip_adapter", "tip_adapter_f"),
            }  # fmt: skip
            made[name] = {**how, "train": data, "decimals": table.decimals, **shared}
    return made


def rows(
    table: PublishedTable, results: Mapping[str, Results], clean: bool
) -> list[dict[str, Any]]:
    """A row a cell and published model: what was published, ours, its interval, the difference."""
    made = []
    for cell in table.cells:
        scores = results[cell.experiment].scores
        metric = cell.metric
        if metric not in scores:  # a probe of all records names its share
            metric = next((name for name in scores if name.startswith(cell.metric)), metric)
        score = scores.get(metric)
        for model, published in cell.published.items():
            ours = None if score is None else score.value
            low, high = (None, None) if score is None else (score.low, score.high)
            within = None if low is None or high is None else bool(low <= published <= high)
            made.append({
                "set": cell.experiment, "metric": cell.metric, "model": model,
                "published": published, "ours": ours, "low": low, "high": high,
                "difference": None if ours is None else ours - published, "within": within,
                "protocol": "by patient" if clean else "as published",
                "seen_test_set": any(name in model for name in cell.seen),
            })  # fmt: skip
    return made


def bench(models: Sequence[str], address: str, data_dir: str | None) -> presets.Config:
    """Probe and, where it reads texts, zero-shot of each model on one data set.

    Task, classes, splits and sizes are those that a classifier of that data set would have.

    Args:
      models: places of models or runs, or package:NAME; each is called by the last part of it.
      address: the data set, with the splits train, validation and test.
      data_dir: where data sets lie, or None.

    Raises:
      InputError: for a model without a tower of single pictures, or two of one name.
    """
    made: presets.Config = {}
    for model in models:
        title = Path(model.removeprefix("package:")).name
        asked = {"data": address, "init": model, "data_dir": data_dir}
        found = classifier.settings(asked)["evaluators"]
        for name, task in (("frozen_probe", "probe"), ("zero_shot", "zero_shot")):
            if name in found:
                if f"{title}_{task}" in made:
                    raise InputError(f"Two models are called '{title}'; rename a folder.")
                made[f"{title}_{task}"] = found[name]
    return made


def compared(results: Mapping[str, Results]) -> list[dict[str, Any]]:
    """Each result beside the first of its task, over the same patients; p by Holm for each task."""
    told: list[dict[str, Any]] = []
    for task in ("probe", "zero_shot"):
        names = [name for name in results if name.endswith(f"_{task}")]
        found = []
        for name in names:
            predictions = results[name].predictions
            first = results[names[0]].predictions
            if predictions is None or first is None:
                continue
            metric = predictions.about["primary"]
            row: dict[str, Any] = {"evaluation": name, "metric": metric}
            row["value"] = results[name].scores[metric].value
            if name != names[0]:
                one, other = (p.of("").sorted() for p in (predictions, first))
                difference = comparison.paired(
                    beside.figure(one, metric), beside.figure(other, metric), one.group
                )
                row |= {"difference": difference.difference, "low": difference.interval.low,
                        "high": difference.interval.high, "p": difference.p}  # fmt: skip
            found.append(row)
        adjusted = comparison.holm([row["p"] for row in found if "p" in row])
        for row, p in zip([row for row in found if "p" in row], adjusted, strict=True):
            row["p"] = p
        told += found
    return told


def run(evaluators: presets.Config, data_dir: str | None) -> dict[str, Results]:
    """What evaluators of `specs` and `bench` find."""
    made = experiment.evaluators_about(evaluators, data_dir)
    found: dict[str, Results] = {}
    for name, evaluator in made.items():
        print(f"{name} ...", flush=True)
        nothing: Any = None
        found[name] = evaluator.run(nothing)
    return found


def own(root: Path, data_dir: str | None, size: int = 224) -> str:
    """The address of a folder of a user's pictures, prepared where it is not there."""
    from data_pipelines import prepare

    name = root.resolve().name.lower().replace(" ", "_")
    builder = "manifest" if (root / "manifest.csv").is_file() else "folder"
    address = f"{builder}/{name}"
    if storage.find(address, data_dir) is None:
        line = [f"--dataset={builder}", f"--name={name}", f"--source={root}", f"--size={size}"]
        status = prepare.main([*line, *([f"--data_dir={data_dir}"] if data_dir else [])])
        if status:
            raise InputError(f"{root} could not be prepared; see above.")
    return address

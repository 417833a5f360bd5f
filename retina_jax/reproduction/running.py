"""Evaluators of a table's cells and of many models, and what is said of their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import places
from data_pipelines.errors import InputError
from data_pipelines.records import storage
from data_pipelines.text import knowledge
from retina_jax import classifier, experiment, presets
from retina_jax.convert import model_folder, registry
from retina_jax.metrics import comparison, weighted
from retina_jax.reproduction import sets
from retina_jax.reproduction.tables import PublishedFigure, PublishedTable
from retina_jax.scoring import beside, figures, summary
from retina_jax.scoring.predictions import Predictions
from retina_jax.types import Results, Score

# What is measured in the place of a figure whose threshold the test records chose.
_CLEAN = {"f1_at_best_threshold": "f1"}
_PROBED = {"name": "fewshot", "methods": ("linear_probe",), "shots": (1.0,), "official": True}


def specs(
    table: PublishedTable, model: str, root: Path, data_dir: str | None, clean: bool,
    described: str = "",
) -> presets.Config:  # fmt: skip
    """Evaluators of all sets of a table about one model; clean by patient, each picture once.

    Descriptions of classes of photographs are those of the file `described`, of the model, or ours.

    Raises:
      InputError: as functions of `sets`, or for a model without what the table asks for.
    """
    about = model_folder.read_folder(model)[0]
    if described:
        about = dataclasses.replace(about, knowledge=knowledge.load(described))
    made: presets.Config = {}
    for name in dict.fromkeys(cell.experiment for cell in table.cells):
        cells = [cell for cell in table.cells if cell.experiment == name]
        metrics = tuple(dict.fromkeys(_evaluated(cell, clean) for cell in cells))
        asked = (table, about, root, data_dir, clean)
        if name in table.sets:
            found = _of_split(name, *asked)
        elif cells[0].train:
            found = _of_parts(cells[0].train, name, *asked)
        else:
            found = _of_rows(name, *asked)
        made[name] = {"metrics": metrics, **found, "of": model}
    return made


def _evaluated(cell: PublishedFigure, clean: bool) -> str:
    """The metric of a cell as evaluators name it, without what follows of a method and shots."""
    metric = _CLEAN.get(cell.metric, cell.metric) if clean else cell.metric
    return max((name for name in figures.METRICS if metric.startswith(name)), key=len)


def release(model: str, hashed: bool = True) -> str:
    """The name of the released weights that a model's folder was made of; '' for any others.

    Args:
      model: the folder.
      hashed: whether weights of another hash cannot be those that are asked for.

    Raises:
      InputError: where it was converted from a file that is none of those released in its format.
    """
    source = model_folder.read_folder(model)[0].source
    found = str(source.get("sha256"))
    known = {name: entry.sha256 for name, entry in registry.released().items()
             if entry.source == source.get("converted")}  # fmt: skip
    named = next((name for name, digest in known.items() if digest == found), "")
    if hashed and known and all(known.values()) and not named:
        released = ", ".join(f"{str(digest)[:12]} ({name})" for name, digest in known.items())
        raise InputError(
            f"{model} was made of {source.get('file')}, whose SHA-256 begins with {found[:12]} "
            f"instead of {released}: a table is of released weights. Convert one of these, or "
            "compare your own by 'bench'."
        )
    return named


def _of_split(
    name: str, table: PublishedTable, about: model_folder.Description, root: Path,
    data_dir: str | None, clean: bool,
) -> presets.Config:  # fmt: skip
    """A corpus as its authors hand it on; clean is each picture once."""
    split = table.sets[name]
    address = sets.divided(name, split, root, data_dir)
    parts = [(address, part) for part in split.counts]
    kept = sets.once(parts, data_dir) if clean else None
    labels = tuple(tuple(labels) for labels in split.classes.values())
    label = {"name": "label", "classes": labels, "source": split.field}
    read = _read(parts, (*map(dict, about.transforms), label), kept)
    classes = tuple(split.classes)
    if table.task == "zero_shot":
        prompts = _prompts(table, about, split.template, split.knowledge or about.knowledge)
        return {"name": "zeroshot", "data": read[0], "classes": classes, **prompts}
    protocol = "grouped" if clean else "retfound_green"
    return {"name": "linear_probe", "train": read[0], "test": read[1], "classes": classes,
            "protocol": protocol}  # fmt: skip


def _of_parts(
    train: str, test: str, table: PublishedTable, about: model_folder.Description, root: Path,
    data_dir: str | None, clean: bool,
) -> presets.Config:  # fmt: skip
    """A probe of a set with a table for each of its parts; clean without patients of both."""
    del table
    classes = knowledge.experiment(test).classes
    parts = [(sets.of_rows(name, root, data_dir, clean), "train") for name in (train, test)]
    kept = sets.once(parts, data_dir) if clean else None
    label = {"name": "label", "classes": classes, "source": "labels"}
    read = _read(parts, (*map(dict, about.transforms), label), kept)
    # What is published is the share of right answers, for which the likeliest class is best.
    how = {"protocol": "grouped", "decision": "plain"} if clean else {"protocol": "flair"}
    return {"name": "linear_probe", "train": read[0], "test": read[1], "classes": classes, **how}


def _read(
    parts: Sequence[tuple[str, str]], read: Sequence[presets.Config],
    kept: Sequence[Sequence[str]] | None,
) -> list[presets.Config]:  # fmt: skip
    """The records of each part, or those `kept` of them; the last one is scored."""
    if kept is not None:
        chosen: list[presets.Config] = [{"where": {"id": ids}} for ids in kept]
    else:  # What was published was scored on look-alikes too; it is said where there are any.
        apart = len(parts) > 1
        chosen = [*({} for _ in parts[1:]), {"allow_overlap": True} if apart else {}]
    return [presets.data(*part, 64, tuple(read), **more)
            for part, more in zip(parts, chosen, strict=True)]  # fmt: skip


def _prompts(
    table: PublishedTable, about: model_folder.Description, template: str, described: Any
) -> presets.Config:  # fmt: skip
    """What evaluators are told of prompts."""
    if about.text_length is None:
        raise InputError(f"'{about.title}' reads no texts, which {table.name} asks for.")
    return {"template": template or about.template or presets.PROMPTS["cfp"],
            "length": about.text_length, "knowledge": described}  # fmt: skip


def _of_rows(
    name: str, table: PublishedTable, about: model_folder.Description, root: Path,
    data_dir: str | None, clean: bool,
) -> presets.Config:  # fmt: skip
    """What a table asks of a test set without a split."""
    published = knowledge.experiment(name)
    label = {"name": "label", "classes": published.classes, "source": "labels"}
    address, chosen = sets.of_rows(name, root, data_dir), {}
    if clean:
        address = sets.of_rows(name, root, data_dir, clean=True)
        chosen = {"where": {"id": sets.once([(address, "train")], data_dir)[0]}}
    read = (*map(dict, about.transforms), label)
    data = presets.data(address, "train", 64, read, **chosen)
    shared: presets.Config = {"classes": published.classes}
    if table.task != "probe":
        shared |= _prompts(table, about, "", about.knowledge or "cfp")
    if table.task == "zero_shot":
        return {"name": "zeroshot", "data": data, **shared}
    if table.task == "probe" and clean:
        return {"name": "linear_probe", "train": data, **shared}
    how = _PROBED if table.task == "probe" else {
        "name": "fewshot", "official": not clean,
        "methods": ("clip_adapter", "tip_adapter", "tip_adapter_f"),
    }  # fmt: skip
    return {**how, "train": data, "decimals": table.decimals, **shared}


def rows(
    table: PublishedTable, results: Mapping[str, Results], clean: bool, own: str = ""
) -> list[dict[str, Any]]:
    """A row a cell and published model: what was published, ours, its interval, the difference.

    Args:
      table: what was published.
      results: ours, by experiment.
      clean: whether they are by patient, and no threshold is chosen on what is scored.
      own: the release that ours are of, by which is known what it has seen; '' for any other.
    """
    made = []
    for cell in table.cells:
        metric = _CLEAN.get(cell.metric, cell.metric) if clean else cell.metric
        bootstraps = 0 if clean else table.bootstraps
        score = _score(cell, metric, results[cell.experiment], bootstraps)
        for model, published in cell.published.items():
            ours = None if score is None else score.value
            low, high = (None, None) if score is None else (score.low, score.high)
            within = None if low is None or high is None else bool(low <= published <= high)
            made.append({
                "set": cell.experiment, "metric": metric, "of": cell.of, "model": model,
                "published": published, "ours": ours, "low": low, "high": high,
                "difference": None if ours is None else ours - published, "within": within,
                "protocol": "by patient" if clean else "as published",
                "seen_test_set": _seen(cell, model),
                "own_seen_test_set": _seen(cell, own),
            })  # fmt: skip
    return made


def _seen(cell: PublishedFigure, model: str) -> str:
    """'yes', or 'unknown': no author lists all pictures of the pre-training."""
    yes = any(name.lower() in model.lower() for name in cell.seen)
    return "yes" if yes else "unknown"


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a cell and published model, of `rows`."""
    head = ("set", "metric", "published", "ours", "difference", "95 % interval")
    made = ["{:16s} {:38s} {:>24s} {:>7s} {:>10s} {:>15s}  within".format(*head)]
    for row in rows:
        published = f"{row['model']} {row['published']:.3f}"
        difference = "-" if row["difference"] is None else f"{row['difference']:+.3f}"
        interval = f"{_number(row['low'])} .. {_number(row['high'])}"
        within = {None: "-", True: "yes", False: "no"}[row["within"]]
        saw = {"theirs": row["seen_test_set"], "ours": row["own_seen_test_set"]}
        seen = ", ".join(whose for whose, given in saw.items() if given == "yes")
        seen = f"; {seen} saw test pictures" if seen else ""
        metric = f"{row['metric']} {row['of']}"
        made.append(
            f"{row['set']:16s} {metric:38s} {published:>24s} {_number(row['ours']):>7s} "
            f"{difference:>10s} {interval:>15s}  {within}{seen}"
        )
    return "\n".join(made)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _score(cell: PublishedFigure, metric: str, found: Results, bootstraps: int) -> Score | None:
    """Our figure of a cell."""
    if cell.of:
        return one_against_rest(found.predictions.of("").sorted(), cell.of, bootstraps)
    scores = found.scores
    if metric not in scores:  # a probe of all records names its share
        metric = next((name for name in scores if name.startswith(metric)), metric)
    return scores.get(metric)


def one_against_rest(found: Predictions, name: str, bootstraps: int) -> Score:
    """The area under the ROC curve of one class against all others.

    Args:
      found: test records.
      name: the class.
      bootstraps: as its value, the median over so many draws of the records, as the notebooks of
        RETFound_Green draw them; 0 is the area itself. The interval is that of the area.
    """
    about = next(one for one in summary.per_class(found, ()) if one["class"] == name)
    area = about["auroc"]
    score = Score(area["value"], area["low"], area["high"], chance=0.5, count=len(found.record))
    if not bootstraps:
        return score
    place, records = found.about["classes"].index(name), len(found.record)
    rng = np.random.RandomState(42)  # noqa: NPY002  theirs
    drawn = [np.bincount(rng.choice(records, records), minlength=records)
             for _ in range(bootstraps)]  # fmt: skip
    assert found.probabilities is not None  # as a probe has them
    values = found.probabilities[:, place].astype(np.float64)
    areas = weighted.auc(found.labels == place, values, np.array(drawn, np.float64))
    return dataclasses.replace(score, value=float(np.nanmedian(areas)))


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
    """Each result beside the first of its task, over the same patients, with Holm in each task."""
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
            one, other = (p.of("").sorted() for p in (predictions, first))
            if name != names[0] and (reason := comparison.enough(one.labels, one.group)):
                row |= {"reference": names[0], "not_tested": reason}
            elif name != names[0]:
                difference = comparison.paired(
                    beside.figure(one, metric), beside.figure(other, metric), one.group
                )
                ends = difference.interval
                row |= {"reference": names[0], "difference": difference.difference,
                        "low": ends.low, "high": ends.high, "p": difference.p}  # fmt: skip
            found.append(row)
        adjusted = comparison.holm([row["p"] for row in found if "p" in row])
        for row, p in zip([row for row in found if "p" in row], adjusted, strict=True):
            row["p_holm"] = p
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


def reproduced(
    table: PublishedTable,
    model: str,
    root: Path,
    data_dir: str | None,
    clean: bool,
    own: str = "",
    described: str = "",
) -> tuple[dict[str, Results], list[list[dict[str, Any]]]]:
    """A table for a model as it was published and, where that is asked for, clean beside it.

    Args:
      table, model, root, data_dir, described, own: as `specs` and `rows` take them.
      clean: whether it is done by patient too, each picture once.

    Returns:
      Results by name, those by patient with ', by patient', and the rows of each protocol.
    """
    results: dict[str, Results] = {}
    blocks: list[list[dict[str, Any]]] = []
    for by_patient in (False, True)[: 1 + clean]:
        made = run(specs(table, model, root, data_dir, by_patient, described), data_dir)
        blocks.append(rows(table, made, by_patient, own))
        results |= {f"{name}, by patient" if by_patient else name: made[name] for name in made}
    return results, blocks


def own(root: Path, data_dir: str | None) -> str:
    """The address of a folder of a user's pictures, prepared where it is not there."""
    from data_pipelines import prepare

    name = root.resolve().name.lower().replace(" ", "_")
    builder = "manifest" if (root / "manifest.csv").is_file() else "folder"
    address = f"{builder}/{name}"
    if storage.find(address, data_dir) is None:
        line = [f"--dataset={builder}", f"--name={name}", f"--source={root}", "--size=224"]
        status = prepare.main([*line, *([f"--data_dir={data_dir}"] if data_dir else [])])
        if status:
            raise InputError(f"{root} could not be prepared; see above.")
    else:
        print(f"{address} is built already, in {storage.find(address, data_dir)}")
    return address


def address(data: str, data_dir: str | None) -> str:
    """The address of a built data set, or of a folder of a user's pictures.

    Raises:
      InputError: for what is neither.
    """
    folder = places.local(data, "--data")
    if folder.is_dir():
        return own(folder, data_dir)
    if data.count("/") != 1 or storage.find(data, data_dir) is None:
        raise InputError(
            f"--data is {data}, which is neither a folder nor the address of a data set that is "
            "built."
        )
    return data

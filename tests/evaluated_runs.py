"""What runs leave, made without a model: files by hand, and evaluations of drawn scores."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
from picture_files import encode
from PIL import Image

from retina_jax import report
from retina_jax.convert import folder_config
from retina_jax.scoring import figures, predictions, records
from retina_jax.train.writer import write_results
from retina_jax.types import Results

METRICS = {"binary": ["auc", "accuracy"], "ordinal": ["quadratic_kappa", "auc"],
           "multi-label": ["average_precision"]}  # fmt: skip
CLASSES = {"binary": ["healthy", "refer"], "ordinal": ["none", "mild", "moderate", "severe"],
           "multi-label": ["drusen", "cup", "haemorrhage"]}  # fmt: skip

_MADE: dict[tuple, Path] = {}


def score(metric: str = "accuracy", value: float | None = 0.7, **more) -> dict:
    """A row of the scores of an evaluator 'zeroshot'."""
    entry = {"evaluator": "zeroshot", "metric": metric, "value": value}
    return entry | {"low": 0.6, "high": 0.8, "chance": 0.2, "count": 600} | more


def line(step: int, **more) -> dict:
    """What is logged at a step."""
    return {"step": step, "time": 1e9 + step, "train/loss": 5.0 / step} | more


def run(path: Path, rows=(), scores=(), gallery=(), config=None, name="a run", tail="") -> Path:
    """Writes the files of a run without records."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config or {"seed": 0}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    results = {"name": name, "step": 40, "scores": list(scores), "gallery": list(gallery)}
    (path / "results.json").write_text(json.dumps(results))
    return path


def page_of(*workdirs: Path, **options) -> str:
    """The page of runs, which lies beside them."""
    name = "page.html" if len(workdirs) == 1 else "comparison.html"
    return report.write(workdirs, workdirs[0].parent / name, **options).read_text("utf-8")


def model_of(run: Path, folder: Path) -> Path:
    """A folder with what the config.json of a model says that was made of a run."""
    rows = [
        {"evaluator": row["evaluator"], "metric": row["metric"], "value": row["value"]}
        for row in report.scores(run)
    ]
    about = {
        "format": folder_config.FORMAT, "version": folder_config.VERSION, "title": "A <b>grader",
        "model": {"name": "tower"}, "transforms": [{"name": "decode", "size": 128}],
        "preparation": None, "tokenizer": None, "template": None, "classes": ["healthy", "refer"],
        "licence": "MIT", "terms": None, "citation": None, "ignored": {}, "filled": {},
        "source": {"run": run.name, "weights_hash": "f87c" * 16}, "evaluated": rows,
        "weights": {"parameters": 1234, "sha256": "8849" * 16, "file": "model.safetensors"},
        "decision": {"task": "single", "rule": "balanced", "prior": [0.75, 0.25],
                     "calibration": {"method": "none"}, "operating_points": {}},
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(about))
    return folder


class Rows(list):
    """Records in memory."""

    name, split = "manifest/clinic", "test"

    @property
    def fields(self):
        """Names of what each record has."""
        return tuple(self[0])

    def column(self, field):
        """One field of every record."""
        return [row[field] for row in self]


def written(path: Path, found: predictions.Predictions, overlaps: dict | None = None) -> Path:
    """Writes the results and records of an evaluator 'probe' that said this."""
    path.mkdir(parents=True)
    results = {"probe": Results(figures.scores(found), predictions=found)}
    write_results(path, path.name, 1, results, overlaps)
    (path / "config.json").write_text(json.dumps({"seed": 0}))
    return path


def evaluated(
    path: Path,
    signal: float = 1.0,
    *,
    task: str = "binary",
    count: int = 120,
    validation: int = 0,
    seed: int = 0,
    noise: float = 0.0,
    first: int = 0,
    eyes: int = 1,
    overlaps: dict | None = None,
    classes: tuple | None = None,
    people: bool = False,
) -> Path:
    """Writes the results and records of an evaluator 'probe'.

    Args:
      path: the run's folder, which is made.
      signal: how far the classes lie apart.
      task: a key of CLASSES.
      count, validation: numbers of records.
      seed: which pictures they have.
      noise: how much the scores differ from those of the same signal.
      first: number of the first record.
      eyes: records of a patient.
      overlaps: what of the test records was trained on.
      classes: names of the classes.
      people: whether sex and age of patients are known.
    """
    drawn = (signal, seed, noise, first, eyes, people)
    key = (*drawn, task, count, validation, str(overlaps), classes)
    if (made := _MADE.get(key)) and made.is_dir():  # resampling takes a second
        shutil.copytree(made, path)
        results = json.loads((path / "results.json").read_text())
        (path / "results.json").write_text(json.dumps(results | {"name": path.name}))
        return path
    _MADE[key] = path
    names = list(classes or ()) or CLASSES[task]
    about = {"classes": names, "metrics": METRICS[task], "task": task, "primary": METRICS[task][0],
             "operating_point": "sensitivity>=.9", "level": "image"}  # fmt: skip
    parts = [_part(task, len(names), about, split, number, *drawn) for split, number in (
        ("test", count), ("validation", validation)) if number]  # fmt: skip
    found = predictions.joined(parts)
    return written(path, found, overlaps)


def placed(path, places=None, **options):
    """The folder of a run whose test records have places: those of classes lie apart."""
    evaluated(path.with_name(f"{path.name} unplaced"), **options)  # stays as others may copy it
    evaluated(path, **options)
    file = path / "records" / "probe.parquet"
    found = records.read(file)
    test, rng = found.split == "test", np.random.default_rng(1)
    made = np.full((len(test), 2), np.nan, np.float32)
    centre = found.labels if found.labels.ndim == 1 else found.labels.sum(axis=1)
    made[test] = 0.1 * rng.normal(size=(test.sum(), 2))
    made[test, 0] += 10 * centre[test]
    found = dataclasses.replace(found, places=made if places is None else places)
    entry = json.loads((path / "results.json").read_text())["evaluations"]["probe"]
    records.write(file, found.told(place_variance=[0.25, 0.125]), entry)
    return path


def picture(name: str) -> bytes:
    """A small JPEG of its own for each name, which also says where it was taken."""
    drawn = np.random.default_rng(list(name.encode())).integers(0, 255, (8, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x010E] = "SECRET in the description"
    return encode(drawn, "JPEG", exif=exif)


def _part(task, classes, about, split, count, signal, seed, noise, first, eyes, people):
    rng = np.random.default_rng((1, split == "test"))
    total = first + count
    shape = (total, classes) if task == "multi-label" else (total,)
    labels = rng.integers(0, 2 if task == "multi-label" else classes, shape)
    truth = labels if task == "multi-label" else np.eye(classes)[labels]
    own = noise * np.random.default_rng(2).normal(size=(total, classes))
    scores = signal * truth + rng.normal(size=(total, classes)) + own
    p = 1 / (1 + np.exp(-scores)) if task == "multi-label" else np.exp(scores)
    p = p if task == "multi-label" else p / p.sum(axis=1, keepdims=True)
    sexes, ages = rng.choice(["female", "male"], total), rng.integers(38, 90, total)
    rows = range(first, total)
    source = Rows(
        {"id": f"{split}{i}", "patient": f"SECRET{split}{i // eyes}",
         "image": picture(f"{seed} {split} {i}"),
         **({"sex": str(sexes[i]), "age": float(ages[i])} if people else {})}
        for i in rows
    )  # fmt: skip
    return predictions.of_records(
        source, labels[first:], scores[first:], about, probabilities=p[first:], split=split
    )

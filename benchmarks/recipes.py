"""What each option of a recipe adds, over three folds of patients.

    python -m benchmarks.recipes --data_dir=DIR --workdir=FOLDER
    python -m benchmarks.recipes --data_dir=DIR --workdir=FOLDER --options=idrid,idrid+raw_weights

Test patients are never read: those of training and validation are divided into five folds by a
hash of their id. Seed k trains `configs/real.py:classifier` on all but fold k and a probe of its
features is scored on fold k, for each option of OPTIONS, or several joined by +, with the same
seeds, and 200 steps at 160 pixels, so that all of it takes some hours of one processor core.

An option that begins with a name of SETS is `configs/classifier.py` on that data set instead, as
long as that takes: fold k + 1 chooses the checkpoint, and its head is scored on fold k. One that
begins with `flair` is the stage `real:flair` from the tower of `steps_400` of the same seed, which
is trained first where FOLDER lacks it; zero-shot is scored on fold k too.

A run that is complete is not run again: take a new FOLDER after a change of the recipe. One JSON
line an option and task: balanced accuracy of each fold, and the mean of the differences to the
first option with its 95 % interval over patients.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import retina_jax
from data_pipelines.builders import staging
from data_pipelines.records import splits
from retina_jax import classifier, evaluation_presets, presets, starts
from retina_jax.metrics import bootstrap
from retina_jax.scoring import records
from retina_jax.scoring.figures import METRICS

FOLDS, SEEDS = 5, (0, 1, 2)
BASE = "base"
RETINA, SPLITS = "manifest/retina", "train+validation"
TASKS = {"odir": "odir", "grades": "idrid", "idrid": "idrid", "oct": "kermany_oct"}
FLAIR, ZEROSHOT, START = "flair", "zeroshot", "steps_400"
# The data sets of a classifier of its own, and the field of its labels.
SETS = {
    "idrid": {"where": {"dataset": "idrid"}, "labels": "dr_grade"},
    "oct": {"where": {"dataset": "kermany_oct"}, "labels": "labels"},
}
Config = dict[str, Any]


def _optimized(config: Config, **changes: Any) -> Config:
    return {**config, "optimization": {**config["optimization"], **changes}}


def _trained(config: Config, **of_tower: Any) -> Config:
    """With other options of the part of the tower that is trained."""
    learned = {r"image/.*": of_tower}
    rules = config["optimization"]["rules"]
    rules = tuple((part, {**options, **learned.get(part, {})}) for part, options in rules)
    return _optimized(config, rules=rules)


def _streamed(config: Config, **changes: Any) -> Config:
    return {**config, "streams": {"public": {**config["streams"]["public"], **changes}}}


def _changed(config: Config, *changes: presets.Config) -> Config:
    """With other random changes of pictures between what reads them and what makes the labels."""
    given = config["streams"]["public"]["transforms"]
    kept = (*presets.photographs(given[0]["size"]), *changes, given[-1])
    return _streamed(config, transforms=kept)


def _one_rate(config: Config) -> Config:
    """Without layer-wise rates."""
    rules = config["optimization"]["rules"]
    whole = tuple((part, {k: v for k, v in options.items() if k != "layer_decay"})
                  for part, options in rules)  # fmt: skip
    return _optimized(config, rules=whole)


def _text(config: Config, **options: Any) -> Config:
    """With a text tower that is trained."""
    *others, (part, _), rest = config["optimization"]["rules"]
    return _optimized(config, rules=(*others, (part, options), rest))


def _unsmoothed(config: Config) -> Config:
    objective = {**config["objectives"]["classification"], "smoothing": 0.0}
    return {**config, "objectives": {"classification": objective}}


def _acquired(config: Config) -> Config:
    photographs = presets.fundus_augmentation(where={"modality": "cfp"})
    scans = presets.oct_augmentation("image", where={"modality": "oct"})
    return _changed(config, *photographs, *scans)


OPTIONS: dict[str, Callable[[Config], Config]] = {
    BASE: lambda config: config,
    "test_time_flip": lambda config: {**config, "test_time_flip": True},
    "ema": lambda config: _optimized(config, ema=0.98),
    "layer_decay": lambda config: _trained(config, learning_rate=1.0, layer_decay=0.85),
    "batch_statistics": lambda config: _trained(config, stored_statistics=False),
    "flip_only": lambda config: _changed(config, {"name": "random_flip"}),
    "acquisition": _acquired,
    "mixup": lambda config: _streamed(config, mixup=0.2),
    "all_trained": lambda config: _optimized(config, rules=config["optimization"]["rules"][1:]),
    "full_rate": lambda config: _trained(config, learning_rate=1.0),
    "unsmoothed": _unsmoothed,
    "unbalanced": lambda config: _streamed(config, balance=None),
    "pixels_224": lambda config: config,
    "pixels_320": lambda config: config,  # give it a DIR prepared with --size=320
    "pixels_128": lambda config: config,
    "steps_400": lambda config: config,
    "steps_800": lambda config: config,
}
# Of a classifier of one data set.
OWN: dict[str, Callable[[Config], Config]] = {
    "raw_weights": lambda config: _optimized(config, ema=None),
    "one_rate": _one_rate,
    "pixels_224": lambda config: config,
}


# Of FLAIR's stage, whose MiniLM is frozen: at a rate for fine-tuning it, or at that of images.
SECOND: dict[str, Callable[[Config], Config]] = {
    "text_low": lambda config: _text(config, learning_rate=0.03),
    "text_free": lambda config: _text(config, learning_rate=1 / 3),
}


def folds(data_dir: Path) -> dict[str, int]:
    """{id of a record: its fold}, the same for records of a patient and for look-alikes."""
    [folder] = sorted((data_dir / RETINA).iterdir())[-1:]
    names = ["id", "patient", "digests", "perceptual", "duplicate_of"]
    rows: list[staging.RecordStatus] = []
    for split in ("train", "validation"):
        for row in pq.read_table(folder / f"columns-{split}.parquet", columns=names).to_pylist():
            name, digests, perceptual = row.pop("id"), row.pop("digests"), row.pop("perceptual")
            of = (len(rows), name, tuple(digests), tuple(perceptual))
            rows.append(staging.RecordStatus(*of, **row))
    found = splits.columns(rows)
    keys = splits.group_keys(found, splits.look_alikes(found)[0])
    return {row.name: zlib.crc32(key.encode()) % FOLDS
            for row, key in zip(rows, keys, strict=True)}  # fmt: skip


def get_config(variant: str) -> Config:
    """The run of OPTION,SEED,WORKDIR,DATA_DIR."""
    option, seed, workdir, data_dir = variant.split(",", 3)
    first, *more = option.split("+")
    size, numbers = _number(option, "pixels_", 160), folds(Path(data_dir))
    divided = {k: tuple(n for n, fold in numbers.items() if (fold - int(seed)) % FOLDS == k)
               for k in range(FOLDS)}  # fmt: skip
    if first in SETS:
        config, options = _of_set(first, size, data_dir, divided), OWN
    elif first == FLAIR:
        config, options = _of_flair(f"{workdir}/{START}{seed}", size, divided), SECOND
    else:
        config, options, more = _of_all(option, size, divided), OPTIONS, [first, *more]
    config = {**config, "data_dir": data_dir, "seed": int(seed)}
    for name in more:
        config = options[name](config)
    return config


def _of_all(option: str, size: int, divided: dict[int, tuple[str, ...]]) -> Config:
    """`real:classifier` on all folds but the first."""
    config = retina_jax.get_config("real:classifier")["stages"]["classifier"]
    return {
        **_divided(config, size, divided),
        "restore_from": {**config["restore_from"], "allow_other_pixels": True},
        "total": {"steps": _number(option, "steps_", 200)},
    }


def _of_flair(start: str, size: int, divided: dict[int, tuple[str, ...]]) -> Config:
    """The stage of `real:flair` on all folds but the first, zero-shot on that one too."""
    config = retina_jax.get_config("real:flair")["stages"][FLAIR]
    image = {**presets.without(config["restore_from"]["image"], "stage"), "path": start}
    divided_config = _divided(config, size, divided)
    shown = evaluation_presets.labelled_rows(
        RETINA, SPLITS, "odir", size, {"dataset": "odir", "id": divided[0]}
    )
    zeroshot = {**config["evaluators"]["odir_zeroshot"], "data": shown}
    return {
        **divided_config,
        "restore_from": {**config["restore_from"], "image": image},
        "evaluators": {ZEROSHOT: zeroshot, **divided_config["evaluators"]},
    }


def _divided(config: Config, size: int, divided: dict[int, tuple[str, ...]]) -> Config:
    """The config trained and probed on all folds but the first, on which the probes are scored."""
    out, *others = divided.values()
    rest = sum(others, ())
    given, at = config["streams"]["public"], {"size": size}
    resized = tuple({**spec, **(at if "size" in spec else {})} for spec in given["transforms"])
    where = {**given["where"], "id": rest}
    probes = {name: _probe(name, folder, size, rest, out) for name, folder in TASKS.items()}
    streamed = _streamed(config, split=SPLITS, transforms=resized, where=where)
    return {**streamed, "evaluators": probes}


def _of_set(name: str, size: int, data_dir: str, divided: dict[int, tuple[str, ...]]) -> Config:
    """`config=classifier` on one data set, judged on the first fold, chosen on the second."""
    out, chosen, *others = divided.values()
    given = SETS[name]
    where = {**given["where"], "duplicate_of": "", "id": sum(others, ())}
    of_all_splits = {"train": SPLITS, "validation": SPLITS, "test": SPLITS}
    config = classifier.settings(
        {"data": RETINA, "data_dir": data_dir, "init": starts.LITE0_START["path"], "size": size,
         "labels": given["labels"], "where": where, **of_all_splits}
    )  # fmt: skip
    head = config["evaluators"]["validation"]
    data = {ids: {**head["data"], "where": {**head["data"]["where"], "id": ids}}
            for ids in (out, chosen)}  # fmt: skip
    evaluators = {
        "validation": {**head, "data": data[chosen]},
        name: {**config["evaluators"]["test"], "data": data[out], "validation": data[chosen]},
    }
    return {**config, "evaluators": evaluators, "at_end": (name,)}


def _of(option: str) -> str:
    """The data set of a classifier of its own, FLAIR, or '' for options of the first stage."""
    first = option.split("+")[0]
    return first if first in (*SETS, FLAIR) else ""


def _number(option: str, of: str, otherwise: int) -> int:
    told = [name.removeprefix(of) for name in option.split("+") if name.startswith(of)]
    return int(told[-1]) if told else otherwise


def _probe(
    task: str, folder: str, size: int, rest: tuple[str, ...], out: tuple[str, ...]
) -> Config:
    rows = evaluation_presets.labelled_rows(
        RETINA, SPLITS, task, size, {"dataset": folder, "id": rest}
    )
    probe = evaluation_presets.row_probe(rows, task, SPLITS, protocol="grouped")
    return {**probe, "test": {**rows, "where": {**rows["where"], "id": out}}}


def run(option: str, seed: int, data_dir: Path, workdir: Path) -> None:
    """Trains and evaluates one, in a process of its own; the flip evaluates what `base` trained."""
    folder, command = workdir / f"{option}{seed}", "train"
    if (folder / "done").exists():
        return
    if option == "test_time_flip":
        shutil.copytree(workdir / f"{BASE}{seed}", folder, dirs_exist_ok=True)
        (folder / "done").unlink(missing_ok=True)
        command = "evaluate"
    if _of(option) == FLAIR:
        run(START, seed, data_dir, workdir)
    config = f"{__file__}:{option},{seed},{workdir},{data_dir}"
    subprocess.run(
        [sys.executable, "-m", "retina_jax", command, f"--config={config}", f"--workdir={folder}"],
        check=True,
    )
    (folder / "done").touch()


def _figure(task: str, found: dict[str, list[Any]]) -> dict[str, Any]:
    """{option: ...} of the predictions of all folds; differences to the first option."""
    accuracy = METRICS["balanced_accuracy"].of
    first, base = next(iter(found.items()))
    lines = {}
    for option, parts in found.items():
        for part, other in zip(parts, base, strict=True):
            if not np.array_equal(part.record, other.record):
                raise ValueError(f"{option} was not scored on the records of {first}.")
        labels, old, new, fold, patients = (
            np.concatenate(columns)
            for columns in zip(
                *(
                    (part.labels, other.scores, part.scores, np.full(len(part.labels), k),
                     part.group)
                    for k, (part, other) in enumerate(zip(parts, base, strict=True))
                ),
                strict=True,
            )
        )  # fmt: skip

        def difference(
            truth: np.ndarray, one: np.ndarray, two: np.ndarray, where: np.ndarray
        ) -> float:
            """The mean over folds of what the option adds."""
            rows = [where == k for k in np.unique(where)]
            of = [accuracy(truth[at], two[at]) - accuracy(truth[at], one[at]) for at in rows]
            return float(np.mean(of))

        arrays = (labels, old, new, fold)
        ends = bootstrap.interval(difference, *arrays, groups=patients, method="percentile")
        lines[option] = {
            "figure": f"{task}/{option}", "to": first,
            "folds": [float(accuracy(part.labels, part.scores)) for part in parts],
            "difference": difference(*arrays), "low": ends.low, "high": ends.high,
            "records": len(labels), "patients": len(set(patients)),
        }  # fmt: skip
    return lines


def table(workdir: Path, options: list[str]) -> list[dict[str, Any]]:
    """The lines of all options whose runs are complete."""
    there = [name for name in options
             if all((workdir / f"{name}{seed}/done").exists() for seed in SEEDS)]  # fmt: skip
    if options[0] not in there:
        raise SystemExit(f"{options[0]}, to which others are compared, has not run in {workdir}.")
    lines, of = [], _of(options[0])
    tasks = {FLAIR: (ZEROSHOT, *TASKS), "": TASKS}
    for task in tasks.get(of, (of,)):
        found = {
            name: [_tested(workdir / f"{name}{seed}", task) for seed in SEEDS] for name in there
        }
        lines += _figure(task, found).values()
    return lines


def _tested(folder: Path, task: str) -> Any:
    evaluated = folder / "evaluation"  # what `retina-jax evaluate` made, if it did
    found = records.read((evaluated if evaluated.exists() else folder) / f"records/{task}.parquet")
    return found.where(found.split == "test")


def main() -> None:
    """Runs what is missing and prints the lines."""
    parser = argparse.ArgumentParser(description="What options of a recipe add")
    parser.add_argument("--data_dir", type=Path, required=True, help="where manifest/retina lies")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--options", default=",".join(OPTIONS), help="(%(default)s)")
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    given = parser.parse_args()
    options = given.options.split(",")
    if len(set(map(_of, options))) > 1:
        raise SystemExit("Options that are compared are all of one data set, or of none.")
    for option in [] if given.table else options:
        for seed in SEEDS:
            run(option, seed, given.data_dir.absolute(), given.workdir.absolute())
    for line in table(given.workdir, options):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

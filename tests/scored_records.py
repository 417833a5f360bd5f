"""Records in memory, what a classifier says of them, and the results.json that follows."""

import json

import numpy as np
from evaluated_runs import Rows, picture

from retina_jax.evals.classified import classified
from retina_jax.scoring import figures, predictions
from retina_jax.train.writer import write_results


class Source(Rows):
    """Records in memory, whose fields are known where there are none, and can be set."""

    name, fields = "memory/records", ("id", "patient", "image", "sex", "age")


def source(count, seed=0, prefix="t"):
    """Two pictures of each patient."""
    rng = np.random.default_rng(seed)
    return Source({"id": f"{prefix}{i:03d}", "patient": f"{prefix} name {i // 2}",
                   "image": picture(f"{i % 256} {seed}"), "sex": "FM"[(i // 2) % 2],
                   "age": int(rng.integers(20, 90))} for i in range(count))  # fmt: skip


def said(task="binary", count=120, seed=0, split="test", fold=None, **more):
    """Predictions of a classifier that is right more often than not."""
    rng = np.random.default_rng([seed, count])
    classes = {"binary": ["healthy", 'a,b "c"'], "ordinal": list("abcde")}.get(task, list("xyz"))
    if task == "multi-label":
        labels = (rng.random((count, 3)) < 0.4).astype(int)
        labels = labels.astype(np.float32)
        labels[0, 1] = np.nan
        logits = np.nan_to_num(labels) + rng.normal(size=labels.shape)
        probabilities = 1 / (1 + np.exp(-logits))
    else:
        labels = rng.integers(0, len(classes), count)
        logits = 2 * np.eye(len(classes))[labels] + rng.normal(size=(count, len(classes)))
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    about = {"classes": classes, "task": task, "metrics": ["balanced_accuracy", "auc"],
             "primary": figures.PRIMARY[task], "operating_point": "youden", **more}  # fmt: skip
    if task == "ordinal":
        about["metrics"] = ["quadratic_kappa", "accuracy"]
    found = source(count, seed, split[0])
    return predictions.of_records(
        found, labels, logits, about, probabilities=probabilities, split=split, fold=fold
    )


def written(folder, *parts):
    """The results.json of predictions."""
    folder.mkdir(exist_ok=True)
    write_results(folder, "run", 3, {"probe": classified(parts)})
    return json.loads((folder / "results.json").read_text())

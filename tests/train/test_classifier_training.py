"""A supervised run on the embedded data: two tasks, one of them in order, balanced and mixed."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from runs import logged, whole_config

from retina_jax import experiment
from retina_jax.train import loop

# A class in each part, from two fields: the diagnosis, and the grade of retinopathy, a number.
DIAGNOSES = ("normal", "diabetic retinopathy", "glaucoma", "age related macular degeneration",
             "pathologic myopia", "cataract")  # fmt: skip
PARTS = (len(DIAGNOSES), 5)
CLASSES = tuple(f"synthetic_retina/{name}" for name in (*DIAGNOSES, 0, 1, 2, 3, 4))


def settings() -> ConfigDict:
    """The smoke run of FLAIR with a classifier in the place of its two towers."""
    config = whole_config("flair")
    (stream,) = config.streams.values()
    labels = {"name": "multi_label", "classes": CLASSES, "source": ("diagnosis", "dr_grade"),
              "within": "dataset"}  # fmt: skip
    tower = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "patch_size": 8}
    objective = {"parts": PARTS, "ordered": (1,), "smoothing": 0.05, "target": "labels"}
    graded = {"dataset": stream.dataset, "split": stream.split, "batch_size": 8,
              "transforms": ({"name": "decode", "size": 32}, {"name": "random_flip"}, labels),
              "balance": ("dataset", "diagnosis"), "mixup": 0.2}  # fmt: skip
    with config.unlocked():
        config.evaluators = {}
        config.streams, config.epoch_of = {"graded": graded}, "graded"
        config.model = {"name": "tower", "key": "image", "tower": tower, "classes": len(CLASSES)}
        config.objectives = {"classes": {"name": "classification", **objective}}
        config.total, config.every = {"steps": 2}, {"log": {"steps": 1}}
    return config


def test_two_steps(tmp_path: Path) -> None:
    (made,) = experiment.build_all(settings(), tmp_path)
    batch = next(made.data.batches(0, 1))
    assert set(batch) == {"image", "labels", "mixup_labels", "mixup_share"}
    assert batch["image"].dtype == np.uint8
    parts = np.split(batch["labels"], [PARTS[0]], axis=1)
    assert all((part.sum(axis=1) == 1).all() for part in parts), "a class in each part"
    loop.train(made, tmp_path)
    losses = list(logged(tmp_path, "classification").values())
    # Chance: the logarithm of six classes, and four decisions at log 2, two terms of equal weight.
    chance = (np.log(6) + 4 * np.log(2)) / 2
    assert len(losses) == 2 and np.abs(np.array(losses) - chance).max() < 1

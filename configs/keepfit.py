"""KeepFIT: expert image-text pairs revise what public labels say (MM-Retinal, MICCAI 2024).

Two streams a step: public images with prompts made of their labels, and expert images with their
reports. Besides both contrastive terms, a reference loss pulls the text of each public image to
what the expert texts of similar images say (weight 100).

    python -m retina_jax.main --config=configs/keepfit.py          # embedded data, minutes
    python -m retina_jax.main --config=configs/keepfit.py:smoke    # seconds
    python -m retina_jax.main --config=configs/keepfit.py:full --config.data_dir=DIR
    python -m retina_jax.main --config=configs/keepfit.py:released --config.data_dir=DIR

`:full` is the published recipe in two stages, because the released code starts its counter at
epoch 15 from a checkpoint of plain FLAIR training: 14 epochs of `flair`, then 26 epochs of
`keepfit` with a fresh optimizer. ResNet-50 at 512 pixels, Bio_ClinicalBERT over 256 tokens,
batches of 24 public and 24 expert pairs. Images of the expert stream are not augmented.

`:released` is `:full` where the released code differs from the paper: the attention normalises
over its heads instead of the expert items, and expert pairs with equal captions are negatives of
each other. With more than one device, `local_negatives=24` of both contrastive objectives leaves
each of them its own negatives, as in the released run.
"""

from configs import common
from configs.flair import ASSEMBLY, CONTRASTIVE, KNOWLEDGE, PUBLIC_CORPUS, published, towers

EXPERT_CORPUS = (
    "ask the authors of MM-Retinal for its folders CFP, FFA and OCT and their tables, then run "
    "python -m data_pipelines.prepare --dataset=mm_retinal --source=FOLDER --size=512 --crop=none "
    "--pad=none --data_dir=DIR"
)
# What both stages of the published recipe read; KeepFIT leaves out whole labels only.
PUBLIC = {
    "dataset": "flair/default",
    "split": "train",
    "where": {"dataset": tuple(name for name in ASSEMBLY if name != "05_1000x39")},
    "ban": {"mode": "exact"},
}
EXPERT = {
    "dataset": "mm_retinal/default",
    "split": "train",
    "where": {"modality": "cfp"},
    "ban": common.WITH_CAPTION,
}
WEIGHTS = {"reference": 100.0}
# What stage `flair` hands on: the towers, their projections and the temperature.
SHARED = ("image", "image_projection", "text", "text_projection", "logit_scale")


def get_config(variant: str = "demo"):
    """demo (default), smoke, full or released."""
    return common.choose(
        variant, demo=_demo, smoke=_smoke, full=_full, released=lambda: _full(released=True)
    )


def keepfit(image, text, dim, softmax_axis="keys", **options):
    """Two towers and the reference attention."""
    reference = {"heads": 2, "dropout": 0.5, "softmax_axis": softmax_axis}
    return {**towers(image, text, dim), "name": "keepfit", "reference": reference, **options}


def objectives(equal_captions=True):
    """Both contrastive terms and the reference; whether equal captions are positives."""
    return {
        "public": common.contrastive(("public/image", "public/text"), groups=True),
        "expert": common.contrastive(("expert/image", "expert/text"), groups=equal_captions),
        "reference": {"name": "reference"},
    }


def streams(public, expert, batch_size, size, length, prompts=None):
    """Public images with prompts beside expert pairs drawn with replacement."""
    return {
        "public": {
            **public,
            "batch_size": batch_size,
            "transforms": prompts or common.categorical(size, length, knowledge=KNOWLEDGE),
        },
        "expert": {
            **expert,
            "batch_size": batch_size,
            "transforms": common.captioned(size, length),
            "replacement": True,
        },
    }


def _embedded(dataset, size, length, batch_size, image, text, dim, train, **settings):
    return common.stage(
        model=keepfit(image, text, dim),
        streams=streams(
            {"dataset": dataset, "split": "public"},
            {"dataset": dataset, "split": "expert"},
            batch_size,
            size,
            length,
        ),
        epoch_of="public",
        objectives=objectives(),
        weights=WEIGHTS,
        evaluators=common.embedded_evaluators(
            dataset, size, length, 64, {"train": train, "test": "test"}
        ),
        **settings,
    )


def _demo():
    return _embedded(
        "synthetic_retina/demo",
        size=96,
        length=48,
        batch_size=24,
        image=common.small_resnet(),
        text=common.small_bert(),
        dim=128,
        train="public[:1000]",
        total={"steps": 200},
        optimization=common.adamw(1e-3, 1e-4, {"name": "cosine", "warmup": {"percent": 5}}),
    )


def _smoke():
    return _embedded(
        "synthetic_retina/smoke",
        size=32,
        length=32,
        batch_size=8,
        image=common.small_resnet(width=8),
        text=common.small_bert(width=32, depth=1),
        dim=16,
        train="public",
        total={"steps": 2},
        optimization=common.adamw(1e-3, 1e-4, {"name": "cosine", "warmup": {"percent": 50}}),
    )


def _full(released=False):
    size, length, batch_size = 512, 256, 24
    both = streams(PUBLIC, EXPERT, batch_size, size, length, published(size, length))
    recipe = {
        "tokenizer": {"name": "wordpiece", "vocab": common.VOCABULARY_FILE},
        "epoch_of": "public",
        "optimization": common.adamw(
            1e-4, 1e-5, {"name": "cosine", "warmup": {"epochs": 1}, "horizon": {"epochs": 100}}
        ),
        "loading": {"num_workers": 8, "num_threads": 2},
    }
    pair = common.RESNET_50, {**common.CLINICAL_BERT, "pool": "flair"}, 512
    return common.stages(
        flair=common.stage(
            model=towers(*pair),
            streams={"public": both["public"]},
            objectives=CONTRASTIVE,
            total={"epochs": 14},
            corpora={"flair/default": PUBLIC_CORPUS},
            **recipe,
        ),
        keepfit=common.stage(
            model=keepfit(*pair, softmax_axis="heads" if released else "keys"),
            streams=both,
            objectives=objectives(equal_captions=not released),
            weights=WEIGHTS,
            total={"epochs": 26},
            restore_from={"stage": "flair", "take": SHARED},
            corpora={"mm_retinal/default": EXPERT_CORPUS},
            **recipe,
        ),
    )

"""KeepFIT V2: expert knowledge of MM-Retinal V2 injected into public categories (arXiv 2501.15798).

Two stages from one command. `text` trains the text tower by masked-language modelling of
ophthalmic text; `knowledge` starts from it and trains public images with prompts beside expert
image-text pairs. An interrupted run goes on in the stage it was in.

    python -m retina_jax.main --config=configs/mmretinal_v2.py          # embedded data, minutes
    python -m retina_jax.main --config=configs/mmretinal_v2.py:smoke    # seconds
    python -m retina_jax.main --config=configs/mmretinal_v2.py:full --config.data_dir=DIR

The abstract fixes the textual pre-training and an injection that joins contrastive and generative
learning; recipes are not public. Here the global (contrastive) injection is that of KeepFIT with
attention over expert pairs. `:full` is our recipe for colour photographs at the scale of the
paper: ResNet-50 at 512 pixels, 48 + 48 pairs a step, 25 epochs; one model a modality.
"""

from configs import common
from configs.flair import PUBLIC_CORPUS, published, towers
from configs.keepfit import (
    EXPERT,
    EXPERT_CORPUS,
    OBJECTIVES,
    PUBLIC,
    WEIGHTS,
    embedded,
    streams,
)

TEXT_CORPUS = (
    "put ophthalmic texts as .txt files, paragraphs separated by blank lines, into one folder and "
    "run python -m data_pipelines.build --dataset=text_corpus --name=ophthalmology "
    "--source=FOLDER --data_dir=DIR"
)
# The head that predicts masked words stays behind.
RESTORE = {"stage": "text", "take": ("text",), "ignore": ("mlm_head",)}


def get_config(variant: str = "demo"):
    """demo (default), smoke or full."""
    return common.choose(variant, demo=_demo, smoke=_smoke, full=_full)


def _language(dataset, split, text, length, batch_size, total, optimization, **settings):
    return common.stage(
        model={"name": "text_mlm", "encoder": text},
        streams={
            "text": {
                "dataset": dataset,
                "split": split,
                "batch_size": batch_size,
                "transforms": (
                    {"name": "tokenize", "source": "text", "length": length},
                    {"name": "mask_tokens", "probability": 0.15, "whole_words": True},
                ),
            }
        },
        epoch_of="text",
        objectives={"masked_language": {"name": "masked_language"}},
        total=total,
        optimization=optimization,
        **settings,
    )


def _demo():
    text = common.small_bert()
    return common.stages(
        text=_language(
            "synthetic_retina/reports",
            "public",
            text,
            length=48,
            batch_size=64,
            total={"steps": 200},
            optimization=common.adamw(1e-3, 0.01, {"name": "linear", "warmup": {"percent": 6}}),
        ),
        knowledge=embedded(
            "synthetic_retina/demo",
            size=96,
            length=48,
            batch_size=24,
            image=common.small_resnet(),
            text=text,
            dim=128,
            train="public[:1000]",
            total={"steps": 200},
            optimization=common.adamw(1e-3, 1e-4, {"name": "cosine", "warmup": {"percent": 5}}),
            restore_from=RESTORE,
        ),
    )


def _smoke():
    text = common.small_bert(width=32, depth=1)
    return common.stages(
        text=_language(
            "synthetic_retina/reports",
            "public[:64]",
            text,
            length=32,
            batch_size=8,
            total={"steps": 2},
            optimization=common.adamw(1e-3, 0.01, {"name": "linear", "warmup": {"percent": 50}}),
        ),
        knowledge=embedded(
            "synthetic_retina/smoke",
            size=32,
            length=32,
            batch_size=8,
            image=common.small_vit(),
            text=text,
            dim=16,
            train="public",
            total={"steps": 2},
            optimization=common.adamw(1e-3, 1e-4, {"name": "cosine", "warmup": {"percent": 50}}),
            restore_from=RESTORE,
        ),
    )


def _full():
    text = dict(common.CLINICAL_BERT)
    recipe = {
        "tokenizer": {"name": "wordpiece", "vocab": common.VOCABULARY_FILE},
        "loading": {"num_workers": 8, "num_threads": 2},
    }
    size, length = 512, 256
    return common.stages(
        text=_language(
            "text_corpus/ophthalmology",
            "train",
            text,
            length=256,
            batch_size=256,
            total={"epochs": 20},
            optimization=common.adamw(5e-5, 0.01, {"name": "linear", "warmup": {"percent": 6}}),
            corpora={"text_corpus/ophthalmology": TEXT_CORPUS},
            **recipe,
        ),
        knowledge=common.stage(
            model={**towers(common.RESNET_50, text, 512), "name": "keepfit"},
            streams=streams(PUBLIC, EXPERT, 48, size, length, published(size, length)),
            epoch_of="public",
            objectives=OBJECTIVES,
            weights=WEIGHTS,
            total={"epochs": 25},
            optimization=common.adamw(1e-4, 1e-5, {"name": "cosine", "warmup": {"epochs": 1}}),
            restore_from=RESTORE,
            corpora={
                "flair/default": PUBLIC_CORPUS,
                "mm_retinal/default": EXPERT_CORPUS,
            },
            **recipe,
        ),
    )

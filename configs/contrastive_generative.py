"""SKKU: contrastive and generative objectives with an attention between the modalities.

Nguyen, Sun and Choo, "Self-supervised multi-modal learning with contrastive and generative
objectives". The loss is the sum of three terms: images are contrasted with "name: definition" of
their disease, hidden patches are reconstructed, and so are masked words. Before the decoders the
tokens of each modality attend to those of the other.

    # On embedded data, in minutes; in seconds; on real photographs.
    python -m retina_jax.main --config=configs/contrastive_generative.py
    python -m retina_jax.main --config=configs/contrastive_generative.py:smoke
    python -m retina_jax.main --config=configs/contrastive_generative.py:real
    python -m retina_jax.main --config=configs/contrastive_generative.py:full --config.data_dir=DIR

`:real` trains on photographs, OCT and angiograms with their captions; configs/flair.py says how to
build its data set, and has the same images, steps and evaluations.

The embedded run in parts, each with one more: `:contrastive` (the first term only), `:image`
(and hidden patches), `:caption` (and masked words), and without a variant the attention.

What the paper fixes: ViT with patches of 16 at 224 pixels, the three terms with weight 1, the
attention, no loss of its own for it. Sizes, schedule, tokenizer, masks and everything else are
choices, each an option; docs/fidelity.md has them under "SKKU". `:full` has those of the masked
autoencoder where it has an equal: 100 epochs of batch 256 over FLAIR's public sets without ODIR,
FIVES and APTOS, which the paper evaluates on, and so does `:full`, at its end; `:pretrain` is the
same without evaluations and their sets.

Both read texts by ophthalmology.model, or --config.tokenizer.path=FILE, a SentencePiece model of
8,000 pieces (or what your texts give: it says so). Train it on ophthalmic texts, for instance on
those that configs/mmretinal_v2.py names:

    python -m data_pipelines.text.train_tokenizer --output=ophthalmology.model \\
        --model_type=unigram --vocab_size=8000 --dataset=text_corpus/ophthalmology \\
        --field=text --data_dir=DIR
"""

from configs import common, flair

KNOWLEDGE = "cfp"
DEFINED = {"template": "{}", "knowledge": KNOWLEDGE, "mode": "define"}
# All chosen words become the mask, 30 % of single tokens.
MASKED_WORDS = {
    "name": "mask_tokens",
    "probability": 0.3,
    "whole_words": False,
    "mask_token_share": 1.0,
    "random_token_share": 0.0,
}
OBJECTIVES = {
    # Equal texts are positives of each other; images choose among texts, not the reverse (eq. 2).
    "contrastive": common.contrastive(("image", "text"), groups=True, symmetric=False),
    "image": {"name": "masked_image"},
    "caption": {"name": "masked_language", "positions": "all"},
}
# Sets that the paper evaluates on.
HELD_OUT = ("08_ODIR-5K", "13_FIVES", "15_APTOS")
HOW_TO_GET = {
    "odir/default": "get ODIR-5K, then run python -m data_pipelines.build --dataset=odir "
    "--source=FOLDER --max_side=512 --data_dir=DIR",
    "fives/default": "get FIVES, then run python -m data_pipelines.build --dataset=fives "
    "--source=FOLDER --max_side=512 --data_dir=DIR",
    "aptos/default": "get APTOS 2019, then run python -m data_pipelines.build --dataset=aptos "
    "--source=FOLDER --max_side=512 --data_dir=DIR",
}
# The seven of ODIR's labels that have a definition, N D G C A H M, and keywords of each.
ODIR = {
    "normal": ("normal fundus",),
    "diabetic retinopathy": (
        "diabetic retinopathy",
        "mild nonproliferative retinopathy",
        "moderate non proliferative retinopathy",
        "severe nonproliferative retinopathy",
        "proliferative diabetic retinopathy",
        "severe proliferative diabetic retinopathy",
    ),
    "glaucoma": ("glaucoma", "suspected glaucoma"),
    "cataract": ("cataract",),
    "age related macular degeneration": (
        "age-related macular degeneration",
        "dry age-related macular degeneration",
        "wet age-related macular degeneration",
    ),
    "hypertensive retinopathy": ("hypertensive retinopathy",),
    "pathologic myopia": ("pathological myopia",),
}
FIVES = ("normal", "age related macular degeneration", "diabetic retinopathy", "glaucoma")
APTOS = (
    "no diabetic retinopathy",
    "mild diabetic retinopathy",
    "moderate diabetic retinopathy",
    "severe diabetic retinopathy",
    "proliferative diabetic retinopathy",
)
PRETRAINING = tuple(name for name in flair.ASSEMBLY if name not in HELD_OUT)


def get_config(variant: str = "demo"):
    """demo (default), its parts contrastive, image and caption, smoke, real, full or pretrain."""
    return common.choose(
        variant,
        demo=_demo,
        contrastive=lambda: without(_demo(), "image", "caption"),
        image=lambda: without(_demo(), "caption"),
        caption=lambda: without(_demo()),
        smoke=_smoke,
        real=_real,
        full=lambda: _full(evaluated=True),
        pretrain=_full,
    )


def model(image, text, dim, image_decoder, text_decoder, cross_attention, **options):
    """The towers, the decoders of both, and the attention before the decoders."""
    return {
        "name": "coca_mim",
        "towers": {"image": image, "text": {**text, "pool": "cls"}},
        "dim": dim,
        "image_decoder": image_decoder,
        "text_decoder": text_decoder,
        "cross_attention": cross_attention,
        "dtype": "float32",
        **options,
    }


def images(size):
    """Images of which at least 60 % of the area stay, mirrored or not."""
    return (
        {"name": "decode", "size": size},
        {"name": "random_resized_crop", "size": None, "area": (0.6, 1.0)},
        {"name": "random_flip"},
    )


def defined(size, length, source="labels"):
    """Images with "name: definition" of one of their labels, whole and with masked words."""
    prompt = {"name": "prompt", "source": source, **DEFINED}
    return (*images(size), prompt, *common.said(length, "prompt"), MASKED_WORDS)


def small(width, depth, patch_size, text_depth):
    """Towers and decoders for processors, by the name of the option of the model."""
    decoder = {"depth": max(1, depth // 2), "heads": 4, "mlp_dim": 4 * width}
    return {
        "image": common.small_vit(width, depth, patch_size),
        "text": common.small_bert(width, text_depth),
        "image_decoder": {"width": width, **decoder},
        "text_decoder": decoder,
        "cross_attention": {**decoder, "depth": min(2, depth)},
    }


def without(config, *parts):
    """The config without some of the decoders and their terms, and without the attention."""
    config.model.cross_attention = None
    for part in parts:
        config.model[f"{'text' if part == 'caption' else part}_decoder"] = None
        del config.objectives[part]
    if "image" in parts:
        del config.evaluators["reconstruction"]
    return config


def _embedded(dataset, size, length, batch_size, total, dim, train, parts):
    evaluators = common.embedded_evaluators(
        dataset, size, length, 64, {"train": train, "test": "test"}
    )
    evaluators["zeroshot"] |= DEFINED
    evaluators["reconstruction"] = {
        "name": "reconstruction",
        "data": {
            **evaluators["zeroshot"]["data"],
            "transforms": common.captioned(size, length, source="diagnosis"),
        },
    }
    return common.stage(
        model=model(dim=dim, **parts),
        streams={
            "pairs": {
                "dataset": dataset,
                "split": "public",
                "batch_size": batch_size,
                "transforms": defined(size, length),
            }
        },
        epoch_of="pairs",
        objectives=OBJECTIVES,
        optimization=common.adamw(
            1e-3, 0.05, {"name": "cosine", "warmup": {"percent": 5}}, b2=0.95
        ),
        total=total,
        evaluators=evaluators,
    )


def _demo():
    return _embedded(
        "synthetic_retina/demo",
        size=96,
        length=48,
        batch_size=32,
        total={"steps": 300},
        dim=128,
        train="public[:1000]",
        parts=small(width=128, depth=4, patch_size=12, text_depth=2),
    )


def _smoke():
    config = _embedded(
        "synthetic_retina/smoke",
        size=32,
        length=32,
        batch_size=8,
        total={"steps": 2},
        dim=16,
        train="public",
        parts=small(width=32, depth=1, patch_size=8, text_depth=1),
    )
    probe = config.evaluators.linear_probe.to_dict()
    shared = {option: probe[option] for option in ("train", "test", "classes")}
    prompts = {**DEFINED, "length": 32}
    config.evaluators.fewshot = {
        "name": "fewshot",
        **shared,
        **prompts,
        "shots": (1,),
        "repeats": 2,
    }
    config.evaluators.finetune = {
        "name": "finetune",
        **shared,
        "shots": (1,),
        "steps": 2,
        "checks": 1,
        "batch_size": 8,
    }
    return config


def _real():
    size, length = flair.ODIR_SIZE, flair.REAL_LENGTH
    config = flair.real(
        model(dim=128, **small(width=128, depth=4, patch_size=12, text_depth=2)),
        {"public": flair.real_stream(defined(size, length, source="caption"))},
        DEFINED,
        objectives=OBJECTIVES,
    )
    config.evaluators.reconstruction = {
        "name": "reconstruction",
        "data": config.evaluators.odir_retrieval.data.to_dict(),
    }
    return config


def _labelled(dataset, split, classes, **selection):
    """Records of one class each, 224 pixels wide."""
    return {
        "dataset": dataset,
        "split": split,
        "batch_size": 64,
        "transforms": common.labelled(224, classes, "labels"),
        **selection,
    }


def _published_evaluators():
    """The three of the paper's table."""
    keywords = tuple(ODIR.values())
    return {
        # Photographs of patients with one of the seven labels and no other.
        "odir_zeroshot": {
            "name": "zeroshot",
            "data": _labelled(
                "odir/default",
                "train+validation+test",
                keywords,
                where={"patient_flags": tuple("NDGCAHM"), "labels": sum(keywords, ())},
            ),
            "classes": tuple(ODIR),
            "length": 128,
            "metrics": ("accuracy", "balanced_accuracy", "auc"),
            **DEFINED,
        },
        "fives_fewshot": {
            "name": "finetune",
            "train": _labelled("fives/default", "train", FIVES),
            "test": _labelled("fives/default", "test", FIVES),
            "classes": FIVES,
            "shots": (1, 5, 10),
            "repeats": 3,
            "learning_rates": (1e-5, 1e-4),
            "steps": 300,
            "metrics": ("accuracy", "auc"),
        },
        "aptos_finetune": {
            "name": "finetune",
            "train": _labelled("aptos/default", "train", APTOS),
            "validation": _labelled("aptos/default", "validation", APTOS),
            "test": _labelled("aptos/default", "test", APTOS),
            "classes": APTOS,
            "steps": 3200,  # 50 epochs
            "checks": 50,
            "metrics": ("quadratic_kappa", "accuracy", "auc"),
        },
    }


def _full(evaluated=False):
    config = common.stage(
        tokenizer={"name": "sentencepiece", "path": "ophthalmology.model"},
        model=model(
            image={"name": "vit"},
            text={
                "name": "bert",
                "vocab_size": None,
                "width": 512,
                "depth": 6,
                "heads": 8,
                "mlp_dim": 2048,
                "max_length": 128,
                "dropout": 0.0,
                "pre_norm": True,
            },
            dim=512,
            image_decoder={},
            text_decoder={},
            cross_attention={},
            dtype="bfloat16",
        ),
        streams={
            "pairs": {
                "dataset": "flair/default",
                "split": "train",
                "where": {"dataset": PRETRAINING},
                "batch_size": 256,
                "transforms": defined(224, 128),
            }
        },
        epoch_of="pairs",
        objectives=OBJECTIVES,
        optimization=common.adamw(
            1.5e-4, 0.05, {"name": "cosine", "warmup": {"percent": 5}}, b2=0.95
        ),
        total={"epochs": 100},
        evaluators=_published_evaluators() if evaluated else {},
        corpora={"flair/default": flair.PUBLIC_CORPUS, **(HOW_TO_GET if evaluated else {})},
    )
    config.loading.num_workers = 8
    return config

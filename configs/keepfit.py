"""KeepFIT: expert image-text pairs revise what public labels say (MM-Retinal, MICCAI 2024).

Two streams a step: public images with prompts made of their labels, and expert images with their
reports. Besides both contrastive terms, a reference loss pulls the text of each public image to
what the expert texts of similar images say (weight 100).

    retina-jax train --config=keepfit          # embedded data, minutes
    retina-jax train --config=keepfit:smoke    # seconds
    retina-jax train --config=keepfit:full --config.data_dir=DIR
    retina-jax train --config=keepfit:released --config.data_dir=DIR

`:full` is the published recipe: from FLAIR's weights, 26 epochs of batches of 24 public and 24
expert pairs, ResNet-50 at 512 pixels, Bio_ClinicalBERT over 256 tokens. The released code counts
them from 15, from a checkpoint of plain FLAIR training that is not public; FLAIR's own is:

    retina-jax convert --source=flair --src=model.safetensors --tokenizer=vocab.txt --dst=flair

Images of the expert stream are not augmented. `:scratch` makes such a checkpoint itself, from
random weights: 14 epochs of `flair`, then those of `keepfit` with a fresh optimizer.

`:released` is `:full` where the released code differs from the paper: the attention normalises
over its heads instead of the expert items, and expert pairs with equal captions are negatives of
each other. Its run had 24 rows on each of four devices and negatives from these alone, which are a
`batch_size` of 96 and `local_negatives=24` of both contrastive objectives.
"""

from retina_jax import evaluation_presets, presets

# All parts of FLAIR.
FLAIR = ("image", "image_projection", "text", "text_projection", "logit_scale")


def get_config(variant="demo"):
    """full, as published, as released, or from scratch; demo and smoke on embedded data."""
    presets.chosen(variant, ("full", "released", "scratch", "demo", "smoke"))
    if variant in presets.SCALES:
        return embedded(variant)
    return scratch() if variant == "scratch" else full(variant == "released")


def full(released=False):
    """The published recipe."""
    expert = {**presets.MM_RETINAL, "where": {"modality": "cfp"}}
    keepfit = presets.keepfit(
        presets.FLAIR_TOWERS,
        512,
        {**presets.PUBLIC["cfp"], "transforms": presets.flair_prompts(512, 256)},
        {**expert, "transforms": presets.captioned(512, 256)},
        batch_size=24,
        **presets.HALF,
    )
    if released:
        negatives = presets.contrastive(("expert/image", "expert/text"), groups=False)
        keepfit["model"]["reference"] = {"softmax_axis": "heads"}
        keepfit["objectives"] = {**keepfit["objectives"], "expert": negatives}
    return {
        **keepfit,
        "restore_from": {"path": "flair", "take": FLAIR},
        "total": {"epochs": 26},
        "corpora": presets.how_to_get("flair/default", "mm_retinal/default"),
        **presets.FLAIR_RECIPE,
    }


def scratch():
    """Both stages, from random weights."""
    keepfit = full()
    flair = {
        "model": {"name": "dual", "towers": presets.FLAIR_TOWERS, **presets.HALF},
        "streams": {"public": keepfit["streams"]["public"]},
        "objectives": {"contrastive": presets.contrastive(("image", "text"), groups=True)},
        "total": {"epochs": 14},
        "corpora": presets.how_to_get("flair/default"),
        **presets.FLAIR_RECIPE,
    }
    keepfit["restore_from"] = {"stage": "flair", "take": FLAIR}
    return {"stages": {"flair": flair, "keepfit": keepfit}}


def embedded(variant):
    """The second stage with a small model on the embedded photographs."""
    scale = presets.scale(variant)
    batch_size, steps, warmup = {"demo": (24, 200, 5), "smoke": (8, 2, 50)}[variant]
    prompts = presets.categorical(scale.size, scale.length, presets.PROMPTS["cfp"], knowledge="cfp")
    return {
        **presets.keepfit_embedded(scale, prompts, batch_size),
        "optimization": presets.adamw(1e-3, 1e-4, {"percent": warmup}),
        "total": {"steps": steps},
        "evaluators": evaluation_presets.evaluators(scale),
    }

"""FLAIR: a vision-language foundation model of the retina (Silva-Rodriguez et al., 2024).

Images against prompts made of their labels and expert knowledge; images that share a label are
positives of each other.

    retina-jax train --config=flair          # embedded data, minutes
    retina-jax train --config=flair:smoke    # seconds
    retina-jax train --config=flair:full --config.data_dir=DIR

`:full` is the published recipe: ResNet-50 at 512 pixels from ImageNet, Bio_ClinicalBERT, batch 128,
15 epochs over 31 data sets. It starts from weights that their authors publish (docs/convert.md):

    retina-jax convert --source=torchvision_resnet --src=resnet50-11ad3fa6.pth --dst=resnet50
    retina-jax convert --source=bert --src=pytorch_model.bin --release=bio_clinical_bert \\
        --dst=clinical_bert

and reads Bio_ClinicalBERT's vocab.txt in the current folder, or --config.tokenizer.vocab=FILE.
`:scratch` is the same from random weights, which is no published recipe.
`:full` computes its towers in half precision, as the authors did; --config.model.dtype=float32 does
not. Real photographs: real.py.
"""

from retina_jax import evaluation_presets, presets, starts

OBJECTIVES = {"contrastive": presets.contrastive(("image", "text"), groups=True)}


def get_config(variant="demo"):
    """full, as published, or from scratch; demo and smoke on embedded data."""
    return starts.scaled(variant, full, embedded)


def full():
    """The published recipe."""
    return {
        "model": {"name": "dual", "towers": presets.FLAIR_TOWERS, **presets.HALF},
        "restore_from": starts.FLAIR_START,
        "streams": {
            "public": {
                "dataset": "flair/default",
                "split": "train",
                "batch_size": 128,
                "balance": "dataset",
                "where": {"dataset": presets.FLAIR_SETS},
                "ban": {"mode": "substring"},  # classes that the published evaluation calls unseen
                "transforms": presets.flair_prompts(512, 77),
            }
        },
        "objectives": OBJECTIVES,
        "total": {"epochs": 15},
        **presets.FLAIR_RECIPE,
        "corpora": presets.how_to_get("flair/default"),
    }


def embedded(variant):
    """The same terms and a small model on the embedded photographs."""
    scale = presets.scale(variant)
    batch_size, steps = {"demo": (32, 250), "smoke": (8, 2)}[variant]
    prompts = {"template": presets.PROMPTS["cfp"], "knowledge": "cfp"}
    return {
        "model": {
            "name": "dual",
            "towers": {"image": scale.image, "text": scale.text},
            "dim": scale.dim,
        },
        "streams": {
            "public": {
                "dataset": scale.dataset,
                "split": "public",
                "batch_size": batch_size,
                "transforms": presets.categorical(scale.size, scale.length, **prompts),
            }
        },
        "objectives": OBJECTIVES,
        "optimization": presets.adamw(1e-3, 1e-4, {"percent": 5}),
        "total": {"steps": steps},
        "evaluators": evaluation_presets.evaluators(scale),
    }

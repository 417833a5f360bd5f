"""RET-CLIP: both eyes of a patient and the report on them (Du et al., MICCAI 2024).

One image tower for both eyes and one text tower; three heads of each, for the left eye, the right
eye and the patient, and a contrastive loss with a temperature of its own at each of these levels.

    retina-jax train --config=retclip          # embedded data, minutes
    retina-jax train --config=retclip:smoke    # seconds
    retina-jax train --config=retclip:full --config.data_dir=DIR

`:full` is the published recipe: ViT-B/16 at 224 pixels and RoBERTa-wwm-ext-base-chinese over 100
tokens, batch 256, 10 epochs, from the towers of Chinese-CLIP (`:scratch`: from random weights):

    retina-jax convert --source=chinese_clip --src=clip_cn_vit-b-16.pt --dst=chinese_clip
whose vocab.txt is read (--config.tokenizer.vocab=FILE). Of a patient with one photograph it stands
in for the other, and the level of the missing eye leaves the row out (`eye_mask`). Options:

    --config.objectives.contrastive.kind=sigmoid --config.model.bias_init=-10
    --config.objectives.contrastive.groups=True          # equal reports are no negatives
    --config.objectives.contrastive.local_negatives=256  # of a larger batch, as published a device
    --config.objectives.contrastive.blockwise=1024       # no matrix of logits; for large batches
    --config.microbatch=64                               # activations of 64 patients at a time
"""

from retina_jax import evaluation_presets, presets, starts

LEVELS = tuple((level, f"text_{level}") for level in ("left", "right", "patient"))
# By the published names of parameters, what holds 'bn', 'ln', 'bias' or 'logit_scale' does not
# decay. The norms of the text tower are called LayerNorm there, so their gains do.
STAY = {"decay": False}
RULES = (
    (r".*bias", STAY),
    (r"image/.*norm\d?/scale", STAY),
    (r"logit_(scale|bias)_\w+", STAY),
    (r".*", {}),
)


def get_config(variant="demo"):
    """full, as published, or from scratch; demo and smoke on embedded data."""
    return starts.scaled(variant, full, embedded)


def full():
    """The published recipe."""
    image = {"name": "vit", "activation": "quick_gelu", "pre_norm": True, "patch_bias": False}
    text = {"name": "bert", "vocab_size": 21_128, "pool": "cls"}
    towers = {"image": {**image, "initialization": "torch"}, "text": text}
    # As timm's transform for training, one draw for each eye.
    own = {"source": "eyes", "share": False}
    jitter = {"probability": 1.0, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    transforms = (
        {"name": "eyes", "size": 512, "fit": "squash"},
        {"name": "random_resized_crop", "size": 224, "area": (0.9, 1.0), **own},
        {"name": "random_flip", **own},
        {"name": "color_jitter", **jitter, **own},
        {"name": "random_erasing", "source": "eyes"},
    )
    adamw = presets.adamw(3e-5, 1e-3, {"steps": 50}, b2=0.98, eps=1e-6)
    return {
        "seed": 123,
        "tokenizer": presets.CLINICAL_VOCABULARY,
        "model": {"name": "tripartite", "towers": towers, **starts.CLIP_PIXELS},
        "restore_from": starts.CHINESE_CLIP_START,
        **patients("ret_clip/default", "train", 256, (*transforms, *reports(100, "text"))),
        "objectives": {"contrastive": presets.contrastive(*LEVELS)},
        "optimization": {**adamw, "clip": None, "rules": RULES},
        "total": {"epochs": 10},
        "loading": {"num_workers": 8},
        "corpora": presets.how_to_get("ret_clip/default"),
    }


def embedded(variant):
    """A small model of the embedded patients."""
    scale = presets.scale(variant)
    name, length, batch_size, steps, image = {
        "demo": ("patients", 128, 32, 250, scale.image),
        "smoke": ("smoke_patients", 32, 8, 2, presets.vit(32)),
    }[variant]
    dataset, towers = f"synthetic_retina/{name}", {"image": image, "text": scale.text}
    eyes = ({"name": "eyes", "size": scale.size}, *presets.unmirrored("eyes"))
    return {
        "model": {"name": "tripartite", "towers": towers, "dim": scale.dim, "scale_init": 1 / 0.07},
        **patients(dataset, "public", batch_size, (*eyes, *reports(length, "report"))),
        "objectives": {"contrastive": presets.contrastive(*LEVELS, groups=True)},
        "optimization": presets.adamw(1e-3, 1e-4, {"percent": 5}),
        "total": {"steps": steps},
        "evaluators": evaluation_presets.patients(dataset, scale.size, length, scale.probe),
    }


def patients(dataset, split, batch_size, transforms):
    """Each of them once in a batch."""
    data = presets.data(dataset, split, batch_size, transforms, distinct="patient")
    return {"streams": {"patients": data}}


def reports(length, group):
    """A report in one of its languages, and an id of those that are equal in the field `group`."""
    return presets.bilingual(length, ("report", "report_zh"), group)

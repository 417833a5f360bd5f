"""KeepFIT-FFA: reports of fluorescein angiograms (MM-Retinal, MICCAI 2024).

Stage `contrastive` trains KeepFIT on angiograms and their texts; `captioner` learns their reports
from its image tower; they are scored beside those of the nearest training picture.
    retina-jax train --config=ffa_captioner          # embedded data, minutes
    retina-jax train --config=ffa_captioner:smoke    # seconds
    retina-jax train --config=ffa_captioner:full --config.data_dir=DIR
    retina-jax evaluate --config=ffa_captioner --config.stages.captioner.model.decoding.beams=5

`:full` is the published captioner: ResNet-50 at 224 pixels, 3 + 3 layers, FFA-IR and MM-Retinal
one to one, scored by case; it begins as flair.py, by its commands, `:scratch` from random weights.
FFA-IR's reports stand in for its first stage's table of lesions, not public. `:released` does what
the code does (docs/fidelity.md): pictures are mirrored, although reports name the eye. words.txt:
    python -m data_pipelines.text.train_tokenizer --output=words.txt --model_type=words \\
        --dataset=ffa_ir/images --field=caption --data_dir=DIR
"""

from retina_jax import evaluation_presets, presets, starts

REPORTS = {"dataset": "ffa_ir/images", "split": "train", "ban": presets.WITH_CAPTION}
EXPERT = {**presets.MM_RETINAL, "where": {"modality": "ffa"}}
CAPTIONER = {"name": "captioner", **presets.OF_TOKENIZER, "decoding": {"name": "beam", "beams": 3}}
RULES = (("image/.*", {"learning_rate": 0.5}), (".*", {}))  # what is not new learns slower
LEFT = ("image_projection", "text", "text_projection", "logit_scale", "attention")
# The published captioner normalises its pictures as ImageNet's, KeepFIT does not.
TRUNK = {"stage": "contrastive", "take": ("image",), "ignore": LEFT, "allow_other_pixels": True}


def get_config(variant="demo"):
    """full, as published, as released, or from scratch; demo and smoke on embedded data."""
    presets.chosen(variant, ("full", "released", "scratch", "demo", "smoke"))
    first, second = embedded(variant) if variant in presets.SCALES else full(variant == "released")
    second |= {"objectives": {"caption": {"name": "caption"}}, "restore_from": TRUNK}
    made = {"stages": {"contrastive": first, "captioner": second}}
    return starts.scratch(made) if variant == "scratch" else made


def full(released):
    """The published recipe; cases, or as released, pictures are scored."""
    public = {**REPORTS, "transforms": presets.captioned(512, 256, augment=True, mirror=released)}
    expert = {**EXPERT, "transforms": presets.captioned(512, 256)}
    first = {
        **presets.keepfit(presets.FLAIR_TOWERS, 512, public, expert, 24, **presets.HALF),
        "restore_from": starts.FLAIR_START,
        **presets.FLAIR_RECIPE,
        "total": {"epochs": 8},
        "corpora": presets.how_to_get("ffa_ir/images", "mm_retinal/default"),
    }
    cropped = (*presets.photographs(256, fit="short"), {"name": "random_crop", "size": 224})
    flip = ({"name": "random_flip", "swap_sides": False},) if released else ()
    read = (*cropped, *flip, {"name": "tokenize", "length": 90})
    data = {"batch_size": 128, "transforms": read}  # 64 on each of four GPUs, of both streams
    picture = {"name": "decode", "size": 224, "fit": "squash"}
    case = {**picture, "name": "case_pictures", "count": 16}
    options = {"length": 90} if released else {"image": "images"}
    name, rows, scored = ("images", 64, picture) if released else ("cases", 8, case)
    test = presets.data(f"ffa_ir/{name}", "test", rows, (scored,))
    validation = {**test, "split": "validation"}
    amsgrad = {"name": "amsgrad", "weight_decay": 5e-5, "clip_value": 0.1}
    constant = {"schedule": {"name": "constant"}, "rules": RULES}
    return first, {
        "tokenizer": {"name": "word_level", "vocab": "words.txt", "shared_ends": released},
        "model": {**CAPTIONER, "tower": {**presets.RESNET_50, **presets.HALF}},
        "streams": {"reports": {**REPORTS, **data}, "expert": {**EXPERT, **data}},
        "optimization": {"optimizer": amsgrad, "learning_rate": 1e-4, **constant},
        "total": {"epochs": 15},
        "every": {"evaluate": {"epochs": 1}, "checkpoint": {"epochs": 1}, "log": {"steps": 50}},
        "keep": {"best": "eval/validation/cider_d"},
        "loading": {"num_workers": 8},
        "evaluators": {
            "validation": evaluation_presets.captioning(validation, None, **options),
            "captioning": evaluation_presets.captioning(test, "train", **options),
        },
        "corpora": {} if released else presets.how_to_get("ffa_ir/cases"),
    }


def embedded(variant):
    """Small models on the embedded angiograms, of which the public ones have labels only."""
    batch_size, length, steps, model = {
        "demo": (32, 64, (200, 400), {"width": 128, "heads": 4, "mlp_dim": 256}),
        "smoke": (8, 24, (2, 2), {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 16}),
    }[variant]
    scale = presets.scale(variant, "ffa", length=48)
    prompts = presets.categorical(scale.size, 48, presets.PROMPTS["ffa"])
    first = presets.keepfit_embedded(scale, prompts, batch_size)
    adamw = presets.adamw(1e-3, 1e-4, {"percent": 5})
    first |= {"optimization": adamw, "total": {"steps": steps[0]}}
    decode, colours = presets.photographs(scale.size), {"name": "color_jitter"}
    affine = {"name": "random_affine", "probability": 0.5, "shift": 0.03}
    read = (*decode, affine, colours, {"name": "tokenize", "length": length})
    test = presets.data(scale.dataset, "test", 32, decode)
    return first, {
        "tokenizer": {"name": "word_level"},
        "model": {**CAPTIONER, "tower": scale.image, "max_length": length, **model},
        "streams": {"expert": presets.data(scale.dataset, "expert", batch_size, read)},
        "optimization": {**presets.adamw(1e-3, 1e-2, {"percent": 5}), "rules": RULES},
        "total": {"steps": steps[1]},
        "evaluators": {"captioning": evaluation_presets.captioning(test, "expert")},
    }

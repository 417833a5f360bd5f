"""SKKU: contrastive and generative objectives with an attention between the modalities.

Nguyen, Sun and Choo. Images are contrasted with "name: definition" of their disease, hidden patches
and masked words are reconstructed; before the decoders the tokens of each attend to the other's.

    retina-jax train --config=contrastive_generative          # embedded data, minutes
    retina-jax train --config=contrastive_generative:smoke    # seconds
    retina-jax train --config=contrastive_generative:full --config.data_dir=DIR    # or full,mae
    retina-jax convert --source=retfound --src=mae_pretrain_vit_base.pth --dst=mae
    retina-jax convert --source=clip --src=ViT-B-16.pt --dst=clip    # full,clip

The image tower of `:full` starts from MAE's or CLIP's with these words, else, as `:scratch`, from
random weights. Parts of the embedded run: `:contrastive`, `:image` (and patches), `:caption` (and
words, not the attention). The paper fixes ViT-B/16, 224 pixels, weights of 1, and the attention; in
the rest it is MAE's (docs/fidelity.md). `:pretrain` evaluates nothing. They need this model:
    python -m data_pipelines.text.train_tokenizer --output=ophthalmology.model --field=text \\
        --model_type=unigram --vocab_size=8000 --dataset=text_corpus/ophthalmology --data_dir=DIR
"""

from retina_jax import evaluation_presets, presets, starts

# Equal texts are positives of each other; images choose among texts, not the reverse (eq. 2).
OBJECTIVES = {
    "contrastive": presets.contrastive(("image", "text"), groups=True, symmetric=False),
    "image": {"name": "masked_image"},
    "caption": {"name": "masked_language", "positions": "all"},
}
EVALUATED = {"08_ODIR-5K": "odir/default", "13_FIVES": "fives/default", "15_APTOS": "aptos/default"}
# What a variant leaves out.
TEXT = ("model.cross_attention", "model.text_decoder", "objectives.caption")
IMAGE = ("model.image_decoder", "objectives.image", "evaluators.reconstruction")
TEST = ("evaluators", *(f"corpora.{name}" for name in EVALUATED.values()))
LEFT_OUT = {"caption": TEXT[:1], "image": TEXT, "contrastive": TEXT + IMAGE, "pretrain": TEST}


def get_config(variant="demo"):
    """full, as published; demo and smoke on embedded data; or less of one, see above."""
    sizes = ("full", "scratch", "demo", "smoke", *LEFT_OUT)
    words = presets.chosen(variant, sizes, tuple(starts.VIT_STARTS))
    size = next((word for word in words if word in sizes), "demo")
    start = next((word for word in words if word not in sizes), "")
    if start and size not in ("full", "pretrain"):
        raise ValueError(f"The variant '{start}' needs 'full' or 'pretrain', not '{size}'.")
    config = full(start) if size in ("full", "scratch", "pretrain") else embedded(size == "smoke")
    return presets.without(config, *LEFT_OUT.get(size, ()))


def full(start):
    """The published recipe, from random weights or one of VIT_STARTS."""
    tower, pixels, ignored = starts.VIT_STARTS.get(start, ({}, {}, ()))
    origin = {"path": start, "take": ("image",), "ignore": ignored}
    text = {"width": 512, "depth": 6, "heads": 8, "mlp_dim": 2048, "max_length": 128}
    text |= {"name": "bert", "vocab_size": None, "dropout": 0.0, "pre_norm": True}
    sets = tuple(name for name in presets.FLAIR_SETS if name not in EVALUATED)
    data = presets.data("flair/default", "train", 256, pairs(224, 128), where={"dataset": sets})
    return {
        "tokenizer": {"name": "sentencepiece", "path": "ophthalmology.model"},
        "model": {**model({"name": "vit", **tower}, text), "dtype": "bfloat16", **pixels},
        **({"restore_from": origin} if start else {}),
        "streams": {"pairs": data},
        "objectives": OBJECTIVES,
        "optimization": presets.adamw(1.5e-4, 0.05, {"percent": 5}, b2=0.95),
        "total": {"epochs": 100},
        "loading": {"num_workers": 8},
        "evaluators": evaluation_presets.skku_table(224, 128),
        "corpora": presets.how_to_get("flair/default", *EVALUATED.values()),
    }


def embedded(smoke):
    """A small model on the embedded photographs."""
    scale = presets.scale("smoke" if smoke else "demo")
    batch_size, steps, width, depth = (8, 2, 32, 1) if smoke else (32, 300, 128, 2)
    image = presets.vit(32) if smoke else presets.vit(128, depth=4, patch_size=12)
    decoder = {"depth": depth, "heads": 4, "mlp_dim": 4 * width}
    transforms = pairs(scale.size, scale.length)
    return {
        "model": {**model(image, scale.text, width=width, **decoder), "dim": scale.dim},
        "streams": {"pairs": presets.data(scale.dataset, "public", batch_size, transforms)},
        "objectives": OBJECTIVES,
        "optimization": presets.adamw(1e-3, 0.05, {"percent": 5}, b2=0.95),
        "total": {"steps": steps},
        "evaluators": evaluation_presets.generative(scale, few_shot=smoke),
    }


def model(image, text, **decoder):
    """The towers, the decoders of both, and the attention before the decoders."""
    towers = {"image": image, "text": {**text, "pool": "cls"}}
    inner = {name: value for name, value in decoder.items() if name != "width"}  # the tower's
    decoders = {"image_decoder": decoder, "text_decoder": inner, "cross_attention": inner}
    return {"name": "coca_mim", "towers": towers, **decoders}


def pairs(size, length):
    """At least 60 % of an image, and a definition of one of its labels with some words masked."""
    crop = {"name": "random_resized_crop", "size": None, "area": (0.6, 1.0)}
    image = (*presets.photographs(size), crop, {"name": "random_flip"})
    prompt = {"name": "prompt", **presets.DEFINITIONS}
    return (*image, prompt, *presets.text_inputs(length, "prompt"), presets.MASKED_WORDS)

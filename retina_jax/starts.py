"""What published systems start from, as plain data; like `presets`, it imports no library."""

from __future__ import annotations

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

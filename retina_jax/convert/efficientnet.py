"""EfficientNets in two layouts: that of EfficientNet-PyTorch, and timm's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipelines.errors import InputError
from retina_jax.convert.clip import depth_of, linear
from retina_jax.convert.rules import Rule, Shapes, Spec, WeightFormat
from retina_jax.convert.tensor_transforms import CONV
from retina_jax.convert.timm import IMAGENET, classifier, moments
from retina_jax.convert.torchvision import IGNORED, batch_norm
from retina_jax.models.efficientnet import VARIANTS, Plan, plan

# TensorFlow's Lite reads (x - 127) / 128, of 0..255.
STATISTICS = {
    "imagenet": IMAGENET,
    "half": ((0.5,) * 3, (0.5,) * 3),
    "lite": ((127 / 255,) * 3, (128 / 255,) * 3),
}
# TensorFlow scales pictures to this much more than the cut on each side.
_BORDER = 32
# Pixels of the cut and of the short side before, where timm's differ from TensorFlow's.
_TF_PIXELS = {"lite3": (300, 332), "lite4": (380, 413)}
_TIMM_PIXELS = {"b1": (224, 256), "b2": (256, 293), "b3": (288, 329), "b4": (320, 366),
                **_TF_PIXELS}  # fmt: skip
_THEIRS, _OURS = "_blocks.{i}.", "image/block{i}"


def _network(spec: Spec) -> Plan:
    tower = spec["tower"]
    return plan(tower["variant"], tower.get("width"), tower.get("depth"))


def _tower(features: list[int], excitation: bool, width: float | None, depth: float | None) -> Spec:
    """The spec of our `efficientnet`.

    Args:
      features: the channels of the output of each block.
      excitation: whether the blocks have squeeze-and-excitation.
      width: factor of the features, for a network that is none of VARIANTS.
      depth: factor of the repeats, likewise.

    Raises:
      InputError: if no variant has these blocks.
    """
    own = {k: v for k, v in (("width", width), ("depth", depth)) if v is not None}
    family = [name for name in VARIANTS if name.startswith("lite") != excitation]
    for variant in family[:1] if own else family:
        if [block.features for block in plan(variant, width, depth).blocks] == features:
            return {"name": "efficientnet", "variant": variant, **own}
    kind = "with" if excitation else "without"
    asked = f"with factors {own} has others" if own else f"ours are {', '.join(family)}"
    raise InputError(
        f"This EfficientNet has {len(features)} blocks {kind} squeeze-and-excitation, whose "
        f"features are {features}; {asked}."
    )


def _pictures(spec: Spec, pixels: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Size, short side, mean and deviation of the pictures of a model."""
    variant = spec["tower"]["variant"]
    size = VARIANTS[variant].size
    size, short_side = pixels.get(variant, (size, size + _BORDER))
    return {"size": size, "short_side": short_side, "mean": spec["mean"], "std": spec["std"]}


def _conv(theirs: str, ours: str) -> Rule:
    return Rule(f"{theirs}.weight", f"params/{ours}/kernel", CONV)


def _recognises(shapes: Shapes) -> bool:
    return {"_conv_stem.weight", "_conv_head.weight"} <= set(shapes)


def _model(
    shapes: Shapes,
    statistics: str | None = None,
    width: float | None = None,
    depth: float | None = None,
) -> Spec:
    project = f"{_THEIRS}_project_conv.weight"
    features = [shapes[project.format(i=i)][0] for i in range(depth_of(shapes, project))]
    excitation = f"{_THEIRS}_se_reduce.weight".format(i=0) in shapes
    tower = _tower(features, excitation, width, depth)
    own = "imagenet" if excitation else "lite"
    return classifier(shapes, tower, "_fc.weight", **moments(STATISTICS, statistics or own))


def _rules(spec: Spec) -> tuple[Rule, ...]:
    tower = spec["tower"]
    _network(spec)  # a KeyError for other towers
    if (tower.get("padding", "same"), tower.get("epsilon", 1e-3)) != ("same", 1e-3):
        raise InputError(
            "The layout of 'efficientnet' is for TensorFlow's padding and an epsilon of 1e-3: "
            "choose that of 'efficientnet_timm' for this model."
        )
    found = [_conv("_conv_stem", "image/stem_conv"), _conv("_conv_head", "image/head_conv")]
    for part in ("expand", "depthwise", "project"):
        found.append(_conv(f"{_THEIRS}_{part}_conv", f"{_OURS}/{part}_conv"))
    for part in ("se_reduce", "se_expand"):
        found += linear(f"{_THEIRS}_{part}", f"params/{_OURS}/{part}", CONV)
    found += batch_norm(f"{_THEIRS}_bn{{n}}", f"{_OURS}/bn{{n}}")
    found += batch_norm("_bn0", "image/stem_bn") + batch_norm("_bn1", "image/head_bn")
    return (*found, *linear("_fc", "params/head"))


def _recognises_timm(shapes: Shapes) -> bool:
    needed = {"conv_stem.weight", "bn2.weight", "blocks.0.0.conv_dw.weight"}
    return needed <= set(shapes)


def _timm_features(shapes: Shapes) -> list[int]:
    found, stage = [], 0
    while count := depth_of(shapes, f"blocks.{stage}.{{i}}.conv_dw.weight"):
        for index in range(count):
            block = f"blocks.{stage}.{index}."
            last = "conv_pwl" if f"{block}conv_pwl.weight" in shapes else "conv_pw"
            found.append(shapes[f"{block}{last}.weight"][0])
        stage += 1
    return found


def _timm(
    shapes: Shapes,
    tf: bool | None = None,
    statistics: str | None = None,
    width: float | None = None,
    depth: float | None = None,
) -> Spec:
    if not isinstance(tf, bool):
        raise InputError(
            "EfficientNets of timm differ in padding and epsilon, which their files do not tell: "
            "give the option tf=true for those named tf_efficientnet_*, tf=false for others."
        )
    excitation = "blocks.0.0.se.conv_reduce.weight" in shapes
    # timm's own momentum, of both; its padding and epsilon, where they are not TensorFlow's.
    options = {"momentum": 0.9} | ({} if tf else {"padding": "symmetric", "epsilon": 1e-5})
    tower = {**_tower(_timm_features(shapes), excitation, width, depth), **options}
    own = "half" if tf and not excitation else "imagenet"
    return classifier(shapes, tower, "classifier.weight", **moments(STATISTICS, statistics or own))


def _timm_rules(spec: Spec) -> tuple[Rule, ...]:
    found = [_conv("conv_stem", "image/stem_conv"), _conv("conv_head", "image/head_conv")]
    found += batch_norm("bn1", "image/stem_bn") + batch_norm("bn2", "image/head_bn")
    for number, block in enumerate(_network(spec).blocks):
        theirs, ours = f"blocks.{block.stage}.{block.repeat}.", f"image/block{number}"
        # Norms are counted from the first convolution that a block has.
        expands = block.expansion != 1
        parts = ["conv_pw", "conv_dw", "conv_pwl"] if expands else ["conv_dw", "conv_pw"]
        names = ["expand_conv", "depthwise_conv", "project_conv"][-len(parts) :]
        for place, (part, name) in enumerate(zip(parts, names, strict=True), start=1):
            found.append(_conv(f"{theirs}{part}", f"{ours}/{name}"))
            found += batch_norm(f"{theirs}bn{place}", f"{ours}/bn{place - expands}")
        for part in ("reduce", "expand"):
            found += linear(f"{theirs}se.conv_{part}", f"params/{ours}/se_{part}", CONV)
    return (*found, *linear("classifier", "params/head"))


def _timm_pictures(spec: Spec) -> dict[str, Any]:
    own = spec["tower"].get("padding") == "symmetric"
    return _pictures(spec, _TIMM_PIXELS if own else _TF_PIXELS)


_PREPROCESSING = {"size": 224, "fit": "crop", "short_side": 256, "interpolation": "bicubic"}
EFFICIENTNET_TIMM = WeightFormat(
    name="efficientnet_timm",
    description="EfficientNet B0 to B4 or Lite0 to Lite4 of timm, by the option tf=true where its "
    "name begins with tf_",
    recognises=_recognises_timm,
    model=_timm,
    rules=_timm_rules,
    ignored=IGNORED,
    preprocessing=_PREPROCESSING,
    pictures=_timm_pictures,
)
EFFICIENTNET = WeightFormat(
    name="efficientnet",
    description="EfficientNet B0 to B4 or Lite0 to Lite4 in the layout of EfficientNet-PyTorch; "
    "reads timm's as well",
    recognises=_recognises,
    model=_model,
    rules=_rules,
    ignored=IGNORED,
    preprocessing=_PREPROCESSING,
    pictures=lambda spec: _pictures(spec, {}),
    layouts=(EFFICIENTNET_TIMM,),
)

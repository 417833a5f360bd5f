"""ResNets of torchvision, for pictures and for volumes, with or without their classifier."""

from __future__ import annotations

from data_pipelines.errors import InputError
from retina_jax.convert.clip import depth_of, linear
from retina_jax.convert.rules import Rule, Shapes, Spec, WeightFormat
from retina_jax.convert.tensor_transforms import CONV, GREY_CONV
from retina_jax.convert.timm import IMAGENET, classifier
from retina_jax.models.resnet import BOTTLENECK_DEPTH, STAGES

_MEAN, _STD = IMAGENET
IGNORED = {
    r"(.*\.)?num_batches_tracked": "counts training steps, which our running statistics do not use"
}
_STAGE = "layer{s}.{i}."
_BLOCK = "layer{s}_{i}"


def batch_norm(theirs: str, ours: str) -> list[Rule]:
    """Rules of a batch normalisation.

    Args:
      theirs: their name of it.
      ours: path of ours behind the collection, 'image/bn1'.
    """
    return [
        Rule(f"{theirs}.weight", f"params/{ours}/scale"),
        Rule(f"{theirs}.bias", f"params/{ours}/bias"),
        Rule(f"{theirs}.running_mean", f"batch_stats/{ours}/mean"),
        Rule(f"{theirs}.running_var", f"batch_stats/{ours}/var"),
    ]


def block_rules(theirs: str, ours: str, conv: str, norm: str) -> list[Rule]:
    """Rules of the blocks of all stages.

    Args:
      theirs: before their names, 'visual.' for instance.
      ours: path of our tower behind the collection, 'image'.
      conv: template of their n-th convolution in a block, 'conv{n}'.
      norm: their name of the normalisation behind it, 'bn{n}'.
    """
    theirs, ours = f"{theirs}{_STAGE}", f"{ours}/{_BLOCK}"
    return [
        Rule(f"{theirs}{conv}.weight", f"params/{ours}/conv{{n}}/kernel", CONV),
        *batch_norm(f"{theirs}{norm}", f"{ours}/bn{{n}}"),
        Rule(f"{theirs}downsample.0.weight", f"params/{ours}/downsample_conv/kernel", CONV),
        *batch_norm(f"{theirs}downsample.1", f"{ours}/downsample_bn"),
    ]


def resnet_rules(theirs: str, ours: str) -> list[Rule]:
    """Rules of a ResNet without its classifier; arguments as for `block_rules`."""
    return [
        Rule(f"{theirs}conv1.weight", f"params/{ours}/conv1/kernel", CONV),
        *batch_norm(f"{theirs}bn1", f"{ours}/bn1"),
        *block_rules(theirs, ours, "conv{n}", "bn{n}"),
    ]


def stages(shapes: Shapes, prefix: str = "", conv: str = "conv1") -> tuple[int, ...]:
    """Number of blocks in each of the four stages, whose names begin with `prefix`."""
    return tuple(
        depth_of(shapes, f"{prefix}layer{stage}.{{i}}.{conv}.weight") for stage in range(1, 5)
    )


def resnet_tower(shapes: Shapes, prefix: str = "") -> Spec:
    """The spec of our `resnet` for tensors whose names begin with `prefix`.

    Raises:
      InputError: for one that is not among ours, such as ResNet-152, a wide ResNet or a ResNeXt.
    """
    bottleneck = f"{prefix}layer1.0.conv3.weight" in shapes
    counts = stages(shapes, prefix)
    depths = [
        depth
        for depth, known in STAGES.items()
        if known == counts and (depth >= BOTTLENECK_DEPTH) == bottleneck
    ]
    width = shapes[f"{prefix}conv1.weight"][0]
    inner, inputs = shapes.get(f"{prefix}layer1.0.conv2.weight", (0, 0))[:2]
    if not depths or (inner, inputs) != (width, width):
        kind = "bottlenecks" if bottleneck else "basic blocks"
        raise InputError(
            f"This ResNet has {counts} {kind} of width {inner} with {inputs} inputs behind "
            f"{width} features; ours are those of torchvision of depth {sorted(STAGES)}, neither "
            "wide nor in groups."
        )
    return {"name": "resnet", "depth": depths[0], "width": width}


def _recognises_resnet(shapes: Shapes) -> bool:
    return len(shapes.get("conv1.weight", ())) == 4 and "layer1.0.conv1.weight" in shapes


def _resnet(shapes: Shapes) -> Spec:
    return classifier(shapes, resnet_tower(shapes), "fc.weight", mean=_MEAN, std=_STD)


def _resnet_rules(spec: Spec) -> tuple[Rule, ...]:
    del spec
    return (*resnet_rules("", "image"), *linear("fc", "params/head"))


def _recognises_r3d(shapes: Shapes) -> bool:
    # R(2+1)D has two convolutions in the stem and in the place of each other one; a first
    # convolution of a mixed network (MC3) is in three dimensions as well, later ones are not.
    return len(shapes.get("stem.0.weight", ())) == 5 and "layer1.0.conv1.0.weight" in shapes


def _r3d(shapes: Shapes, key: str = "oct", grey: bool = False) -> Spec:
    """A tower of volumes, read under `key`; grey: its stem summed over colours, for one channel."""
    counts = stages(shapes, conv="conv1.0")
    width, channels, *size = shapes["stem.0.weight"]
    last = shapes.get("layer4.0.conv1.0.weight", ())
    if counts != STAGES[18] or tuple(size) != (3, 7, 7) or last[2:] != (3, 3, 3):
        raise InputError(
            f"This network of volumes has {counts} blocks, a stem of {tuple(size)} and kernels of "
            f"{last[2:]} in its last stage; ours is R3D-18, with (2, 2, 2, 2), (3, 7, 7) and "
            "(3, 3, 3)."
        )
    tower = {"name": "resnet3d", "width": width, **({} if grey else {"channels": channels})}
    return classifier(shapes, tower, "fc.weight", key)


def _r3d_rules(spec: Spec) -> tuple[Rule, ...]:
    key = spec["key"]
    stem = CONV if "channels" in spec["tower"] else GREY_CONV
    return (
        Rule("stem.0.weight", f"params/{key}/conv1/kernel", stem),
        *batch_norm("stem.1", f"{key}/bn1"),
        *block_rules("", key, "conv{n}.0", "conv{n}.1"),
        *linear("fc", "params/head"),
    )


RESNET = WeightFormat(
    name="torchvision_resnet",
    description="ResNet-18, 34, 50 or 101 of torchvision, with or without its classifier",
    recognises=_recognises_resnet,
    model=_resnet,
    rules=_resnet_rules,
    ignored=IGNORED,
    preprocessing={
        "size": 224,
        "fit": "crop",
        "short_side": 256,
        "interpolation": "bilinear",
        "mean": _MEAN,
        "std": _STD,
    },  # fmt: skip
)
R3D = WeightFormat(
    name="torchvision_r3d",
    description="R3D-18 of torchvision, with or without its classifier",
    recognises=_recognises_r3d,
    model=_r3d,
    rules=_r3d_rules,
    ignored=IGNORED,
    # Volumes are brought to mean 0 and deviation 1 each, not by the statistics of films.
    preprocessing={"size": 112, "fit": "crop", "interpolation": "bilinear"},
)

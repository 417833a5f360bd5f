"""OpenAI's CLIP and open_clip with vision transformers, as our `dual`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from data_pipelines.errors import InputError
from retina_jax.convert.positions import antialiased, resampling, square_side
from retina_jax.convert.rules import Rule, Shapes, Spec, WeightFormat
from retina_jax.convert.tensor_transforms import (
    CONV,
    HEADS_IN,
    HEADS_IN_BIAS,
    HEADS_OUT,
    KEEP,
    LINEAR,
    Change,
    split,
)
from retina_jax.models.layers import CLIP_MEAN, CLIP_STD

PREPROCESSING = {
    "size": 224, "fit": "crop", "interpolation": "bicubic", "mean": CLIP_MEAN, "std": CLIP_STD,
}  # fmt: skip
_BLOCK = "transformer.resblocks.{i}."
# Of heads by width, where they are not 64 wide (ViT-H, g, bigG and e of open_clip and MAE).
_HEADS = {1280: 16, 1408: 16, 1664: 16, 1792: 16}
_TEXT = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.",
         "text_projection")  # fmt: skip
_IGNORED = {
    "input_resolution|context_length|vocab_size": "sizes, which the shapes tell as well",
    "attn_mask": "which positions may be seen, which needs no array",
}


def number_of_heads(width: int, heads: int | None) -> int:
    """Heads of a ViT of that width: those given, or those of the published models.

    Raises:
      InputError: if they do not divide the width.
    """
    heads = heads or _HEADS.get(width, max(1, width // 64))
    if width % heads:
        raise InputError(
            f"A transformer of width {width} cannot have {heads} heads; name their number by the "
            "option heads (of texts: text_heads)."
        )
    return heads


def depth_of(shapes: Shapes, template: str) -> int:
    """How many layers {i} have the tensor of that name."""
    depth = 0
    while template.format(i=depth) in shapes:
        depth += 1
    return depth


def image_tower(shapes: Shapes, heads: int | None, activation: str) -> Spec:
    """The spec of our `vit` for the tensors `visual.*` of CLIP.

    Args:
      shapes: name of a tensor -> its shape, of all tensors.
      heads: the number of heads of each attention, see `number_of_heads`.
      activation: the activation function of the MLPs.
    """
    width, _, patch, other = shapes["visual.conv1.weight"]
    if patch != other:
        raise InputError(f"The ViT has patches of {patch} x {other}; only squares are converted.")
    first = f"visual.{_BLOCK}mlp.c_fc.weight"
    return {
        "name": "vit",
        "width": width,
        "depth": depth_of(shapes, first),
        "heads": number_of_heads(width, heads),
        "mlp_dim": shapes[first.format(i=0)][0],
        "patch_size": patch,
        "activation": activation,
        "pre_norm": True,
        "patch_bias": False,
        "initialization": "torch",
    }


def text_tower(shapes: Shapes, heads: int | None, activation: str) -> Spec:
    """The spec of our `clip_text` for the text transformer of CLIP; arguments as for images."""
    vocabulary, width = shapes["token_embedding.weight"]
    first = f"{_BLOCK}mlp.c_fc.weight"
    return {
        "name": "clip_text",
        "vocab_size": vocabulary,
        "width": width,
        "depth": depth_of(shapes, first),
        "heads": number_of_heads(width, heads or max(1, width // 64)),
        "mlp_dim": shapes[first.format(i=0)][0],
        "max_length": shapes["positional_embedding"][0],
        "activation": activation,
    }


def pictures(shapes: Shapes) -> int:
    """Pixels of the side of the pictures that the positions of `visual.*` are for."""
    count = shapes["visual.positional_embedding"][0]
    return square_side(count, 1) * shapes["visual.conv1.weight"][-1]


def norm(theirs: str, ours: str) -> list[Rule]:
    """Rules of a layer norm."""
    return [Rule(f"{theirs}.weight", f"{ours}/scale"), Rule(f"{theirs}.bias", f"{ours}/bias")]


def linear(theirs: str, ours: str, weight: Change = LINEAR, bias: Change = KEEP) -> list[Rule]:
    """Rules of a linear map with a bias, [out, in] unless told otherwise."""
    return [
        Rule(f"{theirs}.weight", f"{ours}/kernel", weight),
        Rule(f"{theirs}.bias", f"{ours}/bias", bias),
    ]


def attention(fused: str, out: str, ours: str) -> list[Rule]:
    """Rules of a self-attention whose maps to queries, keys and values are one.

    Args:
      fused: their name of that map, up to 'weight' and 'bias'.
      out: that of the last map, up to its dot.
      ours: path of our attention.
    """
    weights = tuple(f"{ours}/{name}/kernel" for name in ("query", "key", "value"))
    biases = tuple(f"{ours}/{name}/bias" for name in ("query", "key", "value"))
    return [
        Rule(f"{fused}weight", weights, split(3, HEADS_IN)),
        Rule(f"{fused}bias", biases, split(3, HEADS_IN_BIAS)),
        *linear(out, f"{ours}/out", HEADS_OUT),
    ]


def _blocks(theirs: str, ours: str, norms: tuple[str, str]) -> list[Rule]:
    """Rules of the blocks of a transformer of CLIP, whose first and second norm ours calls so."""
    block = f"{theirs}{_BLOCK}"
    return [
        *norm(f"{block}ln_1", f"{ours}/{norms[0]}"),
        *attention(f"{block}attn.in_proj_", f"{block}attn.out_proj", f"{ours}/attention"),
        *norm(f"{block}ln_2", f"{ours}/{norms[1]}"),
        *linear(f"{block}mlp.c_fc", f"{ours}/mlp/in"),
        *linear(f"{block}mlp.c_proj", f"{ours}/mlp/out"),
    ]


def image_rules(weights: Callable[[int, int], Any]) -> tuple[Rule, ...]:
    """Rules of `visual.*` with its projection.

    Args:
      weights: how positions are resampled, see `positions.resample`.
    """
    ours = "params/image"
    return (
        Rule("visual.class_embedding", f"{ours}/class_embedding"),
        Rule("visual.positional_embedding", f"{ours}/position_embedding", resampling(weights)),
        Rule("visual.conv1.weight", f"{ours}/patch_embedding/kernel", CONV),
        *norm("visual.ln_pre", f"{ours}/pre_norm"),
        *_blocks("visual.", f"{ours}/blocks", ("norm1", "norm2")),
        *norm("visual.ln_post", f"{ours}/post_norm"),
        Rule("visual.proj", "params/image_projection/kernel", KEEP),
    )


def text_rules() -> tuple[Rule, ...]:
    """Rules of the text transformer with its projection."""
    ours = "params/text"
    return (
        Rule("token_embedding.weight", f"{ours}/word_embedding/embedding"),
        Rule("positional_embedding", f"{ours}/position_embedding"),
        *_blocks("", f"{ours}/decoder/blocks", ("attention_norm", "mlp_norm")),
        *norm("ln_final", f"{ours}/decoder/norm"),
        Rule("text_projection", "params/text_projection/kernel", KEEP),
    )


# The second is of models that have a bias.
SCALES = (Rule("logit_scale", "params/logit_scale"), Rule("logit_bias", "params/logit_bias"))


def _rules(spec: Spec) -> tuple[Rule, ...]:
    del spec
    return (*image_rules(antialiased), *text_rules(), *SCALES)


def _prepare(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Names as in open_clip's `CLIP`, of files of its `CustomTextCLIP` too."""

    def flat(name: str) -> str:
        inner = name.removeprefix("text.")
        return inner if inner.startswith((*_TEXT, "attn_mask")) else name

    return {flat(name): value for name, value in tensors.items()}


def _recognises(shapes: Shapes) -> bool:
    return (
        "visual.transformer.resblocks.0.attn.in_proj_weight" in shapes
        and "token_embedding.weight" in shapes
    )


def _recognises_open_clip(shapes: Shapes) -> bool:
    timm = any(name.startswith("visual.trunk.") for name in shapes)
    return _recognises(shapes) or timm


def _refuse_variants(shapes: Shapes) -> None:
    """Raises InputError for models that have these names, and more or less."""
    beginnings = {
        "visual.trunk.": "an image tower of timm",
        "visual.attn_pool.": "attention instead of the class token, as in CoCa",
        "text.cls_emb": "a class token of texts, as in CoCa",
        "cls_emb": "a class token of texts, as in CoCa",
    }
    found = [why for start, why in beginnings.items() if any(n.startswith(start) for n in shapes)]
    if "visual.ln_pre.weight" not in shapes:
        found.append("no norm before its blocks, as in CLIPA")
    if len(shapes.get("text_projection", (0, 0))) != 2:
        found.append("a projection of texts with a bias")
    if found:
        raise InputError(
            f"This model of open_clip has {found[0]}, for which we have no model: convert one with "
            "the arrangement of CLIP, such as ViT-B-16."
        )


def dual(shapes: Shapes, image: Spec, text: Spec) -> Spec:
    """The spec of our `dual` with CLIP's mean and deviation, from its towers."""
    bias = {"bias_init": -10.0} if "logit_bias" in shapes else {}
    return {
        "name": "dual",
        "towers": {"image": image, "text": text},
        "dim": shapes["text_projection"][1],
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        **bias,
    }


def _open_clip(
    shapes: Shapes,
    activation: str = "gelu",
    heads: int | None = None,
    text_heads: int | None = None,
) -> Spec:
    _refuse_variants(shapes)
    image = image_tower(shapes, heads, activation)
    return dual(shapes, image, text_tower(shapes, text_heads, activation))


def _clip(shapes: Shapes, heads: int | None = None, text_heads: int | None = None) -> Spec:
    return _open_clip(shapes, "quick_gelu", heads, text_heads)


CLIP = WeightFormat(
    name="clip",
    description="OpenAI's CLIP with a ViT, its TorchScript archive or state dict (QuickGELU)",
    recognises=_recognises,
    model=_clip,
    rules=_rules,
    ignored=_IGNORED,
    image_size=pictures,
    preprocessing=PREPROCESSING,
    prepare=_prepare,
)
OPEN_CLIP = dataclasses.replace(
    CLIP,
    name="open_clip",
    description="open_clip with a ViT; activation=quick_gelu for its models of that name",
    recognises=_recognises_open_clip,
    model=_open_clip,
)

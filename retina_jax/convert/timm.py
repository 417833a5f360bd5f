"""Vision transformers of timm, as our `tower`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_pipelines.errors import InputError
from retina_jax.convert.clip import attention, depth_of, linear, norm, number_of_heads
from retina_jax.convert.positions import antialiased, resampling, square_side
from retina_jax.convert.rules import Rule, Shapes, Spec, WeightFormat
from retina_jax.convert.tensor_transforms import CONV, leading
from retina_jax.models.captioner import IMAGENET_MEAN, IMAGENET_STD
from retina_jax.models.layers import CLIP_MEAN, CLIP_STD

IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
_STATISTICS = {
    "imagenet": IMAGENET, "half": ((0.5,) * 3, (0.5,) * 3), "clip": (CLIP_MEAN, CLIP_STD),
}  # fmt: skip
# Beginnings of names of what our `vit` does not have.
_REFUSED = {"reg_token": "registers", "dist_token": "a token for distillation",
            "attn_pool.": "attention instead of a class token or a mean",
            "blocks.0.attn.q_norm.": "norms of queries and keys",
            "blocks.0.mlp.norm.": "norms within its MLPs", "blocks.0.mlp.fc1_g.": "gated MLPs",
            "blocks.0.mlp.w12.": "gated MLPs",
            "patch_embed.proj.0.": "several convolutions before its blocks"}  # fmt: skip


def tower(shapes: Shapes, heads: int | None, activation: str, eps: float) -> Spec:
    """The spec of our `vit` for the tensors of a ViT of timm, which is also MAE's.

    Args:
      shapes: name of a tensor -> its shape, of all tensors.
      heads: the number of heads of each attention, see `clip.number_of_heads`.
      activation: the activation function of the MLPs.
      eps: the epsilon of every layer norm.

    Raises:
      InputError: for one that our `vit` cannot be.
    """
    width, _, patch, other = shapes["patch_embed.proj.weight"]
    first = "blocks.{i}.mlp.fc1.weight"
    hidden = shapes.get(first.format(i=0), (0,))[0]
    found = [why for start, why in _REFUSED.items() if any(n.startswith(start) for n in shapes)]
    if patch != other:
        found.append(f"patches of {patch} x {other}")
    if not found and hidden != shapes["blocks.0.mlp.fc2.weight"][1]:
        found.append("gated MLPs")
    if "cls_token" not in shapes and "fc_norm.weight" in shapes:
        found.append("a norm after the mean but no class token")
    if found:
        raise InputError(f"This ViT has {found[0]}, which ours cannot have: convert another one.")
    pool = "patch_mean" if "fc_norm.weight" in shapes else "cls"
    return {
        "name": "vit",
        "width": width,
        "depth": depth_of(shapes, first),
        "heads": number_of_heads(width, heads),
        "mlp_dim": hidden,
        "patch_size": patch,
        "pool": pool if "cls_token" in shapes else "mean",
        "activation": activation,
        "pre_norm": "norm_pre.weight" in shapes,
        "patch_bias": "patch_embed.proj.bias" in shapes,
        "eps": eps,
        **({"layer_scale": 1e-5} if "blocks.0.ls1.gamma" in shapes else {}),
    }


def pictures(shapes: Shapes) -> int:
    """Pixels of the side of the pictures that the learned positions are for.

    Raises:
      InputError: if the positions are not those of a square, and of the class token.
    """
    first = 1 if "cls_token" in shapes else 0
    return square_side(shapes["pos_embed"][1], first) * shapes["patch_embed.proj.weight"][-1]


def blocks(theirs: str, ours: str, names: Sequence[str]) -> list[Rule]:
    """Rules of the blocks of a ViT.

    Args:
      theirs: template of what comes before their names, 'blocks.{i}.'.
      ours: path of our blocks.
      names: the names of the first norm, the attention and the second norm in ours.
    """
    return [
        *norm(f"{theirs}norm1", f"{ours}/{names[0]}"),
        *attention(f"{theirs}attn.qkv.", f"{theirs}attn.proj", f"{ours}/{names[1]}"),
        *norm(f"{theirs}norm2", f"{ours}/{names[2]}"),
        *linear(f"{theirs}mlp.fc1", f"{ours}/mlp/in"),
        *linear(f"{theirs}mlp.fc2", f"{ours}/mlp/out"),
    ]


def rules(spec: Spec, weights: Callable[[int, int], Any]) -> tuple[Rule, ...]:
    """Rules of a ViT without its head, at params/image.

    Args:
      spec: the spec of our `vit`.
      weights: how positions are resampled, see `positions.resample`.
    """
    ours, first = "params/image", 0 if spec["pool"] == "mean" else 1
    last = "fc_norm" if spec["pool"] == "patch_mean" else "norm"
    positions = resampling(weights, first=first, axes=1)
    return (
        Rule("cls_token", f"{ours}/class_embedding", leading(2)),
        Rule("pos_embed", f"{ours}/position_embedding", positions),
        Rule("patch_embed.proj.weight", f"{ours}/patch_embedding/kernel", CONV),
        Rule("patch_embed.proj.bias", f"{ours}/patch_embedding/bias"),
        *norm("norm_pre", f"{ours}/pre_norm"),
        *blocks("blocks.{i}.", f"{ours}/blocks", ("norm1", "attention", "norm2")),
        Rule("blocks.{i}.ls1.gamma", f"{ours}/blocks/scale1"),
        Rule("blocks.{i}.ls2.gamma", f"{ours}/blocks/scale2"),
        *norm(last, f"{ours}/post_norm"),
    )


def classifier(
    shapes: Shapes, tower: Spec, head: str = "head.weight", key: str = "image", **pictures: Any
) -> Spec:
    """The spec of our `tower`, with the head that the file has under that name or none."""
    classes = shapes[head][0] if shapes.get(head) else None
    return {"name": "tower", "key": key, "tower": tower, "classes": classes, **pictures}


def moments(known: Mapping[str, Sequence[Any]], statistics: str) -> dict[str, Any]:
    """'mean' and 'std' of the pictures of a model, by what the option `statistics` names."""
    if statistics not in known:
        raise InputError(f"statistics is one of {sorted(known)}, not '{statistics}'.")
    mean, std = known[statistics]
    return {"mean": mean, "std": std}


def recognises(shapes: Shapes) -> bool:
    """Whether these are a ViT of timm, or one in its layout."""
    return all(
        name in shapes
        for name in ("pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
    )


def _model(
    shapes: Shapes,
    statistics: str | None = None,
    heads: int | None = None,
    activation: str = "gelu",
    eps: float | None = None,
) -> Spec:
    clip = "norm_pre.weight" in shapes
    if statistics is None and not clip:
        raise InputError(
            "ViTs of timm differ in the mean and deviation of their pictures, which their files do "
            f"not tell: give the option statistics, one of {sorted(_STATISTICS)} ('half' for "
            "those of Google and 'augreg', 'imagenet' for DeiT, MAE and DINO)."
        )
    scaled = moments(_STATISTICS, statistics or "clip")
    image = tower(shapes, heads, activation, eps or (1e-5 if clip else 1e-6))
    return classifier(shapes, image, **scaled)


def _rules(spec: Spec) -> tuple[Rule, ...]:
    return (*rules(spec["tower"], antialiased), *linear("head", "params/head"))


TIMM = WeightFormat(
    name="timm",
    description="a ViT of timm, by the option statistics=half, imagenet or clip",
    recognises=recognises,
    model=_model,
    rules=_rules,
    image_size=pictures,
    preprocessing={"size": 224, "fit": "crop", "interpolation": "bicubic"},
)

"""RETFound and MAE: the encoder, the encoder with its decoder, and fine-tuned classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.convert import timm
from retina_jax.convert.clip import depth_of, linear, norm, number_of_heads
from retina_jax.convert.positions import centres_aligned, square_side
from retina_jax.convert.rules import Rule, Shapes, Spec, WeightFormat
from retina_jax.convert.tensor_transforms import leading
from retina_jax.models.image_decoder import patch_positions

_FIXED = "decoder_pos_embed"
_BLOCK = "decoder_blocks.{i}."
# MAE's decoder has more and narrower heads than its encoders.
_DECODER_HEADS = {512: 16}
_MEAN, _STD = timm.IMAGENET
_DECODER = "params/image_reconstruction"


def _recognises(shapes: Shapes) -> bool:
    return timm.recognises(shapes) and "cls_token" in shapes


def _model(
    shapes: Shapes,
    heads: int | None = None,
    decoder_heads: int | None = None,
    normalize_patches: bool = True,
) -> Spec:
    """A tower with or without a head, or a masked autoencoder.

    `normalize_patches` says whether it was trained with MAE's `norm_pix_loss`.
    """
    image = timm.tower(shapes, heads, "gelu", 1e-6)
    if "decoder_embed.weight" not in shapes:
        return timm.classifier(shapes, image, mean=_MEAN, std=_STD)
    width = shapes["decoder_embed.weight"][0]
    first = f"{_BLOCK}mlp.fc1.weight"
    decoder = {
        "width": width,
        "depth": depth_of(shapes, first),
        "heads": number_of_heads(width, decoder_heads or _DECODER_HEADS.get(width)),
        "mlp_dim": shapes[first.format(i=0)][0],
    }
    return {
        "name": "masked_autoencoder", "towers": {"image": image}, "image_decoder": decoder,
        "normalize_patches": normalize_patches, "mean": _MEAN, "std": _STD,
    }  # fmt: skip


def _rules(spec: Spec) -> tuple[Rule, ...]:
    if spec["name"] == "tower":
        encoder = timm.rules(spec["tower"], centres_aligned)
        return (*encoder, *linear("head", "params/head"))
    ours = f"{_DECODER}/blocks"
    return (
        *timm.rules(spec["towers"]["image"], centres_aligned),
        *linear("decoder_embed", "params/image_adaptor"),
        Rule("mask_token", f"{_DECODER}/mask_token", leading(2)),
        *timm.blocks(_BLOCK, f"{ours}/blocks", ("attention_norm", "attention", "mlp_norm")),
        *norm("decoder_norm", f"{ours}/norm"),
        *linear("decoder_pred", f"{_DECODER}/pixels"),
    )


def decoder_positions(count: int, width: int) -> np.ndarray:
    """The fixed positions of MAE's decoder f32[1 count width], zeros for the class token first."""
    side = square_side(count, 1)
    grid = np.asarray(patch_positions((side, side), width))
    return np.concatenate([np.zeros((1, width), np.float32), grid])[None]


def _prepare(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Refuses fixed positions of a decoder that are not those that our decoder computes."""
    fixed = tensors.get(_FIXED)
    if isinstance(fixed, np.ndarray):
        expected = decoder_positions(*fixed.shape[1:])
        if not np.allclose(fixed, expected, atol=1e-3):
            raise InputError(
                f"The file's {_FIXED} are not the sines and cosines of MAE, which our decoder "
                "computes: this decoder cannot be converted."
            )
    return dict(tensors)


def _computed(spec: Spec, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What MAE stores though it is fixed: the positions of its decoder."""
    if spec["name"] == "tower":
        return {}
    count, width = tensors["pos_embed"].shape[1], len(tensors["decoder_embed.weight"])
    return {_FIXED: decoder_positions(count, width)}


RETFOUND = WeightFormat(
    name="retfound",
    description="RETFound (Zhou et al. 2023) and MAE: encoder, with decoder, or fine-tuned",
    recognises=_recognises,
    model=_model,
    rules=_rules,
    ignored={_FIXED: "fixed positions, which our decoder computes"},
    image_size=timm.pictures,
    preprocessing={
        "size": 224, "fit": "crop", "short_side": 256, "interpolation": "bicubic",
        "mean": _MEAN, "std": _STD,
    },
    prepare=_prepare,
    computed=_computed,
)  # fmt: skip

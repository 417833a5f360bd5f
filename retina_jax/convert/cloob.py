"""CLOOB of its authors, with a ResNet of CLIP or a ViT, as our `dual`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from retina_jax.convert import clip, clip_resnet
from retina_jax.convert.positions import antialiased
from retina_jax.convert.rules import Rule, Shapes, Spec, WeightFormat

# Before the names of the text transformer in the layout of the released files. Its own
# transformer within is called the same, so that 'transformer.resblocks' is the other layout.
_TEXT = "transformer."
_SCALE = "logit_inv_tau"
_IGNORED = {
    **clip_resnet.IGNORED,
    r"logit_scale_hopfield": "the inverse temperature of the retrieval, which only the loss reads",
}


def _prepare(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Names as in the released files, of files in the layout of OpenAI's CLIP too."""
    if "token_embedding.weight" not in tensors:
        return dict(tensors)
    text = {rule.theirs.split(".")[0] for rule in clip.text_rules()}
    return {
        f"{_TEXT}{name}" if name.split(".")[0] in text else name: value
        for name, value in tensors.items()
    }


def _recognises(shapes: Shapes) -> bool:
    image = clip_resnet.is_resnet(shapes) or "visual.proj" in shapes
    return image and _SCALE in shapes and f"{_TEXT}token_embedding.weight" in shapes


def _model(shapes: Shapes, heads: int | None = None, text_heads: int | None = None) -> Spec:
    named = {name.removeprefix(_TEXT): shape for name, shape in shapes.items()}  # as in CLIP
    text = clip.text_tower(named, text_heads, "quick_gelu")
    if clip_resnet.is_resnet(shapes):
        return clip_resnet.dual(named, clip_resnet.image_tower(shapes, heads), text)
    return clip.dual(named, clip.image_tower(shapes, heads, "quick_gelu"), text)


def _rules(spec: Spec) -> tuple[Rule, ...]:
    vit = spec["towers"]["image"]["name"] == "vit"
    image = clip.image_rules(antialiased) if vit else clip_resnet.image_rules()
    text = [dataclasses.replace(r, theirs=f"{_TEXT}{r.theirs}") for r in clip.text_rules()]
    return (*image, *text, Rule(_SCALE, "params/logit_scale"))


def _pictures(shapes: Shapes) -> int:
    resnet = clip_resnet.is_resnet(shapes)
    return clip_resnet.pictures(shapes) if resnet else clip.pictures(shapes)


CLOOB = WeightFormat(
    name="cloob",
    description="CLOOB (Furst et al. 2022) with a ResNet or a ViT",
    recognises=_recognises,
    model=_model,
    rules=_rules,
    ignored=_IGNORED,
    image_size=_pictures,
    preprocessing=clip.CLIP.preprocessing,
    prepare=_prepare,
)

"""RET-CLIP as our `tripartite`, and Chinese-CLIP, on which it is built, as our `dual`."""

from __future__ import annotations

from typing import Any

from retina_jax.convert import bert
from retina_jax.convert.clip import PREPROCESSING, dual, image_rules, image_tower, linear, pictures
from retina_jax.convert.positions import corners_aligned
from retina_jax.convert.rules import Rule, Shapes, Spec, WeightFormat
from retina_jax.convert.tensor_transforms import LINEAR
from retina_jax.models.layers import CLIP_MEAN, CLIP_STD
from retina_jax.models.tripartite import LEVELS

# Their names of the three levels: of the map of images, and behind 'text_projection' and
# 'logit_scale'.
_MAPPINGS = {"left": "left_feature", "right": "right_feature", "patient": "global_feature"}
_SUFFIXES = {"left": "_left", "right": "_right", "patient": ""}
# They resize pictures without cutting anything off.
_PREPROCESSING = {**PREPROCESSING, "fit": "squash"}


def _recognises_retclip(shapes: Shapes) -> bool:
    return "visual.proj" in shapes and "left_feature_mapping.weight" in shapes


def _recognises_chinese_clip(shapes: Shapes) -> bool:
    words = "bert.embeddings.word_embeddings.weight"
    return all(name in shapes for name in ("visual.proj", words, "text_projection"))


def _towers(shapes: Shapes, heads: int | None, text_heads: int | None) -> dict[str, Spec]:
    text = bert.tower(shapes, "bert.", text_heads)
    return {"image": image_tower(shapes, heads, "quick_gelu"), "text": {**text, "pool": "cls"}}


def _retclip(shapes: Shapes, heads: int | None = None, text_heads: int | None = None) -> Spec:
    return {
        "name": "tripartite",
        "towers": _towers(shapes, heads, text_heads),
        "dim": shapes["visual.proj"][1],
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
    }


def _chinese_clip(shapes: Shapes, heads: int | None = None, text_heads: int | None = None) -> Spec:
    return dual(shapes, **_towers(shapes, heads, text_heads))


def _towers_rules() -> tuple[Rule, ...]:
    return (*image_rules(corners_aligned), *bert.rules("bert.", "params/text"))


def _retclip_rules(spec: Spec) -> tuple[Rule, ...]:
    del spec
    heads: list[Rule] = []
    for level in LEVELS:
        suffix, ours = _SUFFIXES[level], f"params/text_{level}"
        mapping = f"{_MAPPINGS[level]}_mapping.weight"
        heads += [
            Rule(mapping, f"params/{level}/kernel", LINEAR),
            *linear(f"text_projection{suffix}.0", f"{ours}/in"),
            *linear(f"text_projection{suffix}.2", f"{ours}/out"),
            Rule(f"logit_scale{suffix}", f"params/logit_scale_{level}"),
        ]
    return (*_towers_rules(), *heads)


def _chinese_clip_rules(spec: Spec) -> tuple[Rule, ...]:
    del spec
    return (
        *_towers_rules(),
        Rule("text_projection", "params/text_projection/kernel"),
        Rule("logit_scale", "params/logit_scale"),
    )


def _source(name: str, **parts: Any) -> WeightFormat:
    return WeightFormat(
        name=name, ignored=bert.IGNORED, image_size=pictures, preprocessing=_PREPROCESSING, **parts
    )


RETCLIP = _source(
    "retclip",
    description="RET-CLIP (Du et al. 2024): both eyes and a Chinese report of a patient",
    recognises=_recognises_retclip,
    model=_retclip,
    rules=_retclip_rules,
)
CHINESE_CLIP = _source(
    "chinese_clip",
    description="Chinese-CLIP (Yang et al. 2022) with a ViT, in the layout of its own code",
    recognises=_recognises_chinese_clip,
    model=_chinese_clip,
    rules=_chinese_clip_rules,
)

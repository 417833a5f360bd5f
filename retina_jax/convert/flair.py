"""FLAIR, and KeepFIT of photographs and of angiograms, which adds an attention to it."""

from __future__ import annotations

from data_pipelines.errors import InputError
from retina_jax.convert import bert, torchvision
from retina_jax.convert.rules import Rule, Shapes, Spec, WeightFormat
from retina_jax.convert.tensor_transforms import LINEAR

_IMAGE, _TEXT = "vision_model.model.", "text_model.model."
_PROJECTIONS = {
    "image": "vision_model.projection_head_vision.projection.weight",
    "text": "text_model.projection_head_text.projection.weight",
}
_REFERENCE = {"q": "query", "k": "key", "v": "value", "o": "out"}
_WHY = "the attention of KeepFIT to expert pairs, which only its training uses"
PREPROCESSING = {
    "size": 512, "fit": "canvas", "interpolation": "bilinear", "mean": None, "std": None,
}  # fmt: skip


def _is_flair(shapes: Shapes) -> bool:
    return all(name in shapes for name in _PROJECTIONS.values())


def _has_reference(shapes: Shapes) -> bool:
    return "attention.W_q.weight" in shapes


def _dual(shapes: Shapes, pool: str = "flair") -> Spec:
    """The spec of our `dual`; `pool` of its text tower, see `models.bert.Bert`."""
    if f"{_IMAGE}conv1.weight" not in shapes or f"{_IMAGE}layer1.0.conv1.weight" not in shapes:
        raise InputError("The image tower of this FLAIR is no ResNet, and there is no rule for it.")
    return {
        "name": "dual",
        "towers": {
            "image": torchvision.resnet_tower(shapes, _IMAGE),
            "text": {**bert.tower(shapes, _TEXT), "pool": pool},
        },
        "dim": shapes[_PROJECTIONS["image"]][0],
    }


def _keepfit(shapes: Shapes, pool: str = "flair", reference: bool = True) -> Spec:
    """The spec of our `keepfit` as released; of `dual` without its attention by request."""
    spec = _dual(shapes, pool)
    if not reference:
        return spec
    return {**spec, "name": "keepfit", "reference": {"heads": 2, "softmax_axis": "heads"}}


def _rules(spec: Spec) -> tuple[Rule, ...]:
    """Rules of both towers, their projections, the scale and, of KeepFIT, the attention."""
    del spec
    projections = [
        Rule(theirs, f"params/{key}_projection/kernel", LINEAR)
        for key, theirs in _PROJECTIONS.items()
    ]
    reference = [
        Rule(f"attention.W_{theirs}.weight", f"params/attention/{ours}/kernel", LINEAR)
        for theirs, ours in _REFERENCE.items()
    ]
    return (
        Rule("logit_scale", "params/logit_scale"),
        *torchvision.resnet_rules(_IMAGE, "image"),
        *bert.rules(_TEXT, "params/text"),
        *projections,
        *reference,
    )


_SHARED = {
    "rules": _rules,
    "preprocessing": PREPROCESSING,
    # FLAIR's own code filters pictures since its commit d6652d5 of November 2025.
    "switches": {"antialias": True},
    # Both authors pin transformers 4.27.
    "computed": lambda spec, tensors: {
        **bert.pooler(tensors, _TEXT),
        **bert.positions(tensors, _TEXT),
    },
}
FLAIR = WeightFormat(
    name="flair",
    description="FLAIR: ResNet-50 and Bio_ClinicalBERT for fundus photographs",
    recognises=lambda shapes: _is_flair(shapes) and not _has_reference(shapes),
    model=_dual,
    ignored=bert.IGNORED | torchvision.IGNORED,
    **_SHARED,
)
KEEPFIT = WeightFormat(
    name="keepfit",
    description="KeepFIT (V1) of photographs, and the CLIP stage of KeepFIT-FFA",
    recognises=lambda shapes: _is_flair(shapes) and _has_reference(shapes),
    model=_keepfit,
    ignored={r"attention\.W_[qkvo]\.weight": _WHY} | bert.IGNORED | torchvision.IGNORED,
    **_SHARED,
)

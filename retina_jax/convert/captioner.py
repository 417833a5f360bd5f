"""The captioner of KeepFIT-FFA, of R2Gen's lineage: a ResNet, an encoder and a decoder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from retina_jax.convert import torchvision
from retina_jax.convert.clip import depth_of, linear
from retina_jax.convert.rules import Rule, Shapes, Spec, WeightFormat
from retina_jax.convert.tensor_transforms import HEADS_IN, HEADS_IN_BIAS, HEADS_OUT, KEEP
from retina_jax.models.captioner import IMAGENET_MEAN, IMAGENET_STD
from retina_jax.models.layers import sinusoids

_TRUNK = "visual_extractor.model."
# The trunk is a list of torchvision's modules, without their names.
_PLACES = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
_WORDS = "encoder_decoder."
_STACK = f"{_WORDS}model."
_LAYER = f"{_STACK}{{stack}}.layers.{{i}}."
_POSITIONS, _MOST = f"{_STACK}tgt_embed.1.pe", 5000


def _listed(name: str) -> str:
    """A name of torchvision's ResNet, maybe with places for numbers, in the list."""
    head, _, rest = name.partition(".")
    return f"{_TRUNK}{_PLACES[head]}.{rest}"


def _trunk() -> list[Rule]:
    """Rules of the trunk, stage by stage, as the stages are numbered otherwise."""
    found = []
    for rule in torchvision.resnet_rules("", "image"):
        stages = range(1, 5) if "{s}" in rule.theirs else (0,)
        for stage in stages:
            theirs, *ours = (t.replace("{s}", str(stage)) for t in (rule.theirs, *rule.paths))
            found.append(dataclasses.replace(rule, theirs=_listed(theirs), ours=tuple(ours)))
    return found


def _norm(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}.gamma", f"{ours}/scale"), Rule(f"{theirs}.beta", f"{ours}/bias")]


def _attention(theirs: str, ours: str) -> list[Rule]:
    """Rules of four maps in a list: to queries, keys and values, and behind the attention."""
    found = []
    for place, name in enumerate(("query", "key", "value", "out")):
        weight, bias = (HEADS_OUT, KEEP) if name == "out" else (HEADS_IN, HEADS_IN_BIAS)
        found += linear(f"{theirs}.linears.{place}", f"{ours}/{name}", weight, bias)
    return found


def _blocks(stack: str, ours: str, attentions: Mapping[str, str]) -> list[Rule]:
    """Rules of the layers of the encoder or the decoder and of the norm behind them.

    Args:
      stack: 'encoder' or 'decoder'.
      ours: path of our `Decoder`.
      attentions: their name -> ours, in the order in which they come.
    """
    layer = _LAYER.replace("{stack}", stack)
    found = _norm(f"{_STACK}{stack}.norm", f"{ours}/norm")
    for theirs, name in attentions.items():
        found += _attention(f"{layer}{theirs}", f"{ours}/blocks/{name}")
    for theirs, name in (("w_1", "in"), ("w_2", "out")):
        found += linear(f"{layer}feed_forward.{theirs}", f"{ours}/blocks/mlp/{name}")
    for place, name in enumerate((*attentions.values(), "mlp")):
        found += _norm(f"{layer}sublayer.{place}.norm", f"{ours}/blocks/{name}_norm")
    return found


def _rules(spec: Spec) -> tuple[Rule, ...]:
    del spec
    text = "params/text_decoder"
    return (
        *_trunk(),
        *linear(f"{_WORDS}att_embed.0", "params/patches/linear"),
        *_blocks("encoder", "params/encoder", {"self_attn": "attention"}),
        *_blocks(
            "decoder", f"{text}/decoder", {"self_attn": "attention", "src_attn": "cross_attention"}
        ),
        Rule(f"{_STACK}tgt_embed.0.lut.weight", f"{text}/embedding/embedding"),
        *linear(f"{_WORDS}logit", f"{text}/logits"),
    )


def _recognises(shapes: Shapes) -> bool:
    return f"{_TRUNK}0.weight" in shapes and f"{_STACK}tgt_embed.0.lut.weight" in shapes


def _model(shapes: Shapes, heads: int | None = None) -> Spec:
    """The spec of our `captioner`.

    Args:
      shapes: name of a tensor -> its shape.
      heads: the number of heads of each attention; None for one of every 64 columns, as released.
    """
    named = {}
    for theirs, place in _PLACES.items():
        for name, shape in shapes.items():
            if name.startswith(f"{_TRUNK}{place}."):
                named[re.sub(r"^[^.]+", theirs, name.removeprefix(_TRUNK))] = shape
    vocabulary, width = shapes[f"{_STACK}tgt_embed.0.lut.weight"]
    first = _LAYER.replace("{stack}", "decoder") + "feed_forward.w_1.weight"
    return {
        "name": "captioner",
        "tower": torchvision.resnet_tower(named),
        "vocab_size": vocabulary,
        # One id begins, ends and pads.
        "bos_id": 0,
        "eos_id": 0,
        "width": width,
        "depth": depth_of(shapes, first),
        "heads": heads or max(1, width // 64),
        "mlp_dim": shapes[first.format(i=0)][0],
        "deviation": "unbiased",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }


def _computed(spec: Spec, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the original stores though it is fixed: f32[1 5000 width], sines and cosines."""
    del tensors
    return {_POSITIONS: np.asarray(sinusoids(_MOST, spec["width"]))[None]}


CAPTIONER = WeightFormat(
    name="captioner",
    description="the captioner of KeepFIT-FFA: angiograms to reports",
    recognises=_recognises,
    model=_model,
    rules=_rules,
    ignored={re.escape(_POSITIONS): "fixed sinusoids, which need no array", **torchvision.IGNORED},
    computed=_computed,
    preprocessing={
        "size": 224,
        "fit": "squash",
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    },  # fmt: skip
)

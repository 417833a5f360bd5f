"""CLIP with a ResNet, of OpenAI, open_clip and Chinese-CLIP, as our `dual`."""

from __future__ import annotations

from retina_jax.convert import bert, clip, retclip, torchvision
from retina_jax.convert.positions import antialiased, resampling, square_side
from retina_jax.convert.rules import Rule, Shapes, Spec, WeightFormat
from retina_jax.convert.tensor_transforms import CONV, HEADS_IN, HEADS_IN_BIAS

_PREFIX = "visual."
_POOL = "visual.attnpool."
_POSITIONS = f"{_POOL}positional_embedding"
_SHRINKS = 32  # pixels to a position of the last map
IGNORED = {**torchvision.IGNORED, **clip.CLIP.ignored}


def is_resnet(shapes: Shapes) -> bool:
    """Whether the image tower `visual.*` is a ResNet of CLIP."""
    return _POSITIONS in shapes and "visual.layer1.0.conv1.weight" in shapes


def image_tower(shapes: Shapes, heads: int | None) -> Spec:
    """The spec of our `clip_resnet` for the tensors `visual.*`.

    Args:
      shapes: name of a tensor -> its shape, of all tensors.
      heads: the number of heads of the attention that pools; None for heads of 64 columns, as all
        published ones have.
    """
    return {
        "name": "clip_resnet",
        "depths": torchvision.stages(shapes, _PREFIX),
        "width": shapes["visual.layer1.0.conv1.weight"][0],
        **({"heads": heads} if heads else {}),
    }


def pictures(shapes: Shapes) -> int:
    """Pixels of the side of the pictures that the positions of the last map are for."""
    return square_side(shapes[_POSITIONS][0], 1) * _SHRINKS


def image_rules() -> tuple[Rule, ...]:
    """Rules of `visual.*`; its last map is the projection of our `dual`."""
    pool = "params/image/attention_pool"
    rules = [
        Rule(f"{_PREFIX}conv{{n}}.weight", "params/image/conv{n}/kernel", CONV),
        *torchvision.batch_norm(f"{_PREFIX}bn{{n}}", "image/bn{n}"),
        *torchvision.block_rules(_PREFIX, "image", "conv{n}", "bn{n}"),
        Rule(_POSITIONS, f"{pool}/position_embedding", resampling(antialiased)),
        *clip.linear(f"{_POOL}c_proj", "params/image_projection"),
    ]
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
        rules += clip.linear(f"{_POOL}{theirs}_proj", f"{pool}/{ours}", HEADS_IN, HEADS_IN_BIAS)
    return tuple(rules)


def dual(shapes: Shapes, image: Spec, text: Spec) -> Spec:
    """As `clip.dual`, with the bias that the projection of a ResNet has."""
    return {**clip.dual(shapes, image, text), "projection_bias": ("image",)}


def _recognises(shapes: Shapes) -> bool:
    inverse = "logit_inv_tau" in shapes  # CLOOB, whose names may be the same otherwise
    return is_resnet(shapes) and "token_embedding.weight" in shapes and not inverse


def _recognises_chinese(shapes: Shapes) -> bool:
    return is_resnet(shapes) and "bert.embeddings.word_embeddings.weight" in shapes


def _model(
    shapes: Shapes,
    activation: str = "quick_gelu",
    heads: int | None = None,
    text_heads: int | None = None,
) -> Spec:
    text = clip.text_tower(shapes, text_heads, activation)
    return dual(shapes, image_tower(shapes, heads), text)


def _chinese(shapes: Shapes, heads: int | None = None, text_heads: int | None = None) -> Spec:
    text = {**bert.tower(shapes, "bert.", text_heads), "pool": "cls"}
    return dual(shapes, image_tower(shapes, heads), text)


def _rules(spec: Spec) -> tuple[Rule, ...]:
    del spec
    return (*image_rules(), *clip.text_rules(), *clip.SCALES)


def _chinese_rules(spec: Spec) -> tuple[Rule, ...]:
    del spec
    return (
        *image_rules(),
        *bert.rules("bert.", "params/text"),
        Rule("text_projection", "params/text_projection/kernel"),
        Rule("logit_scale", "params/logit_scale"),
    )


CLIP_RESNET = WeightFormat(
    name="clip_resnet",
    description="CLIP with a ResNet, of OpenAI or open_clip; activation=gelu where texts were not "
    "trained with QuickGELU",
    recognises=_recognises,
    model=_model,
    rules=_rules,
    ignored=IGNORED,
    image_size=pictures,
    preprocessing=clip.CLIP.preprocessing,
    prepare=clip.CLIP.prepare,
)
CHINESE_CLIP_RESNET = WeightFormat(
    name="chinese_clip_resnet",
    description="Chinese-CLIP (Yang et al. 2022) with a ResNet, in the layout of its own code",
    recognises=_recognises_chinese,
    model=_chinese,
    rules=_chinese_rules,
    ignored={**bert.IGNORED, **IGNORED},
    image_size=pictures,
    preprocessing=retclip.CHINESE_CLIP.preprocessing,
)

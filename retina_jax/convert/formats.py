"""The table of published models that can be converted, and which of them a file looks like."""

from __future__ import annotations

from data_pipelines.errors import InputError
from retina_jax.convert.bert import BERT
from retina_jax.convert.captioner import CAPTIONER
from retina_jax.convert.clip import CLIP, OPEN_CLIP
from retina_jax.convert.clip_resnet import CHINESE_CLIP_RESNET, CLIP_RESNET
from retina_jax.convert.cloob import CLOOB
from retina_jax.convert.efficientnet import EFFICIENTNET, EFFICIENTNET_TIMM
from retina_jax.convert.flair import FLAIR, KEEPFIT
from retina_jax.convert.retclip import CHINESE_CLIP, RETCLIP
from retina_jax.convert.retfound import RETFOUND
from retina_jax.convert.rules import Shapes, WeightFormat
from retina_jax.convert.timm import TIMM
from retina_jax.convert.torchvision import R3D, RESNET

SOURCES: dict[str, WeightFormat] = {
    source.name: source
    for source in (
        BERT,
        CAPTIONER,
        CHINESE_CLIP,
        CHINESE_CLIP_RESNET,
        CLIP,
        CLIP_RESNET,
        CLOOB,
        EFFICIENTNET,
        EFFICIENTNET_TIMM,
        FLAIR,
        KEEPFIT,
        OPEN_CLIP,
        RETCLIP,
        R3D,
        RESNET,
        RETFOUND,
        TIMM,
    )
}


def looks_like(shapes: Shapes) -> list[str]:
    """Names of the sources that recognise a file by the names and shapes of its tensors."""
    return [name for name, source in SOURCES.items() if source.recognises(source.prepare(shapes))]


def find(name: str, shapes: Shapes) -> WeightFormat:
    """The source of that name, or the one of its other layouts that the file looks like.

    Raises:
      InputError: for a name that is not in SOURCES, or a file of another source.
    """
    if name not in SOURCES:
        known = ", ".join(sorted(SOURCES))
        raise InputError(f"There is no source '{name}'; choose from {known}.")
    likely = looks_like(shapes)
    for source in (SOURCES[name], *SOURCES[name].layouts):
        if source.name in likely:
            return source
    if likely:
        guess = f"it looks like '{likely[0]}'"
    else:
        some = ", ".join(sorted(shapes)[:3])
        guess = f"nor like any other known source; its tensors begin with {some}"
    raise InputError(f"The file does not look like '{name}'; {guess}.")

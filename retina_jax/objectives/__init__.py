"""Objectives: named terms made from outputs and batch. See docs/add_an_objective.md."""

from retina_jax.objectives.appearance import PatchCodeLoss
from retina_jax.objectives.caption import CaptionLoss
from retina_jax.objectives.classification import Classification
from retina_jax.objectives.contrastive import Contrastive
from retina_jax.objectives.masked_image import MaskedImage
from retina_jax.objectives.masked_language import MaskedLanguage
from retina_jax.objectives.reference import Reference
from retina_jax.objectives.regression import Regression

OBJECTIVES = {
    "appearance": PatchCodeLoss,
    "caption": CaptionLoss,
    "classification": Classification,
    "contrastive": Contrastive,
    "masked_image": MaskedImage,
    "masked_language": MaskedLanguage,
    "reference": Reference,
    "regression": Regression,
}

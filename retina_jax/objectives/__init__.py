"""Objectives: named terms made from outputs and batch. See docs/add_an_objective.md."""

from retina_jax.objectives.contrastive import Contrastive
from retina_jax.objectives.masked_language import MaskedLanguage
from retina_jax.objectives.reference import Reference

OBJECTIVES = {
    "contrastive": Contrastive,
    "masked_language": MaskedLanguage,
    "reference": Reference,
}

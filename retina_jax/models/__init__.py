"""Linen modules: towers of one modality, and the systems made of them (MODELS)."""

from __future__ import annotations

from retina_jax.models.dual import Dual

MODELS = {"dual": Dual}

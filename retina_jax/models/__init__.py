"""Linen modules: towers of one modality, and the systems made of them (MODELS)."""

from __future__ import annotations

from retina_jax.models.captioner import Captioner
from retina_jax.models.coca_mim import CocaMim
from retina_jax.models.dual import Dual
from retina_jax.models.keepfit import KeepFIT
from retina_jax.models.masked_autoencoder import MaskedAutoencoder
from retina_jax.models.single_tower import Tower
from retina_jax.models.text_mlm import TextMLM
from retina_jax.models.tripartite import Tripartite

MODELS = {
    "captioner": Captioner,
    "coca_mim": CocaMim,
    "dual": Dual,
    "keepfit": KeepFIT,
    "masked_autoencoder": MaskedAutoencoder,
    "text_mlm": TextMLM,
    "tower": Tower,
    "tripartite": Tripartite,
}

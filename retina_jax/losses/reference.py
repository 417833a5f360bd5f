"""Losses that draw the text of one stream towards a reference built from another."""

from __future__ import annotations

import jax.numpy as jnp

from retina_jax.types import Array, Scalar


def text_revision(text: Array, reference: Array) -> Scalar:
    """Mean squared difference over all entries, without stopping the gradient on either side.

    KeepFIT's image-similarity-guided text revision (KeepFIT-CFP keepfit/modeling/model.py:453).
    The mean runs over B * D entries: at D = 512 the published weight of 100 is 0.195 times the
    mean squared Euclidean distance.

    Args:
      text: f[B D], unit text embeddings of the public stream.
      reference: f[B D], what the attention over the expert stream returns; not normalised.

    Returns:
      f32[].
    """
    return jnp.mean(jnp.square(text.astype(jnp.float32) - reference.astype(jnp.float32)))

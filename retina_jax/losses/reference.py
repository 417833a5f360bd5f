"""Losses that draw the text of one stream towards a reference built from another."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from retina_jax.losses.contrastive import full_float
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
      f32[], or f64[] where one of them is.
    """
    text, reference = full_float(text, reference)
    return jnp.mean(jnp.square(text - reference))


def cosine_revision(text: Array, reference: Array) -> Scalar:
    """Mean of one minus the cosine: the direction of the reference counts, not its length.

    Args:
      text: f[B D].
      reference: f[B D]; a row of zeros has no direction: its cosine is 0, with zero gradient.

    Returns:
      f32[], or f64[] where one of them is, in [0, 2].
    """
    return jnp.mean(1.0 - jnp.sum(_unit(text) * _unit(reference), axis=-1))


def _unit(x: Array) -> Array:
    (x,) = full_float(x)
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    directed = squares > 1e-24
    return jnp.where(directed, x * jax.lax.rsqrt(jnp.where(directed, squares, 1.0)), 0.0)

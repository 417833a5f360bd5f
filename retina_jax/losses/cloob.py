"""CLOOB: InfoLOOB between embeddings retrieved from a modern Hopfield network."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from retina_jax.losses.contrastive import check_negatives, full_float, infoloob, similarity
from retina_jax.types import Array, Scalar


def lengths(x: Array) -> Array:
    """Euclidean lengths of rows, f[N 1].

    The published code divides by the bare length. A retrieved row is near zero where the memory
    cancels, so a number too small to matter elsewhere is added under the root.
    """
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)


def unit_rows(x: Array) -> Array:
    """Rows over their lengths, f[N D]."""
    return x / lengths(x)


def retrieve(state: Array, memory: Array, beta: Array | float) -> Array:
    """One update of a modern Hopfield network, and its rows made unit rows again.

    rownorm(softmax(beta state memory^T) memory), without projections, layer norm or dropout
    (CLOOB, src/training/methods.py:38-51). The equations of the paper lack the last norm.

    Args:
      state: f[N D], unit rows.
      memory: f[M D], unit rows.
      beta: f32[], the inverse temperature.

    Returns:
      f32[N D], unit rows.
    """
    state, memory, beta = full_float(state, memory, beta)
    weights = jax.nn.softmax(beta * similarity(state, memory), axis=-1)
    return unit_rows(jnp.matmul(weights, memory, precision=jax.lax.Precision.HIGHEST))


def cloob(a: Array, b: Array, inv_tau: Array | float, beta: Array | float) -> Scalar:
    """The CLOOB loss (Fuerst et al. 2022, arXiv 2110.11316), as its published code computes it.

    LOOB(H(a, a), H(b, a)) + LOOB(H(b, b), H(a, b)), H(state, memory) as in `retrieve`: each term
    compares within what one modality remembers. The batch is the memory, every row included. The
    two terms are added, not averaged, and each is multiplied by tau (see `contrastive.infoloob`).

    Args:
      a: f[N D], unit rows; row i belongs to row i of `b`.
      b: f[N D], unit rows.
      inv_tau: f32[], the inverse temperature of InfoLOOB; 30 in the published recipe, fixed.
      beta: f32[], the inverse temperature of the retrieval; 8 in the published recipe, fixed.

    Returns:
      f32[].

    Raises:
      InputError: while tracing, for fewer than two rows.
    """
    check_negatives(a)
    first = infoloob(retrieve(a, a, beta), retrieve(b, a, beta), inv_tau)
    return first + infoloob(retrieve(b, b, beta), retrieve(a, b, beta), inv_tau)

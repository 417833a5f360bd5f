"""Losses of predicted tokens."""

# A library that states none of its types, or only a part:
# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from retina_jax.types import Array, Scalar


def masked_token_cross_entropy(
    logits: Array, targets: Array, mask: Array, smoothing: float = 0.0
) -> Scalar:
    """Mean negative log likelihood of the tokens at the positions of `mask`.

    Args:
      logits: f[B L V].
      targets: i32[B L], the right tokens, in [0, V).
      mask: bool[B L], the positions that count.
      smoothing: share of the target that is spread evenly over the vocabulary (Szegedy et al.
        2016).

    Returns:
      f32[], the mean over all positions of the batch that count (not a mean of means by row);
      0, with zero gradient, when none does.
    """
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if smoothing:
        even = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
        losses = (1.0 - smoothing) * losses + smoothing * even
    return jnp.where(mask, losses, 0.0).sum() / jnp.maximum(mask.sum(), 1).astype(jnp.float32)

"""Losses of predicted tokens."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from retina_jax.types import Array, Scalar


def masked_token_cross_entropy(logits: Array, targets: Array, mask: Array) -> Scalar:
    """Mean negative log likelihood of the tokens at the positions of `mask`.

    Args:
      logits: f[B L V].
      targets: i32[B L], the right tokens, in [0, V).
      mask: bool[B L], the positions that count.

    Returns:
      f32[], the mean over all positions of the batch that count (not a mean of means by row);
      0, with zero gradient, when none does.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)
    return jnp.where(mask, losses, 0.0).sum() / jnp.maximum(mask.sum(), 1).astype(jnp.float32)

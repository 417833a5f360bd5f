"""Loss of predicted pixels."""

from __future__ import annotations

import jax.numpy as jnp

from retina_jax.types import Array, Scalar


def squared_error(
    predicted: Array, target: Array, counted: Array | None = None, *, per: str = "pixel"
) -> Scalar:
    """Squared difference of patches.

    Args:
      predicted: f[B P N].
      target: f[B P N].
      counted: bool[B P], the patches that count; None for all.
      per: 'pixel' for the mean over all values that count, 'image' for their sum in each picture
        and the mean over pictures (SKKU, eq. 4 as it is written).

    Returns:
      f32[]; 0, with zero gradient, where nothing counts.
    """
    squares = jnp.square(predicted.astype(jnp.float32) - target.astype(jnp.float32))
    if counted is not None:
        squares = jnp.where(counted[..., None], squares, 0.0)
    if per == "image":
        return squares.sum() / len(squares)
    values = squares.size if counted is None else counted.sum() * squares.shape[-1]
    return squares.sum() / jnp.maximum(values, 1)

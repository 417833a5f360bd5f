"""Contrastive losses between two sets of unit embeddings."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from retina_jax.types import Array, Scalar


def similarity(a: Array, b: Array) -> Array:
    """Inner products of all pairs, in float32 at the highest precision.

    The logits of a contrastive loss reach 100, where neighbouring bfloat16 numbers are 0.5 apart:
    a product in less than float32 would decide which pair wins by rounding.

    Args:
      a: f[N D].
      b: f[M D].

    Returns:
      f32[N M].
    """
    return jnp.matmul(
        a.astype(jnp.float32), b.astype(jnp.float32).T, precision=jax.lax.Precision.HIGHEST
    )


def group_targets(groups: Array) -> Array:
    """Soft targets that spread each row evenly over the members of its group.

    FLAIR's categorical target, Y_ij = [g_i = g_j] / sum_k [g_i = g_k]. Equality is an equivalence
    relation, so Y is symmetric and serves both directions of the loss.

    Args:
      groups: i32[N], equal ids mean the same class or the same caption.

    Returns:
      f32[N N], rows sum to one.
    """
    same = (groups[:, None] == groups[None, :]).astype(jnp.float32)
    return same / same.sum(axis=-1, keepdims=True)


def _cross_entropy(logits: Array, targets: Array | None) -> Scalar:
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    if targets is None:
        return -jnp.mean(jnp.diagonal(log_probability))
    return -jnp.mean(jnp.sum(targets * log_probability, axis=-1))


def softmax(a: Array, b: Array, scale: Array | float, targets: Array | None = None) -> Scalar:
    """The symmetric softmax (CLIP, InfoNCE) loss with hard or soft targets.

    1/2 [CE(L, Y) + CE(L^T, Y)] with L = scale a b^T and CE(L, Y) the mean over rows of
    -sum_j Y_ij log softmax_j(L_i) (FLAIR, flair/modeling/model.py:95-107; Y = I is CLIP).

    Args:
      a: f[N D], unit rows; row i belongs to row i of `b`.
      b: f[N D], unit rows.
      scale: f32[], the inverse temperature.
      targets: f32[N N] with rows that sum to one, or None for the identity.

    Returns:
      f32[].
    """
    logits = jnp.asarray(scale, jnp.float32) * similarity(a, b)
    if targets is not None:
        targets = targets.astype(jnp.float32)
    return 0.5 * (_cross_entropy(logits, targets) + _cross_entropy(logits.T, targets))


def top1_accuracy(a: Array, b: Array, targets: Array | None = None) -> Scalar:
    """Share of rows of `a` whose most similar row of `b` is a right answer.

    Args:
      a: f[N D].
      b: f[N D].
      targets: f32[N N], positive where an answer is right, or None for the identity.

    Returns:
      f32[] in [0, 1]. Of several equally similar answers each counts in proportion, so equal
      embeddings score chance instead of the luck of their order.
    """
    scores = similarity(a, b)
    best = (scores == scores.max(axis=-1, keepdims=True)).astype(jnp.float32)
    right = jnp.eye(scores.shape[0]) if targets is None else (targets > 0).astype(jnp.float32)
    return jnp.mean(jnp.sum(best * right, axis=-1) / jnp.maximum(best.sum(axis=-1), 1.0))

"""Contrastive losses between two sets of unit embeddings."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.types import Array, Scalar


def full_float(*arrays: Array | float) -> tuple[Array, ...]:
    """The arrays in float32, or in float64 where one of them is."""
    dtype = jnp.result_type(jnp.float32, *arrays)
    return tuple(jnp.asarray(x, dtype) for x in arrays)


def similarity(a: Array, b: Array) -> Array:
    """Inner products of all pairs, in at least float32 at the highest precision.

    The logits of a contrastive loss reach 100, where neighbouring bfloat16 numbers are 0.5 apart:
    a product in less than float32 would decide which pair wins by rounding.

    Args:
      a: f[N D].
      b: f[M D].

    Returns:
      f32[N M].
    """
    a, b = full_float(a, b)
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def group_targets(groups: Array, mask: Array | None = None) -> Array:
    """Soft targets that spread each row evenly over the members of its group.

    FLAIR's categorical target, Y_ij = [g_i = g_j] / sum_k [g_i = g_k]. Equality is an equivalence
    relation, so Y is symmetric and serves both directions of the loss.

    Args:
      groups: i32[N], equal ids mean the same class or the same caption.
      mask: bool[N], the rows that are pairs; None for all.

    Returns:
      f32[N N], rows sum to one, or to zero where a group has no pair.
    """
    same = groups[:, None] == groups[None, :]
    if mask is not None:
        same &= mask
    return same / jnp.maximum(same.sum(axis=-1, keepdims=True), 1)


def _cross_entropy(logits: Array, targets: Array | None, mask: Array | None) -> Scalar:
    if mask is not None:  # finite, since minus infinity times a target of zero is not zero
        logits = jnp.where(mask, logits, -1e30)
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    if targets is None:
        losses = -jnp.diagonal(log_probability)
    else:
        losses = -jnp.sum(targets * log_probability, axis=-1)
    if mask is None:
        return jnp.mean(losses)
    return jnp.where(mask, losses, 0).sum() / jnp.maximum(mask.sum(), 1)


def softmax(
    a: Array, b: Array, scale: Array | float, targets: Array | None = None,
    mask: Array | None = None, *, symmetric: bool = True,
) -> Scalar:  # fmt: skip
    """The softmax (CLIP, InfoNCE) loss with hard or soft targets.

    1/2 [CE(L, Y) + CE(L^T, Y)] with L = scale a b^T and CE(L, Y) the mean over rows of
    -sum_j Y_ij log softmax_j(L_i) (FLAIR, flair/modeling/model.py:95-107; Y = I is CLIP).

    Args:
      a: f[N D], unit rows; row i belongs to row i of `b`.
      b: f[N D], unit rows.
      scale: f32[], the inverse temperature.
      targets: f32[N N] with rows that sum to one, or None for the identity.
      mask: bool[N], the rows that are pairs; the others count as if they were not there.
      symmetric: False leaves out CE(L^T, Y): each row of `a` chooses among `b`, not the reverse.

    Returns:
      f32[], zero without a pair.
    """
    a, b, scale = full_float(a, b, scale)
    logits = scale * similarity(a, b)
    if targets is not None:
        targets = targets.astype(logits.dtype)
    if not symmetric:
        return _cross_entropy(logits, targets, mask)
    return 0.5 * (_cross_entropy(logits, targets, mask) + _cross_entropy(logits.T, targets, mask))


def sigmoid(
    a: Array, b: Array, scale: Array | float, bias: Array | float, positives: Array | None = None,
    mask: Array | None = None,
) -> Scalar:  # fmt: skip
    """The pairwise sigmoid loss (SigLIP, Zhai et al. 2023, arXiv 2303.15343, algorithm 1).

    -1/N sum_ij log sigmoid(z_ij (scale a_i . b_j + bias)), z = 1 for positives and -1 elsewhere:
    the sum over all pairs is divided by the rows, not by the pairs.

    Args:
      a: f[N D], unit rows; row i belongs to row i of `b`.
      b: f[N D], unit rows.
      scale: f32[], the inverse temperature.
      bias: f32[]; the published first values are 10 for the scale and -10 for the bias.
      positives: bool[N N], or None for the identity.
      mask: bool[N], the rows that are pairs; the others count as if they were not there.

    Returns:
      f32[], zero without a pair.
    """
    a, b, scale, bias = full_float(a, b, scale, bias)
    logits = scale * similarity(a, b) + bias
    positives = jnp.eye(len(a), dtype=bool) if positives is None else positives
    losses = jax.nn.softplus(jnp.where(positives, -logits, logits))
    if mask is None:
        return losses.sum() / len(a)
    return jnp.where(mask[:, None] & mask, losses, 0).sum() / jnp.maximum(mask.sum(), 1)


def check_negatives(rows: Array) -> None:
    """Raises InputError for a single row, whose InfoLOOB has nothing to compare it with."""
    if len(rows) < 2:
        raise InputError(
            "InfoLOOB compares each row with the other ones, and this batch has only one row; "
            "raise batch_size or local_negatives to at least 2."
        )


def infoloob(anchors: Array, samples: Array, inv_tau: Array | float) -> Scalar:
    """InfoLOOB, whose log-sum-exp leaves the positive out (CLOOB, src/training/methods.py:5-24).

    tau/N sum_i [-k_ii + log sum_{j != i} exp k_ij] with k = anchors samples^T / tau. The factor
    tau makes gradients with respect to cosines independent of tau; the N - 1 of the bound is left
    out. The value may be negative.

    A learned tau is degenerate: the derivative of this loss with respect to tau is an entropy,
    never negative, so that training only ever lowers tau, to its bound.

    Args:
      anchors: f[N D], unit rows; row i belongs to row i of `samples`.
      samples: f[N D], unit rows.
      inv_tau: f32[], 1 / tau.

    Returns:
      f32[].

    Raises:
      InputError: while tracing, for fewer than two rows.
    """
    check_negatives(anchors)
    anchors, samples, inv_tau = full_float(anchors, samples, inv_tau)
    logits = inv_tau * similarity(anchors, samples)
    others = jnp.where(jnp.eye(len(logits), dtype=bool), -jnp.inf, logits)
    losses = jax.nn.logsumexp(others, axis=-1) - jnp.diagonal(logits)
    return jnp.mean(losses) / inv_tau


def local(loss: Callable[..., Scalar], rows: int, *arrays: Array | None) -> Scalar:
    """The mean of a loss over consecutive groups of rows, which do not see each other.

    Published code that gathers no embeddings has as negatives only the rows of one device, and
    averages gradients over devices: this is that loss, on any number of devices.

    Args:
      loss: a function of `arrays`, or of a group of their rows.
      rows: rows of a group, the batch of one device in the published run.
      *arrays: [N ...], or None, which every group is given.

    Returns:
      f32[].

    Raises:
      InputError: while tracing, if the groups do not divide the N rows.
    """
    count = len(jax.tree.leaves(arrays)[0])
    if rows < 1 or count % rows:
        raise InputError(
            f"local_negatives is {rows}, which does not divide the batch of {count} rows."
        )

    def grouped(x: Array) -> Array:
        return x.reshape(-1, rows, *x.shape[1:])

    return jnp.mean(jax.vmap(loss)(*jax.tree.map(grouped, arrays)))

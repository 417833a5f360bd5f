"""Losses of class scores: one class of each part, classes in order, or several labels a record."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from retina_jax.types import Array, Scalar


def one_hot(labels: Array, classes: int) -> Array:
    """Targets of class indices.

    Args:
      labels: i32[B], in [0, classes), or -1 for a record without a class.
      classes: number of classes C.

    Returns:
      f32[B C], zero for a record without a class. The row of an index that is none of the classes
      is infinite, so that its loss is NaN rather than forgotten.
    """
    targets = jax.nn.one_hot(labels, classes)
    return jnp.where(jnp.asarray(labels)[:, None] >= classes, jnp.inf, targets)


def softmax(
    logits: Array,
    targets: Array,
    parts: Sequence[int],
    *,
    ordered: Sequence[int] = (),
    smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    focal: float = 0.0,
    shares: Sequence[float] | None = None,
) -> tuple[Array, Array]:
    """Cross-entropy of the classes of each part, which exclude each other.

    A part is a task of its own, such as the grades of one data set: only its classes are compared
    with each other, and a record without a target in it does not count there. Several classes of a
    part that a record has share its target evenly.

    Of a part whose classes are in order the loss is the sum of the K - 1 binary cross-entropies of
    "above class k" (Niu et al., CVPR 2016; CORAL, Cao, Mirjalili and Raschka 2020,
    arXiv:1901.07884, eq. 4). CORAL makes the K - 1 probabilities decrease by one map that they
    share; here they are sums of the softmax of K scores, which cannot cross either, so that scores
    of classes stay what they are for the part's head, its accuracy and its calibration.

    Args:
      logits: f[B C], scores of the classes of all parts, one part after the other.
      targets: f[B C], 1 or a share at the classes that a record has; NaN counts as 0.
      parts: number of classes of each part; they add up to C.
      ordered: indices of the parts whose classes are in order.
      smoothing: share of the target that is spread within the part: evenly over its classes
        (Szegedy et al. 2016), or over the one or two next to it where they are in order.
      class_weights: C factors; a record's is that of its class. None for 1.
      focal: the gamma of (1 - p)^gamma, a factor of the loss, with the probability p of the class
        (Lin et al. 2017, arXiv:1708.02002, eq. 4); not of classes in order.
      shares: C shares of the classes in training, above 0, whose logarithms are added to the
        scores: these then suit classes that are equally frequent (Menon et al. 2021,
        arXiv:2007.07314, eq. 10). None adds nothing.

    Returns:
      losses f32[B P], and weights f32[B P], which are 0 where a record is not of the part.
    """
    targets = jnp.asarray(targets, jnp.float32)
    targets = jnp.where(jnp.isnan(targets), 0.0, targets)
    ends = list(itertools.accumulate(parts))[:-1]
    adjusted = logits.astype(jnp.float32) + jnp.log(_factors(shares, logits.shape[-1]))
    columns = zip(
        jnp.split(adjusted, ends, axis=-1),
        jnp.split(targets, ends, axis=-1),
        jnp.split(_factors(class_weights, logits.shape[-1]), ends),
        strict=True,
    )
    losses, weights = [], []
    for part, (scores, target, factors) in enumerate(columns):
        total = target.sum(axis=-1, keepdims=True)
        target = target / jnp.where(total > 0, total, 1.0)
        in_order = part in ordered
        loss = _above_each_class if in_order else optax.softmax_cross_entropy
        factor = 1.0 if in_order else _doubt(scores, target, focal)
        losses.append(factor * loss(scores, _smoothed(target, smoothing, in_order)))
        weights.append((target * factors).sum(axis=-1))
    return jnp.stack(losses, axis=-1), jnp.stack(weights, axis=-1)


def sigmoid(
    logits: Array,
    targets: Array,
    *,
    smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    focal: float = 0.0,
) -> tuple[Array, Array]:
    """Binary cross-entropy of labels of which a record may have any number.

    Args:
      logits: f[B C].
      targets: f[B C], in [0, 1]; NaN where nobody said whether the record has the label.
      smoothing: share of each target that is spread evenly over "yes" and "no".
      class_weights: C factors of the records that have a label; others count once. None for 1.
      focal: the gamma of the focal loss, see `softmax`; p is the probability of what is so.

    Returns:
      losses f32[B C], and weights f32[B C], which are 0 where a target is missing.
    """
    targets = jnp.asarray(targets, jnp.float32)
    missing = jnp.isnan(targets)
    known = jnp.where(missing, 0.0, targets)
    factors = _factors(class_weights, logits.shape[-1])
    weights = jnp.where(missing, 0.0, 1.0 + (factors - 1.0) * known)
    smooth = known * (1.0 - smoothing) + smoothing / 2
    scores = logits.astype(jnp.float32)
    if focal:
        return optax.losses.sigmoid_focal_loss(scores, smooth, gamma=focal), weights
    return optax.sigmoid_binary_cross_entropy(scores, smooth), weights


def weighted_mean(losses: Array, weights: Array) -> Scalar:
    """Mean of losses f32[...] with weights f32[...]: 0, with zero gradient, where none counts."""
    total = weights.sum()
    return (losses * weights).sum() / jnp.where(total > 0, total, 1.0)


def _factors(class_weights: Sequence[float] | None, classes: int) -> Array:
    if class_weights is None:
        return jnp.ones(classes, jnp.float32)
    return jnp.asarray(class_weights, jnp.float32)


def _doubt(scores: Array, target: Array, gamma: float) -> Array | float:
    """(1 - p)^gamma of the probability p of the target, f32[B]; 1 without a gamma."""
    if not gamma:
        return 1.0
    likely = (target * jax.nn.softmax(scores)).sum(axis=-1)
    return (1.0 - jnp.minimum(likely, 1.0)) ** gamma


def _smoothed(target: Array, share: float, in_order: bool) -> Array:
    """Targets f32[B K] with a share given to the other classes; sums stay as they are."""
    classes = target.shape[-1]
    places = np.arange(classes)
    spread = np.ones((classes, classes), np.float32)
    if in_order and classes > 1:
        spread = (np.abs(places[:, None] - places) == 1).astype(np.float32)
    spread /= spread.sum(axis=-1, keepdims=True)
    # Accelerators multiply matrices in less than float32 unless they are told not to.
    given = jnp.matmul(target, spread, precision=jax.lax.Precision.HIGHEST)
    return (1.0 - share) * target + share * given


def _above_each_class(scores: Array, target: Array) -> Array:
    """Sum of the losses of "above class k" for all but the last class, f32[B]."""
    up_to = jax.lax.cumlogsumexp(scores, axis=1)[:, :-1]
    above = jax.lax.cumlogsumexp(scores, axis=1, reverse=True)[:, 1:]
    share_above = jax.lax.cumsum(target, axis=1, reverse=True)[:, 1:]
    return optax.sigmoid_binary_cross_entropy(above - up_to, share_above).sum(axis=-1)

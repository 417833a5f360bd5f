"""Contrastive losses in memory linear in the batch: no N x N matrix is ever whole.

The values and gradients are those of `losses.contrastive` and `losses.cloob`. A tile of logits is
made, used and forgotten: the forward sweep keeps a running log-sum-exp of each row and column, the
backward sweep makes the same tiles again (Inf-CL, arXiv 2410.17243; a Hopfield retrieval is
attention whose keys and values are the embeddings, so FlashAttention, arXiv 2205.14135, applies).
The derivatives are written out: differentiating a scan with checkpoints costs half as much again.
Where the batch is split over devices, so is the work (see `tiles`).
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from retina_jax.losses.cloob import lengths, unit_rows
from retina_jax.losses.contrastive import check_negatives, full_float, similarity
from retina_jax.losses.tiles import TilePlan, Tree, plan, sweep
from retina_jax.types import Array, Scalar

# The first running maximum: finite, since infinities of which one is subtracted give NaN.
_LOWEST = -1e30

Value = TypeVar("Value")


def softmax(
    a: Array, b: Array, scale: Array | float, groups: Array | None = None,
    mask: Array | None = None, *, symmetric: bool = True, tile: int = 1024,
) -> Scalar:  # fmt: skip
    """`contrastive.softmax`, whose targets are the identity or those of `group_targets`.

    Args:
      a, b, scale, mask, symmetric: the same as in `contrastive.softmax`.
      groups: i32[N], rows with equal ids are positives of each other; None for the identity.
      tile: most rows and columns of a tile.

    Returns:
      f32[].

    Raises:
      InputError: for a tile below 1, or rows that do not divide over the devices.
    """
    how = plan(tile, a)
    a, b, scale = full_float(a, b, scale)
    total = _log_ratios(a, b, scale, *_positives(a, groups, mask), False, symmetric, how)
    return total / ((2 if symmetric else 1) * _count(a, mask))


def infoloob(
    anchors: Array, samples: Array, inv_tau: Array | float, *, both: bool = False, tile: int = 1024
) -> Scalar:
    """`contrastive.infoloob`.

    Args:
      anchors, samples, inv_tau: the same as in `contrastive.infoloob`.
      both: whether to add the loss with samples and anchors exchanged, whose logits are the same.
      tile: most rows and columns of a tile.

    Returns:
      f32[].

    Raises:
      InputError: for fewer than two rows, a tile below 1, or rows that do not divide over the
        devices.
    """
    check_negatives(anchors)
    how = plan(tile, anchors)
    a, b, inv_tau = full_float(anchors, samples, inv_tau)
    total = _log_ratios(a, b, inv_tau, *_positives(a, None, None), True, both, how)
    return total / (len(anchors) * inv_tau)


def sigmoid(
    a: Array, b: Array, scale: Array | float, bias: Array | float, groups: Array | None = None,
    mask: Array | None = None, *, tile: int = 1024,
) -> Scalar:  # fmt: skip
    """`contrastive.sigmoid`.

    Args:
      a, b, scale, bias, mask: the same as in `contrastive.sigmoid`.
      groups: i32[N], rows with equal ids are positives of each other; None for the identity.
      tile: most rows and columns of a tile.

    Returns:
      f32[].

    Raises:
      InputError: for a tile below 1, or rows that do not divide over the devices.
    """
    how = plan(tile, a)
    a, b, scale, bias = full_float(a, b, scale, bias)
    ids, _, real = _positives(a, groups, mask)
    return _pairwise(a, b, scale, bias, ids, real, how) / _count(a, mask)


def cloob(
    a: Array, b: Array, inv_tau: Array | float, beta: Array | float, *, tile: int = 1024
) -> Scalar:
    """`cloob.cloob`, with its retrievals.

    Args:
      a, b, inv_tau, beta: the same as in `cloob.cloob`.
      tile: most rows and columns of a tile.

    Returns:
      f32[].

    Raises:
      InputError: for fewer than two rows, a tile below 1, or rows that do not divide over the
        devices.
    """
    check_negatives(a)
    how = plan(tile, a)
    a, b, beta = full_float(a, b, beta)
    a_in_a, b_in_b = (_retrieve(x, x, beta, False, how)[0] for x in (a, b))
    a_in_b, b_in_a = _retrieve(a, b, beta, True, how)
    return infoloob(a_in_a, b_in_a, inv_tau, tile=tile) + infoloob(
        b_in_b, a_in_b, inv_tau, tile=tile
    )


def _with_derivative(
    forward: Callable[..., tuple[Value, Tree]], backward: Callable[..., tuple[Array | None, ...]],
    static: tuple[int, ...],
) -> Callable[..., Value]:  # fmt: skip
    """The first result of `forward`, with a derivative that is written out.

    Args:
      forward: gives the value, and what `backward` needs besides the gradient of the value.
      backward: gives the gradients of the arguments that are not static.
      static: places of the arguments that are not arrays.
    """

    def value(*arguments: Tree) -> Value:
        return forward(*arguments)[0]

    function: Any = jax.custom_vjp(value, nondiff_argnums=static)
    function.defvjp(forward, backward)
    return function


def _count(a: Array, mask: Array | None) -> Array | int:
    return len(a) if mask is None else jnp.maximum(mask.sum(), 1)


def _positives(a: Array, groups: Array | None, mask: Array | None) -> tuple[Array, Array, Array]:
    """i32[N], equal for positives of each other; f32[N], 1 / how many a row has; the mask."""
    real = jnp.ones(len(a), bool) if mask is None else mask
    if groups is None:
        return jnp.arange(len(a)), real.astype(a.dtype), real
    order = jnp.argsort(groups)
    seen = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(real[order], dtype=jnp.int32)])
    first, last = (jnp.searchsorted(groups[order], groups, side=s) for s in ("left", "right"))
    count = jnp.maximum(seen[last] - seen[first], 1)
    return groups, real / count.astype(a.dtype), real


def _equal(rows: Array, columns: Array) -> Array:
    return rows[:, None] == columns[None, :]


def _running_sum(
    state: tuple[Array, Array], logits: Array, axis: int
) -> tuple[tuple[Array, Array], Array, Array]:
    """A running maximum and the sum of exponentials below it, with the logits of a tile."""
    highest, total = state
    new = jnp.maximum(highest, logits.max(axis))
    shifted = jnp.exp(logits - jnp.expand_dims(new, axis))
    rescale = jnp.exp(highest - new)
    return (new, rescale * total + shifted.sum(axis)), shifted, rescale


def _start(x: Array) -> tuple[Array, Array]:
    """The state of `_running_sum` before any tile."""
    return jnp.full(len(x), _LOWEST, x.dtype), jnp.zeros(len(x), x.dtype)


def _log_ratios_forward(
    a: Array, b: Array, scale: Array, ids: Array, weights: Array, real: Array,
    exclude: bool, both: bool, how: TilePlan,
) -> tuple[Scalar, Tree]:  # fmt: skip
    """Sum over real rows of log sum_j exp(L_ij) - sum_j Y_ij L_ij, with L = scale a b^T.

    j goes over the real rows of `b`. Y_ij is `weights[i]` where the ids are equal, else 0.

    Args:
      exclude: whether positives are left out of the log-sum-exp.
      both: whether the columns' sum is added.
    """

    def tile_fn(rows: Tree, columns: Tree, mine: Tree, theirs: Tree, scale: Array) -> Tree:
        (a, ids_a, real_a), (b, ids_b, real_b) = rows, columns
        logits, same = scale * similarity(a, b), _equal(ids_a, ids_b)
        state, positive = mine
        positive = positive + jnp.where(same & real_b, logits, 0).sum(1)
        rivals = jnp.where(same, -jnp.inf, logits) if exclude else logits
        mine = _running_sum(state, jnp.where(real_b, rivals, -jnp.inf), 1)[0], positive
        if both:
            rivals = jnp.where(real_a[:, None], rivals, -jnp.inf)
            theirs = _running_sum(theirs, rivals, 0)[0]
        return mine, theirs

    (row, positive), column = sweep(
        tile_fn, (a, ids, real), (b, ids, real), (_start(a), _start(a)[1]),
        _start(b) if both else (), scale, how,
    )  # fmt: skip
    row, column = ((x[0], jnp.log(x[1])) if x else () for x in (row, column))
    # Near its limit a loss is the small difference of large logits: they are subtracted first.
    losses = (x[0] - weights * positive + x[1] for x in (row, column) if x)
    value = jnp.asarray(sum(jnp.where(real, x, 0).sum() for x in losses))
    return value, (a, b, scale, ids, weights, real, row, column)


def _log_ratios_backward(
    exclude: bool, both: bool, how: TilePlan, residuals: Tree, gradient: Scalar
) -> tuple[Array | None, ...]:
    a, b, scale, ids, weights, real, row, column = residuals

    def tile_fn(rows: Tree, columns: Tree, da: Array, db: Array, scale: Array) -> Tree:
        (a, ids_a, real_a, weight, row), (b, ids_b, real_b, column) = rows, columns
        logits, same = scale * similarity(a, b), _equal(ids_a, ids_b)
        g = jnp.exp(logits - row[0][:, None] - row[1][:, None])
        if both:
            g = g + jnp.exp(logits - column[0] - column[1])
        target = (2 if both else 1) * weight[:, None]
        g = jnp.where(same, -target if exclude else g - target, g)
        g = jnp.where(real_a[:, None] & real_b, g, 0)
        return da + _product(g, b), db + _product(g.T, a)

    da, db = sweep(
        tile_fn, (a, ids, real, weights, row), (b, ids, real, column),
        jnp.zeros_like(a), jnp.zeros_like(b), scale, how,
    )  # fmt: skip
    dscale = gradient * jnp.vdot(a, da, precision=jax.lax.Precision.HIGHEST)
    return gradient * scale * da, gradient * scale * db, dscale, None, None, None


_log_ratios = _with_derivative(_log_ratios_forward, _log_ratios_backward, (6, 7, 8))


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _signed(rows: Tree, columns: Tree, scalars: Tree) -> tuple[Array, Array, Array]:
    """Logits, 1 where a pair is positive and -1 elsewhere, and the pairs that are real."""
    (a, ids_a, real_a), (b, ids_b, real_b), (scale, bias) = rows, columns, scalars
    sign = jnp.where(_equal(ids_a, ids_b), 1.0, -1.0).astype(a.dtype)
    return scale * similarity(a, b) + bias, sign, real_a[:, None] & real_b


def _pairwise_forward(
    a: Array, b: Array, scale: Array, bias: Array, ids: Array, real: Array, how: TilePlan
) -> tuple[Scalar, Tree]:
    """Sum over real pairs of -log sigmoid(+-(scale a b^T + bias)), + where the ids are equal."""

    def tile_fn(rows: Tree, columns: Tree, mine: Array, theirs: Tree, scalars: Tree) -> Tree:
        logits, sign, real = _signed(rows, columns, scalars)
        return mine + jnp.where(real, jax.nn.softplus(-sign * logits), 0).sum(1), theirs

    rows, _ = sweep(tile_fn, (a, ids, real), (b, ids, real), _start(a)[1], (), (scale, bias), how)
    return rows.sum(), (a, b, scale, bias, ids, real)


def _pairwise_backward(
    how: TilePlan, residuals: Tree, gradient: Scalar
) -> tuple[Array | None, ...]:
    a, b, scale, bias, ids, real = residuals

    def tile_fn(rows: Tree, columns: Tree, mine: Tree, db: Array, scalars: Tree) -> Tree:
        logits, sign, real = _signed(rows, columns, scalars)
        g = jnp.where(real, -sign * jax.nn.sigmoid(-sign * logits), 0)
        da, total = mine
        return (da + _product(g, columns[0]), total + g.sum(1)), db + _product(g.T, rows[0])

    (da, total), db = sweep(
        tile_fn, (a, ids, real), (b, ids, real), (jnp.zeros_like(a), _start(a)[1]),
        jnp.zeros_like(b), (scale, bias), how,
    )  # fmt: skip
    dscale = gradient * jnp.vdot(a, da, precision=jax.lax.Precision.HIGHEST)
    return gradient * scale * da, gradient * scale * db, dscale, gradient * total.sum(), None, None


_pairwise = _with_derivative(_pairwise_forward, _pairwise_backward, (6,))


def _retrieve_forward(
    x: Array, y: Array, beta: Array, both: bool, how: TilePlan
) -> tuple[tuple[Array, ...], Tree]:
    """Unit rows of softmax(beta x y^T) y and, if `both`, those of softmax(beta y x^T) x.

    The logits of the second are those of the first, turned: one tile serves both.
    """

    def recall(state: Tree, logits: Array, memory: Array, axis: int) -> Tree:
        state, sums = state
        state, weights, rescale = _running_sum(state, logits, axis)
        found = _product(weights if axis else weights.T, memory)
        return state, rescale[:, None] * sums + found

    def tile_fn(rows: Tree, columns: Tree, mine: Tree, theirs: Tree, beta: Array) -> Tree:
        (x, real_x), (y, real_y) = rows, columns
        logits = beta * similarity(x, y)
        mine = recall(mine, jnp.where(real_y, logits, -jnp.inf), y, 1)
        if both:
            theirs = recall(theirs, jnp.where(real_x[:, None], logits, -jnp.inf), x, 0)
        return mine, theirs

    real = jnp.ones(len(x), bool)
    row, column = ((_start(z), jnp.zeros_like(z)) for z in (x, y))
    states = sweep(tile_fn, (x, real), (y, real), row, column if both else (), beta, how)
    units: list[Array] = []
    kept: list[Tree] = []
    for (highest, total), sums in filter(None, states):
        found = sums / total[:, None]
        units.append(unit_rows(found))
        kept.append((units[-1], lengths(found), highest + jnp.log(total)))
    return tuple(units), (x, y, beta, tuple(kept))


def _retrieve_backward(
    both: bool, how: TilePlan, residuals: Tree, gradients: tuple[Array, ...]
) -> tuple[Array, Array, Array]:
    x, y, beta, kept = residuals
    sides: list[Tree] = []
    for d, (unit, length, log) in zip(gradients, kept, strict=True):
        d = (d - (d * unit).sum(1, keepdims=True) * unit) / length
        sides.append((d, log, (d * unit * length).sum(1)))

    def tile_fn(rows: Tree, columns: Tree, mine: Tree, dy: Array, beta: Array) -> Tree:
        (x, (d_row, log, inner)), (y, column) = rows, columns
        dx, dbeta = mine
        cosines = similarity(x, y)
        # Logarithms of shares are below 0, except against the zeros that fill up a tile, where
        # they could overflow, and infinity times zero is not zero.
        weights = jnp.exp(jnp.minimum(beta * cosines - log[:, None], 0))
        g = weights * (similarity(d_row, y) - inner[:, None])
        dy = dy + _product(weights.T, d_row)
        if both:
            d_column, log, inner = column
            weights = jnp.exp(jnp.minimum(beta * cosines - log, 0))
            g = g + weights * (similarity(x, d_column) - inner)
            dx = dx + _product(weights, d_column)
        dbeta = dbeta + (g * cosines).sum(1)
        g = beta * g
        return (dx + _product(g, y), dbeta), dy + _product(g.T, x)

    (dx, dbeta), dy = sweep(
        tile_fn, (x, sides[0]), (y, sides[1] if both else ()),
        (jnp.zeros_like(x), _start(x)[1]), jnp.zeros_like(y), beta, how,
    )  # fmt: skip
    return dx, dy, dbeta.sum()


_retrieve = _with_derivative(_retrieve_forward, _retrieve_backward, (3, 4))

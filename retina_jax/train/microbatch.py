"""Batches that do not fit: the model sees a batch in pieces, the loss sees it whole.

Gao et al. 2021 (GradCache, arXiv 2101.06983). Terms are functions of the model's outputs, so the
activations behind the outputs need not be there together: all microbatches go forward and leave
their outputs only, the terms are differentiated with respect to the outputs of the whole batch,
and each microbatch goes forward once more to carry its share of that gradient to the parameters.
Loss and gradient are those of the whole batch. In JAX this is a scan over a rematerialised
function; it costs one more forward pass, and keeps inputs and outputs of the whole batch but the
activations of one microbatch.

What a model has to be: each row of its outputs follows from the same row of the batch, and what
has no rows (a scale) from the parameters alone. A model that mixes rows is split into
`encode(batch, train)`, which does not, and `combine(outputs, train)`, which makes the outputs
of all rows from the encoded ones; its `__call__` is one after the other.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from data_pipelines.errors import InputError
from retina_jax.train import sharding
from retina_jax.train.frozen import Frozen
from retina_jax.types import Batch, Microbatching, ModelState, Outputs, Params, Rng

Forward = Callable[[Params, ModelState, Batch, Rng], tuple[Outputs, ModelState]]

# No width, length or vocabulary is a multiple of it, so an axis that is counts rows.
_ROWS = 10_007
_NOTHING = Frozen()
# How a value inside a model depends on the batch: not at all, row by row, or across rows.
_FREE, _BY_ROW, _MIXED = range(3)


def plan(
    rows: int | None,
    batch_sizes: Mapping[str, int],
    mesh: jax.sharding.Mesh,
    *,
    own_statistics: bool = False,
) -> Microbatching | None:
    """How batches are cut.

    Args:
      rows: the rows of a microbatch, counted over all devices in the largest stream; None for whole
        batches. The other streams are cut into as many pieces.
      batch_sizes: stream -> rows of a global batch.
      mesh: devices; each microbatch is spread over all of them.
      own_statistics: the same as in `Microbatching`.

    Raises:
      InputError: if a stream cannot be cut so that every device has rows of every microbatch.
    """
    if rows is None:
        return None
    largest = max(batch_sizes, key=lambda name: batch_sizes[name])
    if rows < 1 or batch_sizes[largest] % rows:
        raise InputError(
            f"microbatch is {rows}, which does not divide the batch of {batch_sizes[largest]} of "
            f"the stream '{largest}'; choose a divisor of it, or None for whole batches."
        )
    count = batch_sizes[largest] // rows
    for name, size in batch_sizes.items():
        if size % (count * mesh.size):
            raise InputError(
                f"With microbatch={rows} the batch of {size} of the stream '{name}' is cut into "
                f"{count} microbatches over {mesh.size} devices; make it a multiple of "
                f"{count * mesh.size}, or choose another microbatch."
            )
    return Microbatching(count=count, mesh=mesh, own_statistics=own_statistics)


def forward(
    model: nn.Module, microbatching: Microbatching | None, frozen: Frozen = _NOTHING
) -> Forward:
    """The model in training, on a whole batch, at once or in microbatches.

    Rows are dealt out in turn: of `count` microbatches the j-th has the rows j, j + count, ... .
    Each device then cuts its own consecutive rows and sends none, and which rows go together does
    not depend on the number of devices. The randomness of microbatch j is fold_in(rng, j), that of
    `combine` fold_in(rng, count): the same in both passes.

    Args:
      model: a Linen module with `__call__(batch, train)`, or `encode` and `combine` as described
        at the top of this module.
      microbatching: what `plan` returned; None for the batch at once.
      frozen: what is called as in evaluation. Batch statistics that are frozen mix no rows.

    Returns:
      `forward(params, model_state, batch, rng) -> (outputs, model_state)`.

    Raises:
      InputError: while tracing, for a model with batch statistics unless they may be a
        microbatch's own, and for one that mixes rows.
    """
    if microbatching is None:
        return lambda params, state, batch, rng: _apply(model, frozen, params, state, batch, rng)
    count, rows = microbatching.count, sharding.batch_sharding(microbatching.mesh)

    def cut(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x.reshape(-1, count, *x.shape[1:]), rows)

    def join(has_rows: bool, pieces: jax.Array) -> jax.Array:
        if not has_rows:
            return pieces[0]
        whole = jnp.moveaxis(pieces, 0, 1).reshape(-1, *pieces.shape[2:])
        return jax.lax.with_sharding_constraint(whole, rows)

    # Without remembering anything; a scan already keeps its two passes from being merged.
    @partial(jax.checkpoint, prevent_cse=False)
    def encode(
        params: Params, cuts: Batch, rng: Rng, model_state: ModelState, index: jax.Array
    ) -> tuple[ModelState, Outputs]:
        part = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, 1, False), cuts)
        rng = jax.random.fold_in(rng, index)
        out, model_state = _apply(model, frozen, params, model_state, part, rng, _method(model))
        return jax.lax.stop_gradient(model_state), out

    def in_pieces(
        params: Params, model_state: ModelState, batch: Batch, rng: Rng
    ) -> tuple[Outputs, ModelState]:
        has_rows = _has_rows(model, params, model_state, batch, microbatching, frozen)
        cuts = jax.tree.map(cut, batch)
        one = partial(encode, params, cuts, rng)
        model_state, pieces = jax.lax.scan(one, model_state, jnp.arange(count))
        out = jax.tree.map(join, has_rows, pieces)
        if _method(model) == "encode":
            rng = jax.random.fold_in(rng, count)
            return _apply(model, frozen, params, model_state, out, rng, "combine")
        return out, model_state

    return in_pieces


def _method(model: nn.Module) -> str:
    return "encode" if hasattr(model, "combine") else "__call__"


def _apply(
    model: nn.Module,
    frozen: Frozen,
    params: Params,
    model_state: ModelState,
    inputs: Any,
    rng: Rng,
    method: str = "__call__",
    train: bool = True,
) -> tuple[Outputs, ModelState]:
    with frozen.evaluation_mode(params, model_state):
        return model.apply(
            {"params": params, **model_state},
            inputs,
            train=train,
            rngs={"dropout": rng},
            mutable=list(model_state),
            method=method,
        )


def _has_rows(
    model: nn.Module,
    params: Params,
    model_state: ModelState,
    batch: Batch,
    microbatching: Microbatching,
    frozen: Frozen,
) -> Outputs:
    """Which outputs have rows (True) and which are functions of the parameters (False).

    Found by tracing the model on a batch of `_ROWS` rows, and following them through it. A sum or
    a product over rows is seen; what mixes rows in their place, as sorting does, is not.
    """
    moving = frozen.moving(params, model_state)
    if moving and not microbatching.own_statistics:
        raise InputError(
            f"The model keeps {', '.join(sorted(moving))}, which depend on all rows of a "
            "batch, so microbatches cannot equal it; use towers without them (norm='group', or a "
            "'vit'), set statistics_per_microbatch for the approximation, or microbatch to None."
        )
    rng = jax.random.key(0)

    # Statistics are known to mix rows and were asked for; evaluation shows what else does.
    def run(params: Params, model_state: ModelState, batch: Batch) -> Outputs:
        return _apply(
            model, frozen, params, model_state, batch, rng, _method(model), train=not moving
        )[0]

    def shapes(tree: Any, rows: int | None = None) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]) if rows else x.shape, x.dtype), tree
        )

    arguments = shapes(params), shapes(model_state), shapes(batch, _ROWS)
    traced, outputs = jax.make_jaxpr(run, return_shape=True)(*arguments)
    kinds = [_FREE] * len(jax.tree.leaves(arguments[:2])) + [_BY_ROW] * len(jax.tree.leaves(batch))
    leaves, structure = jax.tree_util.tree_flatten_with_path(outputs)
    found = []
    for (path, leaf), kind in zip(leaves, _follow(traced.jaxpr, kinds), strict=True):
        by_row = leaf.shape[:1] == (_ROWS,) and _row_axes(leaf) == 1
        if kind == _MIXED or not by_row and (kind == _BY_ROW or _row_axes(leaf)):
            name = "/".join(str(entry.key) for entry in path)
            raise InputError(
                f"The output '{name}' of {type(model).__name__} is not made row by row, so "
                "microbatches cannot equal the batch; set microbatch to None, or split the model "
                "into 'encode' and 'combine' as train/microbatch.py describes."
            )
        found.append(by_row)
    return jax.tree.unflatten(structure, found)


def _row_axes(value: Any) -> int:
    """How many axes of an array count rows."""
    return sum(size > 0 and size % _ROWS == 0 for size in getattr(value, "shape", ()))


def _follow(jaxpr: Any, kinds: list[int]) -> list[int]:
    """The kinds of the outputs of a traced function, from those of its inputs."""
    known = dict(zip(jaxpr.invars, kinds, strict=True))

    def kind_of(value: Any) -> int:
        return _FREE if isinstance(value, Literal) else known.get(value, _FREE)

    for equation in jaxpr.eqns:
        kind = max(map(kind_of, equation.invars), default=_FREE)
        if kind == _BY_ROW and any(map(_mixes, inner(equation))):
            kind = _MIXED
        for value in equation.outvars:
            lost = kind == _BY_ROW and _row_axes(value.aval) != 1
            known[value] = _MIXED if lost else kind
    return [kind_of(value) for value in jaxpr.outvars]


def _mixes(jaxpr: Any) -> bool:
    kinds = [_BY_ROW if _row_axes(value.aval) else _FREE for value in jaxpr.invars]
    return max(_follow(jaxpr, kinds), default=_FREE) == _MIXED


def inner(equation: Any) -> Iterator[Any]:
    """The traced functions that an equation calls: of a scan, a checkpoint, a jit."""
    for parameter in equation.params.values():
        for item in parameter if isinstance(parameter, tuple | list) else (parameter,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner

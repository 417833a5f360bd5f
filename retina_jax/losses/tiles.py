"""All pairs of two sets of rows, a tile at a time, on one device or round a ring of them."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from data_pipelines.errors import InputError
from retina_jax.types import Array

Tree = Any  # nested tuples of arrays that share axis 0
# (rows, columns, state of the rows, state of the columns, scalars) -> both states
TileFn = Callable[[Tree, Tree, Tree, Tree, Tree], tuple[Tree, Tree]]


@dataclasses.dataclass(frozen=True)
class TilePlan:
    """How the pairs of one call are swept.

    Attributes:
      tile: most rows, and columns, of a tile.
      mesh: the devices over which the rows are split, or None for one device.
    """

    tile: int
    mesh: jax.sharding.AbstractMesh | None


def plan(tile: int, rows: Array) -> TilePlan:
    """The plan for pairs of rows such as these.

    The devices are read from the type of the array: under `jit`, whatever is computed from a batch
    that lies on a mesh of Auto axes has that mesh in its type. Without one, or inside a `shard_map`
    where a device sees its own rows only, the sweep is that of one device.

    Args:
      tile: most rows, and columns, of a tile.
      rows: f[N ...], split over all axes of its mesh.

    Raises:
      InputError: for a tile without rows, or rows that do not divide over the devices.
    """
    if tile < 1:
        raise InputError(f"A blockwise loss needs tiles of at least one row, not {tile}.")
    mesh = jax.typeof(rows).sharding.mesh
    if mesh.empty or mesh.size == 1 or set(mesh.axis_types) != {AxisType.Auto}:
        return TilePlan(tile, None)
    if len(rows) % mesh.size:
        raise InputError(
            f"A batch of {len(rows)} rows does not divide over {mesh.size} devices; change its "
            "batch_size."
        )
    return TilePlan(tile, mesh)


def sweep(
    tile_fn: TileFn, rows: Tree, columns: Tree, row_state: Tree, column_state: Tree,
    scalars: Tree, how: TilePlan,
) -> tuple[Tree, Tree]:  # fmt: skip
    """Shows `tile_fn` every tile of the N x M pairs once, and collects what it learns.

    On several devices each keeps its rows and their state, while the columns and theirs travel
    once round the ring of devices (Inf-CL, arXiv 2410.17243): no device holds more than its share
    of anything. Tiles have equal sizes; the rows and columns that fill the last ones up are zeros
    in every array, and their states are dropped.

    Args:
      tile_fn: new states of the rows and columns of one tile.
      rows: arrays [N ...].
      columns: arrays [M ...].
      row_state: arrays [N ...], the initial state.
      column_state: arrays [M ...], the initial state.
      scalars: arrays that every tile needs whole.
      how: tile size and devices.

    Returns:
      The final states, laid out like the initial ones.
    """
    if how.mesh is None:
        row_state, column_state = _after((rows, columns), (row_state, column_state))
        return _local(tile_fn, rows, columns, row_state, column_state, scalars, how.tile)
    axes, count = how.mesh.axis_names, how.mesh.size
    neighbours = [(i, (i + 1) % count) for i in range(count)]

    pass_on = partial(jax.lax.ppermute, axis_name=axes, perm=neighbours)

    def ring(rows: Tree, columns: Tree, row_state: Tree, column_state: Tree, scalars: Tree) -> Tree:
        def turn(_: Array, carry: Tree) -> Tree:
            columns, row_state, column_state = carry
            row_state, column_state = _local(
                tile_fn, rows, columns, row_state, column_state, scalars, how.tile
            )
            columns, column_state = jax.tree.map(pass_on, (columns, column_state))
            return columns, row_state, column_state

        states = _after((rows, columns), (row_state, column_state))
        _, *states = jax.lax.fori_loop(0, count, turn, (columns, *states))
        return tuple(states)

    split = PartitionSpec(axes)
    return jax.shard_map(
        ring, mesh=how.mesh, in_specs=(split, split, split, split, PartitionSpec()), out_specs=split
    )(rows, columns, row_state, column_state, scalars)


def _after(inputs: Tree, states: Tree) -> Tree:
    """The states, made no earlier than the inputs.

    Left to itself the compiler for processors makes the first states of all sweeps of a program at
    its start, and CLOOB with its ten would need half as much memory again.
    """
    first = [x[(0,) * x.ndim] for x in jax.tree.leaves(inputs) if x.dtype.kind == "f"]
    late = sum(jnp.minimum(jnp.abs(x), 0) for x in first)  # a zero that needs the inputs
    return jax.tree.map(partial(jnp.add, late), states)


def _local(
    tile_fn: TileFn, rows: Tree, columns: Tree, row_state: Tree, column_state: Tree,
    scalars: Tree, tile: int,
) -> tuple[Tree, Tree]:  # fmt: skip
    """`sweep` on one device: row blocks outside, so that a row's state is written back once."""
    row_count, column_count = _count(rows), _count(columns)
    rows, row_state = _blocks((rows, row_state), tile)
    columns, column_state = _blocks((columns, column_state), tile)

    def row_block(i: Array, states: Tree) -> Tree:
        row_state, column_state = states
        here = _at(rows, i)

        def column_block(j: Array, carry: Tree) -> Tree:
            mine, column_state = carry
            theirs = _at(column_state, j)
            mine, theirs = tile_fn(here, _at(columns, j), mine, theirs, scalars)
            return mine, _put(column_state, theirs, j)

        mine, column_state = jax.lax.fori_loop(
            0, _count(columns), column_block, (_at(row_state, i), column_state)
        )
        return _put(row_state, mine, i), column_state

    rows_done, columns_done = jax.lax.fori_loop(
        0, _count(rows), row_block, (row_state, column_state)
    )
    return _joined(rows_done, row_count), _joined(columns_done, column_count)


def _blocks(trees: Tree, tile: int) -> Tree:
    """Arrays [n ...] -> [blocks size ...], filled up with zeros."""

    def cut(x: Array) -> Array:
        blocks = -(-len(x) // tile)
        size = -(-len(x) // blocks)
        padding = [(0, blocks * size - len(x))] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(blocks, size, *x.shape[1:])

    return jax.tree.map(cut, trees)


def _joined(tree: Tree, count: int) -> Tree:
    """Arrays [blocks size ...] -> [count ...], without what filled them up."""

    def join(x: Array) -> Array:
        return x.reshape(-1, *x.shape[2:])[:count]

    return jax.tree.map(join, tree)


def _count(tree: Tree) -> int:
    return len(jax.tree.leaves(tree)[0])


def _at(tree: Tree, i: Array) -> Tree:
    return jax.tree.map(partial(jax.lax.dynamic_index_in_dim, index=i, keepdims=False), tree)


def _put(tree: Tree, values: Tree, i: Array) -> Tree:
    put = partial(jax.lax.dynamic_update_index_in_dim, index=i, axis=0)
    return jax.tree.map(put, tree, values)

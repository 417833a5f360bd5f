"""All pairs of two sets of rows, a tile at a time, on one device or round a ring of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
        states = _after((rows, columns), (row_state, column_state))
        return _local(tile_fn, rows, columns, *states, scalars, how.tile)
    axes, count = how.mesh.axis_names, how.mesh.size
    neighbours = [(i, (i + 1) % count) for i in range(count)]

    def ring(rows, columns, row_state, column_state, scalars):
        def turn(_, carry):
            columns, row_state, column_state = carry
            row_state, column_state = _local(
                tile_fn, rows, columns, row_state, column_state, scalars, how.tile
            )
            columns, column_state = jax.tree.map(
                lambda x: jax.lax.ppermute(x, axes, neighbours), (columns, column_state)
            )
            return columns, row_state, column_state

        states = _after((rows, columns), (row_state, column_state))
        return jax.lax.fori_loop(0, count, turn, (columns, *states))[1:]

    split = PartitionSpec(axes)
    return jax.shard_map(
        ring, mesh=how.mesh, in_specs=(split, split, split, split, PartitionSpec()), out_specs=split
    )(rows, columns, row_state, column_state, scalars)


def _after(inputs, states):
    """The states, made no earlier than the inputs.

    Left to itself the compiler for processors makes the first states of all sweeps of a program at
    its start, and CLOOB with its ten would need half as much memory again.
    """
    first = [x[(0,) * x.ndim] for x in jax.tree.leaves(inputs) if x.dtype.kind == "f"]
    late = sum(jnp.minimum(jnp.abs(x), 0) for x in first)  # a zero that needs the inputs
    return jax.tree.map(lambda x: x + late, states)


def _local(tile_fn, rows, columns, row_state, column_state, scalars, tile):
    """`sweep` on one device: row blocks outside, so that a row's state is written back once."""
    row_count, column_count = _count(rows), _count(columns)
    rows, row_state = _blocks((rows, row_state), tile)
    columns, column_state = _blocks((columns, column_state), tile)

    def row_block(i, states):
        row_state, column_state = states
        here = _at(rows, i)

        def column_block(j, carry):
            mine, column_state = carry
            theirs = _at(column_state, j)
            mine, theirs = tile_fn(here, _at(columns, j), mine, theirs, scalars)
            return mine, _put(column_state, theirs, j)

        mine, column_state = jax.lax.fori_loop(
            0, _count(columns), column_block, (_at(row_state, i), column_state)
        )
        return _put(row_state, mine, i), column_state

    states = jax.lax.fori_loop(0, _count(rows), row_block, (row_state, column_state))
    return tuple(
        jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], state)  # noqa: B023
        for state, count in zip(states, (row_count, column_count), strict=True)
    )


def _blocks(trees, tile):
    """Arrays [n ...] -> [blocks size ...], filled up with zeros."""

    def cut(x):
        blocks = -(-len(x) // tile)
        size = -(-len(x) // blocks)
        padding = [(0, blocks * size - len(x))] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(blocks, size, *x.shape[1:])

    return jax.tree.map(cut, trees)


def _count(tree):
    return len(jax.tree.leaves(tree)[0])


def _at(tree, i):
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def _put(tree, values, i):
    return jax.tree.map(lambda x, v: jax.lax.dynamic_update_index_in_dim(x, v, i, 0), tree, values)

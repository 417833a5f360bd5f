"""One mesh, one rule for parameters, one for batches."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_pipelines.errors import InputError
from retina_jax.types import Batch, Device

AXES = ("data", "fsdp")


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Device] | None = None) -> Mesh:
    """All devices as a ('data', 'fsdp') mesh.

    Both axes split the batch; 'fsdp' also splits parameters and optimizer state.

    Args:
      data: size of the first axis; -1 for all devices that `fsdp` leaves.
      fsdp: size of the second axis.
      devices: instead of those of this job, for instance a topology that is only compiled for.

    Raises:
      InputError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if data == -1 and fsdp > 0:
        data = count // fsdp
    if data < 1 or fsdp < 1 or data * fsdp != count:
        raise InputError(f"A mesh of data={data} x fsdp={fsdp} does not fit {count} devices.")
    # Process after process, so that each holds consecutive rows of a batch: jax.make_mesh orders
    # the devices of a TPU slice by their links, which scatters them. Auto axes: with explicit ones
    # `image @ text.T` of two batch-sharded arrays is a type error.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(ordered, dtype=object).reshape(data, fsdp)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def laid_out(shapes: Any, where: NamedSharding) -> Any:
    """The shapes of a tree of arrays, or of their shapes, with where all of them lie."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes)


def of_all_processes(batch: Batch) -> Batch:
    """The shapes of the rows of all processes, from the arrays or shapes of this one's."""
    count = jax.process_count()
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0] * count, *leaf.shape[1:]), leaf.dtype),
        batch,
    )


def parameters(shapes: Any, mesh: Mesh, *, smallest: int = 2**16) -> Any:
    """A sharding for each leaf: its longest divisible axis over 'fsdp'.

    The rule looks at shapes only, so that an optimizer's moments lie where their parameters lie.

    Args:
      shapes: a tree of arrays or ShapeDtypeStructs.
      mesh: the mesh of `make_mesh`.
      smallest: arrays of fewer elements are replicated: gathering them costs more than they do.
    """
    size = mesh.shape["fsdp"]

    def rule(leaf: Any) -> NamedSharding:
        axes = [i for i, n in enumerate(leaf.shape) if n % size == 0 and n > 0]
        if size == 1 or not axes or np.prod(leaf.shape) < smallest:
            return replicated(mesh)
        longest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*([None] * longest), "fsdp"))

    return jax.tree.map(rule, shapes)


def put(batch: Batch, mesh: Mesh) -> Batch:
    """This process's rows of a host batch -> global arrays over the mesh.

    Keys that start with '_' but for `_mask` stay on the host.

    Args:
      batch: numpy arrays of [rows of the global batch / processes, ...], streams nested once.
      mesh: the mesh of `make_mesh`.
    """
    sharding = batch_sharding(mesh)
    return {
        key: put(value, mesh)
        if isinstance(value, dict)
        else jax.make_array_from_process_local_data(sharding, value)
        for key, value in batch.items()
        if not key.startswith("_") or key == "_mask"
    }

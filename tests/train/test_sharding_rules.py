"""Which axis of a parameter is split, for meshes that this machine does not have."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from data_pipelines.errors import InputError
from retina_jax.train import sharding

pytestmark = pytest.mark.fast


def mesh(data, fsdp):
    return AbstractMesh((data, fsdp), sharding.AXES, axis_types=(AxisType.Auto,) * 2)


def spec(shape, fsdp=4, **options):
    leaf = jax.ShapeDtypeStruct(shape, np.float32)
    return tuple(sharding.parameters({"a": leaf}, mesh(2, fsdp), **options)["a"].spec)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((512, 1024), (None, "fsdp")),
        ((1024, 512), ("fsdp",)),
        ((512, 512), ("fsdp",)),  # equally long: the first
        ((28_996, 768), ("fsdp",)),
        ((30_001, 768), (None, "fsdp")),  # the longest does not divide by 4
        ((7, 7, 3, 64), (None, None, None, "fsdp")),
        ((7, 9, 3), ()),  # none divides
        ((8,), ("fsdp",)),
        ((), ()),
        ((0, 3), ()),  # an axis of no rows is never split
    ],
)
def test_the_longest_axis_that_divides_is_split(shape, expected):
    assert spec(shape, smallest=0) == expected


def test_small_arrays_and_one_shard_are_left_whole():
    assert spec((256, 255)) == ()  # fewer than the default of 2**16
    assert spec((256, 256)) == ("fsdp",)
    assert spec((1024, 1024), smallest=2**20) == ("fsdp",)
    assert spec((1024, 1024), smallest=2**20 + 1) == ()
    assert spec((1024, 1024), fsdp=1) == ()


def test_moments_lie_where_their_parameters_lie():
    tree = {"w": jax.ShapeDtypeStruct((64, 4096), np.float32)}
    placed = sharding.parameters({"params": tree, "mu": tree, "nu": tree}, mesh(1, 8))
    assert {str(leaf.spec) for leaf in jax.tree.leaves(placed)} == {
        str(PartitionSpec(None, "fsdp"))
    }


def test_rows_are_split_over_both_axes():
    assert sharding.batch_sharding(mesh(2, 4)).spec == PartitionSpec(("data", "fsdp"))
    assert sharding.replicated(mesh(2, 4)).spec == PartitionSpec()


def test_a_mesh_takes_all_devices_or_is_refused():
    devices = jax.device_count()
    made = sharding.make_mesh()
    assert dict(made.shape) == {"data": devices, "fsdp": 1}
    assert set(made.axis_types) == {AxisType.Auto}
    assert dict(sharding.make_mesh(data=1, fsdp=devices).shape) == {"data": 1, "fsdp": devices}
    for wrong in ({"data": devices + 1}, {"fsdp": 2 * devices}, {"data": 0}, {"fsdp": 0},
                  {"data": -2}, {"fsdp": -1}):  # fmt: skip
        with pytest.raises(InputError, match=f"does not fit {devices} devices"):
            sharding.make_mesh(**wrong)


def test_a_batch_goes_to_the_devices_without_what_belongs_to_the_host():
    count = 2 * jax.device_count()
    rows = {"image": np.arange(6 * count, dtype=np.uint8).reshape(count, 6),
            "_mask": np.arange(count) > 0, "_id": np.arange(count)}  # fmt: skip
    made = sharding.make_mesh()
    flat = sharding.put(rows, made)
    assert set(flat) == {"image", "_mask"}
    assert isinstance(flat["image"], jax.Array) and flat["image"].dtype == np.uint8
    np.testing.assert_array_equal(flat["image"], rows["image"])
    assert flat["image"].sharding.spec == PartitionSpec(("data", "fsdp"))
    nested = sharding.put({"public": rows, "expert": {"group": np.zeros(count, np.int32)}}, made)
    assert {name: set(keys) for name, keys in nested.items()} == {
        "public": {"image", "_mask"},
        "expert": {"group"},
    }


def test_processes_hold_consecutive_rows_whatever_the_order_of_the_devices():
    """A TPU slice lists its devices by their links; rows have to follow the processes."""

    class Device:
        def __init__(self, identifier, process):
            self.id, self.process_index = identifier, process
            self.platform, self.device_kind, self.client = "tpu", "TPU", None

    order = [0, 0, 1, 1, 0, 0, 1, 1]
    mesh = sharding.make_mesh(4, 2, [Device(i, p) for i, p in enumerate(order)])
    assert [device.process_index for device in mesh.devices.flat] == sorted(order)

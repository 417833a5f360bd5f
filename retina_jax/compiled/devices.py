"""Accelerators by name: what their makers say of them, and what a compiler has to know."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from data_pipelines.errors import InputError
from retina_jax.models import transformer
from retina_jax.types import Device

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      memory: bytes that a program can have at most.
      flops: bfloat16 operations a second, dense.
      single: the same in float32 as JAX computes it by default: by bfloat16 on TPUs, TF32 on GPUs.
      bandwidth: bytes a second from and to its memory.
      share: the part of the memory that JAX takes unless it is told otherwise.
      slices: shapes that can be had, the smallest first; of GPUs, numbers of cards.
    """

    memory: float
    flops: float
    single: float
    bandwidth: float
    share: float
    slices: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_CARDS = ("1", "2", "4", "8", "16", "32", "64")
CHIPS = {
    "v4": Chip(31.75 * GIB, 275e12, 275e12, 1228e9, 1.0, _CUBES),
    "v5e": Chip(15.75 * GIB, 197e12, 197e12, 819e9, 1.0, _FLAT),
    "v5p": Chip(95 * GIB, 459e12, 459e12, 2765e9, 1.0, _CUBES),
    "v6e": Chip(31.25 * GIB, 918e12, 918e12, 1640e9, 1.0, _FLAT),
    "a100": Chip(79.15 * GIB, 312e12, 156e12, 2039e9, 0.75, _CARDS),
    "h100": Chip(79.1 * GIB, 989e12, 494e12, 3352e9, 0.75, _CARDS),
    "h200": Chip(139.8 * GIB, 989e12, 494e12, 4800e9, 0.75, _CARDS),
}
# What XLA asks of a card that is not there, in its words.
_CARD = """gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: {core}
  shared_memory_per_block_optin: {optin}
  threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: {units}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f} l2_cache_size: {cache} clock_rate_ghz: {clock}
  device_memory_size: {memory:.0f}
  cuda_compute_capability {{ major: {major} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 20 patch: 0 }}
device_description_str: "{name}"
"""
_HOPPER = {"core": 233472, "optin": 232448, "cores": 132, "units": 128, "cache": 52428800,
           "clock": 1.98, "major": 9}  # fmt: skip
_CARDS_OF = {
    "h100": {**_HOPPER, "name": "NVIDIA H100 80GB HBM3"},
    "h200": {**_HOPPER, "name": "NVIDIA H200"},
    "a100": {"core": 167936, "optin": 166912, "cores": 108, "units": 64, "cache": 41943040,
             "clock": 1.41, "major": 8, "name": "NVIDIA A100-SXM4-80GB"},
}  # fmt: skip
# Kernels of Triton are chosen by trying them, for which the card has to be there.
_WITHOUT_CARD = "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"
# Else the TPU library looks for the metadata server of a TPU machine, complains on stderr that
# nobody says which one this is, and lets only one process compile at a time.
_WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def parse(name: str) -> tuple[str, str]:
    """'v5e:4x4' -> ('v5e', '4x4').

    Raises:
      InputError: for a name that is not known.
    """
    kind, _, shape = name.partition(":")
    numbers = r"\d+" if kind == "cpu" or kind in _CARDS_OF else r"\d+(x\d+)+"
    if (kind not in CHIPS and kind != "cpu") or not re.fullmatch(numbers, shape):
        raise InputError(
            f"Cannot compile for '{name}': it is KIND:SHAPE, such as v5e:4x4, v5p:2x2x2, v6e:4x4, "
            "h100:8, h200:8, a100:8 or cpu:8."
        )
    return kind, shape


def prepare(name: str) -> None:
    """Sets what has to be set before JAX starts its compilers.

    Args:
      name: as of `described`.
    """
    kind, shape = parse(name)
    flags = [os.environ.get("XLA_FLAGS", "")]
    if kind == "cpu":
        flags.append(f"--xla_force_host_platform_device_count={shape}")
    elif kind in _CARDS_OF:
        flags.append(_WITHOUT_CARD)
    else:
        os.environ.update(_WITHOUT_TPU)
    if kind != "cpu":  # attention that is not here is chosen, and logged
        transformer.PLATFORM.set("gpu" if kind in _CARDS_OF else "tpu")
    os.environ["XLA_FLAGS"] = " ".join(filter(None, flags))
    jax.config.update("jax_platforms", "cpu")  # with TPU support installed JAX would look for one


def described(name: str) -> Sequence[Device]:
    """Descriptions of devices that need not be here.

    Args:
      name: a slice of TPUs, 'v5e:4x4' (16 chips); GPUs of one machine, 'h100:8'; or processors,
        'cpu:8'.

    Raises:
      InputError: if their compiler is not installed or there is no such slice.
    """
    kind, shape = parse(name)
    if kind == "cpu":
        return jax.devices("cpu")
    extra = "cuda13" if kind in _CARDS_OF else "tpu"
    try:
        if kind in _CARDS_OF:
            chip = CHIPS[kind]
            card = _CARD.format(**_CARDS_OF[kind], memory=chip.memory, bandwidth=chip.bandwidth)
            found = topologies.get_topology_desc(
                platform="cuda", topology_name=kind, target_config=card, topology=f"1x1x{shape}"
            )
        else:
            # By default the library thinks of hosts of four chips.
            one = {"chips_per_host_bounds": (1, 1, 1)} if count(shape) == 1 else {}
            found = topologies.get_topology_desc(name, "tpu", **one)
        return found.devices
    except Exception as error:  # noqa: BLE001 (every backend raises its own kind)
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"Cannot compile for '{name}': {reason}. It needs pip install '.[{extra}]' and a "
            f"shape that there is, such as {kind}:{CHIPS[kind].slices[3]}."
        ) from None


def dividing(kind: str, batches: Sequence[int]) -> list[str]:
    """Slices whose devices share each of `batches` rows evenly."""
    return [
        f"{kind}:{shape}"
        for shape in CHIPS[kind].slices
        if all(rows % count(shape) == 0 for rows in batches)
    ]


def count(shape: str) -> int:
    """Devices of '4x4' or '8'."""
    return math.prod(map(int, shape.split("x")))

"""Compiles a config's training step for devices that are not here, and reports what it needs.

    python -m retina_jax.aot --config=flair --topology=v5e:4x4    # needs `.[tpu]`
    python -m retina_jax.aot --config=flair                       # the devices here

Says before any accelerator is paid for whether a batch fits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from jax.experimental import topologies

from data_pipelines.errors import InputError
from retina_jax import cli, experiment
from retina_jax.train import loop, sharding
from retina_jax.types import Device, Experiment

_CONFIG = cli.define_config("config", "The config to compile")
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "TPU slice such as v5e:4x4; by default the devices here"
)
_MEMORY = ("arguments", "temporaries", "outputs", "donated", "peak")
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def topology_devices(name: str) -> Sequence[Device]:
    """Descriptions of the devices of a TPU slice, e.g. 'v5e:4x4' (16 chips).

    Raises:
      InputError: if TPU support is not installed or there is no such slice.
    """
    # Without this the TPU library looks for the metadata server of a TPU machine.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    jax.config.update("jax_platforms", "cpu")  # with TPU support installed JAX would look for one
    try:
        return topologies.get_topology_desc(name, "tpu").devices
    except Exception as error:  # noqa: BLE001 (every backend raises its own kind)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Cannot compile for '{name}': {reason}. It needs pip install '.[tpu]' and a slice "
            "such as v5e:4x4, v4:2x2x2 or v6e:4x4."
        ) from None


def report(stage: Experiment) -> dict[str, float]:
    """Compiles one training step.

    Returns:
      Per device: 'arguments', 'temporaries', 'outputs' and 'donated' in MiB (what has to fit is
      arguments + temporaries + outputs - donated, 'peak'), 'gigaflops' as the compiler counts
      them, and the number of collectives of each kind.
    """
    state = loop.abstract_state(stage)
    rows = sharding.batch_sharding(stage.mesh)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows),
        loop.on_device_shapes(stage.data.example()),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    rng = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding.replicated(stage.mesh))
    compiled = loop.jit_step(stage, state).lower(state, batch, rng).compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise InputError(f"The compiler of {_TOPOLOGY.value or 'this device'} says no sizes.")
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "donated": memory.alias_size_in_bytes,
    }
    sizes["peak"] = sizes["arguments"] + sizes["temporaries"] + sizes["outputs"] - sizes["donated"]
    found = {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in _COLLECTIVES}
    return {
        **{name: size / 2**20 for name, size in sizes.items()},
        "gigaflops": (compiled.cost_analysis() or {}).get("flops", float("nan")) / 1e9,
        **{kind: count for kind, count in found.items() if count},
    }


def main(_: list[str]) -> None:
    """Prints the report of every stage."""
    devices = topology_devices(_TOPOLOGY.value) if _TOPOLOGY.value else None
    for stage in experiment.build_all(_CONFIG.value, Path(os.devnull), devices):
        print(f"{stage.name or 'step'} on {stage.mesh.size} devices, each:")
        for name, value in report(stage).items():
            unit = "MiB" if name in _MEMORY else ""
            print(f"  {name:20s} {value:12,.1f} {unit}".rstrip())


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)

"""Eight devices with sharded parameters compute what one device computes."""

from __future__ import annotations

import json

import numpy as np
from runs import python

# Runs in a process of its own: the number of devices is fixed when JAX starts.
_COMPUTE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
import optax
from runs import config
from pathlib import Path
from retina_jax import experiment
from retina_jax.train import loop, sharding
from retina_jax.train.step import compose, make_step

name, fsdp, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
made = experiment.build_all(
    config(name, mesh={"data": -1, "fsdp": fsdp, "smallest": 1}), Path(out).parent
)[-1]
state = loop.fresh_state(made, loop.abstract_state(made))
split = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params))
moments = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.opt_state))
loss = compose(made.model, made.objectives, made.weights)
batch = sharding.put(made.data.example(), made.mesh)
rng = jax.random.key(0)
step = make_step(loss, made.optimizer)

@jax.jit
def both(state, batch):  # one program, so that the work they share is compiled once
    gradient = jax.value_and_grad(loss, has_aux=True)
    return gradient(
        state.params, state.model_state, batch, jax.random.fold_in(rng, state.step)
    ), step(state, batch, rng)[0]

((value, (_, model_state)), grads), after = both(state, batch)
arrays = {
    f"{what}{jax.tree_util.keystr(path)}": np.asarray(leaf)
    for what, tree in (("gradient", grads), ("statistics", model_state), ("after", after.params),
                       ("before", state.params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
}
np.savez(out, loss=np.asarray(value), **arrays)
print(json.dumps({"devices": jax.device_count(), "split": split, "moments": moments}))
"""


def compute(name, devices, fsdp, out):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    done = python(
        "-c", _COMPUTE, name, str(fsdp), str(out), env={"XLA_FLAGS": flags, "PYTHONPATH": "tests"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_eight_devices_with_fsdp_equal_one(tmp_path):
    one = compute("keepfit", 1, 1, tmp_path / "one.npz")
    eight = compute("keepfit", 8, 4, tmp_path / "eight.npz")
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert one["split"] == 0 and eight["split"] > 50 and eight["moments"] >= 2 * eight["split"]
    first, second = np.load(tmp_path / "one.npz"), np.load(tmp_path / "eight.npz")
    assert set(first.files) == set(second.files)
    assert any("statistics" in name for name in first.files)  # BatchNorm over the global batch
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=1e-5)
    for key in first.files:
        # Sums run in another order; gradients that cancel to nothing are compared absolutely.
        scale = np.abs(first[key]).max()
        tolerance = 0 if key.startswith("before") else 2e-3 if "after" in key else 2e-4
        np.testing.assert_allclose(
            second[key], first[key], atol=tolerance * max(scale, 1e-2), rtol=0, err_msg=key
        )


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    flags = "--xla_force_host_platform_device_count=3"
    code = """
from pathlib import Path
from runs import config
from retina_jax import experiment
experiment.build_all(config("flair"), Path("x"))
"""
    done = python("-c", code, env={"XLA_FLAGS": flags, "PYTHONPATH": "tests"})
    assert "The batch of 8 of the stream 'public' does not divide over 3 devices" in done.stderr

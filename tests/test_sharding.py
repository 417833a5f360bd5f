"""Eight devices with sharded parameters compute what one device computes."""

import json

import numpy as np
from runs import devices, program

# Runs in a process of its own: the number of devices is fixed when JAX starts.
_COMPUTE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
import optax
from runs import config
from pathlib import Path
from retina_jax import experiment
from retina_jax.train import loop, sharding
from retina_jax.train.frozen import Frozen
from retina_jax.train.step import make_step

name, fsdp, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
given = config(name, mesh={"data": -1, "fsdp": fsdp, "smallest": 1})
first = ("image/(conv1|bn1|layer1_.)/.*", {"frozen": True})  # of a tower whose rest is trained
for stage in given.stages.values() if "stages" in given else (given,):
    stage.optimization.rules = (first, *stage.optimization.get("rules", ((".*", {}),)))
made = experiment.build_all(given, Path(out).parent)[-1]
frozen = Frozen(made.settings.optimization.rules)
state = loop.fresh_state(made, loop.abstract_state(made))
split = sum(not leaf.sharding.is_fully_replicated and not fixed for leaf, fixed in zip(
    jax.tree.leaves(state.params), jax.tree.leaves(frozen.mask(state.params))))
moments = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.opt_state))
batch = sharding.put(next(made.data.batches(0, 1)), made.mesh)
rng = jax.random.key(0)
step = make_step(made.loss, made.optimizer, frozen)

@jax.jit
def both(state, batch):  # one program, so that the work they share is compiled once
    gradient = jax.value_and_grad(made.loss, has_aux=True)
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


def compute(name, number, fsdp, out):
    done = program("-c", _COMPUTE, name, str(fsdp), str(out), env=devices(number))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_eight_devices_with_fsdp_equal_one(tmp_path):
    one = compute("flair", 1, 1, tmp_path / "one.npz")
    eight = compute("flair", 8, 4, tmp_path / "eight.npz")
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert one["split"] == 0 and eight["split"] > 50 and eight["moments"] >= 2 * eight["split"]
    first, second = np.load(tmp_path / "one.npz"), np.load(tmp_path / "eight.npz")
    assert set(first.files) == set(second.files)
    assert any("statistics" in name for name in first.files)  # BatchNorm over the global batch
    for files in (first, second):
        held = [name for name in files.files if name.startswith("gradient") and "layer1_0" in name]
        assert held and not any(files[name].any() for name in held)
        assert not [name for name in files.files if "statistics" in name and "layer1_0" in name
                    and files[name].any() and not (files[name] == 1).all()]  # fmt: skip
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=1e-5)
    for key in first.files:
        # Sums run in another order; gradients that cancel to nothing are compared absolutely.
        scale = np.abs(first[key]).max()
        tolerance = 0 if key.startswith("before") else 2e-3 if "after" in key else 2e-4
        np.testing.assert_allclose(
            second[key], first[key], atol=tolerance * max(scale, 1e-2), rtol=0, err_msg=key
        )


# A loss in tiles, of photographs and texts with dropout, of 32 rows in 2 microbatches; or with
# whole batches, a whole matrix of logits and no dropout.
_CUT = """
import json, re, sys
import jax, numpy as np
from retina_jax.models.dual import Dual
from retina_jax.objectives.contrastive import Contrastive
from retina_jax.train import microbatch, sharding
from retina_jax.train.step import compose

fsdp, out, dtype, whole = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "whole"
mesh = sharding.make_mesh(-1, fsdp)
vit = {"name": "vit", "width": 16, "depth": 2, "heads": 2, "mlp_dim": 32, "patch_size": 8}
bert = {"name": "bert", "vocab_size": 50, "width": 16, "depth": 1, "heads": 2, "mlp_dim": 32,
        "max_length": 8, "dropout": 0.3 if dtype == "float32" else 0.0}
model = Dual(towers={"image": vit, "text": bert}, dim=8, dtype=dtype)
random = np.random.default_rng(0)
rows = {"image": random.integers(0, 256, (32, 48, 48, 3)).astype(np.uint8),
        "text": random.integers(1, 50, (32, 8)).astype(np.int32),
        "text_mask": np.ones((32, 8), bool)}
rng = jax.random.key(0)
shapes = jax.eval_shape(lambda rng: model.init(rng, rows)["params"], rng)
# Gains near 1, temperature included, so that gradients do not cancel to nothing.
params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: np.float32(random.normal(size=leaf.shape) / 5
                                  + ("scale" in jax.tree_util.keystr(path))), shapes)
places = sharding.parameters(params, mesh, smallest=1)
loss = compose(model, (Contrastive((("image", "text"),), blockwise=None if whole else 4),), {},
               None if whole else microbatch.plan(16, {"": 32}, mesh))
step = jax.jit(jax.value_and_grad(loss, has_aux=True),
               out_shardings=(sharding.replicated(mesh), places))
arguments = jax.device_put(params, places), {}, sharding.put(rows, mesh), rng
compiled = step.lower(*arguments).compile()
(value, _), grads = compiled(*arguments)
text = compiled.as_text()
moved = [
    [dtype, int(np.prod([int(n) for n in shape.split(",") if n]))]
    for line in text.splitlines()
    if (found := re.search(
        r"= (.*?) (?:all-gather|all-to-all|collective-permute|all-reduce)(?:-start)?\\(", line))
    for dtype, shape in re.findall(r"([a-z]+[0-9]+)\\[([0-9,]*)\\]", found[1])
]
photographs = set(re.findall(r"u8\\[([0-9,]+,3)\\]", text))
np.savez(out, loss=np.asarray(value), **{
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads)})
print(json.dumps({"moved": moved, "photographs": sorted(photographs),
                  "ring": "collective-permute" in text, "half": "bf16[" in text,
                  "split": sum(
                      not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(grads))}))
"""


def cut(number, fsdp, path, dtype="float32", how="cut"):
    """What the compiled step says of itself, and its loss and gradients."""
    done = program("-c", _CUT, str(fsdp), str(path), dtype, how, env=devices(number))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), np.load(path)


def test_microbatches_on_eight_devices_equal_those_on_one_and_move_no_images(tmp_path):
    """Dropout included, since which rows go together does not depend on the devices."""
    told = {}
    told[1], one = cut(1, 1, tmp_path / "1.npz")
    told[8], eight = cut(8, 2, tmp_path / "8.npz")
    assert set(one.files) == set(eight.files)
    largest = max(np.abs(one[key]).max() for key in one.files if key != "loss")
    for key in one.files:
        np.testing.assert_allclose(
            eight[key], one[key], rtol=1e-5, atol=1e-5 * largest, err_msg=key
        )
    assert one["loss"] > 0 and not told[1]["moved"] and len(told[8]["moved"]) > 20
    assert told[8]["ring"]  # the joined embeddings still lie on the mesh
    # To cut the batch, no photographs travel. For the gradient of a convolution XLA gathers what
    # it saw, with whole batches too: of one microbatch at a time then, 16 rows.
    assert not [dtype for dtype, _ in told[8]["moved"] if dtype == "u8"]
    assert max(size for _, size in told[8]["moved"]) <= 16 * 48 * 48 * 3
    # Each device holds 4 rows of the batch, 2 of a microbatch, and never more.
    held = {int(shape.split(",")[0]) for shape in told[8]["photographs"]}
    assert held and held <= {2, 4}


def test_tiles_microbatches_sharded_parameters_and_half_precision_go_together(tmp_path):
    """Against one device with whole batches and the whole matrix of logits."""
    _, whole = cut(1, 1, tmp_path / "whole.npz", "bfloat16", "whole")
    told, parts = cut(8, 4, tmp_path / "cut.npz", "bfloat16")
    assert told["ring"] and told["half"] and told["split"] > 20
    names = [name for name in whole.files if name != "loss"]
    assert {parts[name].dtype for name in parts.files} == {np.dtype("float32")}
    np.testing.assert_allclose(parts["loss"], whole["loss"], rtol=1e-3)
    first, second = (
        np.concatenate([arrays[name].astype(np.float64).ravel() for name in names])
        for arrays in (whole, parts)
    )
    norms = np.linalg.norm(first), np.linalg.norm(second)
    assert first @ second / np.prod(norms) > 0.9995  # half precision rounds at 0.004
    np.testing.assert_allclose(norms[1], norms[0], rtol=2e-3)


def test_a_batch_that_does_not_divide_is_refused():
    code = """
from pathlib import Path
from runs import config
from retina_jax import experiment
experiment.build_all(config("flair"), Path("x"))
"""
    done = program("-c", code, env=devices(3))
    assert "The batch of 8 of the stream 'public' does not divide over 3 devices" in done.stderr

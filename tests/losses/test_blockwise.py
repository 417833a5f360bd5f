"""The losses in tiles: the same numbers as with the whole matrix, on one device and on a ring."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import devices, program

from data_pipelines.errors import InputError
from retina_jax.losses import blockwise, cloob, contrastive

GROUPS = jnp.array([3, 0, 3, 7, 7, 7, -2, 0, 3, 1, 5] * 2)


def pairs(rows=22, dim=6, noise=2.0):
    a, b = np.random.default_rng(rows).normal(size=(2, rows, dim))
    b = a + noise * b
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    return tuple(jnp.asarray(x) for x in unit)


def softmax_of_groups(a, b, scale):
    return contrastive.softmax(a, b, scale, contrastive.group_targets(GROUPS))


def sigmoid_of_groups(a, b, scale, bias):
    return contrastive.sigmoid(a, b, scale, bias, GROUPS[:, None] == GROUPS)


def both_ways(a, b, inv_tau):
    return contrastive.infoloob(a, b, inv_tau) + contrastive.infoloob(b, a, inv_tau)


# Whole matrix, tiles, options of the tiles, and the arguments after the embeddings.
CASES = {
    "softmax": (contrastive.softmax, blockwise.softmax, {}, (20.0,)),
    "softmax, groups": (softmax_of_groups, blockwise.softmax, {"groups": GROUPS}, (20.0,)),
    "sigmoid": (contrastive.sigmoid, blockwise.sigmoid, {}, (10.0, -5.0)),
    "sigmoid, groups": (sigmoid_of_groups, blockwise.sigmoid, {"groups": GROUPS}, (10.0, -5.0)),
    "infoloob": (contrastive.infoloob, blockwise.infoloob, {}, (30.0,)),
    "infoloob, both": (both_ways, blockwise.infoloob, {"both": True}, (30.0,)),
    "cloob": (cloob.cloob, blockwise.cloob, {}, (30.0, 8.0)),
}


def gradients(loss, a, b, extra, **options):
    arguments = (a, b, *(jnp.asarray(x, a.dtype) for x in extra))

    def scaled(*arguments):  # a cotangent other than 1 has to come through
        return 3 * loss(*arguments, **options)

    return jax.jit(jax.value_and_grad(scaled, argnums=tuple(range(len(arguments)))))(*arguments)


def assert_same(got, wanted, tolerance, of_scalars):
    """InfoLOOB's gradients by scalars are small differences of large sums, with fewer digits."""
    (value, grads), (wanted_value, wanted_grads) = got, wanted
    np.testing.assert_allclose(value, wanted_value, rtol=tolerance)
    for x, y in zip(grads, wanted_grads, strict=True):
        most = (tolerance if y.ndim else of_scalars) * np.abs(y).max()
        np.testing.assert_allclose(x, y, atol=most, rtol=0)


@pytest.mark.parametrize("tile", [1024, 11, 5])  # one, two that divide, five that do not
@pytest.mark.parametrize("case", CASES)
def test_tiles_give_the_value_and_gradients_of_the_whole_matrix(case, tile):
    dense, tiled, options, extra = CASES[case]
    a, b = pairs()
    wanted = gradients(dense, a, b, extra)
    of_scalars = 1e-4 if "oob" in case else 1e-5
    assert_same(gradients(tiled, a, b, extra, tile=tile, **options), wanted, 1e-5, of_scalars)


@pytest.mark.parametrize("case", CASES)
def test_in_float64_they_agree_to_the_last_digits(case):
    dense, tiled, options, extra = CASES[case]
    with jax.enable_x64(True):
        a, b = (x.astype(jnp.float64) for x in pairs())
        got = gradients(tiled, a, b, extra, tile=5, **options)
        assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype("float64")}
        assert_same(got, gradients(dense, a, b, extra), 1e-12, 1e-10)


@pytest.mark.parametrize("case", CASES)
def test_opposite_rows_at_a_high_scale_are_finite(case):
    """Every logit is about -100, while the rows that fill up a tile have logits of 0."""
    dense, tiled, options, extra = CASES[case]
    a = cloob.unit_rows(jnp.eye(6)[0] + 0.05 * pairs()[0])
    extra = (100.0, *(100.0 if "cloob" in case else x for x in extra[1:]))
    got = gradients(tiled, a, -a, extra, tile=5, **options)
    wanted = gradients(dense, a, -a, extra)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


MASK = jnp.array([True, True, False, True, False, True, True, False, False, True, True] * 2)


def masked(case, rows, mask):
    """Value and gradients by the embeddings, with the whole matrix and in tiles."""
    kind, grouped = case.split(", ")[0], "groups" in case
    extra = CASES[case][3]
    groups = GROUPS[rows] if grouped else None

    def dense(a, b):
        target = groups
        if grouped and kind == "softmax":
            target = contrastive.group_targets(groups, mask)
        elif grouped:
            target = groups[:, None] == groups
        return getattr(contrastive, kind)(a, b, *extra, target, mask)

    def tiled(a, b):
        return getattr(blockwise, kind)(a, b, *extra, groups, mask, tile=5)

    a, b = (x[rows] for x in pairs())
    return [jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(a, b) for loss in (dense, tiled)]


@pytest.mark.parametrize("case", [case for case in CASES if "oob" not in case])
def test_rows_that_do_not_count_are_as_if_they_were_not_there(case):
    (wanted, gradients), _ = masked(case, np.flatnonzero(MASK), None)
    for value, found in masked(case, np.arange(22), MASK):
        assert float(value) == pytest.approx(float(wanted), rel=1e-5)
        for got, want in zip(found, gradients, strict=True):
            np.testing.assert_allclose(got[MASK], want, atol=1e-5 * np.abs(want).max())
            np.testing.assert_array_equal(got[~MASK], 0)
    for value, found in masked(case, np.arange(22), jnp.zeros(22, bool)):
        assert float(value) == 0.0
        np.testing.assert_array_equal(np.concatenate(found), 0)


def test_a_loss_near_its_limit_keeps_its_digits():
    a, _ = pairs(dim=64)
    with jax.enable_x64(True):
        exact = float(contrastive.softmax(*[a.astype(jnp.float64)] * 2, 15.0))
    assert exact < 1e-3
    assert float(blockwise.softmax(a, a, 15.0, tile=5)) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("case", ["softmax", "sigmoid", "cloob"])
def test_bfloat16_embeddings_are_compared_in_float32(case):
    dense, tiled, options, extra = CASES[case]
    a, b = (x.astype(jnp.bfloat16) for x in pairs())
    value = tiled(a, b, *extra, tile=5, **options)
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(float(dense(a, b, *extra)), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_no_array_is_quadratic_in_the_batch_and_products_are_exact(case):
    _, tiled, options, extra = CASES[case]
    a, b = pairs()
    text = str(jax.make_jaxpr(lambda a, b: gradients(tiled, a, b, extra, tile=5, **options))(a, b))
    assert "22,22" not in text and "25,25" not in text and "5,5" in text
    assert text.count("dot_general[") == text.count("precision=(Precision.HIGHEST")


def test_memory_grows_as_the_batch():
    def temporary(rows):
        shape = jax.ShapeDtypeStruct((rows, 32), jnp.float32)
        loss = jax.grad(lambda a, b: blockwise.cloob(a, b, 30.0, 8.0, tile=64), argnums=(0, 1))
        return jax.jit(loss).lower(shape, shape).compile().memory_analysis().temp_size_in_bytes

    assert temporary(4096) < min(4.2 * temporary(1024), 4096 * 4096 * 4 / 8)


def test_what_cannot_be_is_refused():
    a, b = pairs()
    with pytest.raises(InputError, match="tiles of at least one row, not 0"):
        blockwise.softmax(a, b, 10.0, tile=0)
    for loss, extra in ((blockwise.infoloob, (30.0,)), (blockwise.cloob, (30.0, 8.0))):
        with pytest.raises(InputError, match="this batch has only one row"):
            jax.jit(loss)(a[:1], b[:1], *extra)


# Runs in a process of its own: the number of devices is fixed when JAX starts.
_RING = """
import json, re
import jax, jax.numpy as jnp, numpy as np
from retina_jax.losses import blockwise
from retina_jax.objectives import OBJECTIVES
from retina_jax.train import sharding

mesh = sharding.make_mesh(-1, 4)
random = np.random.default_rng(0)
host = {"group": random.integers(0, 20, 72).astype(np.int32), "there": random.random(72) < 0.8}
for name in ("image", "text"):
    x = random.normal(size=(72, 16)).astype(np.float32)
    host[name] = x / np.linalg.norm(x, axis=1, keepdims=True)
weights = random.normal(size=(16, 16)).astype(np.float32) / 4
found = {}

def run(kind, groups, masked, tile, batch):
    made = OBJECTIVES["contrastive"](
        pairs=(("image", "text"),), kind=kind, groups=groups, blockwise=tile, inv_tau=None)

    def loss(weights, scale, bias, batch):
        z = {key: batch[key] @ weights for key in ("image", "text")}
        z = {key: x / jnp.linalg.norm(x, axis=1, keepdims=True) for key, x in z.items()}
        out = {"z": z, "scale": scale, "bias": bias}
        out["row_mask"] = {"image": batch["there"]} if masked else {}
        return made(out, batch)["contrastive/image-text"]

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    compiled = step.lower(weights, 20.0, -5.0, batch).compile()
    return jax.device_get(step(weights, 20.0, -5.0, batch)), compiled.as_text()

for case in (("softmax", False, False), ("softmax", True, False), ("softmax", True, True),
             ("sigmoid", False, False), ("sigmoid", True, False), ("sigmoid", False, True),
             ("infoloob", False, False), ("cloob", False, False)):
    wanted, _ = run(*case, None, host)
    got, text = run(*case, 4, sharding.put(host, mesh))  # 9 rows a device: 3 tiles of 3
    error = [float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-6))
             for x, y in zip(jax.tree.leaves(wanted), jax.tree.leaves(got))]
    gathered = re.findall(r"= (\\S+) all-gather", text)
    found[str(case)] = {
        "error": error, "gathered": gathered, "passed on": text.count(" collective-permute("),
        "whole": bool(re.search(r"f32\\[72,(72|16)\\]", text))}

try:
    run("softmax", False, False, 4, {key: jax.device_put(x[:70], sharding.replicated(mesh))
                                     for key, x in host.items()})
except Exception as error:
    found["refused"] = str(error)
print(json.dumps(found))
"""


def test_eight_devices_in_a_ring_equal_one_device_and_hold_only_their_share():
    done = program("-c", _RING, env=devices(8))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert "batch of 70 rows does not divide over 8 devices" in found.pop("refused")
    assert len(found) == 8
    for case, result in found.items():
        value, weights, scale, bias = result["error"]
        assert max(value, weights) < 1e-5, case
        assert max(scale, bias) < (1e-4 if "oob" in case else 1e-5), case
        assert result["passed on"] >= 4 and not result["whole"], case
        # Of the embeddings nothing is gathered; the ids of groups are sorted as a whole.
        assert all(kind.startswith("s32") for kind in result["gathered"]), case

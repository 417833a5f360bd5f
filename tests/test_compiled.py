"""Operations and bytes of a step, and what may be changed where it does not fit."""

from contextvars import ContextVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from runs import whole_config

from data_pipelines.errors import InputError
from data_pipelines.records import made_up
from retina_jax.compiled import devices, flops, program, search
from retina_jax.models import transformer, vit

pytestmark = pytest.mark.fast
STEPS, ROWS, WIDTH = 5, 4, 64


def layers(x, w):
    def layer(x, _):
        return jax.checkpoint(lambda x: jnp.tanh(x @ w))(x), None

    return jax.lax.scan(layer, x, None, length=STEPS)[0].sum()


ARGUMENTS = (np.ones((ROWS, WIDTH), np.float32), np.ones((WIDTH, WIDTH), np.float32))


def test_layers_of_a_loop_all_count():
    forward = 2 * STEPS * ROWS * WIDTH**2
    assert flops.count(jax.make_jaxpr(layers)(*ARGUMENTS)) == forward
    # What is computed again, and a product for each of the two gradients.
    backward = jax.make_jaxpr(jax.grad(layers, argnums=(0, 1)))(*ARGUMENTS)
    assert flops.count(backward) == 4 * forward


def test_a_convolution_and_its_gradients_count_alike():
    def convolved(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME",
                                            dimension_numbers=dimensions).sum()  # fmt: skip

    x, kernel = np.ones((1, 8, 8, 3), np.float32), np.ones((3, 3, 3, 16), np.float32)
    forward = 2 * 4 * 4 * 16 * 3 * 3 * 3
    assert flops.count(jax.make_jaxpr(convolved)(x, kernel)) == forward
    both = jax.make_jaxpr(jax.grad(convolved, argnums=(0, 1)))(x, kernel)
    assert flops.count(both) == 3 * forward


def test_fused_attention_is_counted_where_no_gpu_is(monkeypatch):
    monkeypatch.setattr(transformer, "PLATFORM", ContextVar("platform", default=None))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setenv("XLA_FLAGS", "")
    devices.prepare("h100:1")
    size = dict(width=16, depth=3, heads=2, mlp_dim=16, patch_size=4, dtype="bfloat16")
    x = np.ones((2, 12, 20, 3), np.float32)  # with the class token, 16 positions

    def operations(attention, remat):
        model = vit.ViT(**size, attention=attention, remat=remat)
        parameters = jax.eval_shape(model.init, jax.random.key(0), x)
        loss = jax.grad(lambda given: model.apply(given, x)["pooled"].sum())
        return flops.count(jax.make_jaxpr(loss)(parameters))

    def product(positions):  # of logits or of values, in all layers
        return 2 * 3 * 2 * positions**2 * 16

    def missing():
        raise RuntimeError("cuDNN not found.")

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", missing)
    with pytest.raises(InputError, match=r"cuDNN not found. pip install 'jax\[cuda13\]' brings it"):
        operations("cudnn", "none")
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_000)
    expected = operations("xla", "none") + product(16)  # of 7 instead of 6
    assert operations("cudnn", "none") == expected
    assert operations("cudnn", "dots_no_batch") == expected + 2 * product(16)  # once more


def test_traffic_counts_what_a_loop_reads_each_time():
    moved = program.traffic(jax.jit(layers).lower(*ARGUMENTS).compile().as_text())
    weights = ARGUMENTS[1].nbytes
    assert STEPS * weights < moved.memory < 4 * STEPS * weights and not moved.between
    largest = max(moved.kernels, key=moved.kernels.__getitem__)
    assert "dot_general" in largest and moved.kernels[largest] > moved.memory / 2


def test_what_a_loop_saves_is_not_moved_as_a_whole_by_each_turn():
    def kept(x, w, turns):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=turns)[0].sum()

    def moved(turns):
        program_of = jax.jit(jax.grad(kept, argnums=1), static_argnums=2).lower
        arguments = np.ones((256, 64), np.float32), np.ones((64, 64), np.float32), turns
        return program.traffic(program_of(*arguments).compile().as_text()).memory

    assert 1.8 < moved(64) / moved(32) < 2.2  # the square of the turns would be 4


def test_devices_and_slices():
    assert devices.parse("v5e:4x4") == ("v5e", "4x4") and devices.parse("h100:8") == ("h100", "8")
    for wrong in ("v99:1x1", "h100", "h100:2x4", "v5e:16", "cpu:"):
        with pytest.raises(InputError, match="KIND:SHAPE"):
            devices.parse(wrong)
    assert devices.dividing("v5e", [48, 16]) == ["v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4"]
    assert devices.dividing("h100", [24]) == ["h100:1", "h100:2", "h100:4", "h100:8"]


def test_a_tpu_that_is_not_here_is_not_looked_for(monkeypatch):
    platform = ContextVar("platform", default=None)
    monkeypatch.setattr(transformer, "PLATFORM", platform)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(devices.os, "environ", {})
    devices.prepare("v5e:4x4")
    assert platform.get() == "tpu"  # the log said that attention is computed on a processor
    assert devices.os.environ["TPU_SKIP_MDS_QUERY"] == "1"
    assert devices.os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"


def test_the_smallest_slice_that_is_named_can_be_compiled_for(monkeypatch):
    """The TPU library has hosts of four chips unless it is told that there is one chip."""
    asked = []

    class Description:
        devices = ("a chip",)

    def description(name, platform, **options):
        asked.append((name, platform, options))
        return Description

    monkeypatch.setattr(devices.topologies, "get_topology_desc", description)
    assert devices.described("v5e:1x1") == devices.described("v5e:2x2") == ("a chip",)
    one = {"chips_per_host_bounds": (1, 1, 1)}
    assert asked == [("v5e:1x1", "tpu", one), ("v5e:2x2", "tpu", {})]


def test_savings_come_in_the_order_of_what_they_cost():
    stage = search.changed(whole_config("flair", "full").to_dict(), {"model.dtype": "float32"})
    found = list(search.savings(stage, 8))
    assert found[0] == {"model.dtype": "bfloat16"}
    assert found[0] == {"model.dtype": "bfloat16"}
    assert found[1] == {"objectives.contrastive.blockwise": 128}
    assert found[2] == {"model.towers.text.remat": "full"}  # a ResNet keeps nothing to recompute
    assert found[3:] == [*({"microbatch": 128 // n} for n in (2, 4, 8, 16)), {"mesh.fsdp": 8}]
    changed = search.changed(stage, {**found[2], **found[-1]})
    assert changed["model"]["towers"]["text"]["remat"] == "full"
    assert changed["mesh"] == {**stage.get("mesh", {}), "fsdp": 8}
    assert "remat" not in stage["model"]["towers"]["text"]


def test_a_made_up_record_has_what_is_asked_for():
    source = made_up.loader(["grade"])("flair/default", "train", where={"dataset": "x"})
    assert len(source.select({"modality": "ffa"})) == made_up.RECORDS
    assert source[7]["grade"] == "" and source[7]["patient"] != source[8]["patient"]
    assert len(set(source.column("patient"))) == made_up.RECORDS
    spec = {"name": "wordpiece", "vocab": "nowhere.txt"}
    tokens = made_up.tokenizer(spec, {"towers": {"text": {"vocab_size": 20, "eos_id": 9}}})
    ids, mask = tokens.encode("a word", 6)
    assert tokens.vocab_size == 20 and ids.max() < 20
    assert ids[mask].tolist()[-1] == 9 and mask.tolist() == [True] * 4 + [False] * 2
    assert made_up.tokenizer(spec, {}).vocab_size == made_up.VOCABULARY["wordpiece"]

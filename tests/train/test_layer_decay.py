"""Rates that fall towards the input: which layer a parameter of each tower is in."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines.errors import InputError
from retina_jax.models.single_tower import Tower
from retina_jax.train import optimizer
from retina_jax.train.layer_decay import layers_above

pytestmark = pytest.mark.fast
SMALL = {"width": 8, "heads": 2, "mlp_dim": 16}
TEXT = {**SMALL, "vocab_size": 20, "max_length": 4}
TOWERS = {
    "vit": {"name": "vit", **SMALL, "depth": 3, "patch_size": 8, "pre_norm": True},
    "bert": {"name": "bert", **TEXT, "depth": 2, "pre_norm": True},
    "clip_text": {"name": "clip_text", **TEXT, "depth": 2},
    "resnet": {"name": "resnet", "depth": 18, "width": 8},
    "resnet3d": {"name": "resnet3d", "width": 8},
    "clip_resnet": {"name": "clip_resnet", "depths": (1, 2, 1, 1), "width": 8, "heads": 2},
    "efficientnet": {"name": "efficientnet", "variant": "lite0", "width": 0.25},
    "attention_mil": {"name": "attention_mil", "encoder": {"name": "resnet", "depth": 18,
                                                           "width": 8}},
}  # fmt: skip
# Part of a tower, or of a model around it -> layers above it.
ABOVE = {
    "vit": {"patch_embedding": 4, "class_embedding": 4, "position_embedding": 4, "pre_norm": 4,
            "blocks": (3, 2, 1), "post_norm": 0, "head": 0},
    "bert": {"word_embedding": 3, "position_embedding": 3, "type_embedding": 3,
             "embedding_norm": 3, "layers": (2, 1), "last_norm": 0, "head": 0},
    "clip_text": {"word_embedding": 3, "position_embedding": 3, "blocks": (2, 1), "norm": 0,
                  "head": 0},
    "resnet": {"conv1": 9, "bn1": 9, "head": 0,
               **{f"layer{1 + i // 2}_{i % 2}": 8 - i for i in range(8)}},
    "clip_resnet": {"conv1": 6, "bn1": 6, "conv2": 6, "bn2": 6, "conv3": 6, "bn3": 6, "head": 0,
                    "layer1_0": 5, "layer2_0": 4, "layer2_1": 3, "layer3_0": 2, "layer4_0": 1,
                    "attention_pool": 0},
    "efficientnet": {"stem_conv": 17, "stem_bn": 17, "head_conv": 0, "head_bn": 0, "head": 0,
                     **{f"block{i}": 16 - i for i in range(16)}},
}  # fmt: skip
ABOVE["resnet3d"] = ABOVE["resnet"]
ABOVE["attention_mil"] = {**ABOVE["resnet"], "attention_hidden": 0, "attention_score": 0}


@functools.cache
def shapes(tower):
    """The parameters of a classifier with such a tower."""
    key, image = "image", jnp.zeros((1, 32, 32, 3))
    batch = {"image": image}
    if tower in ("bert", "clip_text"):
        key = "text"
        batch = {"text": jnp.zeros((1, 4), jnp.int32), "text_mask": jnp.ones((1, 4), bool)}
    if tower in ("resnet3d", "attention_mil"):
        key, batch = "oct", {"oct": jnp.zeros((1, 2, 32, 32, 1))}
    model = Tower(key, TOWERS[tower], classes=2)
    return jax.eval_shape(model.init, jax.random.key(0), batch)["params"]


def named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(optimizer.parameter_name(path).split("/")): leaf for path, leaf in leaves}


@pytest.mark.parametrize("tower", sorted(TOWERS))
def test_every_parameter_of_a_tower_is_in_the_layer_that_it_is_meant_to_be(tower):
    found = layers_above({path: leaf.shape for path, leaf in named(shapes(tower)).items()})
    seen = set()
    for path, above in found.items():
        part = next(name for name in path if name in ABOVE[tower])
        expected = ABOVE[tower][part]
        seen.add(part)
        assert above.ravel().tolist() == list(np.ravel(expected)), path
    assert seen == set(ABOVE[tower])


def stepped(params, rules):
    """What one step of descent subtracts where all gradients are one."""
    tx = optimizer.make({"name": "sgd", "momentum": 0.0}, lambda count: 1.0, rules=rules)
    gradient = jax.tree.map(np.ones_like, params)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(params), params)
    return named(jax.tree.map(lambda u: -np.asarray(u), updates))


def test_the_rate_of_a_layer_is_the_factor_times_the_decay_for_each_layer_above():
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes("vit"))
    found = stepped(params, [("image/.*", {"learning_rate": 2.0, "layer_decay": 0.5}), (".*", {})])
    for path, step in found.items():
        if path[:2] == ("image", "blocks"):
            assert step.shape[0] == 3
            for layer, rate in zip(step, (0.25, 0.5, 1.0), strict=True):
                np.testing.assert_array_equal(layer, rate)
        else:
            rate = {"head": 1.0, "post_norm": 2.0}.get(path[-2], 2 / 2**4)
            np.testing.assert_array_equal(step, rate, err_msg=str(path))


def test_layers_count_whatever_rules_their_parts_fall_under():
    """Biases without decay, and a first stage that is frozen."""
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes("resnet"))
    decay = {"layer_decay": 0.5}
    rules = [
        ("image/layer1_.*", {"frozen": True}),
        (".*(bias|scale)", {"decay": False, **decay}),
        ("image/.*", decay),
        (".*", {}),
    ]
    found = stepped(params, rules)
    assert found["image", "layer1_0", "conv1", "kernel"].max() == 0
    for leaf in (("conv1", "kernel"), ("bn1", "scale")):
        np.testing.assert_array_equal(found["image", "layer2_0", *leaf], 0.5**6)
        np.testing.assert_array_equal(found["image", *leaf], 0.5**9)


def test_weight_decay_falls_as_the_rate_does():
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes("efficientnet"))
    spec = {"name": "adamw", "weight_decay": 0.1}
    tx = optimizer.make(spec, lambda count: 1.0, rules=[(".*", {"layer_decay": 0.5})])
    updates, _ = jax.jit(tx.update)(jax.tree.map(np.zeros_like, params), tx.init(params), params)
    step = named(updates)["image", "block15", "project_conv", "kernel"]
    np.testing.assert_allclose(step, -0.1 * 0.5, rtol=1e-6)


def test_two_towers_under_one_pattern_have_their_own_depths():
    params = {"image": shapes("resnet")["image"], "text": shapes("bert")["text"]}
    found = layers_above({path: leaf.shape for path, leaf in named(params).items()})
    assert found["image", "conv1", "kernel"] == 9
    assert found["text", "word_embedding", "embedding"] == 3


def init(params, rules):
    return optimizer.make({"name": "sgd"}, lambda count: 1.0, rules=rules).init(params)


def test_a_part_without_layers_is_refused():
    params = {"image": {"conv1": {"kernel": np.ones(2)}}, "head": {"kernel": np.ones(2)}}
    sentence = "No layers are known under the optimizer rule '{}', so layer_decay has no meaning"
    with pytest.raises(InputError, match=sentence.format("head/.*")):
        init(params, [("head/.*", {"layer_decay": 0.5}), (".*", {})])
    whole = {**params, "text": {"layers": {"kernel": np.ones((2, 3))}}}
    with pytest.raises(InputError, match="under the optimizer rule '.\\*'"):
        init(whole, [(".*", {"layer_decay": 0.5})])
    init(whole, [("text/.*", {"layer_decay": 0.5}), (".*", {})])


def test_without_it_the_state_of_the_optimizer_is_what_it_was():
    params = {"text": {"layers": {"kernel": np.ones((2, 3), np.float32)}}}
    plain = jax.tree.structure(init(params, [(".*", {})]))
    assert plain == jax.tree.structure(init(params, [(".*", {"learning_rate": 0.5})]))
    assert isinstance(init(params, [(".*", {})]), optax.transforms.PartitionState)


def test_a_decay_that_is_not_positive_is_refused():
    with pytest.raises(InputError, match="layer_decay is a positive factor"):
        optimizer.make({"name": "sgd"}, lambda count: 1.0, rules=[(".*", {"layer_decay": 0})])


def test_the_norm_after_a_stack_that_lies_in_a_module_of_its_name_is_above_it():
    """As in `models.decoder_blocks.encoder_blocks`, whose module is called as its stack is."""
    found = layers_above({
        ("words", "blocks", "blocks", "mlp", "kernel"): (3, 8, 8),
        ("words", "blocks", "norm", "scale"): (8,),
        ("words", "position_embedding"): (4, 8),
        ("image", "blocks", "mlp", "layers", "kernel"): (2, 8, 8),
        ("image", "blocks", "norm1", "scale"): (2, 8),  # part of a layer, as is what is beside it
    })  # fmt: skip
    assert [x.ravel().tolist() for x in found.values()] == [[3, 2, 1], [0], [4], [2, 1], [2, 1]]

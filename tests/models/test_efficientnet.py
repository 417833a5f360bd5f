"""EfficientNets: published sizes, plans and paddings; their numbers are in tests/convert."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models.efficientnet import VARIANTS, EfficientNet, plan, zeros_around
from retina_jax.models.towers import build_tower

TINY = {"width": 0.1, "depth": 0.1}
IMAGE = np.random.default_rng(0).normal(size=(3, 40, 40, 3)).astype(np.float32)

# Parameters with the layer of 1,000 classes, as timm and EfficientNet-PyTorch count them, and
# number of blocks.
PUBLISHED = {"b0": (5_288_548, 16), "b1": (7_794_184, 23), "b2": (9_109_994, 23),
             "b3": (12_233_232, 26), "b4": (19_341_616, 32), "lite0": (4_652_008, 16),
             "lite1": (5_416_680, 21), "lite2": (6_092_072, 21), "lite3": (8_197_096, 24),
             "lite4": (13_006_568, 30)}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_the_published_ones(count_parameters, variant):
    parameters, blocks = PUBLISHED[variant]
    features = plan(variant).head
    classifier = 1000 * features + 1000
    tower = build_tower({"name": "efficientnet", "variant": variant}, "float32")
    assert count_parameters(tower, jnp.zeros((1, 64, 64, 3))) == parameters - classifier
    assert len(plan(variant).blocks) == blocks


def test_features_are_rounded_to_eight_but_not_below_nine_tenths():
    def features(variant):
        network = plan(variant)
        last = {block.stage: block.features for block in network.blocks}
        return network.stem, *last.values(), network.head

    assert features("b4") == (48, 24, 32, 56, 112, 160, 272, 448, 1792)
    assert features("lite4") == (32, 24, 32, 56, 112, 160, 272, 448, 1280)
    assert plan("lite0", width=0.1).blocks[-2].features == 24  # 16 is less than 90 % of 19.2


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (1, 2)])
def test_same_padding_is_tensorflows(shape, size, stride):
    expected = jax.lax.padtype_to_pads(shape, (size, size), (stride, stride), "SAME")
    assert list(zeros_around(shape, size, stride, "same")) == list(expected)
    assert zeros_around(shape, size, stride, "symmetric") == ((size // 2, size // 2),) * 2


def test_training_records_the_statistics_of_every_layer(random_variables, run):
    model = EfficientNet("b0", **TINY)
    variables = random_variables(model, IMAGE)
    apply = partial(model.apply, train=True, mutable=["batch_stats"])
    _, updated = run(apply, variables, IMAGE)
    before, after = variables["batch_stats"], updated["batch_stats"]
    assert {"stem_bn", "head_bn"} < set(after)
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)
    assert all(jax.tree.leaves(changed))


def test_momentum_and_epsilon_are_those_of_every_norm(random_variables, run):
    """A running mean is momentum * old + ...; an epsilon of 1e6 leaves biases alone."""
    model = EfficientNet("b0", **TINY, momentum=1.0, epsilon=1e12)
    variables = random_variables(model, IMAGE)
    apply = partial(model.apply, train=True, mutable=["batch_stats"])
    out, updated = run(apply, variables, IMAGE)
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"], updated["batch_stats"])
    bias = variables["params"]["head_bn"]["bias"]
    swished = bias / (1 + np.exp(-bias))
    np.testing.assert_allclose(out["pooled"], np.tile(swished, (3, 1)), atol=1e-4)


def test_stochastic_depth_leaves_blocks_out_in_training_alone(random_variables, run):
    # By groups, in which rows of a batch do not see each other.
    model = EfficientNet("b0", width=0.1, depth=0.5, norm="group", drop_path=0.9)
    variables = random_variables(model, IMAGE)
    assert set(variables) == {"params"}

    def outputs(variables):
        def trained(seed):
            rngs = {"dropout": jax.random.key(seed)}
            return model.apply(variables, IMAGE, train=True, rngs=rngs)["pooled"]

        return model.apply(variables, IMAGE)["pooled"], jax.lax.map(trained, jnp.arange(3))

    evaluated, trained = run(outputs, variables)
    assert np.isfinite(trained).all()
    for one, other in ((evaluated, trained[0]), (trained[0], trained[1])):
        assert not np.allclose(one, other, rtol=1e-2)


@pytest.mark.parametrize(("options", "sentence"),
                         [({"variant": "b9"}, "no EfficientNet 'b9'; choose from .*'b0'.*'lite4'"),
                          ({"width": 0.0}, "positive, not 0.0, 1.0"),
                          ({"padding": "valid"}, "one of .'same', 'symmetric'., not 'valid'"),
                          ({"norm": "layer"}, "normalised by one of"),
                          ({"drop_path": 1.0},
                           "drop_path is a share of at least 0 and less than 1")])  # fmt: skip
def test_options_that_it_cannot_have(options, sentence):
    with pytest.raises(InputError, match=sentence):
        jax.eval_shape(EfficientNet(**options).init, jax.random.key(0), IMAGE)

"""ResNet against a numpy transcription of torchvision's, and its published sizes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.numpy_layers import batch_norm, conv, windows

from data_pipelines.errors import InputError
from retina_jax.models.clip_resnet import ClipResNet
from retina_jax.models.efficientnet import EfficientNet
from retina_jax.models.resnet import STAGES, ResNet
from retina_jax.models.resnet3d import ResNet3D


@pytest.mark.parametrize("depth,parameters", [(18, 11_176_512), (50, 23_508_032)])
def test_parameters_are_torchvisions_without_the_classifier(count_parameters, depth, parameters):
    assert count_parameters(ResNet(depth=depth), jnp.zeros((1, 64, 64, 3))) == parameters


@pytest.mark.parametrize(
    ("model", "shape", "last"),
    [
        (ResNet(), (2, 512, 512, 3), (2, 16, 16, 2048)),
        (ResNet3D(), (2, 32, 128, 128, 1), (2, 4, 8, 8, 512)),
        (EfficientNet("b0"), (2, 224, 260, 3), (2, 7, 9, 1280)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_last_map_is_a_thirty_second_rounded_up(model, shape, last):
    """Of B-scans a sixteenth, and an eighth of their number."""
    model, image = model.clone(dtype="bfloat16"), jnp.zeros(shape)
    out = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), image)[0])
    assert out["map"].shape == last and out["map"].dtype == jnp.bfloat16
    assert out["pooled"].shape == (2, last[-1]) and out["pooled"].dtype == jnp.float32


def block(x, params, stats, strides):
    out = x
    for i, stride in enumerate(strides, start=1):
        out = conv(out, params[f"conv{i}"], stride)
        out = batch_norm(out, params[f"bn{i}"], stats[f"bn{i}"])
        out = np.maximum(out, 0) if i < len(strides) else out
    if "downsample_conv" in params:
        x = conv(x, params["downsample_conv"], max(strides))
        x = batch_norm(x, params["downsample_bn"], stats["downsample_bn"])
    return np.maximum(x + out, 0)


def resnet_in_numpy(variables, x, depth):
    params, stats = variables["params"], variables["batch_stats"]
    x = np.maximum(batch_norm(conv(x, params["conv1"], 2), params["bn1"], stats["bn1"]), 0)
    x = windows(x, 3, 2, -np.inf).max(axis=(-2, -1))
    for stage, count in enumerate(STAGES[depth]):
        for i in range(count):
            stride = 2 if stage and not i else 1
            strides = (1, stride, 1) if depth >= 50 else (stride, 1)
            name = f"layer{stage + 1}_{i}"
            x = block(x, params[name], stats[name], strides)
    return x


@pytest.mark.parametrize("depth,size", [(18, 64), (18, 50), (50, 64)])
def test_forward_is_torchvisions(random_variables, run, depth, size):
    # An odd number of pixels on the way down (50) tells symmetric from one-sided padding.
    image = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    model = ResNet(depth=depth, width=2)
    variables = random_variables(model, image, seed=1)
    out = run(model.apply, variables, image)
    expected = resnet_in_numpy(variables, image, depth)
    assert out["map"].shape == expected.shape and expected.std() > 1e-3
    np.testing.assert_allclose(out["map"], expected, rtol=1e-3, atol=1e-4 * expected.max())
    np.testing.assert_allclose(out["pooled"], expected.mean((1, 2)), rtol=1e-3, atol=1e-4)


def test_a_block_that_starts_as_the_identity_has_a_zero_last_gain(run):
    def gains(zero: bool) -> list[float]:
        model = ResNet(depth=18, width=1, zero_init_residual=zero)
        block = run(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)))["params"]["layer2_0"],
                    jax.random.key(0))  # fmt: skip
        return [float(block[name]["scale"][0]) for name in ("bn1", "bn2")]

    assert gains(True) == [1.0, 0.0] and gains(False) == [1.0, 1.0]


def test_unknown_depth():
    with pytest.raises(InputError, match="no ResNet of depth 42"):
        jax.eval_shape(ResNet(depth=42).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


each_network = pytest.mark.parametrize(
    ("model", "shape"),
    [
        (ResNet(18, width=4), (2, 64, 64, 3)),
        (ResNet3D(width=4), (2, 6, 20, 26, 1)),
        (ClipResNet((1, 2, 1, 1), width=4, heads=4), (2, 68, 102, 3)),
    ],
    ids=lambda value: type(value).__name__,
)


@each_network
def test_group_norm_knows_no_other_rows_and_has_no_statistics(random_variables, run, model, shape):
    model = model.clone(norm="group")
    pictures = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    variables = random_variables(model, pictures)
    assert set(variables) == {"params"}

    def pooled(variables):
        train = partial(model.apply, train=True)
        return train(variables, pictures)["pooled"], train(variables, pictures[:1])["pooled"]

    whole, alone = run(pooled, variables)
    np.testing.assert_allclose(whole[:1], alone, rtol=1e-4, atol=1e-5)
    assert not np.allclose(whole[0], whole[1])


@each_network
@pytest.mark.parametrize("options", [{}, {"momentum": 1.0}], ids=["as it is", "still"])
def test_training_records_the_statistics_of_every_norm(
    random_variables, run, model, shape, options
):
    """By its momentum: at 1 all running statistics stay."""
    model = model.clone(**options)
    pictures = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    variables = random_variables(model, pictures)
    _, updated = run(partial(model.apply, train=True, mutable=["batch_stats"]), variables, pictures)
    same = jax.tree.map(np.array_equal, variables["batch_stats"], updated["batch_stats"])
    assert set(jax.tree.leaves(same)) == {bool(options)}

"""The 3-D ResNet against a numpy transcription of torchvision's r3d_18, and its published size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.numpy_layers import batch_norm
from numpy.lib.stride_tricks import sliding_window_view

from data_pipelines.errors import InputError
from retina_jax.models.resnet3d import ResNet3D

VOLUME = np.random.default_rng(0).integers(0, 255, (2, 6, 20, 26, 1), np.uint8)


@pytest.mark.parametrize("channels,parameters", [(3, 33_166_272), (1, 33_166_272 - 18_816)])
def test_parameters_are_torchvisions_without_the_classifier(count_parameters, channels, parameters):
    assert count_parameters(ResNet3D(), jnp.zeros((1, 8, 32, 32, channels))) == parameters


def conv(x, params, stride):
    kernel = params["kernel"]
    sizes = kernel.shape[:3]
    x = np.pad(x, ((0, 0), *((n // 2, n // 2) for n in sizes), (0, 0)))
    views = sliding_window_view(x, sizes, axis=(1, 2, 3))
    views = views[:, :: stride[0], :: stride[1], :: stride[2]]
    return np.einsum("bthwcijk,ijkco->bthwo", views, kernel)


def r3d_in_numpy(variables, volume):
    params, stats = variables["params"], variables["batch_stats"]
    axes = (1, 2, 3, 4)
    x = volume.astype(np.float64)
    x = (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)
    x = np.maximum(batch_norm(conv(x, params["conv1"], (1, 2, 2)), params["bn1"], stats["bn1"]), 0)
    for stage in range(1, 5):
        for i in range(2):
            block, kept = (tree[f"layer{stage}_{i}"] for tree in (params, stats))
            stride = (2, 2, 2) if stage > 1 and i == 0 else (1, 1, 1)
            out = batch_norm(conv(x, block["conv1"], stride), block["bn1"], kept["bn1"])
            out = conv(np.maximum(out, 0), block["conv2"], (1, 1, 1))
            out = batch_norm(out, block["bn2"], kept["bn2"])
            if stage > 1 and i == 0:
                x = batch_norm(conv(x, block["downsample_conv"], stride), block["downsample_bn"],
                         kept["downsample_bn"])  # fmt: skip
            x = np.maximum(x + out, 0)
    return x


def test_forward_is_torchvisions(random_variables, run):
    # Odd sizes on the way down tell symmetric from one-sided padding.
    model = ResNet3D(width=2)
    variables = random_variables(model, VOLUME, seed=1)
    out = run(model.apply, variables, VOLUME)
    expected = r3d_in_numpy(variables, VOLUME)
    assert out["map"].shape == expected.shape == (2, 1, 2, 2, 16) and expected.std() > 1e-3
    np.testing.assert_allclose(out["map"], expected, rtol=1e-3, atol=1e-4 * expected.max())
    np.testing.assert_allclose(out["pooled"], expected.mean((1, 2, 3)), rtol=1e-3, atol=1e-4)


def test_grey_is_repeated_for_weights_for_colour(random_variables, run):
    model, colour = ResNet3D(width=1, channels=3), ResNet3D(width=1)
    variables = random_variables(model, VOLUME)
    assert variables["params"]["conv1"]["kernel"].shape == (3, 7, 7, 3, 1)

    def pooled(variables):
        repeated = np.repeat(VOLUME, 3, axis=-1)
        calls = ((model, VOLUME), (model, repeated), (colour, repeated))
        return [module.apply(variables, volume)["pooled"] for module, volume in calls]

    grey, *others = run(pooled, variables)
    for other in others:
        np.testing.assert_allclose(grey, other, rtol=1e-4, atol=1e-6)


def test_units_of_the_volume_do_not_matter(random_variables, run):
    model = ResNet3D(width=1)
    variables = random_variables(model, VOLUME)

    def pooled(variables):
        floats = VOLUME.astype(np.float32) / 255 * 7 - 3
        return [model.apply(variables, volume)["pooled"] for volume in (VOLUME, floats)]

    np.testing.assert_allclose(*run(pooled, variables), rtol=1e-3, atol=1e-5)


def test_unknown_norm():
    with pytest.raises(InputError, match="not by 'layer'"):
        jax.eval_shape(ResNet3D(norm="layer").init, jax.random.key(0), VOLUME)

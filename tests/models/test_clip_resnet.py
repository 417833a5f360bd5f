"""CLIP's ResNet against a numpy transcription, and its published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.numpy_layers import batch_norm, conv
from scipy.special import softmax

from data_pipelines.errors import InputError
from retina_jax.models.clip_resnet import ClipResNet
from retina_jax.models.dual import Dual

TINY = {"depths": (1, 2, 1, 1), "width": 2, "heads": 4}
rng = np.random.default_rng(0)
IMAGE = rng.normal(size=(2, 68, 102, 3)).astype(np.float32)


@pytest.mark.parametrize(("size", "dim", "options", "parameters"),
                         [(224, 1024, {}, 38_316_896),
                          (224, 512, {"depths": (3, 4, 23, 3)}, 56_259_936),
                          (288, 640, {"depths": (4, 6, 10, 6), "width": 80},
                           87_137_080)])  # fmt: skip
def test_parameters_are_clips(count_parameters, size, dim, options, parameters):
    image = {"name": "clip_resnet", **options}
    model = Dual(towers={"image": image}, dim=dim, projection_bias=("image",), learn_scale=False)
    assert count_parameters(model, {"image": jnp.zeros((1, size, size, 3))}) == parameters


def lively(array):
    """Kernels that keep the scale of their input, so that the features tell images apart."""
    fan_in = np.prod(array.shape[:-1])
    return array * 5 * np.sqrt(2 / fan_in).astype(np.float32) if array.ndim == 4 else array


def halved(x):
    high, wide = x.shape[1] // 2, x.shape[2] // 2
    x = x[:, : 2 * high, : 2 * wide]
    return x.reshape(len(x), high, 2, wide, 2, -1).mean((2, 4))


def block(x, params, stats, halve):
    def step(x, i, stride=1):
        return batch_norm(conv(x, params[f"conv{i}"], stride), params[f"bn{i}"], stats[f"bn{i}"])

    out = np.maximum(step(np.maximum(step(x, 1), 0), 2), 0)
    out = step(halved(out) if halve else out, 3)
    if "downsample_conv" in params:
        x = conv(halved(x) if halve else x, params["downsample_conv"])
        x = batch_norm(x, params["downsample_bn"], stats["downsample_bn"])
    return np.maximum(x + out, 0)


def attention(x, params):
    x = x.reshape(len(x), -1, x.shape[-1])
    x = np.concatenate([x.mean(1, keepdims=True), x], axis=1) + params["position_embedding"]

    def project(x, name):
        return np.einsum("bpw,whd->bphd", x, params[name]["kernel"]) + params[name]["bias"]

    query, key, value = project(x[:, 0:1], "query"), project(x, "key"), project(x, "value")
    scores = np.einsum("bqhd,bphd->bhqp", query, key) / np.sqrt(query.shape[-1])
    mixed = np.einsum("bhqp,bphd->bqhd", softmax(scores, axis=-1), value)
    return mixed.reshape(len(x), -1)


def in_numpy(variables, x, depths):
    params, stats = variables["params"], variables["batch_stats"]
    for i in (1, 2, 3):
        x = conv(x, params[f"conv{i}"], 2 if i == 1 else 1)
        x = np.maximum(batch_norm(x, params[f"bn{i}"], stats[f"bn{i}"]), 0)
    x = halved(x)
    for stage, count in enumerate(depths):
        for i in range(count):
            name = f"layer{stage + 1}_{i}"
            x = block(x, params[name], stats[name], stage > 0 and i == 0)
    return x, attention(x, params["attention_pool"])


def test_forward_is_clips(random_variables, run):
    # Maps of 17 x 25 lose a row and a column where their means are taken.
    model = ClipResNet(**TINY)
    variables = random_variables(model, IMAGE, seed=1)
    variables["params"] = jax.tree.map(lively, variables["params"])
    out = run(model.apply, variables, IMAGE)
    last, pooled = in_numpy(variables, IMAGE, TINY["depths"])
    assert out["map"].shape == last.shape == (2, 2, 3, 64) and last.std() > 1e-3
    np.testing.assert_allclose(out["map"], last, rtol=1e-3, atol=1e-4 * last.max())
    assert np.abs(np.diff(pooled, axis=0)).max() > 0.1
    np.testing.assert_allclose(out["pooled"], pooled, rtol=1e-3, atol=1e-4 * abs(pooled).max())


def test_heads_of_64_and_computing_in_half_precision():
    image = jnp.zeros((2, 64, 64, 3))
    model = ClipResNet(depths=(1, 1, 1, 1), width=4, dtype="bfloat16")
    out, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), image))
    assert out["map"].dtype == jnp.bfloat16 and out["pooled"].dtype == jnp.float32
    assert variables["params"]["attention_pool"]["query"]["kernel"].shape == (128, 2, 64)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_first_values_are_clips(run):
    model = ClipResNet(depths=(1, 1, 1, 1), width=8)
    params = run(lambda key: model.init(key, IMAGE[:1, :64, :64])["params"], jax.random.key(0))
    pool, block = params["attention_pool"], params["layer4_0"]
    for name in ("query", "key", "value"):
        assert np.std(pool[name]["kernel"]) == pytest.approx(256**-0.5, rel=0.05)
        assert np.abs(pool[name]["bias"]).max() == pytest.approx(256**-0.5, rel=0.05)
    # PyTorch's default of convolutions: evenly within 1 / sqrt(inputs).
    assert np.abs(block["conv2"]["kernel"]).max() == pytest.approx((9 * 64) ** -0.5, rel=0.01)
    gains = [float(block[name]["scale"][0]) for name in ("bn1", "bn2", "bn3", "downsample_bn")]
    assert gains == [1.0, 1.0, 0.0, 1.0]


def shapes(model, size):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))


@pytest.mark.parametrize(("options", "size", "sentence"),
                         [({}, (32, 31), "32 x 31 pixels are too small"),
                          ({"depths": (1, 1, 1)}, (32, 32), "four stages of at least one block"),
                          ({"depths": (1, 0, 1, 1)}, (32, 32), "four stages of at least one block"),
                          ({"width": 3}, (32, 32), "is even, not 3"),
                          ({"heads": 5}, (32, 32),
                           "64 cannot be split into 5 heads")])  # fmt: skip
def test_what_cannot_be_built(options, size, sentence):
    with pytest.raises(InputError, match=sentence):
        shapes(ClipResNet(**{**TINY, **options}), size)


def test_another_size_than_that_of_the_positions():
    model = ClipResNet(**TINY)
    variables = shapes(model, (64, 64))
    with pytest.raises(InputError, match="5 learned positions, but its last map of 3 x 2 needs 7"):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 96, 64, 3)))

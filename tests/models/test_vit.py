"""The vision transformer against a numpy transcription of Chinese-CLIP's image tower."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

from data_pipelines.errors import InputError
from retina_jax.models.vit import ViT

pytestmark = pytest.mark.fast

TINY = dict(width=12, depth=2, heads=3, mlp_dim=20, patch_size=4)
CLIP = dict(activation="quick_gelu", pre_norm=True, patch_bias=False)
IMAGE = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)


def test_parameters_of_chinese_clip():
    # 86,192,640 with its projection of 768 x 512, which is the system's here.
    shapes = jax.eval_shape(ViT(**CLIP).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    sizes = jax.tree.map(lambda x: x.shape, shapes["params"])
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 86_192_640 - 768 * 512
    assert sizes["position_embedding"] == (197, 768)
    assert sizes["patch_embedding"] == {"kernel": (16, 16, 3, 768)}
    query = sizes["blocks"]["attention"]["query"]  # the first axis is the depth
    assert query == {"kernel": (12, 768, 12, 64), "bias": (12, 12, 64)}


def norm(x, params, eps=1e-5):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps)
    return x * params["scale"] + params["bias"]


def attention(x, params):
    def project(name):
        return np.einsum("btw,whd->bhtd", x, params[name]["kernel"]) + params[name]["bias"][:, None]

    query, key, value = (project(name) for name in ("query", "key", "value"))
    weights = softmax(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]), axis=-1)
    out = params["out"]
    return np.einsum("bhtd,hdw->btw", weights @ value, out["kernel"]) + out["bias"]


def vit_in_numpy(params, image, activation, pre_norm, cls):
    rows, columns = image.shape[1] // 4, image.shape[2] // 4
    patches = [
        image[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].reshape(len(image), -1)
        for i in range(rows)
        for j in range(columns)
    ]
    embedding = params["patch_embedding"]
    x = np.stack(patches, axis=1) @ embedding["kernel"].reshape(-1, 12) + embedding.get("bias", 0)
    if cls:
        token = np.broadcast_to(params["class_embedding"], (len(image), 1, 12))
        x = np.concatenate([token, x], axis=1)
    x = x + params["position_embedding"]
    x = norm(x, params["pre_norm"]) if pre_norm else x
    for i in range(2):
        block = jax.tree.map(lambda stack, i=i: stack[i], params["blocks"])
        x = x + attention(norm(x, block["norm1"]), block["attention"])
        hidden = norm(x, block["norm2"]) @ block["mlp"]["in"]["kernel"] + block["mlp"]["in"]["bias"]
        x = x + activation(hidden) @ block["mlp"]["out"]["kernel"] + block["mlp"]["out"]["bias"]
    return norm(x, params["post_norm"])


def test_forward_is_chinese_clips(random_variables, run):
    model = ViT(**TINY, **CLIP)
    variables = random_variables(model, IMAGE)
    expected = vit_in_numpy(
        variables["params"], IMAGE, lambda z: z / (1 + np.exp(-1.702 * z)), True, True
    )
    out = run(model.apply, variables, IMAGE)
    np.testing.assert_allclose(out["tokens"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(out["pooled"], expected[:, 0], rtol=1e-3, atol=1e-4)


def test_forward_of_the_plain_transformer_with_mean_pooling(random_variables, run):
    model = ViT(**TINY, pool="mean")
    variables = random_variables(model, IMAGE)
    expected = vit_in_numpy(
        variables["params"], IMAGE, lambda z: z * (1 + erf(z / 2**0.5)) / 2, False, False
    )
    out = run(model.apply, variables, IMAGE)
    assert out["tokens"].shape == (2, 6, 12)
    np.testing.assert_allclose(out["pooled"], expected.mean(axis=1), rtol=1e-3, atol=1e-4)


def test_bfloat16_keeps_parameters_and_pooled_in_float32(random_variables, run):
    model = ViT(**TINY, dtype="bfloat16")
    variables = random_variables(model, IMAGE)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("float32")}
    out, exact = (run(m.apply, variables, IMAGE) for m in (model, ViT(**TINY)))
    assert out["tokens"].dtype == jnp.bfloat16 and out["pooled"].dtype == jnp.float32
    np.testing.assert_allclose(out["pooled"], exact["pooled"], atol=0.15)


def test_errors_name_the_remedy(random_variables):
    variables = random_variables(ViT(**TINY), IMAGE)
    with pytest.raises(InputError, match="multiple"):
        ViT(**TINY).apply(variables, np.zeros((1, 10, 12, 3)))
    with pytest.raises(InputError, match="has 7 learned positions.*12 x 12 pixels need 10"):
        ViT(**TINY).apply(variables, np.zeros((1, 12, 12, 3)))
    with pytest.raises(InputError, match="not by 'max'"):
        ViT(**TINY, pool="max").init(jax.random.key(0), IMAGE)

"""The vision transformer against a numpy transcription of Chinese-CLIP's image tower."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.numpy_layers import attention, layer_norm
from scipy.special import erf

from data_pipelines.errors import InputError
from retina_jax.models.vit import ViT, hidden_of

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


norm = partial(layer_norm, eps=1e-5)


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


def bounds(values):
    """Largest size of the values, and their kurtosis: 1.8 if uniform, 3 if normal."""
    values = np.asarray(values, np.float64).ravel()
    return abs(values).max(), (values**4).mean() / (values**2).mean() ** 2


def test_first_values_are_those_of_pytorchs_layers(run):
    model = ViT(
        width=64, depth=1, heads=2, mlp_dim=96, patch_size=4, initialization="torch", **CLIP
    )
    params = run(model.init, jax.random.key(0), IMAGE)["params"]
    block = jax.tree.map(lambda stack: stack[0], params["blocks"])
    for values, fan_in in (
        (params["patch_embedding"]["kernel"], 4 * 4 * 3),
        (block["attention"]["out"]["kernel"], 64),
        (block["mlp"]["in"]["kernel"], 64),
        (block["mlp"]["in"]["bias"], 64),
        (block["mlp"]["out"]["kernel"], 96),
        (block["mlp"]["out"]["bias"], 96),
    ):
        largest, kurtosis = bounds(values)
        assert 0.9 < largest * fan_in**0.5 <= 1 and kurtosis == pytest.approx(1.8, abs=0.3)
    for name in ("query", "key", "value"):
        largest, kurtosis = bounds(block["attention"][name]["kernel"])
        # One Xavier matrix of 64 x 192 for all three.
        assert largest == pytest.approx((6 / (64 + 192)) ** 0.5, rel=0.01)
        assert kurtosis == pytest.approx(1.8, abs=0.1)
        assert not block["attention"][name]["bias"].any()
    assert not block["attention"]["out"]["bias"].any()
    for name in ("class_embedding", "position_embedding"):
        assert np.std(params[name]) == pytest.approx(64**-0.5, rel=0.25)


def test_stochastic_depth_keeps_the_mean_and_grows_with_the_depth(random_variables, run):
    # Blocks whose branches add their output bias only: each adds 1 in each of its branches.
    model = ViT(**{**TINY, "depth": 3}, drop_path=0.6, pool="mean")
    variables = jax.tree.map(np.zeros_like, random_variables(model, IMAGE[:, :4, :8]))
    blocks = variables["params"]["blocks"]
    for branch in (blocks["attention"]["out"], blocks["mlp"]["out"]):
        branch["bias"][:] = 1.0

    def before_the_last_norm(key):
        seen = []

        def look(call, args, kwargs, context):
            if context.module.name == "post_norm":
                seen.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(look):
            model.apply(variables, IMAGE[:, :4, :8], train=True, rngs={"dropout": key})
        return seen[0]

    after = run(jax.vmap(before_the_last_norm), jax.random.split(jax.random.key(0), 1000))
    assert (after == after[..., :1, :1]).all()  # a row skips a branch as a whole
    sums = np.asarray(after[..., 0, 0]).ravel()
    # Rates 0, 0.3, 0.6: two branches of each are 1, 0 or 1/0.7, 0 or 1/0.4.
    possible = {round(2 + i / 0.7 + j / 0.4, 3) for i in range(3) for j in range(3)}
    assert {round(float(value), 3) for value in sums} == possible
    variance = 2 * (0.3 / 0.7 + 0.6 / 0.4)
    assert sums.mean() == pytest.approx(6, abs=5 * (variance / len(sums)) ** 0.5)
    assert sums.var() == pytest.approx(variance, rel=0.15)


def test_token_drop_keeps_the_number_the_class_token_and_real_patches(random_variables, run):
    # Without blocks that mix, each token shows which patch it is.
    model = ViT(**{**TINY, "depth": 1}, token_drop=0.5, pre_norm=True)
    variables = random_variables(model, IMAGE)
    block = variables["params"]["blocks"]
    for branch in (block["attention"]["out"], block["mlp"]["out"]):
        branch.update({name: np.zeros_like(values) for name, values in branch.items()})

    def several(variables):
        def draw(key):
            return model.apply(variables, IMAGE, train=True, rngs={"dropout": key})["tokens"]

        keys = jax.random.split(jax.random.key(0), 4)
        return model.apply(variables, IMAGE)["tokens"], jax.vmap(draw)(keys)

    whole, drawn = run(several, variables)
    assert whole.shape == (2, 7, 12)
    chosen = set()
    for tokens in drawn:
        assert tokens.shape == (2, 1 + 3, 12)
        np.testing.assert_allclose(tokens[:, 0], whole[:, 0], atol=1e-5)
        for row in range(2):
            distance = abs(tokens[row, :, None] - whole[row, None]).max(-1)
            found = distance.argmin(1)
            assert distance.min(1).max() < 1e-5 and len(set(found.tolist())) == 4
            chosen.add(tuple(sorted(found.tolist())))
    assert len(chosen) > 2  # rows and steps draw anew


@pytest.mark.parametrize(
    ("size", "share", "kept"),
    [((224, 224), 0.25, 147), ((224, 224), 0.5, 98), ((224, 224), 0.9, 19), ((224, 224), 0.999, 1),
     ((64, 80), 0.9, 2)],  # of 20 patches; 20 * (1 - 0.9) is 1.9999999999999996
)  # fmt: skip
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_number_of_tokens_that_stay(size, share, kept, pool):
    """Exact shares are not lost to rounding."""
    model = ViT(**{**TINY, "patch_size": 16}, token_drop=share, pool=pool)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    image = jnp.zeros((2, *size, 3))
    shapes = jax.eval_shape(lambda: model.init_with_output(rngs, image, train=True))[0]
    assert shapes["tokens"].shape == (2, kept + (pool == "cls"), 12)


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
    with pytest.raises(InputError, match="not 'normal'"):
        ViT(**TINY, initialization="normal").init(jax.random.key(0), IMAGE)
    for name in ("drop_path", "token_drop"):
        with pytest.raises(InputError, match=f"{name} is a share.*less than 1"):
            ViT(**TINY, **{name: 1.0}).init(jax.random.key(0), IMAGE)
    with pytest.raises(InputError, match="not by 'max'"):
        ViT(**TINY, pool="max").init(jax.random.key(0), IMAGE)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_only_visible_patches_reach_the_tokens(random_variables, run, pool):
    """MAE: tokens of the visible patches in the order that was asked for, at their positions."""
    model = ViT(**TINY, pool=pool)
    variables = random_variables(model, IMAGE)
    visible = np.array([[4, 1, 2], [0, 5, 3]])
    everything = np.array([[3, 0, 5, 1, 2, 4]] * 2)
    hidden = np.ones((2, 6), bool)
    np.put_along_axis(hidden, visible, False, axis=1)
    pixels = np.repeat(np.repeat(hidden.reshape(2, 2, 3), 4, axis=1), 4, axis=2)[..., None]

    def several(variables):
        def tokens(image, *visible):
            return model.apply(variables, image, False, *visible)["tokens"]

        repainted = jnp.where(pixels, -IMAGE, IMAGE)
        return (tokens(IMAGE), tokens(IMAGE, everything), tokens(IMAGE, visible),
                tokens(repainted, visible))  # fmt: skip

    whole, all_of_it, seen, repainted = run(several, variables)
    first = 1 if pool == "cls" else 0
    np.testing.assert_allclose(all_of_it[:, first:], whole[:, first:][:, everything[0]], atol=1e-5)
    assert seen.shape == (2, first + 3, 12)
    np.testing.assert_allclose(repainted, seen, atol=1e-6)
    np.testing.assert_array_equal(hidden_of(visible, 6), hidden)


def test_a_mask_token_stands_in_for_hidden_patches(random_variables, run):
    """SimMIM: it takes the place of what the patch embedding gives, position and all."""
    model = ViT(**TINY)
    variables = random_variables(model, IMAGE)
    visible = np.array([[4, 1, 2], [0, 5, 3]])
    embedding = variables["params"]["patch_embedding"]
    grey = np.full((4, 4, 3), 0.3, np.float32)
    token = np.einsum("ijk,ijkw->w", grey, embedding["kernel"]) + embedding["bias"]
    hidden = np.asarray(hidden_of(visible, 6)).reshape(2, 2, 3)
    pixels = np.repeat(np.repeat(hidden, 4, axis=1), 4, axis=2)[..., None]

    def both(variables):
        replaced = model.apply(variables, IMAGE, False, visible, token)["tokens"]
        return replaced, model.apply(variables, jnp.where(pixels, 0.3, IMAGE))["tokens"]

    replaced, painted = run(both, variables)
    assert replaced.shape == (2, 7, 12)
    np.testing.assert_allclose(replaced, painted, atol=1e-4)


def test_the_mean_of_patches_beside_a_class_token_is_normalised_last(random_variables, run):
    model, cls = ViT(**TINY, pool="patch_mean"), ViT(**TINY)
    variables = random_variables(model, IMAGE)
    out = run(model.apply, variables, IMAGE)
    expected = norm(np.asarray(out["tokens"])[:, 1:].mean(axis=1), variables["params"]["post_norm"])
    np.testing.assert_allclose(out["pooled"], expected, rtol=1e-3, atol=1e-4)
    # The parameters are those of a ViT with a class token, whose norm comes first.
    normed = norm(np.asarray(out["tokens"]), variables["params"]["post_norm"])
    np.testing.assert_allclose(
        run(cls.apply, variables, IMAGE)["tokens"], normed, rtol=1e-3, atol=1e-4
    )


def test_gains_of_branches(random_variables, run):
    scaled, plain = ViT(**TINY, layer_scale=0.5), ViT(**TINY)
    variables = random_variables(scaled, IMAGE)
    blocks = dict(variables["params"]["blocks"])
    first, second = blocks.pop("scale1"), blocks.pop("scale2")
    assert first.shape == second.shape == (2, 12)
    # A gain of a branch is a gain of its last linear map.
    attention, mlp = dict(blocks["attention"]), dict(blocks["mlp"])
    attention["out"] = {"kernel": attention["out"]["kernel"] * first[:, None, None],
                        "bias": attention["out"]["bias"] * first}  # fmt: skip
    mlp["out"] = {
        "kernel": mlp["out"]["kernel"] * second[:, None], "bias": mlp["out"]["bias"] * second,
    }  # fmt: skip
    folded = {**variables["params"], "blocks": {**blocks, "attention": attention, "mlp": mlp}}
    out = run(scaled.apply, variables, IMAGE)
    expected = run(plain.apply, {"params": folded}, IMAGE)
    np.testing.assert_allclose(out["tokens"], expected["tokens"], rtol=1e-3, atol=1e-4)
    fresh = scaled.init(jax.random.key(0), IMAGE[:1])["params"]["blocks"]
    np.testing.assert_array_equal(fresh["scale1"], np.full((2, 12), 0.5, np.float32))

"""Maps of each kind of tower, against what is written out by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models.dual import Dual
from retina_jax.models.single_tower import Tower
from retina_jax.models.vit import _ViTBlock
from retina_jax.saliency import maps, randomised, scores

pytestmark = pytest.mark.fast


def test_a_map_is_gradient_times_activation():
    cells = jnp.stack([jnp.array([[1.0, 2], [3, 4]]), jnp.array([[4.0, 0], [0, 0]])], axis=-1)[None]
    gradients = jnp.broadcast_to(jnp.array([0.1, -0.2]), cells.shape)
    found = maps.combine(cells, gradients)[0]
    np.testing.assert_allclose(found, [[0, 0.2], [0.3, 0.4]], atol=1e-7)
    np.testing.assert_allclose(scores.unit(found), [[0, 0.5], [0.75, 1]], atol=1e-6)


RESNET = {"name": "resnet", "depth": 18, "width": 4, "norm": "group"}
VIT = {"name": "vit", "width": 8, "depth": 3, "heads": 2, "mlp_dim": 8, "patch_size": 8}
LIKELIEST = np.full(2, -1, np.int32)


@functools.cache
def tower(**spec):
    """A classifier, its variables, all of them random, two pictures, and its logits of them."""
    model = Tower("image", spec, 3)
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (2, 32, 32, 3), np.uint8)}
    # Biases and gains too, without a compilation.
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    variables = jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(x.dtype), shapes)
    return model, variables, batch, jax.jit(model.apply)(variables, batch)["logits"]


def test_gradients_are_those_of_what_is_pooled():
    """Against d logit / d cells written out: the head's weights over the number of cells."""
    model, variables, batch, plain = tower(**RESNET)
    explain = maps.explainer(model, "image", maps.by_head)
    found, logits = explain(variables, batch, np.array([2, 0], np.int32))
    np.testing.assert_allclose(logits, plain, rtol=1e-5)
    likeliest, _ = explain(variables, batch, LIKELIEST)
    same, _ = explain(variables, batch, np.asarray(plain.argmax(1), np.int32))
    np.testing.assert_array_equal(likeliest, same)

    def cells(variables):
        picture = jnp.asarray(batch["image"] / 255, jnp.float32)
        return nn.apply(lambda bound: bound.image(picture)["map"], model)(variables)

    last = jax.jit(cells)(variables)
    weights = variables["params"]["head"]["kernel"][:, np.array([2, 0])].T
    weights = weights / (last.shape[1] * last.shape[2])
    expected = np.maximum(np.einsum("bhwf,bf->bhw", last, weights), 0)
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# The ViT of Chinese-CLIP, and so of RET-CLIP; MAE's pooling; layers that are written out.
VITS = [
    {"pool": "cls", "activation": "quick_gelu", "pre_norm": True, "patch_bias": False},
    {"pool": "mean", "scan": False, "remat": "none"},
    {"pool": "patch_mean", "layer_scale": 0.5, "token_drop": 0.5},
]


def behind(spec, variables, tokens, blocks):
    """Logits of tokens f[B T W] that have this many of the last blocks before them, by hand."""
    params = variables["params"]["image"]
    for number in range(spec["depth"] - blocks, spec["depth"]):
        one = jax.tree.map(lambda x, number=number: x[number], params["blocks"])
        block = _ViTBlock(
            2, 8, spec.get("activation", "gelu"), 1e-5, "xavier", None, False,
            spec.get("layer_scale"), "float32",
        )  # fmt: skip
        tokens, _ = block.apply({"params": one}, tokens, jnp.zeros(()), False)
    norm = nn.LayerNorm(epsilon=1e-5).bind({"params": params["post_norm"]})
    if spec["pool"] == "patch_mean":
        pooled = norm(tokens[:, 1:].mean(1))
    else:
        pooled = norm(tokens)[:, 0] if spec["pool"] == "cls" else norm(tokens).mean(1)
    head = variables["params"]["head"]
    return pooled @ head["kernel"] + head["bias"]


@pytest.mark.parametrize("spec", VITS, ids=lambda spec: spec["pool"])
def test_tokens_are_the_last_that_a_score_depends_on(spec):
    model, variables, batch, plain = tower(**VIT, **spec)
    found, logits = maps.explainer(model, "image", maps.by_head)(variables, batch, LIKELIEST)
    np.testing.assert_allclose(logits, plain, atol=1e-5)
    _, state = jax.jit(functools.partial(model.apply, mutable=["intermediates"]))(variables, batch)
    seen = state["intermediates"]["image"]
    blocks = 1 if spec["pool"] == "cls" else 0
    tokens = seen["blocks"]["inputs"][0][-1] if blocks else seen["cells"][0]

    @functools.partial(jax.value_and_grad, has_aux=True)
    def score(x):
        scores = behind({**VIT, **spec}, variables, x, blocks)
        return scores.max(axis=1).sum(), scores

    (_, scores), gradients = jax.jit(score)(tokens)
    np.testing.assert_allclose(scores, plain, atol=1e-5)
    first = 0 if spec["pool"] == "mean" else 1
    grid = [x[:, first:].reshape(2, 4, 4, -1) for x in (tokens, gradients)]
    expected = maps.combine(*grid)
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("spec", VITS, ids=lambda spec: spec["pool"])
def test_rollout_spells_out_the_weights_of_the_same_pass(spec):
    """A kernel that returns no weights, and that this machine may not have, is not needed."""
    _, variables, batch, plain = tower(**VIT, **spec)
    model = Tower("image", {**VIT, **spec, "attention": "cudnn"}, 3)
    found, logits = maps.rollout(model, "image", maps.by_head)(variables, batch, LIKELIEST)
    np.testing.assert_allclose(logits, plain, atol=1e-5)
    assert found.shape == (2, 4, 4) and found.min() >= 0
    whole = found.sum(axis=(1, 2))  # of a row that sums to 1, without the class token
    if spec["pool"] == "mean":
        np.testing.assert_allclose(whole, 1, atol=1e-5)
    else:
        assert (whole < 0.999).all()


def test_rollout_multiplies_the_layers():
    first = [[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]]
    second = [[0.4, 0.4, 0.2], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6]]
    rolled = maps.rolled_out(jnp.array([[first], [second]]))[0]
    np.testing.assert_allclose(rolled[0], [0.55, 0.2525, 0.1975], atol=5e-7)


def test_an_attention_pool_is_explained_as_it_pools():
    """A mean in its place would be another score."""
    spec = {"name": "clip_resnet", "depths": (1, 1, 1, 1), "width": 4, "norm": "group"}
    model, variables, batch, plain = tower(**spec)
    explain, ask = (make(model, "image", maps.by_head) for make in maps.METHODS.values())
    found, logits = explain(variables, batch, LIKELIEST)
    assert found.shape == (2, 1, 1)
    np.testing.assert_allclose(logits, plain, rtol=1e-4)
    with pytest.raises(InputError, match="Rollout follows the attention of a ViT"):
        jax.eval_shape(ask, variables, batch, LIKELIEST)


def test_what_reads_no_single_pictures_is_refused():
    model = Tower("oct", {"name": "attention_mil", "encoder": {**VIT, "pool": "mean"}}, 2)
    batch = {"oct": np.zeros((1, 2, 32, 32, 1), np.uint8)}
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    with pytest.raises(InputError, match="read single pictures"):
        explain = maps.explainer(model, "oct", maps.by_head)
        jax.eval_shape(explain, variables, batch, LIKELIEST[:1])


def test_a_model_of_texts_is_explained_and_made_random_by_its_picture_tower():
    text = {
        "name": "bert",
        "vocab_size": 16,
        "width": 8,
        "depth": 1,
        "heads": 2,
        "mlp_dim": 8,
        "max_length": 8,
    }
    model = Dual({"image": {**VIT, "pool": "cls"}, "text": text}, dim=4)
    batch = {"image": np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)}
    both = {**batch, "text": np.ones((2, 4), np.int32), "text_mask": np.ones((2, 4), bool)}
    variables = jax.jit(model.init)(jax.random.key(1), both)
    prototypes = np.eye(3, 4, dtype=np.float32)
    score = maps.by_texts(prototypes, 10.0)
    _, found = maps.explainer(model, "image", score)(variables, batch, LIKELIEST)
    embed = jax.jit(functools.partial(model.apply, method="embed"))
    cosines = np.asarray(embed(variables, batch)["image"] @ prototypes.T)
    others = (cosines.sum(1, keepdims=True) - cosines) / 2
    np.testing.assert_allclose(found, 10 * (cosines - others), atol=1e-5)

    random = randomised.drawn(model, score)(0, batch)
    assert "text" not in random["params"]
    changes = {}
    for step, share in randomised.STEPS.items():
        mixed = randomised.from_the_head(variables, random, "image", share)
        assert jax.tree.structure(mixed) == jax.tree.structure(variables)
        same = jax.tree.map(lambda a, b: a == b, mixed, variables)["params"]
        assert all(x.all() for x in jax.tree.leaves(same["text"]))
        kernel = same["image"]["blocks"]["mlp"]["in"]["kernel"].all(axis=(1, 2))
        patches = same["image"]["patch_embedding"]["kernel"].all()
        head = same["image_projection"]["kernel"].all()
        changes[step] = [bool(head), *np.asarray(kernel)[::-1].tolist(), bool(patches)]
    assert changes == {  # the head, blocks from the last to the first, patches
        "head": [False, True, True, True, True],
        "quarter": [False, True, True, True, True],
        "half": [False, False, True, True, True],
        "three_quarters": [False, False, False, True, True],
        "all": [False, False, False, False, False],
    }

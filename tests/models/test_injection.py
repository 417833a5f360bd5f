"""Local injection: queries, experts that are looked at, texts that are written, and the memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models.keepfit import KeepFIT
from retina_jax.models.keepfit_v2 import (
    ExpertMemory,
    LocalInjection,
    QueryExtractor,
    feature_map,
    nearest,
)
from retina_jax.models.resnet import ResNet
from retina_jax.models.vit import ViT

rng = np.random.default_rng(0)
WORDS, LENGTH = 13, 6
VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "patch_size": 8}
BERT = {"name": "bert", "vocab_size": WORDS, "width": 12, "depth": 1, "heads": 2, "mlp_dim": 8,
        "max_length": LENGTH}  # fmt: skip
LOCAL = {"queries": 3, "width": 8, "depth": 1, "heads": 2, "mlp_dim": 16, "nearest": 2,
         "decoder": {"vocab_size": WORDS, "depth": 1}}  # fmt: skip


def floats(*shape):
    return rng.normal(size=shape).astype(np.float32)


def stream(rows, seed):
    made = np.random.default_rng(seed)
    return {
        "image": made.integers(0, 256, size=(rows, 16, 16, 3), dtype=np.uint8),
        "text": made.integers(1, WORDS, size=(rows, LENGTH)).astype(np.int32),
        "text_mask": np.arange(LENGTH) < made.integers(2, LENGTH + 1, size=(rows, 1)),
    }


BATCH = {"public": stream(3, 1), "expert": stream(4, 2)}


def keepfit(**options):
    local = {**LOCAL, **options.pop("local", {})}
    return KeepFIT(towers={"image": VIT, "text": BERT}, dim=6, local=local, **options)


def test_places_of_either_kind_of_tower_are_row_major(random_variables, run):
    image = floats(2, 64, 32, 3)
    for tower, first in ((ViT(8, 1, 2, 8, 16), 1), (ViT(8, 1, 2, 8, 16, pool="mean"), 0)):
        variables = random_variables(tower, image)
        encoded = run(tower.apply, variables, image)
        places = feature_map(tower.bind(variables), encoded, image)
        assert places.shape == (2, 4, 2, 8)
        np.testing.assert_array_equal(places[1, 2, 1], encoded["tokens"][1, first + 2 * 2 + 1])
    resnet = ResNet(depth=18, width=2)
    shapes = jax.eval_shape(lambda x: resnet.init_with_output(jax.random.key(0), x)[0], image)
    assert feature_map(resnet, shapes, image).shape == (2, 2, 1, 16)
    with pytest.raises(InputError, match="set token_drop to 0"):
        feature_map(ViT(token_drop=0.5), {"tokens": None}, image)


def test_queries_know_the_place_of_what_they_see(random_variables, run):
    model = QueryExtractor(3, 8, 1, 2, 16, 0.0, "float32")
    features = floats(2, 3, 4, 5)
    variables = random_variables(model, features, False)
    out = run(lambda x: model.apply(variables, x, False), features)
    assert out.shape == (2, 3, 8)
    for axis in (1, 2):
        moved = run(lambda x: model.apply(variables, x, False), np.roll(features, 1, axis))
        assert np.abs(out - moved).max() > 1e-3
    assert np.abs(out[:, 0] - out[:, 1]).max() > 1e-3  # the queries differ


def test_nearest_are_the_most_similar_ones_that_are_there():
    key = np.eye(4, dtype=np.float32)
    query = np.array([[0.1, 0.9, 0.3, 0.2], [0.9, 0.1, 0.2, 0.3]], np.float32)
    np.testing.assert_array_equal(nearest(query, key, 2, None), [[1, 2], [0, 3]])
    valid = np.array([True, False, True, True])
    np.testing.assert_array_equal(nearest(query, key, 2, valid), [[2, 3], [0, 3]])
    # Even where all that are there point away.
    np.testing.assert_array_equal(nearest(-query, key, 2, valid), [[0, 3], [2, 3]])
    with pytest.raises(InputError, match="5 nearest of 4 expert items"):
        nearest(query, key, 5, None)


def test_a_text_is_written_from_the_words_before_and_the_queries(random_variables, run):
    model = keepfit()
    variables = random_variables(model, BATCH)
    out = run(model.apply, variables, BATCH)
    assert {k: v.shape for k, v in out["caption_logits"].items()} == {
        "expert": (4, LENGTH - 1, WORDS), "public": (3, LENGTH - 1, WORDS)
    }  # fmt: skip
    assert set(out) == {"z", "scale", "reference", "caption_logits"}
    text = BATCH["expert"]["text"].copy()
    text[:, 3] = 1 + text[:, 3] % (WORDS - 1)  # the fourth word changes
    batch = {**BATCH, "expert": {**BATCH["expert"], "text": text}}
    changed = run(model.apply, variables, batch)["caption_logits"]["expert"]
    np.testing.assert_allclose(changed[:, :3], out["caption_logits"]["expert"][:, :3], atol=1e-6)
    longer = BATCH["expert"]["text_mask"][:, 3]
    assert np.abs(changed - out["caption_logits"]["expert"])[longer, 3].max() > 1e-3
    image = BATCH["expert"]["image"][::-1]
    batch = {**BATCH, "expert": {**BATCH["expert"], "image": image}}
    changed = run(model.apply, variables, batch)["caption_logits"]["expert"]
    assert np.abs(changed - out["caption_logits"]["expert"]).max() > 1e-3


@pytest.mark.slow
def test_only_the_first_words_are_written_where_asked_for(random_variables, run):
    whole, short = keepfit(), keepfit(local={"length": 4})
    variables = random_variables(whole, BATCH)
    expected = run(whole.apply, variables, BATCH)["caption_logits"]
    for name, scores in run(short.apply, variables, BATCH)["caption_logits"].items():
        np.testing.assert_allclose(scores, expected[name][:, :3], atol=1e-6)


def test_output_words_share_the_input_embeddings(random_variables):
    variables = random_variables(keepfit(), BATCH)
    writer = variables["params"]["injection"]["writer"]
    assert set(writer) == {"embedding", "decoder"}
    assert writer["embedding"]["embedding"].shape == (WORDS, 8)


@pytest.mark.parametrize("last", [True, False])
def test_a_public_picture_looks_at_the_nearest_experts_that_are_there(last, run):
    """Queries of experts that are not chosen have no influence, those that are have."""
    model = LocalInjection(**LOCAL)
    queries, experts = floats(2, 3, 8), floats(4, 3, 8)
    chosen, valid = np.array([[0, 2], [3, 0]]), np.array([True, True, True, last])

    def cross_attend_experts(module, experts):
        return module.cross_attend_experts(queries, chosen, experts, False, valid)

    shapes = jax.eval_shape(
        lambda e: model.init(jax.random.key(0), e, method=cross_attend_experts), experts
    )
    variables = jax.tree.map(lambda s: floats(*s.shape) * 0.3, shapes)
    out, jacobian = run(
        lambda e: (
            model.apply(variables, e, method=cross_attend_experts),
            jax.jacrev(lambda e: model.apply(variables, e, method=cross_attend_experts))(e),
        ),
        experts,
    )
    assert out.shape == queries.shape
    influence = np.abs(jacobian).max(axis=(1, 2, 4, 5))  # [public, expert]
    expected = [[True, False, True, False], [True, False, False, last]]
    np.testing.assert_array_equal(influence > 1e-5, expected)


class Remembering(nn.Module):
    """A model that is nothing but a memory of three items."""

    def setup(self):
        self.past = ExpertMemory(3)

    def __call__(self, items, train=True):
        """What the memory joins."""
        return self.past(items, train)


def test_the_memory_keeps_the_last_items_in_order():
    model, state = Remembering(), None
    seen = []
    for step in range(3):
        new = {"a": np.array([[10 * step], [10 * step + 1]], np.float32)}
        if state is None:
            state = model.init(jax.random.key(0), new)
            assert int(state["memory"]["past"]["count"]) == 0
        (items, valid), state = model.apply(state, new, mutable=["memory"])
        assert valid.dtype == bool and items["a"].shape == (5, 1)
        seen.append(np.asarray(items["a"])[np.asarray(valid), 0].tolist())
    assert seen == [[0, 1], [10, 11, 0, 1], [20, 21, 10, 11, 0]]
    # Evaluation looks and does not remember.
    _, after = model.apply(state, new, train=False, mutable=["memory"])
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), after, state))


def test_remembered_items_carry_no_gradient():
    state = Remembering().init(jax.random.key(0), {"a": jnp.ones((2, 1))})

    def value(new, past):
        variables = {"memory": {"past": {"a": past, "count": jnp.int32(3)}}}
        (items, _), _ = Remembering().apply(variables, {"a": new}, mutable=["memory"])
        return (items["a"] ** 2).sum()

    new, past = jax.grad(value, argnums=(0, 1))(jnp.ones((2, 1)), jnp.ones((3, 1)))
    assert state["memory"]["past"]["a"].shape == (3, 1)
    assert np.all(new == 2) and not past.any()


def test_options_are_checked():
    def init(**options):
        jax.eval_shape(keepfit(local=options).init, jax.random.key(0), BATCH)

    for options, message in (
        ({"query": 3}, "KeepFIT's 'local' has no option 'query'.*'queries'"),
        ({"decoder": {"vocab_size": 5, "layers": 1}}, "'decoder' of KeepFIT's local .* 'layers'"),
        ({"nearest": 5}, "5 nearest of 4"),
    ):
        with pytest.raises(InputError, match=message):
            init(**options)

"""Decoder blocks: what a position may see, and the cache against whole texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models.decoder_blocks import Decoder
from retina_jax.models.layers import sinusoids
from retina_jax.models.text_decoder import TextDecoder

rng = np.random.default_rng(0)
ROWS, LENGTH, PLACES, WIDTH = 2, 5, 3, 8
MEMORY = rng.normal(size=(ROWS, PLACES, 6)).astype(np.float32)
MEMORY_MASK = np.array([[1, 1, 0], [1, 1, 1]], bool)
SMALL = {"depth": 2, "heads": 2, "mlp_dim": 8}


def words():
    return rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("kind", ["causal", "full", "none"])
def test_which_positions_are_seen(kind, random_variables, run):
    x, mask = words(), np.array([[1, 1, 1, 1, 0]] * ROWS, bool)
    model = Decoder(**SMALL, self_attention=kind)
    variables = random_variables(model, x, mask, MEMORY)

    def influence(x):
        def out(x):
            return model.apply(variables, x, mask, MEMORY, MEMORY_MASK)[0, :, 0]

        return abs(jax.jacrev(out)(x)[:, 0]).sum(-1) > 1e-7

    real = np.ones((LENGTH, LENGTH), bool)
    real[:, -1] = False
    expected = {"causal": np.tril(real), "full": real, "none": np.zeros_like(real)}[kind]
    # Through the sum around each attention a position always sees itself.
    np.testing.assert_array_equal(run(influence, x), expected | np.eye(LENGTH, dtype=bool))


def test_masked_places_of_the_memory_are_not_seen(random_variables, run):
    x = words()
    model = Decoder(**SMALL, memory_norm=True)
    variables = random_variables(model, x, None, MEMORY)

    def influence(memory):
        def out(memory):
            return model.apply(variables, x, None, memory, MEMORY_MASK).sum((1, 2))

        return abs(jax.jacrev(out)(memory)).sum(-1)  # [row, row, place]

    found = run(influence, MEMORY)
    np.testing.assert_array_equal(found[[0, 1], [0, 1]] > 1e-7, MEMORY_MASK)
    assert found[0, 1].max() == 0


@pytest.mark.parametrize("scan", [True, False])
def test_word_by_word_equals_the_whole_text(scan, random_variables, run):
    text = rng.integers(0, 7, (ROWS, LENGTH))
    model = TextDecoder(7, WIDTH, **SMALL, scan=scan)
    variables = random_variables(model, text, None, MEMORY)

    def both(variables):
        whole = model.apply(variables, text, None, MEMORY)
        out, cache = model.apply(variables, text[:, 0], MEMORY, LENGTH + 2, method="begin")
        outs = [out]
        for index in range(1, LENGTH):
            out, cache = model.apply(variables, text[:, index], index, cache, method="step")
            outs.append(out)
        return whole, jnp.stack(outs, axis=1)

    whole, stepwise = run(both, variables)
    np.testing.assert_allclose(stepwise, whole, atol=2e-5)


def test_sinusoids_are_those_of_the_paper():
    place, pair = 3, 2
    angle = place / 10_000 ** (2 * pair / WIDTH)
    found = sinusoids(LENGTH, WIDTH)[place, 2 * pair : 2 * pair + 2]
    np.testing.assert_allclose(found, [np.sin(angle), np.cos(angle)], rtol=1e-6)


def test_published_layer_norm_is_ours_with_another_gain():
    """Released: gain (x - mean) / (unbiased deviation + 1e-6); ours is biased, eps in the root."""
    x, gain = words(), rng.normal(size=WIDTH).astype(np.float32)
    published = gain * (x - x.mean(-1, keepdims=True)) / (x.std(-1, ddof=1, keepdims=True) + 1e-6)
    model = Decoder(depth=1, heads=2, mlp_dim=4, cross_attention=False)
    variables = model.init(jax.random.key(0), x)
    blocks = jax.tree.map(jnp.zeros_like, variables["params"]["blocks"])
    norm = {"scale": gain * np.sqrt((WIDTH - 1) / WIDTH), "bias": np.zeros(WIDTH)}
    ours = model.apply({"params": {"blocks": blocks, "norm": norm}}, x)
    np.testing.assert_allclose(ours, published, atol=1e-4)


def test_what_cannot_be_decoded_is_refused():
    x = jnp.zeros((1, 2, 4))
    with pytest.raises(InputError, match="needs a memory"):
        Decoder(heads=2).init(jax.random.key(0), x)
    with pytest.raises(InputError, match="not 'left'"):
        Decoder(heads=2, self_attention="left").init(jax.random.key(0), x)
    full = Decoder(heads=2, self_attention="full", cross_attention=False)
    variables = full.init(jax.random.key(0), x)
    with pytest.raises(InputError, match="word by word"):
        full.apply(variables, x[:, :1], None, 3, method="begin")
    with pytest.raises(InputError, match="cannot be split into 3 heads"):
        Decoder(heads=3, cross_attention=False).init(jax.random.key(0), x)

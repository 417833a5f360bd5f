"""CLIP's text tower: what it sees, and where it is read. tests/convert/test_clip.py has values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models.clip_text import ClipText

MODEL = ClipText(vocab_size=20, width=12, depth=2, heads=3, mlp_dim=16, max_length=6)
TEXT = np.array([[18, 3, 4, 19, 0, 0], [18, 5, 19, 0, 0, 0]], np.int32)
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]], bool)


def test_parameters_of_vit_b(count_parameters):
    text = jnp.zeros((1, 77), jnp.int32)
    assert count_parameters(ClipText(), text, text > 0) == 63_165_952


def test_pooled_is_the_last_real_token(random_variables, run):
    variables = random_variables(MODEL, TEXT, MASK)
    out = run(MODEL.apply, variables, TEXT, MASK)
    assert out["pooled"].dtype == jnp.float32
    np.testing.assert_allclose(out["pooled"][0], out["tokens"][0, 3], atol=1e-6)
    np.testing.assert_allclose(out["pooled"][1], out["tokens"][1, 2], atol=1e-6)


def test_no_position_sees_what_follows_it(random_variables, run):
    variables = random_variables(MODEL, TEXT, MASK)
    other = TEXT.copy()
    other[:, 3] = 7

    def tokens(variables):
        return [MODEL.apply(variables, text, MASK)["tokens"] for text in (TEXT, other)]

    one, two = run(tokens, variables)
    np.testing.assert_allclose(one[:, :3], two[:, :3], atol=1e-6)
    assert (np.abs(one[:, 3:] - two[:, 3:]).max(axis=-1) > 1e-3).all()


def test_longer_texts_are_refused():
    text = jnp.zeros((1, 7), jnp.int32)
    with pytest.raises(InputError, match="Texts of 7 tokens do not fit .* 6 positions"):
        jax.eval_shape(MODEL.init, jax.random.key(0), text, text == 0)

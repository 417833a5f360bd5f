"""Masked-language modelling: the head against a transcription, and the shared word embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from data_pipelines.errors import InputError
from retina_jax.losses import generative
from retina_jax.models.bert import Bert
from retina_jax.models.text_mlm import TextMLM

TINY = dict(vocab_size=20, width=12, depth=1, heads=2, mlp_dim=8, max_length=6)
BERT = {"name": "bert", **TINY}
TEXT = np.array([[2, 4, 3, 0], [2, 5, 9, 3]], np.int32)
BATCH = {"masked_text": TEXT, "text_mask": TEXT > 0}


def test_logits_are_berts(random_variables, run):
    model = TextMLM(encoder=BERT)
    variables = random_variables(model, BATCH)
    params = variables["params"]
    assert set(params) == {"text", "mlm_head"}
    assert params["mlm_head"]["bias"].shape == (20,)

    def both(variables):
        text = {"params": variables["params"]["text"]}
        return model.apply(variables, BATCH), Bert(**TINY).apply(text, TEXT, TEXT > 0)["tokens"]

    out, tokens = run(both, variables)
    head = params["mlm_head"]
    x = np.asarray(tokens, np.float64) @ head["dense"]["kernel"] + head["dense"]["bias"]
    x = x * (1 + erf(x / 2**0.5)) / 2
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-12)
    x = x * head["norm"]["scale"] + head["norm"]["bias"]
    expected = x @ params["text"]["word_embedding"]["embedding"].T + head["bias"]
    assert out["logits"].shape == (2, 4, 20)
    np.testing.assert_allclose(out["logits"], expected, rtol=1e-3, atol=1e-4)


def test_output_words_share_the_input_embeddings(random_variables, run):
    model = TextMLM(encoder=BERT)
    variables = random_variables(model, BATCH)
    masked = np.array([[0, 1, 0, 0], [0, 0, 1, 0]], bool)

    def loss(params):
        logits = model.apply({"params": params}, BATCH)["logits"]
        return generative.masked_token_cross_entropy(logits, TEXT, jnp.asarray(masked))

    gradient = run(jax.grad(loss), variables["params"])
    # Word 17 occurs in no text, so only the output side can move it.
    assert np.abs(gradient["text"]["word_embedding"]["embedding"][17]).max() > 0


def test_bfloat16_gives_float32_logits(random_variables, run):
    model = TextMLM(encoder=BERT, dtype="bfloat16")
    variables = random_variables(model, BATCH)
    models = (model, TextMLM(encoder=BERT))
    out, exact = run(lambda v: [m.apply(v, BATCH)["logits"] for m in models], variables)
    assert out.dtype == jnp.float32
    assert 0 < np.abs(out - exact).max() < 0.2


def test_image_towers_are_refused():
    with pytest.raises(InputError, match="needs a text tower, not 'vit'"):
        jax.eval_shape(TextMLM(encoder={"name": "vit"}).init, jax.random.key(0), BATCH)

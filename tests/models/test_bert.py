"""BERT against a numpy transcription, its published sizes and its three poolings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.numpy_layers import attention, layer_norm
from scipy.special import erf

from data_pipelines.errors import InputError
from retina_jax.models.bert import POOLS, Bert

TINY = dict(vocab_size=30, width=8, depth=3, heads=2, mlp_dim=12, max_length=9)
TEXT = np.array([[2, 5, 9, 11, 3, 0, 0], [2, 7, 3, 0, 0, 0, 0]], np.int32)
MASK = TEXT > 0


@pytest.mark.parametrize(
    "vocabulary,parameters",
    [(28_996, 108_310_272 - 590_592), (21_128, 101_677_056)],
    ids=["Bio_ClinicalBERT without pooler", "RoBERTa-wwm-ext without pooler"],
)
def test_parameters(count_parameters, vocabulary, parameters):
    text = jnp.zeros((1, 4), jnp.int32)
    assert count_parameters(Bert(vocab_size=vocabulary), text, text > 0) == parameters


norm = partial(layer_norm, eps=1e-12)


def attended(x, params, mask):
    bias = (1.0 - mask[:, None, None, :]) * -10_000.0  # as Hugging Face masks
    return attention(x, params["attention"], bias)


def transformed(x, params):
    hidden = x @ params["mlp"]["in"]["kernel"] + params["mlp"]["in"]["bias"]
    hidden = hidden * (1 + erf(hidden / 2**0.5)) / 2
    return hidden @ params["mlp"]["out"]["kernel"] + params["mlp"]["out"]["bias"]


def layer(x, params, mask):
    x = norm(x + attended(x, params, mask), params["attention_norm"])
    return norm(x + transformed(x, params), params["mlp_norm"])


def pre_norm_layer(x, params, mask):
    x = x + attended(norm(x, params["attention_norm"]), params, mask)
    return x + transformed(norm(x, params["mlp_norm"]), params)


def bert_in_numpy(params, text, mask, depth, layer=layer):
    table = {k: params[f"{k}_embedding"]["embedding"] for k in ("word", "position", "type")}
    x = table["word"][text] + table["position"][: text.shape[1]] + table["type"][0]
    hidden = [norm(x, params["embedding_norm"])]
    for i in range(depth):
        one = jax.tree.map(lambda stack, i=i: stack[i], params["layers"])
        hidden.append(layer(hidden[-1], one, mask))
    return hidden


def test_hidden_states_are_hugging_faces(random_variables, run):
    model = Bert(**TINY)
    variables = random_variables(model, TEXT, MASK)
    expected = bert_in_numpy(variables["params"], TEXT, MASK, 3)
    out = run(model.apply, variables, TEXT, MASK)
    assert len(out["hidden"]) == 4
    for ours, theirs in zip(out["hidden"], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(out["tokens"], out["hidden"][-1])


@pytest.mark.parametrize("scan", [False, True])
def test_norms_can_come_before_attention_and_mlp(random_variables, run, scan):
    """x + f(norm(x)) for both, and a norm after the last layer (Xiong et al. 2020)."""
    model = Bert(**TINY, pool="cls", pre_norm=True, scan=scan)
    variables = random_variables(model, TEXT, MASK)
    params = variables["params"]
    expected = bert_in_numpy(params, TEXT, MASK, 3, pre_norm_layer)
    out = run(model.apply, variables, TEXT, MASK)
    last = norm(expected[-1], params["last_norm"])
    np.testing.assert_allclose(out["tokens"][MASK], last[MASK], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out["pooled"], last[:, 0], rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(out["hidden"], expected, strict=True):
        np.testing.assert_allclose(ours[MASK], theirs[MASK], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth,states", [(3, (1, 2, 3)), (2, (1, 2, 2)), (1, (1, 1, 1))])
def test_pooling_takes_layers_one_two_and_last(random_variables, run, depth, states):
    options = {**TINY, "depth": depth}
    variables = random_variables(Bert(**options), TEXT, MASK)

    def pooled(variables):
        models = (Bert(**options, pool=pool) for pool in ("flair", "masked_mean", "cls"))
        return [model.apply(variables, TEXT, MASK)["pooled"] for model in models]

    flair, masked_mean, cls = run(pooled, variables)
    hidden = bert_in_numpy(variables["params"], TEXT, MASK, depth)
    mean = np.mean([hidden[i] for i in states], axis=0)
    real = np.stack([mean[i, : MASK[i].sum()].mean(axis=0) for i in range(2)])
    np.testing.assert_allclose(flair, mean.mean(axis=1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(masked_mean, real, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(cls, hidden[-1][:, 0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pool", POOLS)
def test_only_flair_pooling_depends_on_the_padding(random_variables, run, pool):
    model = Bert(**{**TINY, "depth": 1}, pool=pool)
    assert model.counts_padding == (pool == "flair")
    variables = random_variables(model, TEXT, MASK)

    def pooled(variables):
        batches = ((TEXT[:, :5], MASK[:, :5]), (TEXT, MASK))
        return [model.apply(variables, *batch)["pooled"] for batch in batches]

    short, longer = run(pooled, variables)
    assert np.allclose(short, longer, atol=1e-5) is not model.counts_padding


def test_what_stands_behind_the_mask_does_not_matter(random_variables, run):
    model = Bert(**{**TINY, "depth": 1})
    variables = random_variables(model, TEXT, MASK)
    same = jax.vmap(lambda v, text: model.apply(v, text, MASK)["pooled"], in_axes=(None, 0))
    first, second = run(same, variables, np.stack([TEXT, np.where(MASK, TEXT, 17)]))
    np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("pool", ["flair", "masked_mean", "cls"])
def test_a_text_without_tokens_has_finite_value_and_gradient(random_variables, run, pool):
    model = Bert(**{**TINY, "depth": 1}, pool=pool)
    text, mask = np.zeros((2, 4), np.int32), np.zeros((2, 4), bool)
    variables = random_variables(model, text, mask)

    def loss(variables):
        return jnp.square(model.apply(variables, text, mask)["pooled"]).sum()

    value, gradient = run(jax.value_and_grad(loss), variables)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_dropout_acts_in_training_only(random_variables, run):
    model = Bert(**{**TINY, "depth": 1}, dropout=0.5)
    variables = random_variables(model, TEXT, MASK)

    def pooled(train):
        def apply(variables, seed):
            rngs = {"dropout": jax.random.key(seed)}
            return model.apply(variables, TEXT, MASK, train=train, rngs=rngs)["pooled"]

        seeds = jnp.array([0, 0, 1])
        return run(jax.vmap(apply, in_axes=(None, 0)), variables, seeds)

    training, evaluating = pooled(True), pooled(False)
    np.testing.assert_array_equal(training[0], training[1])
    assert not np.allclose(training[0], training[2])
    np.testing.assert_allclose(evaluating[0], evaluating[2], atol=1e-6)


def test_errors_name_the_remedy():
    def init(text_length=4, **options):
        text = jnp.zeros((1, text_length), jnp.int32)
        jax.eval_shape(Bert(**{**TINY, **options}).init, jax.random.key(0), text, text > 0)

    with pytest.raises(InputError, match="10 tokens do not fit.*9 positions"):
        init(text_length=10)
    with pytest.raises(InputError, match="no pooling 'max'"):
        init(pool="max")
    with pytest.raises(InputError, match="at least one layer"):
        init(depth=0)

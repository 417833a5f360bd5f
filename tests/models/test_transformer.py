"""Attention, the MLP, and equal layers as a loop or written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.numpy_layers import attention

from data_pipelines.errors import InputError
from retina_jax.models import transformer
from retina_jax.models.bert import Bert
from retina_jax.models.decoder_blocks import Decoder
from retina_jax.models.vit import ViT

rng = np.random.default_rng(0)


def test_attention_with_and_without_the_dropout_branch(random_variables, run):
    x = rng.normal(size=(2, 5, 6)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    variables = random_variables(transformer.SelfAttention(heads=3), x)
    bias = np.where(mask[:, None, None, :], 0, -1e30)
    expected = attention(x, variables["params"], bias)
    almost_none = transformer.SelfAttention(heads=3, dropout=1e-9)
    rngs = {"dropout": jax.random.key(0)}

    def both(variables):
        fused = transformer.SelfAttention(heads=3).apply(variables, x, mask)
        return fused, almost_none.apply(variables, x, mask, train=True, rngs=rngs)

    fused, spelt_out = run(both, variables)
    np.testing.assert_allclose(fused, expected, atol=1e-5)
    np.testing.assert_allclose(spelt_out, expected, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_of_a_row_without_tokens_is_finite(random_variables, run, dropout):
    x, mask = jnp.ones((2, 3, 4)), jnp.zeros((2, 3), bool)
    model = transformer.SelfAttention(heads=2, dropout=dropout)
    variables = random_variables(model, x)

    def total(x):
        rngs = {"dropout": jax.random.key(0)}
        return jnp.square(model.apply(variables, x, mask, train=True, rngs=rngs)).sum()

    value, gradient = run(jax.value_and_grad(total), x)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (transformer.SelfAttention(heads=2, dropout=0.5), [(1, 8, 4)]),
        (Decoder(depth=2, heads=2, mlp_dim=8, dropout=0.5), [(2, 5, 8), None, (2, 3, 6)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_dropout_acts_in_training_only(random_variables, run, model, shapes):
    given = [shape and rng.normal(size=shape).astype(np.float32) for shape in shapes]
    variables = random_variables(model, *given)

    def outputs(variables):
        cases = [(train, jax.random.key(seed)) for train in (True, False) for seed in (0, 1)]
        return [model.apply(variables, *given, train=t, rngs={"dropout": key}) for t, key in cases]

    runs = run(outputs, variables)
    assert not np.allclose(runs[0], runs[1])
    np.testing.assert_array_equal(runs[2], runs[3])


def test_activations():
    x = jnp.linspace(-3, 3, 7)
    quick = x / (1 + np.exp(-1.702 * x))
    np.testing.assert_allclose(transformer.activation("quick_gelu")(x), quick, atol=1e-6)
    # The exact GELU at 1 is 0.8413447; its tanh approximation is 0.8411920.
    exact = float(transformer.activation("gelu")(jnp.float32(1.0)))
    assert exact == pytest.approx(0.8413447, abs=1e-6)
    with pytest.raises(InputError, match="no activation 'relu6'"):
        transformer.activation("relu6")


def test_heads_must_divide_the_width():
    model = transformer.SelfAttention(heads=4)
    with pytest.raises(InputError, match="width of 6 cannot be split into 4 heads"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 2, 6)))


def test_attention_says_once_which_implementation_it_uses(caplog):
    transformer._log_attention.cache_clear()
    x = jnp.ones((1, 2, 1, 4))
    with caplog.at_level("INFO", logger="retina_jax"):
        for implementation in (None, None, "xla"):
            transformer.attend(x, x, x, None, implementation)
    assert [record.getMessage() for record in caplog.records] == [
        "Attention is computed by JAX's default (XLA) on cpu.",
        "Attention is computed by xla on cpu.",
    ]


def test_attention_that_cannot_run_is_refused():
    x = jnp.ones((1, 2, 1, 4), jnp.bfloat16)
    with pytest.raises(InputError, match="no attention 'flash'"):
        transformer.attend(x, x, x, None, "flash")
    with pytest.raises(InputError, match="bfloat16 on 'cpu'"):
        transformer.attend(x, x, x, None, "cudnn")


def test_cudnn_gets_lengths_and_masks_that_it_has(monkeypatch):
    """What is added to 11 positions changes none of them; XLA stands in for the kernel."""
    seen = []
    exact = jax.nn.dot_product_attention

    def kernel(query, key, value, *, mask=None, implementation, **lengths):
        assert implementation == "cudnn" and query.shape[1] == key.shape[1] == 16
        seen.append(None if mask is None else mask.shape)
        return exact(query, key, value, mask=mask, implementation="xla", **lengths)

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 2, 11, 2, 8)), jnp.bfloat16)
    mask = jnp.asarray(rng.uniform(size=(2, 1, 1, 11)) < 0.7)
    expected = [transformer.attend(*x, given, "xla") for given in (None, mask)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    for given, right in zip((None, mask), expected, strict=True):
        np.testing.assert_array_equal(transformer.attend(*x, given, "cudnn"), right)
    assert seen == [None, (2, 1, 16, 16)]
    with pytest.raises(InputError, match="float32 on 'gpu'"):
        transformer.attend(*x.astype(jnp.float32), mask, "cudnn")
    with pytest.raises(InputError, match="multiple of 8 numbers, 128 at most, not 4"):
        transformer.attend(*x[..., :4], mask, "cudnn")


IMAGE = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
TEXT = np.array([[2, 5, 9, 3, 0], [2, 7, 3, 0, 0]], np.int32)
SMALL = dict(width=8, depth=2, heads=2, mlp_dim=12)
TOWERS = {
    "vit": (ViT, dict(**SMALL, patch_size=4, drop_path=0.5), (IMAGE,)),
    "bert": (Bert, dict(**SMALL, vocab_size=20, max_length=6, dropout=0.3), (TEXT, TEXT > 0)),
}


@pytest.mark.parametrize("name", TOWERS)
def test_positions_are_filled_up_once_for_cudnn(random_variables, run, monkeypatch, name):
    """Outputs and gradients stay those of attention without it; XLA stands in for the kernel."""
    tower, options, inputs = TOWERS[name]
    options = {**options, "heads": 1, "dtype": "bfloat16", "scan": False, "remat": "none"}
    options |= {"drop_path": 0.0} if name == "vit" else {"dropout": 0.0}
    variables = random_variables(tower(**options), *inputs)

    def results(variables, attention):
        model = tower(**options, attention=attention)

        def loss(variables):
            out = model.apply(variables, *inputs, train=True)
            return jnp.square(out["pooled"] - 1).sum(), out

        return jax.value_and_grad(loss, has_aux=True)(variables)

    (_, expected), gradient = run(partial(results, attention="xla"), variables)
    exact, fused, lengths = jax.nn.dot_product_attention, transformer._fused, []

    def kernel(*parts, implementation, **given):
        assert implementation == "cudnn"
        return exact(*parts, implementation="xla", **given)

    def layer(query, *others):
        lengths.append(query.shape[1])
        return fused(query, *others)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(transformer, "_fused", layer)
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    (_, found), of_filled = run(partial(results, attention="cudnn"), variables)
    assert found["tokens"].shape == expected["tokens"].shape
    for key in found:
        np.testing.assert_allclose(*(np.float32(out[key]) for out in (found, expected)), atol=0.03)
    largest = max(abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=0.02 * largest),
                 of_filled, gradient)  # fmt: skip
    assert set(lengths) == {8}


WAYS = ((True, "none"), (False, "none"), (True, "dots"), (True, "full"), (False, "dots_no_batch"))


@pytest.mark.parametrize("name", [pytest.param("vit", marks=pytest.mark.slow), "bert"])
def test_a_loop_and_layers_written_out_are_the_same_model(random_variables, run, name):
    tower, options, inputs = TOWERS[name]
    # In training, so that the random numbers of each layer count as well.
    models = [tower(**options, scan=scan, remat=remat) for scan, remat in WAYS]
    trees = [random_variables(model, *inputs) for model in models]
    assert len({str(jax.tree.map(np.shape, tree)) for tree in trees}) == 1

    def loss(variables, model):
        rngs = {"dropout": jax.random.key(3)}
        out = model.apply(variables, *inputs, train=True, rngs=rngs)
        return jnp.square(out["pooled"] - 1).sum() + jnp.square(out["tokens"]).sum()

    def all_ways(variables):
        return [jax.value_and_grad(loss)(variables, model) for model in models]

    (value, gradient), *others = run(all_ways, trees[0])
    largest = max(abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    for other_value, other_gradient in others:
        np.testing.assert_allclose(other_value, value, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * largest),
                     other_gradient, gradient)  # fmt: skip


@pytest.mark.parametrize("name", TOWERS)
def test_first_values_do_not_depend_on_the_loop(run, name):
    tower, options, inputs = TOWERS[name]

    def both(key):
        return [tower(**options, scan=scan).init(key, *inputs) for scan in (True, False)]

    loop, written = run(both, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, loop, written)
    layers = loop["params"]["blocks" if name == "vit" else "layers"]
    kernels = layers["mlp"]["in"]["kernel"]
    assert len(np.unique(kernels)) == kernels.size  # every layer starts from its own numbers


def program(name: str, depth: int, scan: bool, remat: str) -> str:
    tower, options, inputs = TOWERS[name]
    model = tower(**{**options, "depth": depth}, scan=scan, remat=remat)
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)

    def loss(variables, key):
        out = model.apply(variables, *inputs, train=True, rngs={"dropout": key})
        return jnp.square(out["pooled"]).sum()

    lowered = jax.jit(jax.value_and_grad(loss)).lower(variables, jax.random.key(0))
    return lowered.as_text()


@pytest.mark.parametrize("name", ["bert"])
def test_the_program_of_a_loop_does_not_grow_with_the_depth(name):
    for remat in ("none", "dots"):
        sizes = [len(program(name, depth, True, remat).splitlines()) for depth in (3, 9)]
        assert sizes[0] == sizes[1]
    written = [len(program(name, depth, False, "none").splitlines()) for depth in (3, 9)]
    assert written[1] > 1.3 * written[0]


def test_remat_keeps_less_for_the_backward_pass():
    tower, options, inputs = TOWERS["vit"]

    def residuals(remat):
        model = tower(**options, remat=remat)
        variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
        forward = lambda v: jax.vjp(lambda v: model.apply(v, *inputs)["pooled"], v)  # noqa: E731
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(forward, variables)))

    none, dots, fewer, full = (residuals(r) for r in ("none", "dots", "dots_no_batch", "full"))
    assert none > dots > fewer > full


def test_unknown_remat_and_no_layers():
    def init(**options):
        model = ViT(**{**SMALL, "patch_size": 4, **options})
        jax.eval_shape(model.init, jax.random.key(0), IMAGE)

    with pytest.raises(InputError, match="no remat 'some'.*'dots_no_batch'"):
        init(remat="some")
    with pytest.raises(InputError, match="at least one layer, not 0"):
        init(depth=0)

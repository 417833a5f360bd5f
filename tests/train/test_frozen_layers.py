"""The first layers of a stack frozen: as in evaluation, without gradient, moments or updates."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from microbatches import RNG
from runs import assert_same_bits

from data_pipelines.errors import InputError
from retina_jax.models.bert import Bert, _Layer
from retina_jax.models.decoder_blocks import Decoder
from retina_jax.models.layer_stack import scan_layers
from retina_jax.models.single_tower import Tower
from retina_jax.train import optimizer, sharding
from retina_jax.train.frozen import Frozen
from retina_jax.train.step import compose, initialize, make_step
from retina_jax.types import Microbatching

pytestmark = pytest.mark.fast
DEPTH, FIRST, CLASSES = 4, 3, 3
VIT = {"name": "vit", "width": 16, "depth": DEPTH, "heads": 2, "mlp_dim": 32, "patch_size": 8}
BEFORE = (r"image/(\w+_embedding|pre_norm).*", {"frozen": True})
RULES = (BEFORE, ("image/blocks/.*", {"frozen_layers": FIRST}), (".*", {}))
ADAMW = {"name": "adamw", "weight_decay": 0.1}


def batch():
    random = np.random.default_rng(0)
    return {"image": random.integers(0, 256, (4, 16, 16, 3), np.uint8),
            "label": random.integers(0, CLASSES, 4).astype(np.int32)}  # fmt: skip


def square(out, batch):
    return {"square": jnp.square(out["logits"] - 1).mean()}


def tower(**options):
    return Tower(key="image", tower={**VIT, **options}, classes=CLASSES)


def loss_of(rules, **options):
    return compose(tower(**options), (square,), {}, frozen=Frozen(rules))


@functools.cache
def params():
    return jax.jit(tower().init)(RNG, batch())["params"]


def gradient(rules, **options):
    (value, _), found = jax.jit(jax.value_and_grad(loss_of(rules, **options), has_aux=True))(
        params(), {}, batch(), RNG
    )
    return value, found


@pytest.mark.parametrize("options", [{}, {"scan": False}, {"remat": "none"}])
def test_the_others_have_the_gradient_that_they_have_anyway(options):
    """The loss too; that of the first ones is zero."""
    (one, whole), (two, part) = gradient((), **options), gradient(RULES, **options)
    np.testing.assert_allclose(one, two, rtol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (whole["head"], part["head"])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(*(jax.tree.leaves(found["image"]["blocks"]) for found in (whole, part)),
                    strict=True):  # fmt: skip
        assert not np.any(b[:FIRST])
        np.testing.assert_allclose(a[FIRST:], b[FIRST:], rtol=1e-4, atol=1e-6)
    assert np.abs(part["image"]["blocks"]["mlp"]["in"]["kernel"][FIRST:]).max() > 0


@pytest.mark.parametrize("more", [{}, {"layer_decay": 0.5}])
def test_a_step_leaves_their_bits_and_remembers_nothing_of_them(more):
    rules = (BEFORE, ("image/blocks/.*", {"frozen_layers": FIRST, **more}), (".*", {}))
    tx = optimizer.make(ADAMW, lambda count: 0.01, clip=1.0, rules=rules)
    # A zero that is negative would not survive the sum with an update of zero.
    given = jax.tree.map(lambda x: x * jnp.where(x == 0, -1.0, 1.0), params())
    before = jax.jit(initialize(tower(), tx))(RNG, batch())
    before = before.replace(params=given)
    frozen = Frozen(rules)
    after, metrics = jax.jit(make_step(loss_of(rules), tx, frozen))(before, batch(), RNG)
    old, new = (state.params["image"]["blocks"] for state in (before, after))
    for a, b in zip(*map(jax.tree.leaves, (old, new)), strict=True):
        assert_same_bits(b[:FIRST], a[:FIRST])
        assert not np.array_equal(b[FIRST:], a[FIRST:])
    moments = [leaf.shape[0] for path, leaf in jax.tree_util.tree_leaves_with_path(after.opt_state)
               if "blocks" in optimizer.parameter_name(path)]  # fmt: skip
    assert moments and set(moments) == {DEPTH - FIRST}
    assert float(metrics["gradient_norm"]) > 0


def test_the_rate_of_a_layer_is_that_of_all_layers():
    """What lies below the frozen ones is as far from the head as it was."""
    rules = (("image/blocks/.*", {"frozen_layers": FIRST, "layer_decay": 0.5}),
             ("image/.*", {"layer_decay": 0.5}), (".*", {}))  # fmt: skip
    tx = optimizer.make({"name": "sgd", "momentum": 0.0}, lambda count: 1.0, rules=rules)
    ones = jax.tree.map(jnp.ones_like, params())
    updates, _ = tx.update(ones, tx.init(params()), params())
    blocks = updates["image"]["blocks"]["mlp"]["in"]["bias"]
    np.testing.assert_array_equal(blocks[:, 0], [0, 0, 0, -0.5])
    below = updates["image"]["patch_embedding"]["bias"]
    np.testing.assert_array_equal(below, np.full_like(below, -(0.5 ** (DEPTH + 1))))


def operations(rules):
    made = jax.jit(jax.grad(loss_of(rules, scan=False, remat="none"), has_aux=True))
    return made.lower(params(), {}, batch(), RNG).cost_analysis()["flops"]


def test_no_backward_pass_goes_through_them():
    """Half of one layer in four is the forward pass of three more."""
    whole, part, none = map(operations, ((), RULES, (("image/.*", {"frozen": True}), (".*", {}))))
    assert none < part < whole
    # A backward pass costs two forward ones, so of four layers 4 + 8, 4 + 2 and 4.
    assert (part - none) / (whole - none) < 0.4


def test_dropout_is_off_in_them_and_on_above():
    """The first of two layers is called as in evaluation, on words some of which are dropped."""
    text = np.ones((2, 8), np.int32)
    made = Bert(vocab_size=9, width=16, depth=2, heads=2, mlp_dim=32, max_length=8, dropout=0.4)
    held = made.init(RNG, text, text > 0)["params"]
    rules = (("layers/.*", {"frozen_layers": 1}), (".*", {"frozen": True}))

    @jax.jit
    def run(seed):
        with Frozen(rules).evaluation_mode(held, {}):
            return made.apply({"params": held}, text, text > 0, train=True,
                              rngs={"dropout": jax.random.key(seed)})["hidden"]  # fmt: skip

    def alone(layer, x):
        kind = scan_layers(_Layer, 1, scan=True, remat="none", inputs=(nn.broadcast,))
        own = jax.tree.map(lambda leaf: leaf[layer : layer + 1], held["layers"])
        made = kind(2, 32, 0.4, 1e-12, jnp.float32, None, False)
        return made.apply({"params": own}, x, text > 0, False)[0]

    words, first, second = run(1)
    assert np.abs(words - run(2)[0]).max() > 0.1
    np.testing.assert_allclose(first, alone(0, words), rtol=1e-5, atol=1e-5)
    assert np.abs(second - alone(1, first)).max() > 1e-3


def test_each_layer_keeps_its_own_rate_of_dropped_paths():
    """The last of four layers drops at the highest rate, however many before it are frozen."""
    held = {"params": params()}

    def dropped(rules):
        def one(seed):
            with Frozen(rules).evaluation_mode(params(), {}):
                return tower(drop_path=0.9).apply(
                    held, batch(), train=True, rngs={"dropout": jax.random.key(seed)}
                )["logits"]

        return jnp.stack([jax.jit(one)(seed) for seed in range(20)])

    still = tower().apply(held, batch())["logits"]
    found = dropped((BEFORE, ("image/blocks/.*", {"frozen_layers": FIRST}), (".*", {})))
    # A branch is dropped for nine pictures of ten, and nothing before it moves.
    values, counts = np.unique(np.round(found[:, 0, 0], 5), return_counts=True)
    assert len(values) <= 4 and counts.max() > 8 and np.abs(found[:, 0] - still[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ((("image/.*", {"frozen_layers": 2}), (".*", {})),
         "'image/.*' has frozen_layers, but comes to 'image/.*', which is not of several layers"),
        ((("image/blocks/.*", {"frozen_layers": DEPTH}), (".*", {})),
         f"frozen_layers={DEPTH}, but 'image/blocks/.*' is of {DEPTH} layers"),
        ((("image/blocks/.*", {"frozen_layers": -1}), (".*", {})), "frozen_layers=-1, but"),
        ((("image/blocks/.*", {"frozen_layers": 1, "frozen": True}), (".*", {})), "not both"),
        ((("image/blocks/mlp.*", {"frozen_layers": 1}), (".*", {})),
         "the first layers of some parameters of 'image/blocks' and other layers of others"),
    ],
)  # fmt: skip
def test_what_cannot_be_frozen_so_is_one_sentence(rules, sentence):
    with pytest.raises(InputError, match=sentence):
        tx = optimizer.make(ADAMW, lambda count: 0.01, rules=rules)
        tx.init(params())
        jax.eval_shape(loss_of(rules), params(), {}, batch(), RNG)


class Decoding(nn.Module):
    """A decoder with a memory, named as its own stack is, whose norm is of no layer."""

    @nn.compact
    def __call__(self, batch, train=False):
        made = Decoder(depth=2, heads=2, mlp_dim=8, dropout=0.3, name="blocks")
        x = batch["image"].reshape(4, 6, -1)[..., :8] / 255.0
        return {"logits": made(x, memory=x, train=train)}


def test_a_decoder_whose_stack_lies_in_a_module_of_its_name():
    """Caches of evaluation, which its frozen layers would return, do not come with the others."""
    held = Decoding().init(RNG, batch())["params"]
    rules = (("blocks/blocks/.*", {"frozen_layers": 1}), (".*", {}))
    loss = compose(Decoding(), (square,), {}, frozen=Frozen(rules))
    found, _ = jax.jit(jax.grad(loss, has_aux=True))(held, {}, batch(), RNG)
    all_of_it = (("blocks/.*", {"frozen_layers": 1}),)
    with pytest.raises(InputError, match="comes to 'blocks/norm/.*', which is not of several"):
        optimizer.make(ADAMW, lambda count: 0.01, rules=all_of_it).init(held)
    for leaf in jax.tree.leaves(found["blocks"]["blocks"]):
        assert not np.any(leaf[:1])
    assert np.abs(found["blocks"]["blocks"]["mlp"]["in"]["kernel"][1]).max() > 0
    assert np.abs(found["blocks"]["norm"]["scale"]).max() > 0


class Beside(nn.Module):
    """A frozen part that is called as a part of the layers is."""

    @nn.compact
    def __call__(self, batch, train=False):
        x = nn.Dense(16, name="attention")(batch["image"].reshape(4, 6, -1)[..., :16] / 255.0)
        kind = scan_layers(_Layer, 2, scan=True, remat="none", inputs=(nn.broadcast,))
        layers = kind(2, 32, 0.4, 1e-12, jnp.float32, None, False, name="layers")
        return {"x": layers(x, np.ones((4, 6), bool), train)[0]}


def test_a_frozen_part_of_the_model_is_none_of_the_layers_that_is_called_so():
    held = Beside().init(RNG, batch())["params"]
    rules = (("attention/.*", {"frozen": True}), ("layers/.*", {"frozen_layers": 1}), (".*", {}))

    def run(rules):
        with Frozen(rules).evaluation_mode(held, {}):
            return Beside().apply({"params": held}, batch(), train=True, rngs={"dropout": RNG})["x"]

    np.testing.assert_array_equal(run(rules[:2]), run(rules[1:]))


def test_layers_are_those_of_a_stack_of_the_library():
    """Not what has a first axis of its own under such a name."""

    class Named(nn.Module):
        @nn.compact
        def __call__(self, batch, train=False):
            return {"x": nn.Dense(3, name="blocks")(batch["label"][None].astype(jnp.float32))}

    held = Named().init(RNG, batch())["params"]
    rules = (("blocks/kernel", {"frozen_layers": 1}), ("blocks/bias", {"frozen_layers": 1}))
    with (
        Frozen(rules).evaluation_mode(held, {}),
        pytest.raises(InputError, match="'blocks' is no stack of `scan_layers`"),
    ):
        Named().apply({"params": held}, batch(), train=True)


def test_the_average_of_frozen_layers_is_themselves():
    tx = optimizer.make(ADAMW, lambda count: 0.01, rules=RULES)
    frozen = Frozen(RULES)
    state = jax.jit(initialize(tower(), tx, frozen))(RNG, batch())
    step = jax.jit(make_step(loss_of(RULES), tx, frozen, ema=0.7))
    first = state.params["image"]["blocks"]
    for _ in range(3):
        state, _ = step(state, batch(), RNG)
    for old, new in zip(*map(jax.tree.leaves, (first, state.average["params"]["image"]["blocks"])),
                        strict=True):  # fmt: skip
        assert_same_bits(new[:FIRST], old[:FIRST])
        assert not np.array_equal(new[FIRST:], old[FIRST:])


def test_microbatches_have_the_same_gradient():
    pieces = Microbatching(2, sharding.make_mesh(1, 1, jax.devices()[:1]))
    loss = compose(tower(), (square,), {}, pieces, frozen=Frozen(RULES))
    found, _ = jax.jit(jax.grad(loss, has_aux=True))(params(), {}, batch(), RNG)
    for a, b in zip(*map(jax.tree.leaves, (found, gradient(RULES)[1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_says_how_many():
    """So that a run that goes on with another number is refused, as with another regex."""
    one, other = (Frozen((("image/blocks/.*", {"frozen_layers": n}), (".*", {}))) for n in (1, 2))
    assert one.patterns != other.patterns and one.patterns != Frozen(RULES[:1]).patterns

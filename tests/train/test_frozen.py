"""Frozen parts: no backward pass, no moments, no dropout, and statistics that stay."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from microbatches import RNG, ROWS, RULES, Tower, check, cut, square, variables
from runs import assert_same_bits

from data_pipelines.errors import InputError
from retina_jax.models.dual import Dual
from retina_jax.models.resnet import ResNet
from retina_jax.objectives.contrastive import Contrastive
from retina_jax.train import microbatch, optimizer
from retina_jax.train.frozen import Frozen
from retina_jax.train.step import compose, initialize, make_step

pytestmark = pytest.mark.fast
BERT = {"name": "bert", "vocab_size": 50, "width": 16, "depth": 2, "heads": 2, "mlp_dim": 32,
        "max_length": 8, "dropout": 0.4}  # fmt: skip
FREEZE = {"frozen": True}


def batch(rows=ROWS):
    random = np.random.default_rng(0)
    made = {"x": random.normal(size=(rows, 6)).astype(np.float32)}
    for key in ("text", "note"):
        made[key] = random.integers(1, 50, (rows, 8)).astype(np.int32)
        made[f"{key}_mask"] = np.ones((rows, 8), bool)
    return made


@functools.cache
def stepped():
    """A state and that after two steps, and the metrics of the last."""
    frozen = Frozen(RULES)
    tx = optimizer.make(
        {"name": "adamw", "weight_decay": 0.1}, lambda count: 0.01, clip=1.0, rules=RULES
    )
    step = jax.jit(make_step(compose(Tower(), (square,), {}, frozen=frozen), tx, frozen))
    before = jax.jit(initialize(Tower(), tx))(RNG, batch())
    # A zero that is negative would not survive the sum with an update of zero.
    first = jax.tree.map(lambda x: x * jnp.where(x == 0, -1.0, 1.0), before.params["first"])
    before = before.replace(params={**before.params, "first": first})
    return before, *step(step(before, batch(), RNG)[0], batch(), RNG)


def test_frozen_parameters_and_their_statistics_keep_their_bits_and_the_others_move():
    before, after, _ = stepped()
    assert_same_bits(after.params["first"], before.params["first"])
    old, new = (state.model_state["batch_stats"] for state in (before, after))
    assert_same_bits(new["first"], old["first"])
    for one, other in ((after.params["last"], before.params["last"]), (new["last"], old["last"])):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert not np.array_equal(a, b)


def test_the_optimizer_remembers_nothing_of_them():
    leaves = jax.tree_util.tree_leaves_with_path(stepped()[1].opt_state)
    names = [optimizer.parameter_name(path) for path, _ in leaves]
    assert any("last/dense/kernel" in name for name in names)
    assert not [name for name in names if "first" in name]


def test_the_norm_is_that_of_what_is_trained():
    """Even where a gradient comes to the frozen ones, past the composed loss."""
    before, _, metrics = stepped()
    loss = compose(Tower(), (square,), {}, frozen=Frozen(RULES))

    def leaky(params, *rest):
        value, aux = loss(params, *rest)
        return value + 1e6 * params["first"]["dense"]["kernel"].sum(), aux

    tx = optimizer.make({"name": "sgd"}, lambda count: 0.1, rules=RULES)
    state = before.replace(opt_state=tx.init(before.params))
    after, found = jax.jit(make_step(leaky, tx, Frozen(RULES)))(state, batch(), RNG)
    assert 0 < float(found["gradient_norm"]) < 10 and float(metrics["gradient_norm"]) > 0
    assert_same_bits(after.params["first"], before.params["first"])


def test_the_first_stages_of_a_resnet():
    """By a regex; its stem and first stage are as in evaluation, the rest records statistics."""
    made = ResNet(18, width=8)
    image = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    params, state = variables(made, image)
    frozen = Frozen((("(conv1|bn1|layer1_.)/.*", FREEZE), (".*", {})))
    _, after = microbatch.forward(made, None, frozen)(params, state, image, RNG)
    names = {"bn1", "layer1_0", "layer1_1", "layer2_0", "layer4_1"}
    assert names <= set(state["batch_stats"])
    for name, old in state["batch_stats"].items():
        for a, b in zip(jax.tree.leaves(after["batch_stats"][name]), jax.tree.leaves(old),
                        strict=True):  # fmt: skip
            assert np.array_equal(a, b) == name.startswith(("bn1", "layer1")), name


TEXT = (("text/.*", FREEZE), (".*", {}))


def test_dropout_is_off_in_what_is_frozen_and_on_elsewhere():
    """Within the loop over layers too, and equal to an evaluation to the bit."""
    made, rows = Dual(towers={"text": BERT, "note": BERT}, dim=8), batch()
    params, _ = variables(made, rows)
    run = jax.jit(microbatch.forward(made, None, Frozen(TEXT)))
    first, second = (run(params, {}, rows, jax.random.key(seed))[0]["z"] for seed in (1, 2))
    still = jax.jit(made.apply)({"params": params}, rows)["z"]
    np.testing.assert_array_equal(first["text"], second["text"])
    np.testing.assert_allclose(first["text"], still["text"], rtol=1e-6, atol=1e-7)
    assert np.abs(first["note"] - second["note"]).max() > 0.01


class Between(nn.Module):
    """A dropout, which has no parameters, between a layer that is frozen and one that is not."""

    @nn.compact
    def __call__(self, batch, train=False):
        x = nn.Dense(64, name="first")(batch["x"])
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return {"x": x, "y": nn.Dense(2, name="last")(x)}


@pytest.mark.parametrize(("rules", "dropped"), [(RULES, True), (((".*", FREEZE),), False)])
def test_what_has_no_parameters_follows_the_module_that_it_is_part_of(rules, dropped):
    params = Between().init(RNG, batch())["params"]
    out, _ = microbatch.forward(Between(), None, Frozen(rules))(params, {}, batch(), RNG)
    assert bool((out["x"] == 0).any()) == dropped


def compiled(rules):
    """The differentiated loss of a text tower and its projection."""
    made = Dual(towers={"text": {**BERT, "width": 64, "mlp_dim": 256, "depth": 4}}, dim=8)
    loss = compose(made, (Contrastive((("text", "text"),)),), {}, frozen=Frozen(rules))
    shapes = jax.eval_shape(lambda: made.init(RNG, batch())["params"])
    return jax.jit(jax.grad(loss, has_aux=True)).lower(shapes, {}, batch(64), RNG).compile()


def test_frozen_parts_have_no_backward_pass():
    trained, frozen = compiled(()), compiled(TEXT)
    memory = [c.memory_analysis().temp_size_in_bytes for c in (frozen, trained)]
    work = [c.cost_analysis()["flops"] for c in (frozen, trained)]
    assert memory[0] < 0.5 * memory[1] and work[0] < 0.6 * work[1]


def test_microbatches_of_a_model_whose_statistics_are_frozen_equal_the_batch():
    """Without `statistics_per_microbatch`: frozen statistics mix no rows."""
    rules = ((".*/bn/.*", FREEZE), ("first/.*", FREEZE), (".*", {}))
    made, rows = Tower(dropout=0.0), batch()
    params, state = variables(made, rows)
    rows = {"x": rows["x"]}
    check(made, rows, cut(3), Frozen(rules))
    (value, (_, whole)), expected = gradient(made, rules, None)(params, state, rows, RNG)
    (found, (_, pieces)), grads = gradient(made, rules, cut(3))(params, state, rows, RNG)
    assert float(value) == pytest.approx(float(found), rel=1e-5)
    assert_same_bits(pieces, state)
    assert_same_bits(whole, state)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert np.abs(grads["last"]["dense"]["kernel"]).max() > 1e-3
    with pytest.raises(InputError, match="The model keeps batch_stats"):
        check(made, rows, cut(3), Frozen(RULES))


def gradient(made, rules, how):
    loss = compose(made, (square,), {}, how, Frozen(rules))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


STORED = (("first/.*", {"stored_statistics": True}), (".*", {}))


def test_stored_statistics_stay_while_all_parameters_are_trained():
    frozen = Frozen(STORED)
    tx = optimizer.make({"name": "adamw"}, lambda count: 0.01, rules=STORED)
    step = jax.jit(make_step(compose(Tower(), (square,), {}, frozen=frozen), tx, frozen))
    before = jax.jit(initialize(Tower(), tx))(RNG, batch())
    after, _ = step(before, batch(), RNG)
    old, new = (state.model_state["batch_stats"] for state in (before, after))
    assert_same_bits(new["first"], old["first"])
    assert not np.array_equal(new["last"]["bn"]["mean"], old["last"]["bn"]["mean"])
    for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(before.params), strict=True):
        assert not np.array_equal(a, b)


def test_stored_statistics_are_what_normalises_and_dropout_goes_on():
    rules = Frozen(((".*", {"stored_statistics": True}),))
    for dropout in (0.0, 0.5):
        params, state = variables(Tower(dropout), batch())
        run = jax.jit(microbatch.forward(Tower(dropout), None, rules))
        found, after = run(params, state, batch(), RNG)
        still = jax.jit(Tower(dropout).apply)({"params": params, **state}, batch())
        assert_same_bits(after, state)
        same = np.allclose(found["last"], still["last"], rtol=1e-6, atol=1e-7)
        assert same == (dropout == 0)


def test_stored_statistics_mix_no_rows_so_microbatches_are_exact():
    params, state = variables(Tower(0.0), batch())
    rules = Frozen(((".*", {"stored_statistics": True}),))
    assert rules.moving(params, state) == ()
    assert Frozen(STORED).moving(params, state) == ("batch_stats",)
    rows = {"x": batch()["x"]}
    check(Tower(0.0), rows, cut(3), rules)
    with pytest.raises(InputError, match="The model keeps batch_stats"):
        check(Tower(0.0), rows, cut(3), Frozen(STORED))


def test_stored_statistics_of_nothing_are_refused():
    params, _ = variables(Dual(towers={"text": BERT, "note": BERT}, dim=8), batch())
    rules = Frozen((("text/.*", {"stored_statistics": True}), (".*", {})))
    with pytest.raises(InputError, match="'text/.*' has stored_statistics, but comes to no Batch"):
        rules.moving(params, {})

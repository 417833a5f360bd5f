"""The composed loss, the initial state and one step: counters, randomness and bad gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import assert_same_bits

from data_pipelines.errors import InputError
from retina_jax.objectives.reference import Reference
from retina_jax.train import optimizer
from retina_jax.train.step import compose, initialize, make_step
from retina_jax.types import TrainState

pytestmark = pytest.mark.fast


class Tiny(nn.Module):
    """BatchNorm, dropout and a scale: all that a step has to carry along."""

    @nn.compact
    def __call__(self, batch, train=False):
        """One value a row."""
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(batch["target"])
        x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(16, name="dense")(x))
        return {"y": x, "scale": jnp.exp(self.param("logit_scale", nn.initializers.zeros, ()))}


def square(out, batch):
    return {"square": jnp.mean(jnp.square(out["y"]))}


def shift(out, batch):
    return {"shift": out["scale"] * jnp.mean(out["y"] - batch["target"].sum()), "two": out["scale"]}


BATCH = {"target": np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)}
BROKEN = {"target": np.where(np.eye(6, 3) > 0, np.nan, BATCH["target"]).astype(np.float32)}
RNG = jax.random.key(3)
WEIGHTS = {"shift": 0.5, "two": 0.0}


@functools.cache
def tiny():
    """(loss, initial state, compiled step) of the tiny model."""
    tx = optimizer.make({"name": "adamw", "weight_decay": 0.1}, lambda count: 0.1 / (1 + count))
    loss = compose(Tiny(), (square, shift), WEIGHTS)
    state = jax.jit(initialize(Tiny(), tx))(jax.random.key(0), BATCH)
    return loss, state, jax.jit(make_step(loss, tx))


def test_the_initial_state():
    _, state, _ = tiny()
    assert state.step == 0 and state.step.dtype == jnp.int32
    assert state.skipped.tolist() == [0, 0]
    assert set(state.params) == {"norm", "dense", "logit_scale"}
    assert set(state.model_state) == {"batch_stats"}
    np.testing.assert_array_equal(state.model_state["batch_stats"]["norm"]["mean"], 0)
    np.testing.assert_array_equal(state.model_state["batch_stats"]["norm"]["var"], 1)


def test_the_loss_is_the_weighted_sum_and_the_metrics_are_not_weighted():
    loss, state, _ = tiny()
    total, (metrics, _) = jax.jit(loss)(state.params, state.model_state, BATCH, RNG)
    assert set(metrics) == {"square", "shift", "two", "loss", "scale"}
    expected = float(metrics["square"]) + 0.5 * float(metrics["shift"])
    assert float(total) == pytest.approx(expected, rel=1e-6)
    assert float(metrics["loss"]) == float(total)
    assert float(metrics["two"]) == float(metrics["scale"]) == 1.0
    assert float(metrics["shift"]) != 0


class Scaled(nn.Module):
    """A scale for each of two pairs, or none."""

    pairs: tuple[str, ...]

    @nn.compact
    def __call__(self, batch, train=False):
        """No rows, only scales."""
        scale = {name: self.param(name, nn.initializers.ones, ()) for name in self.pairs}
        return {"scale": scale} if scale else {}


def test_each_of_several_scales_is_a_metric():
    def constant(out, batch):
        return {"constant": jnp.ones(())}

    params = {"left": jnp.asarray(2.0), "right": jnp.asarray(3.0)}
    loss = compose(Scaled(("left", "right")), (constant,), {})
    _, (metrics, _) = loss(params, {}, BATCH, RNG)
    assert set(metrics) == {"constant", "loss", "scale/left", "scale/right"}
    assert (float(metrics["scale/left"]), float(metrics["scale/right"])) == (2.0, 3.0)
    _, (metrics, _) = compose(Scaled(()), (constant,), {})({}, {}, BATCH, RNG)
    assert set(metrics) == {"constant", "loss"}


def test_batch_statistics_come_out_of_the_loss():
    loss, state, _ = tiny()
    _, (_, model_state) = jax.jit(loss)(state.params, state.model_state, BATCH, RNG)
    expected = 0.1 * BATCH["target"].mean(axis=0)
    np.testing.assert_allclose(
        model_state["batch_stats"]["norm"]["mean"], expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(("objectives", "weights", "sentence"),
                         [((square,), {"sqare": 2.0},
                           r"gives the term 'sqare' of 'weights'; terms: \['square'\]"),
                          ((square, shift, square), {}, "Two objectives give the term 'square'"),
                          ((Reference(),), {}, "Reference needs 'z', but the model gives .*'y'"),
                          ((lambda out, batch: {"a": batch["label"]},), {},
                           r"needs 'label'.*has \['target'\]")])  # fmt: skip
def test_objectives_that_do_not_fit(objectives, weights, sentence):
    _, state, _ = tiny()
    loss = compose(Tiny(), objectives, weights)
    with pytest.raises(InputError, match=sentence):
        jax.eval_shape(loss, state.params, state.model_state, BATCH, RNG)


def test_a_step_changes_all_parts_of_the_state_and_reports():
    loss, state, step = tiny()
    after, metrics = step(state, BATCH, RNG)
    assert int(after.step) == 1 and after.skipped.tolist() == [0, 0]
    for name in ("params", "model_state", "opt_state"):
        before, now = jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(after, name))
        assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(before, now, strict=True))
    rng = jax.random.fold_in(RNG, 0)
    grads, _ = jax.jit(jax.grad(loss, has_aux=True))(state.params, state.model_state, BATCH, rng)
    squares = sum(np.sum(np.float64(g) ** 2) for g in jax.tree.leaves(grads))
    assert float(metrics["gradient_norm"]) == pytest.approx(np.sqrt(squares), rel=1e-5)


def test_dropout_is_that_of_the_step_and_the_seed_and_of_nothing_else():
    _, state, step = tiny()
    first = float(step(state, BATCH, RNG)[1]["square"])
    assert float(step(state, BATCH, RNG)[1]["square"]) == first
    later = step(state.replace(step=state.step + 1), BATCH, RNG)[1]["square"]
    other = step(state, BATCH, jax.random.key(4))[1]["square"]
    assert len({first, float(later), float(other)}) == 3


def test_broken_batches_change_nothing_but_the_counters():
    _, state, step = tiny()
    state, _ = step(state, BATCH, RNG)
    broken, metrics = step(state, BROKEN, RNG)
    for name in ("params", "model_state", "opt_state"):
        assert_same_bits(getattr(state, name), getattr(broken, name))
    assert not np.isfinite(metrics["loss"])
    assert int(broken.step) == 2 and broken.skipped.tolist() == [1, 1]
    again, _ = step(broken, BROKEN, RNG)
    assert int(again.step) == 3 and again.skipped.tolist() == [2, 2]
    recovered, metrics = step(again, BATCH, RNG)
    assert int(recovered.step) == 4 and recovered.skipped.tolist() == [2, 0]
    assert np.isfinite(metrics["loss"])
    final, _ = step(recovered, BROKEN, RNG)
    assert final.skipped.tolist() == [3, 1]


def simple(params, opt_state):
    return TrainState(step=jnp.zeros((), jnp.int32), params=params,
                      model_state={"seen": jnp.zeros(())}, opt_state=opt_state,
                      skipped=jnp.zeros(2, jnp.int32))  # fmt: skip


@pytest.mark.parametrize(
    ("function", "x", "value_is_finite"),
    [(lambda w, x: jnp.sqrt(w * x), 0.0, True), (lambda w, x: w + x, np.inf, False)],
)
def test_a_loss_or_a_gradient_alone_that_is_not_finite_skips_the_step(function, x, value_is_finite):
    """sqrt has a finite value without a finite gradient at 0; adding infinity is the reverse."""

    def loss(params, model_state, batch, rng):
        value = function(params["w"], batch["target"][0])
        return value, ({"loss": value}, {"seen": model_state["seen"] + 1})

    tx = optimizer.make({"name": "sgd"}, lambda count: 0.1)
    params = {"w": jnp.ones(())}
    state = simple(params, tx.init(params))
    after, metrics = jax.jit(make_step(loss, tx))(state, {"target": np.full(1, x, np.float32)}, RNG)
    assert np.isfinite(metrics["loss"]) == value_is_finite
    assert np.isfinite(metrics["gradient_norm"]) != value_is_finite
    assert after.skipped.tolist() == [1, 1]
    assert_same_bits((after.params, after.model_state), (state.params, state.model_state))


def test_a_term_of_weight_zero_does_not_train():
    loss = compose(Tiny(), (square, shift), {"shift": 0.0, "two": 0.0})
    alone = compose(Tiny(), (square,), {})
    _, state, _ = tiny()
    first, second = (
        jax.jit(jax.grad(f, has_aux=True))(state.params, state.model_state, BATCH, RNG)[0]
        for f in (loss, alone)
    )
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)

"""The moving average: what it holds, who takes it, and that the raw weights are trained on."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from microbatches import RNG, RULES, Tower, square
from runs import assert_same_bits, config

from data_pipelines.errors import InputError
from retina_jax import experiment, origins
from retina_jax.train import averaging, loop, optimizer
from retina_jax.train.checkpoint import Checkpointer
from retina_jax.train.frozen import Frozen
from retina_jax.train.step import compose, initialize, make_step
from retina_jax.types import Results

pytestmark = pytest.mark.fast
DECAY = 0.3
BATCH = {"x": np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)}
BROKEN = {"x": np.full((8, 6), np.nan, np.float32)}


@functools.cache
def pieces(rules=RULES, ema=DECAY):
    frozen = Frozen(rules)
    tx = optimizer.make({"name": "adamw"}, lambda count: 0.05, rules=rules)
    loss = compose(Tower(0.0), (square,), {}, frozen=frozen)
    averaged = None if ema is None else frozen
    state = jax.jit(initialize(Tower(0.0), tx, averaged))(RNG, BATCH)
    return state, jax.jit(make_step(loss, tx, frozen, ema), donate_argnums=0)


def run(batches, **options):
    """The states before and after each of the batches."""
    state, step = pieces(**options)
    states = [jax.device_get(state)]
    for number in batches:
        state, _ = step(jax.tree.map(jnp.copy, state), number, RNG)
        states.append(jax.device_get(state))
    return states


def test_it_is_the_recurrence_with_the_warm_up_of_the_decay():
    states = run([BATCH] * 4)
    weights = [(s.params["last"], s.model_state["batch_stats"]["last"]) for s in states]
    expected = weights[0]
    for n, new in enumerate(weights[1:]):
        d = (0.1, 2 / 11, 0.25, 0.3)[n]  # 4 / 13 is more than the decay
        expected = jax.tree.map(lambda a, b, d=d: d * a + (1 - d) * b, expected, new)
    last = states[-1].average
    found = (last["params"]["last"], last["batch_stats"]["last"])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert not np.allclose(found[0]["dense"]["kernel"], weights[-1][0]["dense"]["kernel"])


def test_what_is_frozen_is_kept_once_and_is_in_the_average():
    state = run([BATCH])[-1]
    assert set(state.average["params"]) == set(state.average["batch_stats"]) == {"last"}
    averaged = averaging.averaged(state)
    assert averaged.average is None
    assert_same_bits(averaged.params["first"], state.params["first"])
    first = (s.model_state["batch_stats"]["first"] for s in (averaged, state))
    assert_same_bits(*first)
    assert_same_bits(averaged.params["last"], state.average["params"]["last"])
    assert_same_bits(averaging.resumed(averaged, averaging.raw(state)), state)


def test_a_step_that_is_skipped_leaves_it_alone_and_does_not_count():
    _, first, skipped, second = run([BATCH, BROKEN, BATCH])
    assert skipped.skipped.tolist() == [1, 1]
    assert_same_bits(skipped.average, first.average)
    share = 2 / 11  # the second step that was taken
    for old, new, found in zip(
        *(jax.tree.leaves(tree) for tree in (first.average["params"], second.params["last"],
                                             second.average["params"])), strict=True
    ):  # fmt: skip
        np.testing.assert_allclose(found, share * old + (1 - share) * new, rtol=1e-6, atol=1e-7)


def test_training_goes_on_from_the_raw_weights_and_without_it_nothing_is_kept():
    with_it, without = run([BATCH] * 2)[-1], run([BATCH] * 2, ema=None)[-1]
    assert without.average is None
    assert_same_bits(with_it.replace(average=None), without)


class Memory:
    """Variables with a collection that is no statistic."""

    params = {"a": {"kernel": jnp.ones(2)}, "b": {"kernel": jnp.ones(2)}}
    model_state = {"memory": {"a": jnp.ones(3)}}


def test_other_collections_have_no_average():
    average = averaging.begin(
        Memory.params, Memory.model_state, Frozen((("a/.*", {"frozen": True}), (".*", {})))
    )
    assert set(average) == {"params"} and set(average["params"]) == {"b"}


def build(workdir, ema=0.9, **options):
    made = config("flair", total={"steps": 2}, **options)
    made.optimization.ema = ema
    return experiment.build_all(made, workdir)[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps, its directory, and the state that it ended in."""
    workdir = tmp_path_factory.mktemp("averaged")
    made = build(workdir)
    loop.train(made, workdir)
    checkpointer = Checkpointer(workdir / "checkpoints")
    state = checkpointer.restore(loop.abstract_state(made))
    checkpointer.close()
    assert set(state.average) == {"params", "batch_stats"}
    assert not np.allclose(
        state.params["logit_scale"], state.average["params"]["logit_scale"], atol=0, rtol=0
    )
    return made, workdir, state


def test_evaluations_read_the_average_from_a_checkpoint(trained):
    made, workdir, state = trained
    averaged = averaging.averaged(state)
    checkpointer = Checkpointer(workdir / "checkpoints", read_only=True)
    scored = checkpointer.restore_model(loop.abstract_state(made))
    checkpointer.close()
    assert scored.average is None
    assert_same_bits((scored.params, scored.model_state), (averaged.params, averaged.model_state))


def test_evaluations_during_the_run_see_the_average(trained):
    made, _, state = trained
    seen = []

    class Evaluator:
        def run(self, state):
            seen.append(state)
            return Results({})

    loop.evaluate(dataclasses.replace(made, evaluators={"it": Evaluator()}), state)
    assert_same_bits(seen[0].params, averaging.averaged(state).params)


@pytest.fixture(scope="module")
def later(trained):
    """An experiment that starts from that run, and the state that it begins with."""
    made, workdir, _ = trained
    start = {"path": str(workdir), "take": tuple(made.shapes.params)}
    later = build(workdir, restore_from=start)
    return later, loop.fresh_state(later, loop.abstract_state(later))


def test_what_starts_from_the_run_or_exports_it_takes_the_average(trained, later):
    _, workdir, state = trained
    averaged = averaging.averaged(state)
    taken = origins.read(str(workdir)).variables  # by restore.read_variables, as the converter does
    assert_same_bits(taken, {"params": averaged.params, **averaged.model_state})
    _, began = later
    assert_same_bits(began.params, averaged.params)
    assert_same_bits(began.average["params"], averaged.params)


def test_the_first_state_can_be_given_away(trained, later):
    """Two arrays of a state that is donated must not be one buffer."""
    made, *_ = trained
    for began in (loop.fresh_state(made, loop.abstract_state(made)), later[1]):
        places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(began)]
        assert len(set(places)) == len(places)


def test_a_checkpoint_with_an_average_is_refused_by_a_config_without(trained):
    _, workdir, _ = trained
    with pytest.raises(InputError, match="trained with optimization.ema, unlike this config"):
        loop.train(build(workdir, ema=None), workdir)


@pytest.mark.parametrize("ema", [1.0, -0.1])
def test_a_decay_that_is_no_share_is_refused(tmp_path, ema):
    with pytest.raises(InputError, match="optimization.ema is a share"):
        build(tmp_path, ema=ema)

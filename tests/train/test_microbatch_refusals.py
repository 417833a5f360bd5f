"""What cannot be cut into microbatches is refused before anything is compiled, and only that."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from microbatches import RNG, Normalised, Written, assert_close, batch, check, cut, variables
from runs import config

from data_pipelines.errors import InputError
from retina_jax import experiment
from retina_jax.train import microbatch
from retina_jax.train.step import compose

pytestmark = pytest.mark.fast


def attend(x):
    return jax.nn.softmax(x @ x.T) @ x


MIXING = {"a product of rows": attend, "a mean": lambda x: x - x.mean(axis=0),
          "pairs of rows": lambda x: x @ x.T, "a scalar": lambda x: (x**2).mean(),
          "neighbours": lambda x: x + jnp.roll(x, 1, axis=0),
          "two rows each": lambda x: jnp.concatenate([x, x]),
          "within jit": lambda x: jax.jit(attend)(x),
          "within checkpoint": lambda x: jax.checkpoint(attend)(x),
          "within scan": lambda x: jax.lax.scan(lambda y, _: (attend(y), None), x,
                                                jnp.arange(3))[0],
          "rows that are not the first axis": lambda x: x.T}  # fmt: skip
BY_ROW = {
    "a softmax": lambda x: jax.nn.softmax(x),
    "attention within a row": lambda x: jax.vmap(lambda y: jnp.outer(y, y) @ y)(x),
    "folded and unfolded": lambda x: jnp.tanh(x.reshape(-1, 2)).reshape(-1, 4),
    "a scan over layers": lambda x: jax.lax.scan(
        lambda y, k: (jnp.tanh(y + k), y), x, jnp.arange(3.0)
    )[0],
    "a loop over rows": lambda x: jax.lax.map(lambda y: y / jnp.sum(y**2), x),
    "a row for each row": lambda x: jnp.zeros((len(x), 2)),
    "no rows at all": lambda x: jnp.arange(5.0).sum(),
}


@pytest.mark.parametrize("what", MIXING)
def test_a_model_that_mixes_rows_is_refused_by_the_name_of_the_output(what):
    with pytest.raises(InputError, match="The output 'y' of Written is not made row by row"):
        check(Written(MIXING[what]), batch(), cut(3))


@pytest.mark.parametrize("what", BY_ROW)
def test_a_model_that_does_not_mix_rows_is_cut(what):
    model, rows = Written(BY_ROW[what]), batch()
    check(model, rows, cut(3))
    params, _ = variables(model, rows)
    (whole, _), (pieces, _) = (
        jax.jit(microbatch.forward(model, how))(params, {}, rows, RNG) for how in (None, cut(3))
    )
    assert_close(pieces, whole)


def test_statistics_that_were_asked_for_do_not_hide_other_mixing():
    check(Normalised(jnp.tanh), batch(), cut(3, own_statistics=True))
    with pytest.raises(InputError, match="The output 'y' of Normalised"):
        check(Normalised(attend), batch(), cut(3, own_statistics=True))


@pytest.mark.parametrize(
    ("rows", "sizes", "devices", "sentence"),
    [
        (5, {"public": 24}, 1, "microbatch is 5, .* batch of 24 of the stream 'public'"),
        (0, {"public": 24}, 1, "microbatch is 0, .* batch of 24"),
        (48, {"public": 24}, 1, "microbatch is 48, .* batch of 24"),
        (4, {"": 24}, 8, "microbatch=4 the batch of 24 .* 6 microbatches over 8 .* of 48, or"),
        (8, {"public": 32, "expert": 24}, 8, "batch of 24 of the stream 'expert'.* 4 .* of 32,"),
    ],
)
def test_numbers_that_do_not_fit(rows, sizes, devices, sentence):
    with pytest.raises(InputError, match=sentence):
        microbatch.plan(rows, sizes, SimpleNamespace(size=devices))


def test_streams_are_cut_into_as_many_pieces():
    mesh = SimpleNamespace(size=4)
    assert microbatch.plan(None, {"public": 24}, mesh) is None
    assert microbatch.plan(8, {"public": 32, "expert": 16}, mesh).count == 4


def test_batch_statistics_are_refused():
    model, rows = Normalised(jnp.tanh), batch()
    sentence = "keeps batch_stats, which .*statistics_per_microbatch"
    with pytest.raises(InputError, match=sentence):
        check(model, rows, cut(3))
    loss = compose(model, (lambda out, batch: {"y": out["y"].sum()},), {}, cut(3))
    with pytest.raises(InputError, match=sentence):
        jax.eval_shape(loss, *variables(model, rows), rows, RNG)


def test_a_config_that_cannot_be_cut_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match="microbatch is 3, .* stream 'public'"):
        experiment.build_all(config("flair", microbatch=3), tmp_path)
    with pytest.raises(InputError, match="keeps batch_stats"):
        experiment.build_all(config("flair", microbatch=4), tmp_path)
    (made,) = experiment.build_all(
        config("flair", microbatch=4, statistics_per_microbatch=True), tmp_path
    )
    assert made.microbatching.own_statistics

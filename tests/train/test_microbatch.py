"""Cut into microbatches, a batch gives the loss and the gradient of the whole, in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from microbatches import (
    BERT,
    LENGTH,
    PAIRS,
    RNG,
    ROWS,
    SIZE,
    TOWERS,
    VIT,
    Normalised,
    Written,
    assert_close,
    batch,
    cut,
    keepfit,
    variables,
)
from runs import assert_same_bits, config

from retina_jax import experiment
from retina_jax.models.dual import Dual
from retina_jax.models.text_mlm import TextMLM
from retina_jax.models.tripartite import Tripartite
from retina_jax.objectives.contrastive import Contrastive
from retina_jax.objectives.masked_language import MaskedLanguage
from retina_jax.objectives.reference import Reference
from retina_jax.train import loop, microbatch, optimizer, sharding
from retina_jax.train.step import compose, initialize, make_step

PAIR = (("image", "text"),)


def dual():
    return Dual(towers=TOWERS, dim=8)


def two_streams():
    return {"public": batch(ROWS), "expert": batch(ROWS // 2, seed=1)}


def differentiate(model, objectives, rows, count, **options):
    """((loss, (metrics, model state)), gradient) of the composed loss; count 0 does not cut."""
    params, state = variables(model, rows)
    loss = compose(model, objectives, {}, cut(count, **options) if count else None)
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, state, rows, RNG)


def by_hand(model, objectives, rows, count):
    """The same function without any saving of memory: pieces, one after another, in Python."""
    params, state = variables(model, rows)

    def loss(params):
        kept, pieces = state, []
        for index in range(count):
            piece = jax.tree.map(lambda x, first=index: x[first::count], rows)
            out, kept = model.apply(
                {"params": params, **kept}, piece, train=True, mutable=list(kept),
                rngs={"dropout": jax.random.fold_in(RNG, index)},
            )  # fmt: skip
            pieces.append(out)

        def join(*parts):
            if not parts[0].shape:
                return parts[0]
            whole = jnp.zeros((count * len(parts[0]), *parts[0].shape[1:]), parts[0].dtype)
            for index, part in enumerate(parts):
                whole = whole.at[index::count].set(part)
            return whole

        out = jax.tree.map(join, *pieces)
        return sum(sum(term(out, rows).values()) for term in objectives), kept

    (value, kept), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return value, kept, gradient


def patients():
    random = np.random.default_rng(2)
    valid = np.ones((ROWS, 2), bool)
    valid[3, 0] = valid[7, 1] = False
    eyes = random.integers(0, 256, (ROWS, 2, SIZE, SIZE, 3)).astype(np.uint8)
    return {**batch(), "eyes": eyes, "eye_mask": valid}


def books():
    rows = batch()
    masked = np.random.default_rng(3).random((ROWS, LENGTH)) < 0.3
    return {**rows, "masked": masked, "masked_text": np.where(masked, 1, rows["text"])}


def levels(out, batch):
    """Terms of RET-CLIP's outputs that read all of them."""
    total = 0.0
    for level, scale in out["scale"].items():
        logits = scale * out["z"][level] @ out["z"][f"text_{level}"].T
        losses = -jnp.diagonal(jax.nn.log_softmax(logits))
        total += jnp.mean(jnp.where(out["row_mask"][level], losses, 0.0))
    return {"levels": total}


SYSTEMS = {"dual": (12, dual, batch, (Contrastive(PAIR, groups=True, blockwise=4),)),
           "tripartite": (2, lambda: Tripartite(towers=TOWERS, dim=8), patients, (levels,)),
           "keepfit": (3, keepfit, two_streams, (Contrastive(PAIRS), Reference()))}  # fmt: skip


# KeepFIT with all of its terms: test_keepfit_training.py.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("tripartite", "keepfit")]


@pytest.mark.parametrize("name", ["dual", *SLOW])
def test_loss_and_gradient_are_those_of_the_whole_batch(name):
    count, make, data, objectives = SYSTEMS[name]
    model, rows = make(), data()
    (whole, (metrics, _)), expected = differentiate(model, objectives, rows, 0)
    (value, (found, _)), gradient = differentiate(model, objectives, rows, count)
    assert float(value) == pytest.approx(float(whole), rel=1e-5)
    assert set(found) == set(metrics)
    for key in metrics:
        assert float(found[key]) == pytest.approx(float(metrics[key]), rel=1e-5)
    assert_close(gradient, expected)


@pytest.mark.slow
def test_dropout_is_the_same_in_both_passes_and_another_in_every_microbatch():
    model, objectives = TextMLM(encoder={**BERT, "dropout": 0.3}), (MaskedLanguage(),)
    rows = jax.tree.map(lambda x: np.repeat(x[:1], ROWS, axis=0), books())
    (value, _), gradient = differentiate(model, objectives, rows, 3)
    expected, _, by_row = by_hand(model, objectives, rows, 3)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert_close(gradient, by_row)
    params, _ = variables(model, rows)
    out, _ = jax.jit(microbatch.forward(model, cut(3)))(params, {}, rows, RNG)
    first = np.asarray(out["logits"])[:, 0]
    assert len(np.unique(first.round(4), axis=0)) == ROWS  # the texts are equal, their masks not


def test_what_mixes_rows_is_combined_with_randomness_of_its_own():
    rows = two_streams()
    model = keepfit(dropout=0.5)
    params, _ = variables(model, rows)
    out, _ = jax.jit(microbatch.forward(model, cut(3)))(params, {}, rows, RNG)
    rngs = {"dropout": jax.random.fold_in(RNG, 3)}
    again = model.apply({"params": params}, {**out}, train=True, method="combine", rngs=rngs)
    reference = out["reference"]["public"]
    np.testing.assert_allclose(reference, again["reference"]["public"], rtol=1e-5, atol=1e-6)
    still = model.apply({"params": params}, {**out}, train=False, method="combine")
    assert np.abs(reference - still["reference"]["public"]).max() > 1e-2


def test_batch_statistics_of_each_microbatch_move_on_in_order_where_asked_for():
    model, rows = Normalised(jnp.tanh), batch()
    (value, (_, state)), gradient = differentiate(model, (cubes,), rows, 3, own_statistics=True)
    expected, kept, by_row = by_hand(model, (cubes,), rows, 3)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert_close(gradient, by_row)
    assert_close(state, kept)
    (whole, _), _ = differentiate(model, (cubes,), rows, 0)
    assert abs(float(value) - float(whole)) > 1e-4  # an approximation, not the whole batch


def cubes(out, batch):
    return {"cubes": jnp.mean(out["normal"] ** 3 * jnp.arange(ROWS)[:, None])}


DEEP = {**VIT, "width": 64, "depth": 6, "heads": 4, "mlp_dim": 256}


@functools.cache
def compiled(rows, count):
    """The differentiated loss of a vision transformer."""
    model = Dual(towers={"image": DEEP}, dim=16)
    data = {"image": np.zeros((rows, 64, 64, 3), np.uint8)}
    shapes = jax.eval_shape(lambda: model.init(RNG, data, train=True)["params"])
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    how = microbatch.plan(rows // count, {"": rows}, mesh) if count else None
    loss = compose(model, (Contrastive((("image", "image"),)),), {}, how)
    return jax.jit(jax.grad(loss, has_aux=True)).lower(shapes, {}, data, RNG)


def test_memory_is_that_of_one_microbatch():
    def temporaries(*arguments):
        return compiled(*arguments).compile().memory_analysis().temp_size_in_bytes

    whole, eighth = temporaries(64, 0), temporaries(64, 8)
    assert eighth < whole / 4
    assert temporaries(128, 16) < 1.15 * eighth  # a larger batch of as large microbatches


def test_the_program_does_not_grow_with_the_number_of_microbatches():
    def lines(count):
        return len(compiled(64, count).as_text().splitlines())

    assert lines(4) == lines(16)


@pytest.mark.slow
def test_bfloat16_towers():
    model, objectives = Dual(towers=TOWERS, dim=8, dtype="bfloat16"), SYSTEMS["dual"][3]
    (whole, _), expected = differentiate(model, objectives, batch(), 0)
    (value, _), gradient = differentiate(model, objectives, batch(), 3)
    assert float(value) == pytest.approx(float(whole), rel=1e-5)
    first, second = (
        np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])
        for tree in (gradient, expected)
    )
    assert {x.dtype for x in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    # Processors with products of bfloat16 round otherwise than those without: .99988 with them.
    assert first @ second / np.linalg.norm(first) / np.linalg.norm(second) > 0.9995


def squares(out, batch):
    return {"squares": jnp.mean(jnp.square(out["y"]).sum(axis=1) * jnp.arange(ROWS))}


def test_a_step_clips_counts_and_skips_as_with_whole_batches():
    model = Written(jnp.sin)
    rows = {"image": batch()["image"].astype(np.float32)}
    tx = optimizer.make({"name": "adamw", "weight_decay": 0.1}, lambda count: 0.1, clip=0.01)
    whole, pieces = (
        jax.jit(make_step(compose(model, (squares,), {}, how), tx)) for how in (None, cut(4))
    )
    state = jax.jit(initialize(model, tx))(RNG, rows)
    (expected, figures), (after, metrics) = whole(state, rows, RNG), pieces(state, rows, RNG)
    assert float(figures["gradient_norm"]) > 0.01  # it is clipped
    for key in figures:
        assert float(metrics[key]) == pytest.approx(float(figures[key]), rel=1e-5)
    assert_close(after.params, expected.params)
    broken = {"image": np.where(np.arange(ROWS) == 7, np.nan, rows["image"].T).T}
    kept, metrics = pieces(after, broken, RNG)
    assert_same_bits((kept.params, kept.opt_state), (after.params, after.opt_state))
    assert kept.skipped.tolist() == [1, 1] and not np.isfinite(metrics["loss"])


def small(**options):
    made = config("flair", **options)
    with made.unlocked():
        made.model.towers.image = dict(VIT)
        made.model.towers.text.dropout = 0.0
    return made


def test_the_option_of_a_config(tmp_path):
    batch_size = config("flair").streams.public.batch_size
    (whole,) = experiment.build_all(small(), tmp_path)
    (made,) = experiment.build_all(small(microbatch=batch_size // 4), tmp_path)
    assert whole.microbatching is None and made.microbatching.count == 4
    loops = []
    for run in (whole, made):
        state, rows = loop.abstract_state(run), loop.on_device_shapes(run.data.example())
        loops.append(loop.jit_step(run, state).lower(state, rows, RNG).as_text().count("while"))
    assert loops[1] > loops[0]  # over microbatches

"""Texts cut to the shortest length that holds them: the same loss, gradient and run."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from microbatches import (
    BERT,
    BLOCKS,
    LENGTH,
    LOCAL,
    PAIRS,
    RNG,
    VIT,
    assert_close,
    batch,
    keepfit,
    variables,
)
from runs import config, job

from data_pipelines.errors import InputError
from retina_jax import experiment
from retina_jax.models.dual import Dual
from retina_jax.models.text_mlm import TextMLM
from retina_jax.objectives.caption import CaptionLoss
from retina_jax.objectives.contrastive import Contrastive
from retina_jax.objectives.masked_language import MaskedLanguage
from retina_jax.objectives.reference import Reference
from retina_jax.train import text_lengths
from retina_jax.train.step import compose

SHORT = 5
CLIP_TEXT = {"name": "clip_text", "vocab_size": 50, "max_length": LENGTH, **BLOCKS}


def texts(*longest, rows=4, length=LENGTH):
    """A batch whose longest texts have so many tokens, of a stream or of several."""
    if len(longest) > 1:
        return {name: texts(n) for name, n in zip(("public", "expert"), longest, strict=True)}
    made = batch(rows, seed=longest[0])
    ends = np.linspace(2, longest[0], rows).astype(int)
    mask = np.arange(LENGTH) < ends[:, None]
    text = np.where(mask, made["text"], 0).astype(np.int32)
    made |= {"text": text, "text_mask": mask, "masked": mask & (text % 3 == 0)}
    made |= {"masked_text": np.where(made["masked"], 3, text).astype(np.int32)}
    return {key: value[:, :length] if value.shape[1:] == (LENGTH,) else value
            for key, value in made.items()}  # fmt: skip


def widths(params, model_state, rows, rng):
    """In the place of a gradient: the lengths that it was given."""
    streams = {"": rows} if "text" in rows else rows
    found = {f"{name}/{key}": jnp.float32(stream[key].shape[1])
             for name, stream in streams.items() for key in text_lengths.TOKENS}  # fmt: skip
    return (jnp.float32(0), (found, model_state)), params


@pytest.mark.parametrize("longest, expected", [(2, 3), (3, 3), (4, 5), (5, 5), (6, 8), (8, 8)])
def test_the_shortest_length_that_holds_the_longest_text(longest, expected):
    """At a length and one over; all arrays of tokens are cut alike, pictures are not."""
    chosen = text_lengths.by_length(widths, (3, SHORT))
    (_, (found, _)), _ = chosen({}, {}, texts(longest), RNG)
    assert found.pop("text_length") == expected
    assert found == {f"/{key}": expected for key in text_lengths.TOKENS}


@pytest.mark.parametrize("public, expert, expected", [(2, 3, 3), (4, 2, 5), (2, 6, 8)])
def test_streams_are_cut_to_what_the_longest_of_all_needs(public, expert, expected):
    rows = {"public": texts(public, length=4), "expert": texts(expert)}
    (_, (found, _)), _ = text_lengths.by_length(widths, (3, SHORT))({}, {}, rows, RNG)
    assert found["public/text"] == min(expected, 4) and found["expert/masked_text"] == expected


MODELS = {
    "clip_text": (
        Dual(towers={"image": VIT, "text": CLIP_TEXT}, dim=8),
        (Contrastive((("image", "text"),)),),
        texts(SHORT),
    ),
    "masked language": (TextMLM(encoder=BERT), (MaskedLanguage(per="text"),), texts(SHORT)),
    "both injections of KeepFIT": (
        keepfit(LOCAL),
        (Contrastive(PAIRS, groups=True), Reference(), CaptionLoss(smoothing=0.1)),
        texts(SHORT - 2, SHORT),
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", MODELS)
def test_loss_and_gradient_are_those_of_whole_texts(which):
    model, objectives, rows = MODELS[which]
    params, state = variables(model, rows)
    loss = compose(model, objectives, {})
    short = text_lengths.cut(rows, SHORT)
    if which.startswith("both"):  # its gradient takes long to compile
        found = [jax.jit(loss)(params, state, each, RNG)[1][0] for each in (rows, short)]
    else:
        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (one, grads), (other, short_grads) = (
            gradient(params, state, each, RNG) for each in (rows, short)
        )
        assert_close(short_grads, grads, 1e-5)
        found = [one[1][0], other[1][0]]
    first, second = ({name: float(term) for name, term in terms.items()} for terms in found)
    assert second == pytest.approx(first, rel=1e-5)


_PROCESS = """
import json, jax, numpy as np, optax
from retina_jax import distributed
distributed.initialize()
from test_text_lengths import MODELS, SHORT, RNG, variables, texts
from retina_jax.train import loop, sharding
from retina_jax.train.step import compose, make_step
from retina_jax.types import TrainState
model, objectives, _ = MODELS["masked language"]
mesh, me = sharding.make_mesh(), jax.process_index()
params, _ = variables(model, texts(8))
optimizer = optax.sgd(0.1)
def new():
    state = TrainState(np.int32(0), params, {}, optimizer.init(params), np.zeros(2, np.int32))
    return jax.jit(lambda: state, out_shardings=sharding.replicated(mesh))()
loss, everywhere = compose(model, objectives, {}), sharding.replicated(mesh)
rng = jax.jit(lambda: RNG, out_shardings=everywhere)()
told = []
for lengths in ((3, SHORT), ()):
    state = new()
    step = loop.jitted(make_step(loss, optimizer, lengths=lengths), everywhere, mesh)
    for longest in (2, 5, 4, 6):  # of the second process; those of the first have 3
        rows = texts(longest if me else 3, rows=8)
        mine = {k: v[4 * me:4 * me + 4] for k, v in rows.items() if "text" in k or k == "masked"}
        state, metrics = step(state, sharding.put(mine, mesh), rng)
        told.append([float(metrics["loss"]), float(metrics.get("text_length", 0))])
print(json.dumps(told))
"""


def test_two_processes_take_the_same_length_and_the_steps_of_whole_texts():
    """Either one alone would take another length: one has short texts, the other the longest."""
    code = f"import sys; sys.path[:0] = ['tests', 'tests/train']\n{_PROCESS}"
    done = [program.finish() for program in job("-c", code, PYTHONPATH="tests:tests/train")]
    assert [one.returncode for one in done] == [0, 0], [one.stderr[-3000:] for one in done]
    one, two = (json.loads(each.stdout.splitlines()[-1]) for each in done)
    assert one == two
    cut, whole = np.array(one[:4]), np.array(one[4:])
    assert cut[:, 1].tolist() == [3, 5, 5, LENGTH]
    np.testing.assert_allclose(cut[:, 0], whole[:, 0], rtol=1e-5)
    assert len(set(whole[:, 0])) == 4


@pytest.mark.parametrize(
    "lengths, changes, sentence",
    [
        ((8, 8), {}, r"rising numbers of tokens below 32, .* not \(8, 8\)"),
        ((8, 32), {}, r"rising numbers of tokens below 32"),
        (8, {}, "a list of whole numbers, got 8"),
        ((8,), {"pool": "flair"}, "text_lengths of the config do not fit: .* 'text' makes of a"),
    ],
)
def test_lengths_that_change_numbers_or_nothing_are_refused(lengths, changes, sentence, tmp_path):
    given = config("flair", text_lengths=lengths)
    given.model.towers.text.update(changes)
    with pytest.raises(InputError, match=sentence):
        experiment.build_all(given, tmp_path)


@pytest.mark.parametrize("dropout", [0.1, 0.0])
def test_what_is_compiled_is_said_and_whether_dropout_draws_other_numbers(
    dropout, tmp_path, caplog
):
    given = config("flair", text_lengths=(8, 16))
    given.model.towers.text.dropout = dropout
    with caplog.at_level(logging.INFO):
        experiment.build_all(given, tmp_path)
    assert "The step of the config is compiled for texts of 8, 16, 32 tokens" in caplog.text
    assert ("dropout draws other numbers" in caplog.text) == (dropout > 0)


def test_a_batch_without_texts_or_without_their_masks_is_refused():
    rows = texts(4)
    for wrong, sentence in (({"image": rows["image"]}, "no stream has any"),
                            ({"text": rows["text"]}, "needs the 'text_mask'")):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            text_lengths.check((3,), wrong)

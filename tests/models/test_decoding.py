"""Decoding against exhaustive search, and against one whole text after another."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models import decoding
from retina_jax.models.decoding import Beam, Ends, Greedy, Nucleus
from retina_jax.models.text_decoder import TextDecoder

ROWS, WORDS, LENGTH = 3, 4, 4
ENDS = Ends(first=3, last=1, padding=0)


def table(seed=0, rows=ROWS, spread=2.0):
    """Scores of the next token f32[row, position, token, next token]."""
    shape = (rows, LENGTH + 1, WORDS, WORDS)
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def written(strategy, scores, ends=ENDS, length=LENGTH):
    """Texts of a decoder that only remembers its row and the last token."""
    start = jnp.asarray(scores[:, 0, ends.first])
    state = {"scores": jnp.asarray(scores)[None]}

    def step(state, tokens, index):
        rows = state["scores"][0]
        return rows[jnp.arange(len(rows)), index, tokens], state

    call = jax.jit(lambda start, state: strategy(step, start, state, ends, length))
    return np.asarray(call(start, state))


def likelihood(scores, text):
    """Log likelihood of a text with its end, and its number of tokens, by the definition."""
    total, previous = 0.0, ENDS.first
    for index, token in enumerate(text):
        row = scores[index, previous].astype(np.float64)
        total += row[token] - np.log(np.exp(row).sum())
        previous = token
        if token == ENDS.last:
            return total, index + 1
    return total, len(text)


def padded(text, ends=ENDS):
    text = list(text)
    if ends.last in text:
        text = text[: text.index(ends.last) + 1]
    return tuple(text + [ends.padding] * (LENGTH - len(text)))


def exhaustive(scores, penalty):
    """The best of all texts: finished, or as long as allowed."""
    texts = {padded(t) for t in itertools.product(range(WORDS), repeat=LENGTH)}
    ranked = []
    for text in texts:
        value, count = likelihood(scores, text)
        ranked.append((value / count**penalty, text))
    return max(ranked)[1]


def trigrams(text):
    return [tuple(text[i : i + 3]) for i in range(len(text) - 2)]


@pytest.mark.parametrize("penalty", [0.0, 0.7, 2.0])
def test_enough_beams_find_the_best_of_all_texts(penalty):
    scores = table(rows=12)
    found = written(Beam(WORDS**LENGTH, length_penalty=penalty), scores)
    expected = [exhaustive(row, penalty) for row in scores]
    np.testing.assert_array_equal(found, expected)


def test_what_the_decoder_remembers_moves_with_its_beam():
    """Scores that depend on all words so far, as numbers to the base of the vocabulary."""
    rows, beams = 16, WORDS**LENGTH
    scores = np.random.default_rng(3).normal(0, 1, (rows, LENGTH + 1, beams, WORDS))
    scores[..., ENDS.last] -= 4  # for texts of several words
    scores = scores.astype(np.float32)

    def step(state, tokens, index):
        table, said = state["table"][0], state["said"][0] * WORDS + tokens
        return table[jnp.arange(len(table)), index, said % beams], {**state, "said": said[None]}

    state = {"table": jnp.asarray(scores)[None], "said": jnp.zeros((1, rows), jnp.int32)}
    strategy, first = Beam(beams), jnp.asarray(scores[:, 0, 0])
    found = jax.jit(lambda state: strategy(step, first, state, ENDS, LENGTH))
    ranked = []
    for row in scores.astype(np.float64):
        best = (-np.inf, ())
        for text in {padded(t) for t in itertools.product(range(WORDS), repeat=LENGTH)}:
            total, said = 0.0, 0
            for index, token in enumerate(text):
                total += row[index, said, token] - np.log(np.exp(row[index, said]).sum())
                said = said * WORDS + token
                if token == ENDS.last:
                    break
            best = max(best, (total, text))
        ranked.append(best[1])
    np.testing.assert_array_equal(found(state), ranked)


def test_the_length_penalty_changes_the_text_that_is_found():
    scores = table(rows=12)
    plain, penalised = (
        written(Beam(WORDS**LENGTH, length_penalty=penalty), scores) for penalty in (0.0, 2.0)
    )
    assert (np.asarray(plain) != np.asarray(penalised)).any()


def assert_greedy(texts, scores, ends=ENDS):
    """Each token is the likeliest after the one before it."""
    for row, text in zip(scores, texts, strict=True):
        previous, expected = ends.first, []
        for index in range(LENGTH):
            previous = int(row[index, previous].argmax())
            expected.append(previous)
        assert tuple(text) == padded(expected, ends)


def test_one_beam_is_greedy():
    scores = table(rows=48)
    greedy = written(Greedy(), scores)
    np.testing.assert_array_equal(written(Beam(1), scores), greedy)
    assert_greedy(greedy, scores)


def test_more_beams_never_find_a_less_likely_text_than_greedy_here():
    scores = table(1, rows=16, spread=1.0)
    greedy, beams = written(Greedy(), scores), written(Beam(3), scores)
    gain = [
        likelihood(row, b)[0] - likelihood(row, g)[0]
        for row, g, b in zip(scores, greedy, beams, strict=True)
    ]
    assert min(gain) > -1e-4 and max(gain) > 0.1


def test_one_id_may_begin_end_and_pad():
    """The released captioner has id 0 for all three."""
    ends = Ends(first=0, last=0, padding=0)
    scores = table(5)
    for strategy in (Greedy(), Beam(1)):
        assert_greedy(written(strategy, scores, ends), scores, ends)


@pytest.mark.parametrize(
    "strategy",
    [Greedy(block_trigrams=True), Beam(3, block_trigrams=True), Nucleus(block_trigrams=True)],
    ids=["greedy", "beam", "nucleus"],
)
def test_trigrams_do_not_repeat(strategy):
    length = 14
    # The tokens 0 and 2 follow each other for ever, and the end is out of reach.
    row = np.full((length + 1, WORDS, WORDS), -8.0, np.float32)
    row[:, 0, 2] = row[:, 2, 0] = row[:, ENDS.first, 0] = 4.0
    row[:, :, ENDS.last] = -25.0
    scores = np.stack([row, row + np.random.default_rng(0).normal(size=row.shape)])
    scores = scores.astype(np.float32)
    free = written(type(strategy)(), scores, length=length)
    assert all(len(set(trigrams(text))) < len(trigrams(text)) for text in free.tolist())
    for text in written(strategy, scores, length=length).tolist():
        text = [ENDS.first, *text]
        text = text[: text.index(ENDS.last)] if ENDS.last in text else text
        assert len(text) > 6 and len(set(trigrams(text))) == len(trigrams(text))


def test_only_the_blocked_token_is_blocked():
    texts = jnp.array([[3, 0, 2, 1, 0, 2, 9], [3, 0, 2, 1, 2, 0, 9]])
    found = decoding._without_trigrams(jnp.zeros((2, 4)), texts, jnp.int32(5))
    np.testing.assert_array_equal(found < -1, [[0, 1, 0, 0], [0, 0, 0, 0]])


def test_a_trigram_can_be_made_unlikely_for_each_time_that_it_was_written():
    texts = jnp.array([[0, 1, 2, 0, 1, 2, 0, 1, 9], [0, 1, 2, 0, 1, 3, 0, 1, 9]])
    found = decoding._without_trigrams(jnp.ones((2, 4)), texts, jnp.int32(7), -1.386)
    expected = [[1, 1, 1 - 2 * 1.386, 1], [1, 1, 1 - 1.386, 1 - 1.386]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_nucleus_is_the_smallest_set_of_its_share():
    probabilities = np.array([[0.1, 0.5, 0.15, 0.25], [0.25, 0.25, 0.25, 0.25]])
    for share, expected in ((0.5, [1]), (0.51, [1, 3]), (0.75, [1, 3]), (0.8, [1, 2, 3])):
        kept = decoding.nucleus(jnp.log(jnp.asarray(probabilities)), share)[0]
        assert np.flatnonzero(np.isfinite(kept)).tolist() == expected
    assert np.isfinite(decoding.nucleus(jnp.log(jnp.asarray(probabilities)), 1.0)).all()
    ties = np.isfinite(decoding.nucleus(jnp.log(jnp.asarray(probabilities)), 0.3)[1])
    assert ties.sum() == 2


def test_samples_come_from_the_nucleus_in_its_proportions():
    probabilities = np.array([0.02, 0.08, 0.3, 0.6])
    scores = np.zeros((2000, LENGTH + 1, WORDS, WORDS), np.float32)
    scores[..., :] = np.log(probabilities)
    found = written(Nucleus(share=0.85), scores)
    drawn = np.bincount(found[:, 0], minlength=4) / len(found)
    assert drawn[:2].sum() == 0 and set(np.unique(found)) == {2, 3}
    np.testing.assert_allclose(drawn[2:], probabilities[2:] / 0.9, atol=0.03)
    # Tokens after each other are drawn anew.
    assert 0.4 < (found[:, 0] == found[:, 1]).mean() < 0.7
    other = written(Nucleus(share=0.85, seed=1), scores)
    assert (found[:, 0] != other[:, 0]).any()
    cold = written(Nucleus(share=1.0, temperature=0.05), scores)
    assert (cold == 3).all()


@pytest.mark.parametrize("strategy", [Greedy(), Beam(3, 0.6)], ids=["greedy", "beam"])
def test_the_cache_changes_nothing(strategy, random_variables, run):
    """`generate` against the same decoding with every text computed whole at each step."""
    rng = np.random.default_rng(0)
    memory = 20 * rng.normal(size=(ROWS, 5, 6)).astype(np.float32)
    decoder = TextDecoder(WORDS, width=8, depth=2, heads=2, mlp_dim=8)
    variables = random_variables(decoder, np.zeros((ROWS, 2), int), None, memory, seed=7)
    variables["params"]["embedding"]["embedding"] *= 0.1  # for texts that differ

    def cached(variables):
        return decoding.generate(decoder.bind(variables), memory, strategy, ENDS, LENGTH)

    def whole(variables):
        places = jnp.repeat(memory, strategy.width, axis=0)

        def scores(texts, at, places):
            logits = decoder.apply(variables, texts, None, places)
            return jax.lax.dynamic_index_in_dim(logits, at, axis=1, keepdims=False)

        def step(state, tokens, index):
            texts = state[0].at[:, index].set(tokens, mode="drop")
            return scores(texts, index, places), texts[None]

        texts = jnp.full((ROWS, LENGTH), ENDS.first, jnp.int32)
        return strategy(step, scores(texts, 0, memory), texts[None], ENDS, LENGTH)

    found, expected = run(lambda variables: (cached(variables), whole(variables)), variables)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found, axis=0)) > 1


def test_what_is_no_way_of_decoding_is_refused():
    for make in (lambda: Beam(0), lambda: Beam(length_penalty=-1.0)):
        with pytest.raises(InputError, match="A beam search has"):
            make()
    for make in (lambda: Nucleus(0.0), lambda: Nucleus(temperature=0.0)):
        with pytest.raises(InputError, match="A nucleus has"):
            make()

"""Texts out of a decoder that scores the next token: greedy, sampled from a nucleus, beam search.

All work on whole batches with fixed shapes, so that they compile once, and end as soon as no row
has anything left to write. A decoder is a function

    step(state, tokens i32[N], index i32[]) -> (scores f32[N V] of the next token, state)

whose state is a tree of arrays with the N rows on axis 1 (axis 0 runs over the decoder's layers).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.models.decoder_blocks import Cache
from retina_jax.types import Array

Step = Callable[[Any, Array, Array], tuple[Array, Any]]
# Instead of -inf, whose differences are NaN.
_NEVER = -1e30


class Ends(NamedTuple):
    """The ids that begin and end a text, and what fills the rest of its row."""

    first: int | None
    last: int | None
    padding: int = 0


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The likeliest token, one after another.

    Attributes:
      block_trigrams: True never writes three tokens in a row that the text has already; a number
        is added to the third's score for each time that the text has them. KeepFIT-FFA's code
        (after R2Gen's) adds -1.386, twice ln 1/2, so that what is likely enough comes again.
    """

    width: ClassVar[int] = 1

    block_trigrams: bool | float = False

    def __call__(self, step: Step, scores: Array, state: Any, ends: Ends, length: int) -> Array:
        """Writes texts.

        Args:
          step: a function as the docstring of the module has it; it gets `width` rows for each one,
            side by side.
          scores: f32[B V], of the token after the first.
          state: the state of `step`, after the first token, with B rows.
          ends: special ids.
          length: most tokens of a text, the last one included and the first one not.

        Returns:
          i32[B length]: the texts without `ends.first`, with `ends.last` where they end before
          `length`, and padding after it.
        """
        return _one_by_one(
            step, scores, state, ends, length, self.block_trigrams, lambda _, scores: scores
        )


@dataclasses.dataclass(frozen=True)
class Nucleus:
    """Tokens drawn from the smallest set of likeliest ones (Holtzman et al. 2020).

    Attributes:
      share: probability that the set has at least, in (0, 1].
      temperature: divides the scores before; above 0.
      block_trigrams: the same as in `Greedy`.
      seed: the seed of the draws, which every batch repeats.
    """

    width: ClassVar[int] = 1

    share: float = 0.9
    temperature: float = 1.0
    block_trigrams: bool | float = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.temperature <= 0:
            raise InputError("A nucleus has a share in (0, 1] and a temperature above 0.")

    def __call__(self, step: Step, scores: Array, state: Any, ends: Ends, length: int) -> Array:
        """Writes texts; see `Greedy`."""
        key = jax.random.key(self.seed)

        def drawn(index: Array, scores: Array) -> Array:
            kept = nucleus(scores / self.temperature, self.share)
            # The largest of scores with Gumbel noise is a draw from their softmax.
            return kept + jax.random.gumbel(jax.random.fold_in(key, index), kept.shape)

        return _one_by_one(step, scores, state, ends, length, self.block_trigrams, drawn)


def nucleus(scores: Array, share: float) -> Array:
    """Scores f32[... V] with those outside the smallest set of probability `share` at -inf."""
    order = jnp.argsort(-scores, axis=-1, stable=True)
    probabilities = jnp.take_along_axis(jax.nn.softmax(scores, axis=-1), order, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    inside = jnp.take_along_axis(before < share, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(inside, scores, -jnp.inf)


def _one_by_one(
    step: Step,
    scores: Array,
    state: Any,
    ends: Ends,
    length: int,
    block_trigrams: bool | float,
    preference: Callable[[Array, Array], Array],
) -> Array:
    """Texts of the tokens with the highest `preference(index, scores)`; see `Greedy`."""
    texts = jnp.full((len(scores), length + 1), ends.padding, jnp.int32)
    texts = texts.at[:, 0].set(ends.first)

    def going(carry: tuple) -> Array:
        index, _, _, _, ended = carry
        return (index < length) & ~ended.all()

    def extend(carry: tuple) -> tuple:
        index, scores, state, texts, ended = carry
        if block_trigrams:
            scores = _without_trigrams(scores, texts, index, block_trigrams)
        chosen = preference(index, scores).argmax(-1).astype(jnp.int32)
        chosen = jnp.where(ended, ends.padding, chosen)
        texts = texts.at[:, index + 1].set(chosen)
        # The step after the last token has no place in the state, and nobody reads its scores.
        scores, state = step(state, chosen, index + 1)
        return index + 1, scores, state, texts, ended | (chosen == ends.last)

    start = (jnp.int32(0), scores, state, texts, jnp.zeros(len(scores), bool))
    return jax.lax.while_loop(going, extend, start)[3][:, 1:]


class _Search(NamedTuple):
    """The beams of each row that go on, and its best finished texts."""

    texts: Array  # i32[B beams length + 1]
    likelihoods: Array  # f32[B beams], their logarithms
    finished: Array  # i32[B beams length + 1]
    ranks: Array  # f32[B beams], log likelihoods with the length penalty


@dataclasses.dataclass(frozen=True)
class Beam:
    """Beam search: the best text that the beams of a row come across, finished or cut off.

    A text is finished when its end is among the `beams` likeliest continuations of its row. One
    beam without length penalty is greedy decoding; as many beams as there are texts find the
    best of all.

    Attributes:
      beams: texts of each row that go on, at least 1.
      length_penalty: the exponent a in (log p) / n^a of a text with n tokens, its end included,
        at least 0, which compares the likelihoods p.
      block_trigrams: the same as in `Greedy`.
    """

    beams: int = 3
    length_penalty: float = 0.0
    block_trigrams: bool | float = False

    def __post_init__(self) -> None:
        if self.beams < 1 or self.length_penalty < 0:
            raise InputError("A beam search has 1 beam or more and a length_penalty of 0 or more.")

    @property
    def width(self) -> int:
        """Rows of the decoder for each row of the batch."""
        return self.beams

    def __call__(self, step: Step, scores: Array, state: Any, ends: Ends, length: int) -> Array:
        """Writes texts; see `Greedy`."""
        rows, beams = len(scores), self.beams
        scores, state = jnp.repeat(scores, beams, axis=0), widened(state, beams)
        texts = jnp.full((rows, beams, length + 1), ends.padding, jnp.int32)
        texts = texts.at[:, :, 0].set(ends.first)
        never = jnp.full((rows, beams), _NEVER)
        # All beams are equal at first, and would only find each text several times.
        search = _Search(texts, never.at[:, 0].set(0.0), texts, never)

        def going(carry: tuple) -> Array:
            index, _, _, search = carry
            # Likelihoods only fall, and no text is longer: this is the best that may still come.
            hope = search.likelihoods.max(-1) / length**self.length_penalty
            return (index < length) & (search.ranks.max(-1) < hope).any()

        def extend(carry: tuple) -> tuple:
            index, scores, state, search = carry
            search, origins = self._extended(search, scores, index, ends)
            taken = (jnp.arange(rows)[:, None] * beams + origins).reshape(-1)
            state = jax.tree.map(lambda leaf: leaf[:, taken], state)
            scores, state = step(state, search.texts[:, :, index + 1].reshape(-1), index + 1)
            return index + 1, scores, state, search

        *_, search = jax.lax.while_loop(going, extend, (jnp.int32(0), scores, state, search))
        cut = search.likelihoods / length**self.length_penalty
        _, texts, _ = _best(
            jnp.concatenate([search.ranks, cut], axis=1),
            jnp.concatenate([search.finished, search.texts], axis=1),
            1,
        )
        return texts[:, 0, 1:]

    def _extended(
        self, search: _Search, scores: Array, index: Array, ends: Ends
    ) -> tuple[_Search, Array]:
        """The beams with one more token, and which beam i32[B beams] each continues."""
        rows, beams, _ = search.texts.shape
        scores = jax.nn.log_softmax(scores.astype(jnp.float32))
        if self.block_trigrams:
            texts = search.texts.reshape(rows * beams, -1)
            scores = _without_trigrams(scores, texts, index, self.block_trigrams)
        vocabulary = scores.shape[-1]
        totals = search.likelihoods[..., None] + scores.reshape(rows, beams, vocabulary)
        # Twice the beams: where each of them may end, as many others go on.
        values, places = jax.lax.top_k(totals.reshape(rows, -1), min(2, vocabulary) * beams)
        chosen, origins = (places % vocabulary).astype(jnp.int32), places // vocabulary
        texts = jnp.take_along_axis(search.texts, origins[..., None], axis=1)
        texts = texts.at[:, :, index + 1].set(chosen)
        ended = chosen == ends.last
        counted = ended & (jnp.arange(values.shape[1]) < beams) & (values > _NEVER / 2)
        ranks = jnp.where(counted, values / (index + 1.0) ** self.length_penalty, _NEVER)
        ranks, finished, _ = _best(
            jnp.concatenate([search.ranks, ranks], axis=1),
            jnp.concatenate([search.finished, texts], axis=1),
            beams,
        )
        likelihoods, texts, order = _best(jnp.where(ended, _NEVER, values), texts, beams)
        origins = jnp.take_along_axis(origins, order, axis=1)
        return _Search(texts, likelihoods, finished, ranks), origins


def _best(values: Array, texts: Array, count: int) -> tuple[Array, Array, Array]:
    """The `count` highest values f32[B N] of each row, their texts i32[B N T], their places."""
    values, places = jax.lax.top_k(values, count)
    return values, jnp.take_along_axis(texts, places[..., None], axis=1), places


def _without_trigrams(
    scores: Array, texts: Array, index: Array, block: bool | float = True
) -> Array:
    """Scores f32[N V] that make repeated trigrams of texts i32[N T] unlikely, or impossible.

    Args:
      scores: the scores of the token at `index` + 1.
      texts: the texts up to `index`; what comes after does not count.
      index: i32[].
      block: True, or what is added for each time; `block_trigrams` of `Greedy`.
    """
    last = jax.lax.dynamic_index_in_dim(texts, index, axis=1)
    before = jax.lax.dynamic_index_in_dim(texts, jnp.maximum(index - 1, 0), axis=1)
    third = texts[:, 2:]
    same = (texts[:, :-2] == before) & (texts[:, 1:-1] == last)
    same &= jnp.arange(2, texts.shape[1]) <= index
    rows = jnp.arange(len(texts))[:, None]
    times = jnp.zeros(scores.shape, jnp.int32).at[rows, third].add(same)
    return jnp.where(times > 0, _NEVER, scores) if block is True else scores + block * times


def widened(state: Any, width: int) -> Any:
    """A tree of arrays with each row `width` times, side by side."""
    return jax.tree.map(partial(jnp.repeat, repeats=width, axis=1), state)


DECODERS = {"beam": Beam, "greedy": Greedy, "nucleus": Nucleus}


def make_decoder(spec: Mapping[str, Any] | None) -> Beam | Greedy | Nucleus:
    """The way of {'name': one of DECODERS, **its options}; None is a search with 3 beams."""
    return build(DECODERS, spec or {"name": "beam"}, where="decoding")


def generate(
    decoder: nn.Module, memory: Array, strategy: Beam | Greedy | Nucleus, ends: Ends, length: int
) -> Array:
    """Texts that a decoder writes about a memory, with its keys and values kept between words.

    Args:
      decoder: a `TextDecoder`, or the like, bound to its variables.
      memory: f[B M W].
      strategy: one of DECODERS.
      ends: special ids.
      length: most tokens of a text, the last one included and the first one not.

    Returns:
      i32[B length], see `Greedy`.

    Raises:
      InputError: without the ids of `ends`.
    """
    if ends.first is None or ends.last is None:
        raise InputError(
            "A model that writes needs the ids that begin and end a text: set its bos_id and "
            "eos_id, in a config to None, which takes the tokenizer's."
        )
    unbound, variables = decoder.unbind()
    apply: Any = partial(unbound.apply, variables)
    first = jnp.full(len(memory), ends.first, jnp.int32)
    scores, cache = apply(first, memory, length, method="begin")
    # The memory is the same for all beams of a row: what moves with a beam are its words.
    places = widened(cache.memory, strategy.width)

    def step(words: Any, tokens: Array, index: Array) -> tuple[Array, Any]:
        kept = Cache(words, places)
        scores, kept = apply(tokens, index, kept, method="step")
        return scores, kept.words

    return strategy(step, scores, cache.words, ends, length)

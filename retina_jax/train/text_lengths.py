"""Batches of texts cut to one of a few lengths, since a token of padding costs what a word costs.

Known as bucketing. The step is one program with a branch for each length, and takes the shortest
that holds the longest text of the global batch. That is found on the devices, from the masks of
all rows: all processes take the same branch, and none asks another one or waits for its host.
Records keep their order, and which length a batch has follows from the batch, so that an
interrupted run ends in the same bits.

What a model has to be: what it makes of a text must not depend on how far the text is padded, as
masks see to. A module that cannot promise it has an attribute `counts_padding` that is true. Where
dropout falls on tokens, its random numbers are others at another length.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines import batch as batch_contract
from data_pipelines.errors import InputError
from retina_jax.train import microbatch
from retina_jax.types import Array, Batch, ModelState, Params, Rng

TOKENS = frozenset(name for name, key in batch_contract.KEYS.items() if key.axes == "B L")
# (params, model_state, batch, rng) -> ((loss, (metrics, model_state)), gradient)
Gradient = Callable[[Params, ModelState, Batch, Rng], Any]


def check(lengths: Any, batch: Batch) -> tuple[int, ...]:
    """All lengths that texts of such batches are cut to, the whole one at the end.

    Args:
      lengths: `Settings.text_lengths`, not empty.
      batch: a batch or its shapes.

    Raises:
      InputError: for lengths that do not rise, or hold all texts anyway, and batches without texts
        or without the masks that tell how long they are.
    """
    masks = _masks(batch)
    if not masks:
        raise InputError("text_lengths cuts texts, but no stream has any; leave it out.")
    whole = max(mask.shape[1] for mask in masks)
    every = (*lengths, whole) if isinstance(lengths, Sequence) else ()
    if not every or every[0] < 1 or any(a >= b for a, b in itertools.pairwise(every)):
        raise InputError(
            f"text_lengths are rising numbers of tokens below {whole}, the 'length' that texts are "
            f"tokenized to and that is always there, not {lengths}; e.g. ({whole // 2},)."
        )
    return every


def cut(batch: Batch, length: int) -> dict[str, Any]:
    """The batch with the first `length` tokens of its texts; shorter ones stay as they are."""
    return {
        key: cut(value, length)
        if isinstance(value, Mapping)
        else value[:, :length]
        if key in TOKENS
        else value
        for key, value in batch.items()
    }


def longest(batch: Batch) -> Array:
    """i32[], the tokens of the longest text of all streams, special ones included."""
    ends = [jnp.max(jnp.arange(1, m.shape[1] + 1) * m.astype(jnp.int32)) for m in _masks(batch)]
    return jnp.stack(ends).max()


def by_length(gradient: Gradient, lengths: Sequence[int]) -> Gradient:
    """The same gradient, of batches whose texts are cut.

    Args:
      gradient: what `jax.value_and_grad(loss, has_aux=True)` returns.
      lengths: `Settings.text_lengths`; () cuts nothing.

    Returns:
      A function like `gradient`, with the metric 'text_length' where it cuts.
    """
    if not lengths:
        return gradient

    def at(length: int, params: Params, model_state: ModelState, batch: Batch, rng: Rng) -> Any:
        rows = cut(batch, length)
        (value, (metrics, model_state)), grads = gradient(params, model_state, rows, rng)
        metrics = {**metrics, "text_length": jnp.float32(length)}
        return (value, (metrics, model_state)), grads

    def chosen(params: Params, model_state: ModelState, batch: Batch, rng: Rng) -> Any:
        every = check(lengths, batch)
        number = jnp.searchsorted(jnp.asarray(lengths), longest(batch))
        branches = [partial(at, length) for length in every]
        return jax.lax.switch(number, branches, params, model_state, batch, rng)

    return chosen


@contextlib.contextmanager
def refusing_padding() -> Generator[None]:
    """Inside it a model is refused if it calls a module that counts padding.

    Raises:
      InputError: names the module.
    """

    def call(
        function: Callable[..., Any], args: Sequence[Any], options: dict[str, Any], context: Any
    ) -> Any:
        if getattr(context.module, "counts_padding", False):
            raise InputError(
                f"text_lengths would change what '{'/'.join(context.module.path)}' makes of a "
                "text, since it counts padding (of 'bert', pool='flair' does); leave text_lengths "
                "out, or choose another pool."
            )
        return function(*args, **options)

    with nn.intercept_methods(call):
        yield


def draws(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Shapes of all random numbers of a traced function."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "random_bits":
            yield equation.outvars[0].aval.shape
        for inner in microbatch.inner(equation):
            yield from draws(inner)


def _masks(batch: Batch) -> list[Any]:
    """`text_mask` of each stream that has texts."""
    streams = [value for value in batch.values() if isinstance(value, Mapping)] or [batch]
    texts = [stream for stream in streams if TOKENS & set(stream)]
    if not all("text_mask" in stream for stream in texts):
        raise InputError(
            "text_lengths needs the 'text_mask' of each stream that has texts, which says how long "
            "they are; keep it among the 'keys' of the stream."
        )
    return [stream["text_mask"] for stream in texts]

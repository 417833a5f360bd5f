"""Retrieval between two sets where a query may have several right answers.

Equal similarities are resolved as if in random order, in expectation: a model that gives all
answers the same similarity scores exactly chance, and no figure depends on the order of records.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import InputError


def positives_from_groups(queries: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """bool[N M], true where query int[N] and answer int[M] have the same group id."""
    return np.asarray(queries)[:, None] == np.asarray(answers)[None, :]


def _places(
    similarity: np.ndarray, positives: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each query: wrong answers above its best right one, and wrong and right ones equal."""
    similarity, positives = np.asarray(similarity), np.asarray(positives, bool)
    if similarity.shape != positives.shape:
        raise InputError(
            f"The similarities are {similarity.shape} and the right answers {positives.shape}; "
            "both have one row per query and one column per answer."
        )
    if np.isnan(similarity).any():
        raise InputError("The similarities contain NaN: the embeddings are not finite.")
    lonely = np.flatnonzero(~positives.any(axis=1))
    if lonely.size:
        raise InputError(
            f"{lonely.size} queries have no right answer among the answers (the first is query "
            f"{lonely[0]}): leave them out of the retrieval set."
        )
    best = np.where(positives, similarity, -np.inf).max(axis=1, keepdims=True)
    above = (similarity > best).sum(axis=1)
    equal = similarity == best
    return above, (equal & ~positives).sum(axis=1), (equal & positives).sum(axis=1)


def _hit_probability(above: np.ndarray, wrong: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """Probability that one of `right` answers is among the first k, f64[N].

    The first `above` places are taken by wrong answers; then come `wrong + right` answers in
    random order. Missing all right ones in d draws has probability
    prod_{i < d} (wrong - i) / (wrong + right - i).
    """
    miss = np.ones(len(above))
    draws = np.clip(k - above, 0, None)
    for i in range(int(draws.max(initial=0))):
        left = np.maximum(wrong - i, 0)
        chance_of_miss = left / np.maximum(left + right, 1)
        miss *= np.where(i < draws, chance_of_miss, 1.0)
        if not miss.any():
            break
    return 1.0 - miss


def per_query(
    similarity: np.ndarray, positives: np.ndarray, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, np.ndarray]:
    """Whether each query finds a right answer among its k most similar, and where the first is.

    Args:
      similarity: f[N M], higher is closer; for the other direction give both transposed.
      positives: bool[N M], the right answers; at least one in each row.
      ks: the numbers of answers looked at.

    Returns:
      {'recall_at_1': f64[N], ..., 'rank': f64[N]}: 0 or 1, or between where equal similarities
      leave it to their order; and 1 + the number of more similar wrong answers, plus the expected
      number of equally similar ones that come before the first right one.
    """
    above, wrong, right = _places(similarity, positives)
    hits = {f"recall_at_{k}": _hit_probability(above, wrong, right, k) for k in ks}
    return {**hits, "rank": 1.0 + above + wrong / (right + 1)}


def pools(count: int, size: int, draws: int = 10, seed: int = 0) -> list[np.ndarray]:
    """Random pools of records, each without repetition.

    Args:
      count: number of records.
      size: the number of records of a pool.
      draws: number of pools; a record may be in several.
      seed: pool i is a function of (seed, i, count, size).

    Returns:
      `draws` arrays int[size] of record numbers, in increasing order.

    Raises:
      InputError: if a pool would be larger than the set, or there would be none.
    """
    if not 1 <= size <= count or draws < 1:
        raise InputError(
            f"{draws} pools of {size} cannot be drawn from {count} records: leave this pool out, "
            "lower it, or evaluate on more records."
        )
    generators = (np.random.default_rng([seed, draw]) for draw in range(draws))
    return [np.sort(generator.choice(count, size, replace=False)) for generator in generators]

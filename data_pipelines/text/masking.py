"""Corrupted texts for masked-language modelling."""

from __future__ import annotations

import numpy as np


def mask_tokens(
    ids: np.ndarray,
    allowed: np.ndarray,
    rng: np.random.Generator,
    *,
    probability: float,
    mask_id: int,
    random_ids: tuple[int, int],
    starts: np.ndarray | None = None,
    mask_token_share: float = 0.8,
    random_token_share: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """Corrupts a text for masked-language modelling (BERT, section 3.1: 80 / 10 / 10).

    The number of chosen units is `probability` of them rounded, and at least one, so no text is
    left without a target.

    Args:
        ids: int32 [L].
        allowed: bool [L], True where a token may be chosen (no padding, no special token).
        rng: generator of this record.
        probability: share of the units to choose, in (0, 1].
        mask_id: the id of the mask token.
        random_ids: [first, last) ids that a random replacement is drawn from.
        starts: bool [L], True where a word starts: whole words are chosen; None: single tokens.
        mask_token_share: share of the chosen positions that become the mask.
        random_token_share: share that becomes a random token; the others stay as they are.

    Returns:
        (corrupted int32 [L], chosen bool [L]).
    """
    words = np.cumsum(starts) if starts is not None else np.arange(len(ids))
    units = np.unique(words[allowed])
    if not len(units):
        return ids.copy(), np.zeros(len(ids), bool)
    number = max(1, int(np.floor(probability * len(units) + 0.5)))
    picked = rng.choice(units, size=number, replace=False)
    chosen = np.isin(words, picked) & allowed
    fate = rng.random(len(ids))
    noise = rng.integers(*random_ids, size=len(ids))
    corrupted = np.where(chosen & (fate < mask_token_share), mask_id, ids)
    corrupted = np.where(
        chosen & (fate >= mask_token_share) & (fate < mask_token_share + random_token_share),
        noise,
        corrupted,
    )
    return corrupted.astype(np.int32), chosen

"""What is hidden of a text, and how much."""

import numpy as np

from data_pipelines.text import masking


def mask(
    probability: float, starts: np.ndarray | None = None, seed: int = 0, **options: tuple
) -> tuple:
    ids = np.array([2, *range(10, 200), 3, 0, 0], np.int32)
    allowed = ids >= 10
    rng = np.random.default_rng(seed)
    return ids, *masking.mask_tokens(ids, allowed, rng, probability=probability, mask_id=4,
                                     random_ids=(300, 400), starts=starts, **options)  # fmt: skip


def test_masking_is_80_10_10_of_the_share() -> None:
    fates = []
    for seed in range(200):
        ids, corrupted, chosen = mask(0.15, seed=seed)
        assert chosen.sum() == 29 and not chosen[[0, -3, -2, -1]].any()
        assert (corrupted[~chosen] == ids[~chosen]).all()
        fates.append(corrupted[chosen])
        kept = corrupted[chosen] == ids[chosen]
        fates[-1] = np.where(kept, 0, np.where(fates[-1] == 4, 1, 2))
    share = np.bincount(np.concatenate(fates), minlength=3) / len(np.concatenate(fates))
    np.testing.assert_allclose(share, [0.1, 0.8, 0.1], atol=0.02)


def test_masking_can_leave_nothing_readable() -> None:
    for seed in range(20):
        ids, corrupted, chosen = mask(0.3, seed=seed, mask_token_share=1.0, random_token_share=0.0)
        assert chosen.sum() == 57 and (corrupted[chosen] == 4).all()
        assert (corrupted[~chosen] == ids[~chosen]).all()
        _, noise, chosen = mask(0.3, seed=seed, mask_token_share=0.0, random_token_share=1.0)
        assert (noise[chosen] >= 300).all()


def test_masking_takes_whole_words() -> None:
    starts = np.ones(194, bool)
    starts[1:191] = np.arange(190) % 5 == 0
    _, _, chosen = mask(0.2, starts)
    words = chosen[1:191].reshape(-1, 5)
    assert (words.all(1) | ~words.any(1)).all() and words.any(1).sum() == round(0.2 * 38)


def test_masking_leaves_no_text_without_a_target() -> None:
    ids = np.array([2, 11, 3], np.int32)
    keywords = {"probability": 0.15, "mask_id": 4, "random_ids": (300, 400)}
    rng = np.random.default_rng(0)
    assert masking.mask_tokens(ids, ids > 3, rng, **keywords)[1].tolist() == [False, True, False]
    assert not masking.mask_tokens(ids, ids > 99, rng, **keywords)[1].any()

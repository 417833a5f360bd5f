"""Many-to-many retrieval against enumeration of every order of equal answers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import InputError
from retina_jax.metrics import retrieval

pytestmark = pytest.mark.fast


def means(similarity, positives, ks=(1, 5, 10)):
    """The mean over queries of each figure of a query."""
    found = retrieval.per_query(similarity, positives, ks)
    return {name: values.mean() for name, values in found.items()}


def enumerate_orders(scores, right):
    """First rank of a right answer under every order that sorts the scores downwards."""
    for order in itertools.permutations(range(len(scores))):
        ranked = [scores[i] for i in order]
        if all(a >= b for a, b in zip(ranked, ranked[1:], strict=False)):
            yield 1 + next(place for place, i in enumerate(order) if right[i])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=5, max_size=5),
       st.lists(st.booleans(), min_size=5, max_size=5).filter(any), st.integers(1, 6))  # fmt: skip
def test_ties_are_the_mean_over_their_orders(scores, right, k):
    ranks = np.array(list(enumerate_orders(scores, right)))
    similarity, positives = np.array([scores], float), np.array([right])
    found = retrieval.per_query(similarity, positives, (k,))
    assert found[f"recall_at_{k}"][0] == pytest.approx((ranks <= k).mean())
    assert found["rank"][0] == pytest.approx(ranks.mean())


def test_golden_without_ties():
    similarity = np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.9], [0.3, 0.2, 0.1]])
    positives = np.eye(3, dtype=bool)
    found = retrieval.per_query(similarity, positives, (1, 2, 3))
    assert list(found) == ["recall_at_1", "recall_at_2", "recall_at_3", "rank"]
    for k, hits in ((1, [1, 0, 0]), (2, [1, 0, 0]), (3, [1, 1, 1])):
        np.testing.assert_array_equal(found[f"recall_at_{k}"], hits)
    np.testing.assert_array_equal(found["rank"], [1, 3, 3])


def test_one_of_several_right_answers_is_enough():
    groups = np.array([0, 0, 1, 1])
    positives = retrieval.positives_from_groups(groups, groups)
    np.testing.assert_array_equal(positives[0], [True, True, False, False])
    similarity = np.eye(4)[[1, 0, 3, 2]]  # each finds its sibling, not itself
    assert means(similarity, positives, (1,))["recall_at_1"] == 1.0
    assert means(similarity, np.eye(4, dtype=bool), (1,))["recall_at_1"] == 0.0


def test_constant_similarity_is_what_random_ranking_gives():
    rng = np.random.default_rng(0)
    positives = rng.random((40, 30)) < 0.1
    positives[:, 0] |= ~positives.any(axis=1)
    constant = means(np.full(positives.shape, 0.7), positives, (1, 5, 30, 50))
    trials = [
        means(rng.normal(size=positives.shape), positives, (1, 5, 30, 50)) for _ in range(200)
    ]
    for name, chance in constant.items():
        random = np.mean([trial[name] for trial in trials])
        assert chance == pytest.approx(random, abs=0.3 if name == "rank" else 0.015)


def test_chance_of_one_right_answer_is_k_over_the_number_of_answers():
    chance = means(np.zeros((20, 20)), np.eye(20, dtype=bool), (5,))
    assert chance == {"recall_at_5": pytest.approx(5 / 20), "rank": pytest.approx(10.5)}


def test_no_figure_depends_on_the_order_of_the_answers():
    rng = np.random.default_rng(1)
    similarity = rng.integers(0, 3, size=(10, 12)).astype(float)
    positives = rng.random((10, 12)) < 0.3
    positives[:, 0] = True
    order = rng.permutation(12)
    assert means(similarity, positives) == pytest.approx(
        means(similarity[:, order], positives[:, order])
    )


def test_pools_are_records_without_repetition_and_the_same_every_time():
    pools = retrieval.pools(50, 20, draws=6)
    assert len(pools) == 6 and len({tuple(pool) for pool in pools}) == 6
    for pool in pools:
        assert len(set(pool)) == 20 and 0 <= pool[0] and pool[-1] < 50
        np.testing.assert_array_equal(pool, np.sort(pool))
    np.testing.assert_array_equal(pools[:2], retrieval.pools(50, 20, draws=2))
    assert not np.array_equal(pools[0], retrieval.pools(50, 20, draws=1, seed=1)[0])
    np.testing.assert_array_equal(retrieval.pools(7, 7, draws=1)[0], np.arange(7))
    drawn = np.bincount(np.concatenate(retrieval.pools(10, 5, draws=400)), minlength=10)
    assert drawn.min() > 150 and drawn.max() < 250  # every record is as likely as another


@pytest.mark.parametrize(("count", "size", "draws"), [(9, 10, 1), (9, 0, 1), (9, 3, 0)])
def test_pools_that_cannot_be_are_refused(count, size, draws):
    with pytest.raises(InputError, match=f"{draws} pools of {size} cannot be drawn from 9 records"):
        retrieval.pools(count, size, draws)


def test_bad_input_is_refused():
    good = np.eye(3)
    with pytest.raises(InputError, match="NaN"):
        retrieval.per_query(np.full((3, 3), np.nan), good)
    with pytest.raises(InputError, match="1 queries have no right answer.*query 1"):
        retrieval.per_query(good, np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1]]))
    with pytest.raises(InputError, match="one row per query"):
        retrieval.per_query(np.zeros((3, 4)), good)

"""Probes that ask neighbours, and that learn where to look."""

import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax import out_of_distribution
from retina_jax.adapters import attentive, knn

pytestmark = pytest.mark.fast


def at(*similarities):
    """Vectors of the plane with these similarities to (1, 0), of other lengths."""
    return np.array([[s, np.sqrt(1 - s * s)] for s in similarities]) * [[2.0], [0.5], [1.0]]


def test_neighbours_count_by_their_similarity():
    """The value of the specification, 10.3: similarities .9, .8, .7 of the labels 0, 1, 1."""
    targets = np.eye(2)[[0, 1, 1]]
    probe = knn.Neighbours(out_of_distribution.unit(at(0.9, 0.8, 0.7)), targets, np.arange(3), 3)
    assert probe.probabilities([[3.0, 0.0]])[0, 0] == pytest.approx(0.770960, abs=5e-6)
    # Of the rarest class there is one record, so that one neighbour is asked.
    assert knn.fit(at(0.9, 0.8, 0.7), targets, np.arange(3)).probabilities([[1, 0]])[0, 0] == 1


def test_a_patients_own_records_are_no_neighbours():
    features, targets = np.repeat(np.eye(3), 2, axis=0), np.eye(2)[[0, 0, 1, 1, 1, 1]]
    groups = np.repeat(["p", "q", "r"], 2)
    probe = knn.fit(features, targets, groups, most=2)
    assert probe.probabilities(features)[:, 0].tolist() == [1, 1, 0, 0, 0, 0]
    assert probe.probabilities(features, groups)[:2, 0].tolist() == [0, 0]


def test_labels_that_nobody_looked_for_have_no_vote():
    targets = np.array([[1.0, np.nan], [0.0, np.nan], [1.0, 1.0]])
    probe = knn.Neighbours(out_of_distribution.unit(at(0.9, 0.8, 0.1)), targets, np.arange(3), 2)
    first, second = probe.probabilities([[1.0, 0.0]])[0]
    assert 0.5 < first < 1 and second == 1  # its share of all records that tell
    nobody = np.array([[1.0, np.nan]] * 3)  # looked for the second one: there is no share
    alone = knn.Neighbours(probe.features, nobody, np.arange(3), 2)
    assert alone.probabilities([[1.0, 0.0]])[0].tolist() == [1, 0]
    with pytest.raises(InputError, match="None of the 3 records"):
        knn.fit(at(0.9, 0.8, 0.1), np.full((3, 1), np.nan), np.arange(3))
    with pytest.raises(InputError, match="finite features"):
        knn.fit(at(0.9, 0.8, np.nan), targets, np.arange(3))


@pytest.fixture(scope="module")
def scenes():
    """Tokens of which one, marked in its first half, tells the class in its second half."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 160)
    tokens = rng.normal(size=(160, 9, 8))
    place = rng.integers(0, 9, 160)
    tokens[np.arange(160), place, :4] = 4
    tokens[np.arange(160), place, 4:] = np.where(labels, 1, -1)[:, None]
    return tokens, labels


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_it_learns_where_to_look_whatever_the_scale(scenes, scale):
    tokens, labels = scenes
    held_out = np.arange(160) % 5 == 0
    targets = np.eye(2)[labels]
    probe = attentive.fit((tokens * scale).astype(np.float16)[:120], targets[:120], held_out[:120],
                          queries=1, batch=8, epochs=60)  # fmt: skip
    found = probe.probabilities((tokens * scale).astype(np.float16)[120:])
    assert np.mean(found.argmax(axis=1) == labels[120:]) > 0.9
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    mean = tokens.mean(axis=1)  # which tells less
    nearest = knn.fit(mean[:120], targets[:120], np.arange(120)).probabilities(mean[120:])
    assert np.mean(nearest.argmax(axis=1) == labels[120:]) < 0.9


def test_what_it_cannot_be_fitted_on_is_refused(scenes):
    tokens, labels = scenes
    targets = np.eye(2)[labels]
    with pytest.raises(InputError, match="3 queries do not divide tokens of width 8"):
        attentive.fit(tokens, targets, np.arange(160) < 9, queries=3)
    with pytest.raises(InputError, match="got 160 and 0"):
        attentive.fit(tokens, targets, np.zeros(160, bool))

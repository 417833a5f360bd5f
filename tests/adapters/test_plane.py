"""Where features lie in a plane: directions of their own, told the same wherever it is computed."""

import numpy as np
import pytest

from retina_jax.adapters import plane

pytestmark = pytest.mark.fast


def drawn(count, width, seed=0):
    """Features of different scales that depend on one another."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(count, 3)) @ rng.normal(size=(3, width))
    return (found + 0.1 * rng.normal(size=(count, width))) * 10.0 ** np.arange(width) + 5


@pytest.mark.parametrize(("count", "width"), [(40, 6), (5, 6)])
def test_it_is_the_singular_vectors_of_standardised_features(count, width):
    features = drawn(count, width)
    places, shares = plane.placed(features)
    even = (features - features.mean(0)) / features.std(0)
    u, s, v = np.linalg.svd(even, full_matrices=False)
    signs = np.sign(v[np.arange(2), np.abs(v[:2]).argmax(axis=1)])
    np.testing.assert_allclose(places, u[:, :2] * s[:2] * signs, rtol=1e-4, atol=1e-5)
    assert shares == pytest.approx(tuple(s[:2] ** 2 / (s**2).sum()))


@pytest.mark.parametrize("count", [40, 5])
def test_neither_the_order_of_records_nor_a_second_time_turns_it_over(count):
    features, order = drawn(count, 6), np.random.default_rng(1).permutation(count)
    places, _ = plane.placed(features)
    np.testing.assert_array_equal(plane.placed(features)[0], places)
    np.testing.assert_allclose(plane.placed(features[order])[0], places[order], atol=1e-5)


@pytest.mark.parametrize(
    "features",
    [drawn(2, 6), drawn(9, 1), np.ones((9, 4)), np.outer(np.arange(9.0), np.ones(4)),
     np.full((9, 4), np.nan)],
)  # fmt: skip
def test_features_that_span_no_plane_have_no_places(features):
    assert plane.placed(features) is None

"""Figures of quantities against values by hand and scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from retina_jax.metrics import regression

pytestmark = pytest.mark.fast


def test_r_squared():
    # Squared errors 1 + 1 of a spread of 4 + 0 + 4.
    assert regression.r2(np.array([1, 3, 5]), np.array([2, 3, 4])) == pytest.approx(0.75)
    assert regression.r2(np.array([1, 3, 5]), np.full(3, 3)) == 0
    assert np.isnan(regression.r2(np.ones(3), np.array([1, 2, 3])))
    rng = np.random.default_rng(0)
    values, predictions = rng.normal(300, 60, (2, 50)).astype(np.float32)
    expected = metrics.r2_score(values, predictions)
    assert expected < 0 and regression.r2(values, predictions) == pytest.approx(expected)

"""The loss of a predicted number: robust, standardised, and deaf to missing targets."""

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.objectives.regression import Regression

pytestmark = pytest.mark.fast


def test_it_is_quadratic_near_and_linear_far_in_units_of_the_scale():
    out = {"logits": jnp.array([[0.0], [0.0], [9.0], [1.0]])}
    batch = {"target": jnp.array([305.0, 270.0, np.nan, 310.0])}
    # Standardised targets .5, -3 and 1: losses .125, 3 - .5 and 0.
    found = Regression(300.0, 10.0)(out, batch)["regression"]
    assert float(found) == pytest.approx((0.125 + 2.5 + 0) / 3)
    assert float(Regression(300.0, 10.0, delta=5.0)(out, batch)["regression"]) == pytest.approx(
        (0.125 + 4.5) / 3)  # fmt: skip
    none = {"target": jnp.full(4, np.nan)}
    assert float(Regression(300.0, 10.0)(out, none)["regression"]) == 0


def test_other_heads_and_scales_are_refused():
    with pytest.raises(InputError, match="head has 2; make 'classes' of the model 1"):
        Regression(0.0, 1.0)({"logits": jnp.zeros((3, 2))}, {"target": jnp.zeros(3)})
    with pytest.raises(InputError, match="are above 0, got 0.0"):
        Regression(0.0, 0.0)

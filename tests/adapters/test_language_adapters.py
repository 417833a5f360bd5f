"""CLIP-Adapter and Tip-Adapter against transcriptions of their formulas in numpy."""

import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.adapters import clip_adapter, descent, tip_adapter

N, D, C, SCALE = 6, 8, 3, 7.0
LABELS = np.array([0, 1, 2, 0, 1, 2])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


rng = np.random.default_rng(0)
X = unit(rng.normal(size=(N, D)) + 1.5 * np.eye(C, D)[LABELS]).astype(np.float32)
P = unit(rng.normal(size=(C, D))).astype(np.float32)
TEST = unit(rng.normal(size=(5, D))).astype(np.float32)
ONE_HOT = np.eye(C)[LABELS]


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


class AdamW:
    """One parameter array in PyTorch's order: decay, then the step."""

    def __init__(self, value):
        self.value, self.m, self.v, self.t = np.float64(value), 0.0, 0.0, 0

    def step(self, gradient, rate):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        self.value = self.value * (1 - rate * 0.01)
        root = np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-4
        self.value = self.value - rate * (self.m / (1 - 0.9**self.t)) / root


def tip_logits(x, keys, clip, alpha, beta):
    return clip * x @ P.T + alpha * np.exp(-beta * (1 - x @ keys.T)) @ ONE_HOT


@pytest.mark.parametrize(("official", "clip"), [(False, SCALE), (True, 100.0)])
def test_tip_adapter_is_its_formula(official, clip):
    """Similarities to prompts by the model's scale, or by 100 as released; beta 5, alpha 1."""
    made = tip_adapter.fit(X, LABELS, P, SCALE, official=official)
    np.testing.assert_allclose(
        made.logits(TEST), tip_logits(TEST, X, clip, 1, 5), rtol=1e-4, atol=1e-4
    )
    other = tip_adapter.fit(X, LABELS, P, SCALE, official=official, alpha=0.3, beta=2.0)
    np.testing.assert_allclose(
        other.logits(TEST), tip_logits(TEST, X, clip, 0.3, 2), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("official", [False, True])
def test_tip_adapter_f_trains_its_keys_as_published(official):
    """Released: the cache counts scale / N times, and the images are the moving keys themselves."""
    epochs, seed = 3, 4
    alpha = SCALE / N if official else 1.0
    keys = AdamW(X)
    for i in descent.order(N, epochs, seed):
        x = (keys.value if official else X)[i]
        affinity = np.exp(-5 * (1 - keys.value @ x))
        error = softmax(SCALE * x @ P.T + alpha * affinity @ ONE_HOT) - ONE_HOT[i]
        keys.step(alpha * 5 * (affinity * (ONE_HOT @ error))[:, None] * x, 1e-3)
    options = {"epochs": epochs, "seed": seed, "official": official, "train_keys": True}
    made = tip_adapter.fit(X, LABELS, P, SCALE, **options)
    np.testing.assert_allclose(made.keys, keys.value, atol=1e-5)
    assert np.abs(made.keys - X).max() > 5e-3
    expected = tip_logits(TEST, keys.value, 100.0 if official else SCALE, 1, 5)
    np.testing.assert_allclose(made.logits(TEST), expected, rtol=1e-3, atol=1e-3)


def clip_forward(x, down, up):
    first = x @ down
    second = np.maximum(first, 0) @ up
    mixed = 0.2 * np.maximum(second, 0) + 0.8 * x
    return first, second, mixed


def test_clip_adapter_is_its_formula_and_trains_as_published():
    """Half a cosine over 40 N steps here 3 N, one record a step, back-propagated by hand."""
    epochs, seed = 3, 5
    start = clip_adapter.fit(X, LABELS, P, SCALE, epochs=0, seed=seed).params
    assert start["down"].shape == (D, D // 4) and start["up"].shape == (D // 4, D)
    down, up = AdamW(start["down"]), AdamW(start["up"])
    indices = descent.order(N, epochs, seed)
    for step, i in enumerate(indices):
        x, rate = np.float64(X[i]), 1e-3 * 0.5 * (1 + np.cos(np.pi * step / len(indices)))
        first, second, mixed = clip_forward(x, down.value, up.value)
        y, length = unit(mixed), np.linalg.norm(mixed)
        of_y = SCALE * (softmax(SCALE * y @ P.T) - ONE_HOT[i]) @ P
        of_mixed = (of_y - y * (y @ of_y)) / length
        of_second = 0.2 * of_mixed * (second > 0)
        of_first = (up.value @ of_second) * (first > 0)
        down.step(np.outer(x, of_first), rate)
        up.step(np.outer(np.maximum(first, 0), of_second), rate)
    made = clip_adapter.fit(X, LABELS, P, SCALE, epochs=epochs, seed=seed)
    for name, expected in (("down", down), ("up", up)):
        np.testing.assert_allclose(made.params[name], expected.value, atol=1e-5)
        assert np.abs(made.params[name] - start[name]).max() > 1e-3
    expected = SCALE * unit(clip_forward(TEST, down.value, up.value)[2]) @ P.T
    np.testing.assert_allclose(made.logits(TEST), expected, rtol=1e-3, atol=1e-3)


def test_first_weights_are_pytorchs():
    wide = unit(rng.normal(size=(4, 512)))
    down = clip_adapter.fit(wide, [0, 1, 0, 1], wide[:2], 1.0, epochs=0).params["down"]
    assert np.abs(down).max() <= 512**-0.5
    assert down.std() == pytest.approx((3 * 512) ** -0.5, rel=0.02)


def test_an_epoch_has_every_record_once_in_one_fixed_order():
    first, second = descent.order(50, 2, 1).reshape(2, 50)
    assert sorted(first) == list(range(50)) and (first == second).all()
    assert (first != np.arange(50)).any() and (first != descent.order(50, 1, 2)).any()


@pytest.mark.parametrize("fit", [clip_adapter.fit, tip_adapter.fit])
def test_input_that_does_not_fit_is_refused(fit):
    with pytest.raises(InputError, match="needs features"):
        fit(X[:, :3], LABELS, P, SCALE)
    with pytest.raises(InputError, match="labels from 0 to 2 for 2 prototypes"):
        fit(X, LABELS, P[:2], SCALE)
    with pytest.raises(InputError, match="finite"):
        fit(np.where(X > 0.5, np.nan, X), LABELS, P, SCALE)

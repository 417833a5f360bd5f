"""Durations in steps, published learning rates, and when something is due."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.train import schedule

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("duration", "batch_size", "records", "expected"),
    [
        ({"steps": 7}, 4, 100, 7),
        ({"steps": 2.5}, 4, 100, 3),
        ({"steps": 0}, 4, 100, 0),
        ({"epochs": 3}, 10, 10, 3),
        ({"epochs": 3}, 10, 11, 4),  # 3.3: the last record of the third epoch is seen
        ({"epochs": 0.5}, 32, 1000, 16),
        ({"epochs": 0.001}, 32, 1000, 1),
        ({"epochs": 15}, 7, 7 * 12_345, 15 * 12_345),
        ({"epochs": 15}, 3, 50, 250),  # 15 * (50 / 3) is more than 250 in float64
        ({"examples": 64}, 32, 9, 2),
        ({"examples": 65}, 32, 9, 3),
        ({"percent": 20}, 4, 9, 40),
        ({"percent": 100}, 4, 9, 200),
        ({"percent": 0.1}, 4, 9, 1),
    ],
)
def test_durations_in_steps(duration, batch_size, records, expected):
    total = 200 if "percent" in duration else None
    steps = schedule.steps(duration, batch_size=batch_size, records=records, total=total)
    assert steps == expected and isinstance(steps, int)


@pytest.mark.parametrize(("duration", "sentence"),
                         [({}, "exactly one of steps, epochs, examples, percent"),
                          ({"steps": 1, "epochs": 1}, "exactly one of"),
                          ({"epoch": 1}, "exactly one of"),
                          ({"steps": -1}, "a number >= 0; got -1 steps"),
                          ({"epochs": math.nan}, "a number >= 0; got nan epochs"),
                          ({"epochs": math.inf}, "a number >= 0"),
                          ({"steps": "7"}, "a number >= 0; got '7' steps"),
                          ({"percent": 10}, "cannot define it")])  # fmt: skip
def test_durations_that_make_no_sense(duration, sentence):
    with pytest.raises(InputError, match=sentence):
        schedule.steps(duration, batch_size=4, records=8)


def test_itstime():
    due = [step for step in range(1, 11) if schedule.itstime(step, 4, 10)]
    assert due == [4, 8, 10]
    assert [step for step in range(1, 11) if schedule.itstime(step, 0, 10)] == [10]
    assert [step for step in range(1, 11) if schedule.itstime(step, 5, 10)] == [5, 10]


def rates(made, steps):
    return np.array([float(made(step)) for step in steps])


@pytest.mark.parametrize("records", [1280, 1281, 128 * 37])
def test_flairs_cosine_has_its_horizon_at_100_epochs(records):
    """Published as fractions of 1e-4 at the start of epochs 1, 5, 15, 25, 40 (flair/utils.py)."""
    rows = {"batch_size": 128, "records": records}
    made = schedule.learning_rate({"name": "cosine", "warmup": {"epochs": 1},
                                   "horizon": {"epochs": 100}},
                                  1e-4, total=schedule.steps({"epochs": 15}, **rows),
                                  **rows)  # fmt: skip
    epochs = [schedule.steps({"epochs": e}, **rows) for e in (1, 5, 15, 25, 40)]
    np.testing.assert_allclose(
        rates(made, epochs) / 1e-4, [1.0, 0.9960, 0.9515, 0.8619, 0.6635], atol=2e-4
    )


def test_ret_clips_schedule():
    """lr (i + 1) / 50 in the warm-up, then half a cosine over T = 7580 (cn_clip scheduler.py).

    The float32 of the cosine near -1 leaves the last rate 4e-13 below the published 1.305e-12.
    """
    made = schedule.cosine(peak=3e-5, total=7580, warmup=50)
    steps = (0, 24, 49, 50, 3815, 7579)
    expected = [6e-7, 1.5e-5, 3e-5, 3e-5, 1.5e-5, 1.305e-12]
    np.testing.assert_allclose(rates(made, steps), expected, rtol=1e-6, atol=5e-13)
    everywhere = np.arange(0, 7580, 131)
    progress = np.maximum(everywhere - 50, 0) / (7580 - 50)
    transcribed = np.where(
        everywhere < 50, (everywhere + 1) / 50, 0.5 * (1 + np.cos(np.pi * progress))
    )
    np.testing.assert_allclose(rates(made, everywhere) / 3e-5, transcribed, atol=2e-7)


@pytest.mark.parametrize("name", sorted(schedule.SCHEDULES))
@pytest.mark.parametrize("warmup", [1, 2, 5])
def test_every_warm_up_climbs_in_equal_steps_to_the_peak(name, warmup):
    made = schedule.SCHEDULES[name](peak=0.5, total=20, warmup=warmup)
    expected = 0.5 * np.arange(1, warmup + 1) / warmup
    np.testing.assert_allclose(rates(made, range(warmup)), expected, rtol=1e-6)
    assert float(made(warmup)) == pytest.approx(0.5)


@pytest.mark.parametrize("name", sorted(schedule.SCHEDULES))
def test_without_warm_up_the_first_step_has_the_peak(name):
    made = schedule.SCHEDULES[name](peak=0.5, total=20)
    assert float(made(0)) == pytest.approx(0.5)
    assert float(made(1)) <= 0.5


def test_linear_goes_to_zero_at_the_end_of_the_run():
    made = schedule.linear(peak=1.0, total=14, warmup=4)
    expected = np.concatenate([np.arange(1, 5) / 4, 1 - np.arange(11) / 10, [0, 0]])
    np.testing.assert_allclose(rates(made, range(17)), expected, atol=1e-6)


def test_constant_stays_at_its_peak():
    np.testing.assert_allclose(rates(schedule.constant(peak=2.0, total=5), (0, 4, 9)), 2.0)


def test_a_horizon_before_the_end_keeps_its_last_rate():
    made = schedule.cosine(peak=2.0, total=100, warmup=10, horizon=50, end=0.4)
    assert float(made(30)) == pytest.approx(1.2)  # half way between 2 and 0.4
    np.testing.assert_allclose(rates(made, (50, 51, 99)), 0.4, rtol=1e-6)


def test_a_horizon_beyond_the_end_stops_on_the_way():
    made = schedule.cosine(peak=1.0, total=100, horizon=200)
    assert float(made(100)) == pytest.approx(0.5, abs=1e-6)
    without = schedule.cosine(peak=1.0, total=100)
    assert float(without(100)) == pytest.approx(0.0, abs=1e-6)


def test_hard_restarts_and_a_warm_up_from_zero_are_those_of_cloob():
    """By hand, over 10 + 100 steps: i / 10, then (1 + cos(pi (10 p mod 1))) / 2, and 0 at p = 1."""
    spec = {"name": "cosine", "warmup": {"steps": 10}, "from_zero": True}
    rows = {"batch_size": 2, "records": 4, "total": 110}
    made = schedule.learning_rate({**spec, "cycles": 10}, 2.0, **rows)
    expected = {0: 0.0, 1: 0.2, 9: 1.8, 10: 2.0, 15: 1.0, 19: 0.0489435, 20: 2.0, 105: 1.0,
                109: 0.0489435, 110: 0.0, 111: 0.0, 500: 0.0}  # fmt: skip
    np.testing.assert_allclose(rates(made, expected), list(expected.values()), atol=1e-6)
    once = schedule.learning_rate(spec, 2.0, **rows)
    expected = {0: 0.0, 5: 1.0, 10: 2.0, 35: 1 + math.sqrt(0.5), 60: 1.0, 110: 0.0, 111: 0.0}
    np.testing.assert_allclose(rates(once, expected), list(expected.values()), atol=1e-6)
    with pytest.raises(InputError, match=r"falls once or more often, not 0 times \(cycles\)"):
        schedule.cosine(peak=1.0, total=10, cycles=0)


def test_restarts_of_a_long_training_fall_on_their_steps():
    """In float32 10 p would be wrong by steps; the rate jumps at each tenth of 9,999,990."""
    made = schedule.cosine(peak=1.0, total=9_999_990, cycles=10)
    for cycle in range(10):
        first = cycle * 999_999
        assert float(made(jnp.asarray(first))) == 1.0
        assert float(made(jnp.asarray(first + 999_998))) < 1e-6


def test_a_run_shorter_than_its_warm_up_is_finite():
    made = schedule.cosine(peak=1.0, total=3, warmup=10)
    np.testing.assert_allclose(rates(made, range(3)), [0.1, 0.2, 0.3], rtol=1e-6)


def test_options_of_schedules_are_checked():
    rows = {"batch_size": 2, "records": 4, "total": 10}
    with pytest.raises(InputError, match=r"Did you mean 'warmup'\?"):
        schedule.learning_rate({"name": "cosine", "warmpu": {"steps": 1}}, 1.0, **rows)
    with pytest.raises(InputError, match="'peak' is no option"):
        schedule.learning_rate({"name": "cosine", "peak": 3.0}, 1.0, **rows)
    made = schedule.learning_rate({"name": "linear", "warmup": {"percent": 50}}, 1.0, **rows)
    np.testing.assert_allclose(rates(made, (0, 4, 5)), [0.2, 1.0, 1.0], rtol=1e-6)

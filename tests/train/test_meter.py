"""Means, speed and waiting, on a clock that the test sets."""

import jax.numpy as jnp
import pytest

from retina_jax.train import meter as meters

pytestmark = pytest.mark.fast


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(meters, "time", clock)
    return clock


def make(**options):
    settings = {"name": "a", "start": 0, "total": 4, "examples": 32, "visible": False}
    return meters.Meter(**{**settings, **options})


def test_means_speed_and_share_of_waiting(clock):
    meter = make()
    for loss, norm in ((1.0, 3.0), (2.0, 5.0)):
        with meter.waiting():
            clock.now += 1
        clock.now += 3
        meter.add({"loss": jnp.float32(loss), "norm": jnp.float32(norm)})
    values = meter.collect()
    assert values == pytest.approx(
        {"loss": 1.5, "norm": 4.0, "examples_per_second": 2 * 32 / 8, "data_wait": 2 / 8}
    )


def test_pauses_do_not_count(clock):
    meter = make()
    with meter.waiting():
        clock.now += 1
    meter.add({"loss": jnp.float32(1)})
    with meter.paused():
        clock.now += 1000
    clock.now += 1
    values = meter.collect()
    assert values["examples_per_second"] == pytest.approx(32 / 2)
    assert values["data_wait"] == pytest.approx(1 / 2)


def test_every_collection_starts_anew(clock):
    meter = make()
    with meter.waiting():
        clock.now += 4
    meter.add({"loss": jnp.float32(1)})
    meter.collect()
    clock.now += 2
    meter.add({"loss": jnp.float32(7)})
    assert meter.collect() == pytest.approx(
        {"loss": 7.0, "examples_per_second": 32 / 2, "data_wait": 0.0}
    )


def test_no_steps_give_no_means(clock):
    clock.now += 1
    assert make().collect() == {"examples_per_second": 0.0, "data_wait": 0.0}


def test_the_bar_shows_where_the_run_is(clock, capsys):
    meter = make(name="text", start=2, total=10, visible=True)
    meter.add({"loss": jnp.float32(1.25)})
    clock.now += 1
    meter.collect()
    meter.close()
    shown = capsys.readouterr().err
    assert "text" in shown and "3/10" in shown and "loss=1.250" in shown
    make(visible=False).close()
    assert capsys.readouterr().err == ""

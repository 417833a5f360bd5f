"""The first minute of a run is told, with the times of the start before as an estimate."""

import json
import logging
import os

import pytest

from retina_jax.train import phases

pytestmark = pytest.mark.fast


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(phases.time, "monotonic", lambda: now[0])
    return now


def start(workdir, clock, seconds, **options):
    workdir.mkdir(parents=True, exist_ok=True)
    told = phases.Phases(workdir, **options)
    with told.phase("Compiling the step"):
        clock[0] += seconds
    told.save()


def test_a_phase_is_told_with_the_time_of_the_last_start(tmp_path, clock, caplog):
    caplog.set_level(logging.INFO)
    start(tmp_path / "a", clock, 34.25)
    start(tmp_path / "a", clock, 2)
    assert caplog.messages == ["Compiling the step ...", "Compiling the step took 34.2 s.",
                               "Compiling the step (34.2 s last time) ...",
                               "Compiling the step took 2.0 s."]  # fmt: skip
    assert json.loads((tmp_path / "a" / "phases.json").read_text()) == {"Compiling the step": 2.0}


def test_a_new_run_takes_its_estimate_from_the_newest_beside_it(tmp_path, clock, caplog):
    start(tmp_path / "older", clock, 50)
    start(tmp_path / "newer", clock, 7)
    os.utime(tmp_path / "older" / "phases.json", (1, 1))
    caplog.set_level(logging.INFO)
    start(tmp_path / "third", clock, 1)
    assert caplog.messages[0] == "Compiling the step (7.0 s last time) ..."


@pytest.mark.parametrize("damage", ["", "[1]", '{"Compiling the step": "soon"}', "{"])
def test_a_damaged_file_is_no_estimate(tmp_path, clock, caplog, damage):
    (tmp_path / "phases.json").write_text(damage)
    caplog.set_level(logging.INFO)
    start(tmp_path, clock, 1)
    assert caplog.messages[0] == "Compiling the step ..."


def test_other_processes_say_and_write_nothing(tmp_path, clock, caplog):
    caplog.set_level(logging.INFO)
    start(tmp_path, clock, 1, active=False)
    assert not caplog.messages and not (tmp_path / "phases.json").exists()

"""Two real processes under jax.distributed train to the parameters of one."""

import json
import time

import jax
import numpy as np
import pytest
from runs import job

from retina_jax.train.restore import read_variables


def launch(workdir, *options, config="keepfit"):
    """Two processes of a smoke run."""
    line = ("retina_jax.main", f"--config=configs/{config}.py:smoke", f"--workdir={workdir}")
    return job(*line, *options, JAX_HEARTBEAT_TIMEOUT="20")


def finish(started, status):
    """What both printed; they end with the status."""
    done = [program.finish() for program in started]
    assert [one.returncode for one in done] == [status] * 2, [one.stderr[-3000:] for one in done]
    return done


def parameters(workdir):
    variables = read_variables(workdir / "checkpoints")
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def scores(workdir):
    return json.loads((workdir / "results.json").read_text())["scores"]


def test_two_processes_train_and_evaluate_like_one(smoke_run, tmp_path):
    alone = smoke_run("keepfit").workdir
    first, second = finish(launch(tmp_path), 0)
    one, two = parameters(alone), parameters(tmp_path)
    assert set(one) == set(two) and len(one) > 100
    for name, value in one.items():
        scale = max(np.abs(value).max(), 1e-2)
        np.testing.assert_allclose(two[name], value, atol=2e-3 * scale, rtol=0, err_msg=name)
    for figure, other in zip(scores(alone), scores(tmp_path), strict=True):
        assert (figure["evaluator"], figure["metric"]) == (other["evaluator"], other["metric"])
        assert figure["count"] == other["count"]
        # Parameters differ in the last digits, which may move a few of 48 records over a boundary.
        rank = 2.0 if "rank" in figure["metric"] else 0.1
        assert other["value"] == pytest.approx(figure["value"], abs=rank)
    # Only the first process speaks of results.
    assert "linear_probe" in first.stdout and "linear_probe" not in second.stdout


def test_sigterm_to_one_of_two_saves_the_same_step_on_both(tmp_path):
    started = launch(tmp_path, "--config.total.steps=100000", config="flair")
    log = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        if not all(program.process.is_alive() for program in started):
            break
        time.sleep(0.2)
    started[1].process.terminate()
    done = finish(started, 143)
    told = [line for one in done for line in one.stderr.splitlines() if "Stopped" in line]
    (stopped,) = {line.split("of 100000")[0] for line in told}  # the same step
    saved = [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert stopped.split()[-1] in saved


@pytest.mark.parametrize("missing", ["JAX_NUM_PROCESSES"])
def test_a_half_described_job_is_not_guessed(missing, monkeypatch):
    from retina_jax import distributed

    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    monkeypatch.delenv(missing, raising=False)
    with pytest.raises(distributed.InputError, match=missing):
        distributed.initialize()

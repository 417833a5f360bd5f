"""Two real processes under jax.distributed train to the parameters of one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from runs import ROOT

from retina_jax.train.restore import read_variables


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(workdir, processes, *, steps=3, devices=1):
    port = free_port()
    started = []
    for i in range(processes):
        env = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
            "--xla_backend_optimization_level=0",
        }
        if processes > 1:
            env |= {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(i),
                "JAX_HEARTBEAT_TIMEOUT": "20",
            }
        started.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "retina_jax.main",
                    "--config=configs/keepfit.py:smoke",
                    f"--config.total.steps={steps}",
                    f"--workdir={workdir}",
                ],
                cwd=ROOT,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def finish(started, timeout=400):
    outputs = [process.communicate(timeout=timeout)[0] for process in started]
    return [process.returncode for process in started], outputs


def parameters(workdir):
    import jax

    variables = read_variables(workdir / "checkpoints")
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def scores(workdir):
    return json.loads((workdir / "results.json").read_text())["scores"]


def test_two_processes_train_and_evaluate_like_one(tmp_path):
    codes, outputs = finish(launch(tmp_path / "one", 1, devices=2))
    assert codes == [0], outputs[0][-3000:]
    codes, outputs = finish(launch(tmp_path / "two", 2, devices=1))
    assert codes == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    one, two = parameters(tmp_path / "one"), parameters(tmp_path / "two")
    assert set(one) == set(two) and len(one) > 100
    for name, value in one.items():
        scale = max(np.abs(value).max(), 1e-2)
        np.testing.assert_allclose(two[name], value, atol=2e-3 * scale, rtol=0, err_msg=name)
    for figure, other in zip(scores(tmp_path / "one"), scores(tmp_path / "two"), strict=True):
        assert (figure["evaluator"], figure["metric"]) == (other["evaluator"], other["metric"])
        assert figure["count"] == other["count"]
        # Parameters differ in the last digits, which may move a few of 48 records over a boundary.
        rank = 2.0 if "rank" in figure["metric"] else 0.1
        assert other["value"] == pytest.approx(figure["value"], abs=rank)
    # Only the first process speaks of results.
    assert "linear_probe" in outputs[0] and "linear_probe" not in outputs[1].split("Parameters")[-1]


def test_sigterm_to_one_of_two_saves_the_same_step_on_both(tmp_path):
    started = launch(tmp_path, 2, steps=100_000)
    log = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        if any(process.poll() is not None for process in started):
            break
        time.sleep(0.2)
    started[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(started)
    assert codes == [143, 143], outputs[0][-3000:] + outputs[1][-3000:]
    stopped = {
        line.split("of 100000")[0] for o in outputs for line in o.splitlines() if "Stopped" in line
    }
    assert len(stopped) == 1  # the same step
    saved = [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert stopped.pop().split()[-1] in saved


@pytest.mark.parametrize("missing", ["JAX_NUM_PROCESSES"])
def test_a_half_described_job_is_not_guessed(missing, monkeypatch):
    from retina_jax import distributed

    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    monkeypatch.delenv(missing, raising=False)
    with pytest.raises(distributed.InputError, match=missing):
        distributed.initialize()

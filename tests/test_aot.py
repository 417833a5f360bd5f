"""The step is compiled for devices without running it, and what it needs is reported."""

import re

from runs import devices, program


def test_a_sharded_step_on_two_devices_is_reported():
    done = program(
        "retina_jax.aot", "--config=configs/flair.py:smoke", "--config.mesh.fsdp=2",
        "--config.mesh.smallest=1", env=devices(2),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step on 2 devices, each:" in done.stdout
    found = dict(re.findall(r"^  ([a-z-]+) +([\d.,]+)", done.stdout, re.MULTILINE))
    value = {name: float(number.replace(",", "")) for name, number in found.items()}
    # Half of 259,681 parameters with two moments each are on a device, besides its rows.
    assert 1.4 < value["arguments"] < 1.8
    assert value["donated"] > 1.4  # the state is updated in place
    assert value["peak"] >= value["arguments"] and value["temporaries"] > 0
    assert value["all-gather"] > 10 and value["all-reduce"] > 10


def test_an_unknown_topology_is_one_sentence():
    done = program("retina_jax.aot", "--config=configs/flair.py:smoke", "--topology=v99:1x1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "Cannot compile for 'v99:1x1'" in done.stderr and "v5e:4x4" in done.stderr

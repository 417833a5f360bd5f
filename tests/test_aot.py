"""The step is compiled for devices without running it, and what it needs is reported."""

import re

from runs import devices, program

SMOKE = ("retina_jax.aot", "--config=configs/flair.py:smoke")
# A data set and a vocabulary that are nowhere.
NOWHERE = (
    "--config.streams.public.dataset=flair/nowhere", "--config.streams.public.split=train",
    "--config.tokenizer={'name': 'wordpiece', 'vocab': 'nowhere.txt'}",
)  # fmt: skip


def test_a_sharded_step_on_two_devices_is_reported():
    done = program(*SMOKE, "--config.mesh.fsdp=2", "--config.mesh.smallest=1", env=devices(2))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step on 2 devices, each:" in done.stdout
    found = dict(re.findall(r"^  ([a-z-]+) +([\d.,]+)", done.stdout, re.MULTILINE))
    value = {name: float(number.replace(",", "")) for name, number in found.items()}
    # Half of 259,681 parameters with two moments each are on a device, besides its rows.
    assert 1.4 < value["arguments"] < 1.8
    assert value["donated"] > 1.4  # the state is updated in place
    assert value["peak"] >= value["arguments"] and value["temporaries"] > 0
    moved = re.search(r"memory traffic +([\d.]+) GB", done.stdout)
    assert value["operations"] > 0 and moved and float(moved.group(1)) > 0
    assert value["all-gather"] > 10 and value["all-reduce"] > 10


def test_without_data_and_vocabulary_options_are_found_with_which_it_fits():
    done = program(*SMOKE, *NOWHERE, "--topology=cpu:2", "--memory=.025", env=devices(2))
    assert done.returncode == 0, done.stderr[-2000:]
    first = re.search(r"does not fit: ([\d.]+) of 0.025 GiB", done.stdout)
    assert first, done.stdout
    tried = re.findall(r"with (\S+): ([\d.]+) GiB", done.stdout)
    assert [option for option, _ in tried][0] == "model.dtype=bfloat16"
    pasted = done.stdout.strip().splitlines()[-1]
    assert pasted.startswith("  It fits with --config."), done.stdout
    assert float(tried[-1][1]) <= 0.025 < float(first.group(1))
    again = program(*SMOKE, *NOWHERE, "--topology=cpu:2", "--memory=.025",
                    *pasted.split("with ")[1].split(), env=devices(2))  # fmt: skip
    assert "\n  fits: " in again.stdout, again.stdout + again.stderr[-2000:]


def test_slices_that_a_batch_divides_over_are_named():
    done = program(*SMOKE, *NOWHERE, "--topology=cpu:3", env=devices(3))
    assert done.returncode == 0 and "do not divide over 3 devices" in done.stdout, done.stderr


def test_an_unknown_topology_is_one_sentence():
    done = program(*SMOKE, "--topology=v99:1x1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "Cannot compile for 'v99:1x1'" in done.stderr and "v5e:4x4" in done.stderr


# A compiler that ends the process that it is in, where the first of two stages is compiled.
_CRASHES = """
import os, signal
from retina_jax import aot, cli
from retina_jax.compiled import program
def need(stage):
    if "expert" not in stage.given["streams"]:
        os.kill(os.getpid(), signal.SIGSEGV)
    return aot.StepNeeds(2**20, 0, 0, 0, 1e9, program.Traffic(0.0, {}, {}))
aot.need = need
cli.run(aot.main)
"""


def test_a_compiler_that_crashes_is_a_sentence_and_the_other_stage_is_told():
    line = ("--config=configs/mmretinal_v2.py:smoke", "--topology=cpu:1")
    done = program("-c", _CRASHES, *line)
    assert done.returncode == 2
    (sentence,) = [line for line in done.stderr.splitlines() if "SIG" in line]
    assert sentence.startswith("text: the compiler for cpu:1 ended with SIGSEGV")
    assert "Fatal" not in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.startswith("knowledge on 1 devices, each:\n  arguments   "), done.stdout


def test_what_a_stage_refuses_is_one_sentence():
    done = program(*SMOKE, *NOWHERE, "--topology=cpu:1", "--config.model.towers.image.name=resnt")
    assert done.returncode == 2 and done.stdout == ""
    assert "resnt" in done.stderr and "Traceback" not in done.stderr

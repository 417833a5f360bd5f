"""What ends a run from outside is one sentence."""

import os
import signal
import time

import numpy as np
import pytest
from runs import Program, job

from data_pipelines import pipelines
from data_pipelines.errors import InputError
from retina_jax.train import restore


def begun(program, place):
    """Waits until a program made a file."""
    deadline = time.monotonic() + 300
    while not place.exists() and program.process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert place.exists(), program.finish(0).stderr[-3000:]


_AS_A_COMPILER_DOES = """
import ctypes, os, sys, types, pathlib
from retina_jax.train.preemption import Preemption
library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
with Preemption(types.SimpleNamespace()) as preemption:
    if sys.argv[2] == "later":
        preemption.stepped()
    pathlib.Path(sys.argv[1]).touch()
    for _ in range(2):
        library.pthread_mutex_lock(lock)  # the second time for ever, and no handler of Python runs
"""


@pytest.mark.parametrize("when", ["first", "later"])
def test_sigterm_while_no_handler_of_python_runs(when, tmp_path):
    program = Program("-c", _AS_A_COMPILER_DOES, str(tmp_path / "begun"), when)
    begun(program, tmp_path / "begun")
    os.kill(program.process.pid, signal.SIGTERM)
    if when == "later":  # there may be something to save, until it is told again
        program.process.join(1)
        assert program.process.is_alive()
        os.kill(program.process.pid, signal.SIGTERM)
    done = program.finish(60)
    assert done.returncode == 143
    why = {"first": "before a step that could be saved", "later": "asked again"}[when]
    assert done.stderr == f"Stopped at once, {why}. Run the same command to go on.\n"


_WITH_LOADER = """
import multiprocessing.spawn, sys, grain
from data_pipelines.pipelines import _Reading
from retina_jax.train import loaders
multiprocessing.spawn.set_executable(sys.argv[1])
class Large(grain.transforms.Map):
    table = None
    def map(self, row):
        return row
large = Large()
large.table = bytes(1 << 20)  # more than a pipe holds
with loaders.watched(patience=0.2):
    next(_Reading(1, 1).iterate(grain.MapDataset.range(4).map(large), 0, None))
"""


def test_a_loader_that_is_killed_as_it_starts(tmp_path):
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o700)
    done = Program("-c", _WITH_LOADER, str(killed)).finish(120)
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.startswith("A loader process was killed as it started")
    assert done.stderr.count("\n") == 1


def test_a_loader_that_is_killed_later_is_a_sentence():
    class Killed:
        closed = False

        def __next__(self):
            raise RuntimeError("Worker process was terminated unexpectedly with exit code -9.")

        def close(self):
            self.closed = True

    iterator = Killed()
    with pytest.raises(
        InputError, match=r"loader process was killed .*code -9.*fewer \(num_workers\)"
    ):
        next(pipelines.Batches(iterator))
    assert iterator.closed


_ONE_OF_TWO = """
import pathlib, sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from retina_jax import distributed
from retina_jax.train.checkpoint import Checkpointer
from retina_jax.types import TrainState
distributed.initialize()
mesh = jax.make_mesh((2,), ("data",))
split = NamedSharding(mesh, PartitionSpec("data"))
rows = jax.make_array_from_callback((2,), split, lambda index: np.float32([1, 2])[index])
saver = Checkpointer(sys.argv[1])
saver.save(TrainState(np.int32(1), {"w": rows}, {}, (), np.zeros(2, np.int32)))
saver.close()
total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
with distributed.together():
    while True:
        assert float(total(rows)) == 3
        pathlib.Path(f"{sys.argv[1]}/begun{jax.process_index()}").touch()
"""


def test_a_lost_process_is_a_sentence_of_the_first_and_its_checkpoints_stay(tmp_path):
    both = job("-c", _ONE_OF_TWO, str(tmp_path))
    for rank, program in enumerate(both):
        begun(program, tmp_path / f"begun{rank}")
    os.kill(both[1].process.pid, signal.SIGKILL)
    start = time.monotonic()
    done = both[0].finish(60)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Another process of this job was lost (" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 30
    both[1].finish(0)
    np.testing.assert_array_equal(restore.read_variables(tmp_path)["params"]["w"], [1, 2])

"""Several processes: found in the environment, joined once, ended together."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax

from data_pipelines.errors import InputError

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def _in_a_cluster() -> bool:
    """Whether JAX can find the other processes of this job by itself."""
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NODELIST" in os.environ:
        return True  # inside srun; the shell of sbatch or salloc is no task
    if len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        return True
    return os.environ.get("RETINA_JAX_CLUSTER") == "auto"  # set by launch/tpu_pod.sh


def initialize() -> None:
    """Joins the other processes of this job, if there are any; has to come before any device use.

    Launchers set the variables of `_VARIABLES` (see launch/); Slurm and TPU slices are recognised
    by JAX itself.

    Raises:
      InputError: if only some of the variables are set.
    """
    given = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if given and len(given) < len(_VARIABLES):
        missing = sorted(set(_VARIABLES) - set(given))
        raise InputError(
            f"{', '.join(given)} is set but {', '.join(missing)} is not; set all three."
        )
    if given:
        jax.distributed.initialize(
            coordinator_address=given["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(given["JAX_NUM_PROCESSES"]),
            process_id=int(given["JAX_PROCESS_ID"]),
            heartbeat_timeout_seconds=int(os.environ.get("JAX_HEARTBEAT_TIMEOUT", "100")),
        )
    elif _in_a_cluster():
        jax.distributed.initialize()


def is_first() -> bool:
    """Whether this is the process that writes files and speaks to the user."""
    return jax.process_index() == 0


def wait(what: str) -> None:
    """Waits until every process is here, which is named `what`."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def share() -> dict[str, Any]:
    """Which rows of a batch are this process's, as `data_pipelines.pipelines` is told."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def leave(sentence: str, status: int) -> NoReturn:
    """Ends this process at once, from any thread, without waiting for anybody or anything.

    Args:
      sentence: said on stderr.
      status: the exit status.
    """
    print(sentence, file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():  # loaders would wait for their reader
        child.kill()
    os._exit(status)


# What JAX says where another process is gone: of the collectives, and of the first process.
_OF_OTHERS = ("gloo", "nccl", "connection reset", "connection closed", "coordination", "heartbeat")


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process with a sentence where a computation with the others fails for want of one.

    To end as usual would wait for the lost one, in a write or in the shutdown of JAX. Of the loss
    of the first process, which all others watch, JAX itself may be quicker to tell.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        told = str(error).lower()
        of_others = any(word in told for word in _OF_OTHERS) and not isinstance(error, InputError)
        if not (of_others and jax.distributed.is_initialized()):
            raise
        if is_first():
            time.sleep(2)  # which the others need to tell the same: they end with the first
        reason = str(error).splitlines()[0][:200]
        leave(
            f"Another process of this job was lost ({reason}): see what it said, and run the same "
            "command on all of them to go on from the newest checkpoint.",
            1,
        )

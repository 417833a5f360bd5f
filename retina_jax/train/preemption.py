"""Noticing that the job is about to be taken away."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import jax

from retina_jax.train.checkpoint import Checkpointer


class Preempted(Exception):
    """The run was told to stop; its state is saved and the same command goes on from it."""


class Preemption:
    """`with Preemption(checkpointer) as preemption: ... preemption.requested(step)`.

    A single process notices SIGTERM itself. Under jax.distributed the processes have to agree on
    the step at which they all save, which Orbax does; a handler of our own would disable that.
    """

    def __init__(self, checkpointer: Checkpointer):
        self._checkpointer = checkpointer
        self._distributed = jax.distributed.is_initialized()
        # Python allows signal handlers in the main thread only (a notebook may train in another).
        self._handles = not self._distributed and (
            threading.current_thread() is threading.main_thread()
        )
        self._requested = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._requested = True

    def __enter__(self) -> Preemption:
        if self._handles:
            self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._previous)

    def requested(self, step: int) -> bool:
        """Whether to save and stop after `step`; the same answer on every process."""
        if self._distributed:
            return self._checkpointer.reached_preemption(step)
        return self._requested

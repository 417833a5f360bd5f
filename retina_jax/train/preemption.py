"""Noticing that the job is about to be taken away."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import jax

from retina_jax import distributed
from retina_jax.train.checkpoint import Checkpointer

STOPPED_BY_SIGTERM = 128 + 15  # the exit status


class Preempted(Exception):
    """The run was told to stop; its state is saved and the same command goes on from it."""


class Preemption:
    """`with Preemption(checkpointer) as preemption: ... preemption.requested(step)`.

    A single process notices SIGTERM itself. Before the first step there is nothing to save, and it
    ends at once, as it does when it is told again: Python's own handlers wait for a compiler, so a
    thread does that. Under jax.distributed the processes have to agree on the step at which they
    all save, which Orbax does; a handler of our own would disable that.
    """

    def __init__(self, checkpointer: Checkpointer):
        self._checkpointer = checkpointer
        self._distributed = jax.distributed.is_initialized()
        # Python allows signal handlers in the main thread only (a notebook may train in another).
        self._handles = not self._distributed and (
            threading.current_thread() is threading.main_thread()
        )
        self._requested = False
        self._stepped = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._requested = True

    def __enter__(self) -> Preemption:
        if self._handles:
            self._previous = signal.signal(signal.SIGTERM, self._request)
            # Python writes the number of a signal there when it arrives, whatever is going on.
            reading, self._told = os.pipe()
            os.set_blocking(self._told, False)
            self._told_before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._handles:
            signal.set_wakeup_fd(self._told_before)
            os.close(self._told)  # which ends the thread
            signal.signal(signal.SIGTERM, self._previous)

    def _watch(self, reading: int) -> None:
        again = False
        while number := os.read(reading, 1):
            if number[0] != signal.SIGTERM:
                continue
            if again or not self._stepped:
                why = "asked again" if again else "before a step that could be saved"
                distributed.leave(
                    f"Stopped at once, {why}. Run the same command to go on.", STOPPED_BY_SIGTERM
                )
            again = True
        os.close(reading)

    def stepped(self) -> None:
        """Says that a step was made: from now on there is something to save."""
        self._stepped = True

    def requested(self, step: int) -> bool:
        """Whether to save and stop after `step`; the same answer on every process."""
        if self._distributed:
            return self._checkpointer.reached_preemption(step)
        return self._requested

"""Loader processes that are killed as they start, which nobody would notice."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Generator

from retina_jax import distributed


@contextlib.contextmanager
def watched(patience: float = 10.0) -> Generator[None]:
    """Ends this process with a sentence where it would wait for ever for a process it starts.

    Python tells a new process what to do through a pipe of which it holds both ends. If that
    process is killed before it has read, the pipe is full and whoever writes waits: so does what
    waits for the data, and closing it. What dies later, Grain notices.

    Args:
      patience: seconds for which a child has been dead and its start goes on.
    """
    over = threading.Event()
    threading.Thread(target=_watch, args=(over, patience), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(over: threading.Event, patience: float) -> None:
    dead, since = None, 0.0
    while not over.wait(min(1.0, patience)):
        if (found := _killed()) != dead:
            dead, since = found, time.monotonic()
        if dead and time.monotonic() - since >= patience and _starting():
            distributed.leave(
                "A loader process was killed as it started, perhaps as memory ran out: lower "
                "loading.num_workers and run the same command to go on.",
                2,
            )


def _killed() -> int | None:
    """A child that a signal ended and of which nobody has asked yet."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there is no child
        return None
    return found.si_pid if found and found.si_code != os.CLD_EXITED else None


def _starting() -> bool:
    """Whether a thread is still telling a new process what to do."""
    for frame in sys._current_frames().values():  # pyright: ignore[reportPrivateUsage]
        while frame is not None:
            if frame.f_code.co_filename.endswith("popen_spawn_posix.py"):
                return True
            frame = frame.f_back
    return False

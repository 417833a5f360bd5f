"""Work for several processes, whose results come back in order."""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import itertools
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")
log = logging.getLogger(__name__)
# Tasks that are given out before their results are asked for: enough for all cores.
_WAITING = 1024


@contextlib.contextmanager
def workers(number: int) -> Iterator[concurrent.futures.Executor | None]:
    """Processes to work in, or None where one is enough.

    They are spawned, not forked, as JAX may already have threads here.
    """
    if number <= 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor(number, context)
    try:
        yield executor
    finally:
        # What has not begun is of no use after an error; what has begun is finished.
        executor.shutdown(cancel_futures=True)


def ordered(
    function: Callable[[Any], Result],
    tasks: Iterable[Any],
    executor: concurrent.futures.Executor | None,
) -> Iterator[Result]:
    """Yields `function(task)` of every task, in order.

    Args:
        function: a function of a module, which other processes can import.
        tasks: its arguments; few are asked for before they are needed.
        executor: an executor of `workers`. If its processes cannot start, as from a script without
            ``if __name__ == "__main__"``, the rest is done here, with a warning.
    """
    tasks = iter(tasks)
    waiting: collections.deque[Any] = collections.deque()
    if executor is not None:
        futures: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
        try:
            while True:
                for task in itertools.islice(tasks, _WAITING - len(waiting)):
                    waiting.append(task)
                    futures.append(executor.submit(function, task))
                if not waiting:
                    return
                result = futures.popleft().result()
                waiting.popleft()
                yield result
        except concurrent.futures.process.BrokenProcessPool:
            log.warning("Worker processes could not start or died: the rest is done in this one.")
    for task in itertools.chain(waiting, tasks):
        yield function(task)


def each(function: Callable[[Any], Result], tasks: Iterable[Any], number: int) -> Iterator[Result]:
    """Yields `function(task)` of every task, in order, out of `number` processes."""
    with workers(number) as executor:
        yield from ordered(function, tasks, executor)

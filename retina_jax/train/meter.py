"""Progress and speed of a run."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator, Mapping

import jax
import numpy as np
from tqdm import tqdm


class Meter:
    """Averages metrics between two logs, measures speed, and shows a bar with the time left."""

    def __init__(self, *, name: str, start: int, total: int, examples: int, visible: bool):
        """
        Args:
          name: label of the bar.
          start, total: first and last step.
          examples: rows of a global batch.
          visible: show the bar (on one process only).
        """
        self._examples = examples
        # A terminal is redrawn twice a second; a log file gets a line every quarter of a minute.
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            desc=name or "train",
            initial=start,
            total=total,
            disable=not visible,
            unit="step",
            delay=1e-9,  # not before the first step: until then lines tell of its phases
            dynamic_ncols=terminal,
            mininterval=0.5 if terminal else 15.0,
            file=sys.stderr,
        )
        self._reset()

    def _reset(self) -> None:
        self._pending: list[Mapping[str, jax.Array]] = []
        self._waited = 0.0
        self._began = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Generator[None]:
        """Counts the time inside as waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """Does not count the time inside (an evaluation, a save) as training time."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        """Metrics of one step; they stay on the device until `collect`."""
        self._pending.append(metrics)
        self._bar.update()

    def collect(self) -> dict[str, float]:
        """Values since the last call, with 'examples_per_second' and 'data_wait' (a share 0-1).

        Metrics are means over the steps where they are finite, NaN where none is; of
        'skipped_in_a_row' it is the maximum.
        """
        steps = len(self._pending)
        values = jax.device_get(self._pending)  # waits for the steps to be done
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        means = {name: _mean([v[name] for v in values]) for name in values[0]} if values else {}
        if "skipped_in_a_row" in means:
            means["skipped_in_a_row"] = float(max(v["skipped_in_a_row"] for v in values))
        means["examples_per_second"] = steps * self._examples / elapsed
        means["data_wait"] = min(self._waited / elapsed, 1.0)
        if "loss" in means:
            self._bar.set_postfix(
                {
                    "loss": f"{means['loss']:.3f}",
                    "examples/s": f"{means['examples_per_second']:.0f}",
                    "waiting for data": f"{means['data_wait']:.0%}",
                },
                refresh=False,
            )
        self._reset()
        return means

    def close(self) -> None:
        """Leaves the finished bar on the screen."""
        self._bar.close()


def _mean(values: list[np.ndarray]) -> float:
    finite = [float(value) for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")

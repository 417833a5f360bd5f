"""What the benchmarks share: the machine's description, taking turns, quartiles, lines of JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.records import storage


def environment(packages: Sequence[str], **more: Any) -> dict[str, Any]:
    """The line of the machine, the commit, and versions of packages; None where one is absent."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True,
                            text=True, check=False, cwd=Path(__file__).parent)  # fmt: skip
    return {
        "figure": "environment",
        "cpu": processor(),
        "cores": storage.cores(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit.stdout.strip(),
        "load": os.getloadavg(),
        **more,
    }


def processor() -> str:
    """The name of the processor."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def interleaved(
    works: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, dict[str, np.ndarray]]:
    """{'cpu' or 'wall': {name: seconds, f64[rounds]}}, all works in turn in each round."""
    taken = {clock: {name: np.empty(rounds) for name in works} for clock in ("cpu", "wall")}
    for i in range(rounds):
        # Every other round backwards, so that none always comes after the same one.
        for name in list(works)[:: 1 if i % 2 else -1]:
            cpu, wall = time.process_time(), time.perf_counter()
            works[name]()
            taken["cpu"][name][i] = time.process_time() - cpu
            taken["wall"][name][i] = time.perf_counter() - wall
    return taken


def spread(values: np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = (round(float(x), 4) for x in np.percentile(values, (25, 50, 75)))
    return {"median": middle, "low": low, "high": high}


def tell(lines: Iterable[Mapping[str, Any]], output: str | Path | None) -> list[dict[str, Any]]:
    """Prints each line when it is there, writes all to a file if asked, and returns them."""
    told = []
    for line in lines:
        told.append(dict(line))
        print(json.dumps(line), flush=True)
    if output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text("".join(json.dumps(line) + "\n" for line in told), encoding="utf-8")
    return told

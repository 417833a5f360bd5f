"""What huge pages of memory save of a training step on processors.

    python -m benchmarks.huge_pages --output=benchmarks/results/huge_pages.jsonl

glibc takes the option when a process begins (`retina_jax.__main__.HUGE_PAGES`), so each turn is two
processes, with it and without, each of which takes some steps of a tower of photographs with a
linear head. One JSON line a tower: processor time of a step, of it that of the system, and page
faults. Read the ratios, with over without.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import frozen, measuring
from retina_jax.__main__ import HUGE_PAGES

TOWERS = ("efficientnet_lite0", "vit_b16")


def steps(options: argparse.Namespace) -> dict[str, float]:
    """Per step of this process: seconds of the processor, of the system, and page faults."""
    spec, _, small = frozen.SYSTEMS[options.tower]
    tower = {**spec, **(small if options.tiny else {})}
    step = frozen.Compiled(tower, (), frozen.photographs(options.rows, options.size))
    step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(options.steps):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    system, user = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
    faults = after.ru_minflt - before.ru_minflt
    per_step = {"cpu": user + system, "system": system, "faults": faults}
    return {name: value / options.steps for name, value in per_step.items()}


def one(tower: str, options: argparse.Namespace, variables: dict[str, str]) -> dict[str, float]:
    """What `steps` says in a process of its own with these variables."""
    clean = {name: value for name, value in os.environ.items() if name not in HUGE_PAGES}
    command = [sys.executable, "-m", "benchmarks.huge_pages", f"--tower={tower}",
               f"--rows={options.rows}", f"--size={options.size}", f"--steps={options.steps}",
               *(["--tiny"] if options.tiny else [])]  # fmt: skip
    done = subprocess.run(
        command, env={**clean, **variables}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures."""
    yield measuring.environment(("jax", "jaxlib"))
    for tower in TOWERS:
        turns = [(one(tower, options, HUGE_PAGES), one(tower, options, {}))
                 for _ in range(options.turns)]  # fmt: skip
        ratios = np.array([given["cpu"] / without["cpu"] for given, without in turns])
        yield {
            "figure": tower, "rows": options.rows, "size": options.size, "tiny": options.tiny,
            "with": turns[-1][0], "without": turns[-1][1], "ratio": measuring.spread(ratios),
        }  # fmt: skip


def main() -> None:
    """Measures and writes one line a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, help="a .jsonl file; printed as well")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tower", help="only the steps of one process")
    parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.rows, options.size, options.steps, options.turns = 2, 32, 1, 1
    if options.tower:
        print(json.dumps(steps(options)))
    else:
        measuring.tell(figures(options), options.output)


if __name__ == "__main__":
    main()

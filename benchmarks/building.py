"""How building a data set scales with processes, as ratios taken in one run.

    python benchmarks/building.py --output=benchmarks/results/building.jsonl

Drawn photographs of 4288 x 2848 pixels are prepared at 512, by one process and by several in turn.
One JSON line for each figure; benchmarks/README.md says what they compare.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measuring
import photographs
from input import PACKAGES

from data_pipelines import prepare
from data_pipelines.records import storage

HEIGHT, WIDTH = 2848, 4288


def source(folder: Path, number: int, height: int, width: int) -> None:
    """Writes `number` photographs and their manifest."""
    folder.mkdir()
    data = [photographs.fundus(height, width, seed) for seed in range(4)]
    for i in range(number):
        (folder / f"{i}.jpg").write_bytes(data[i % len(data)])
    rows = "".join(f"{i}.jpg,p{i}\n" for i in range(number))
    (folder / "manifest.csv").write_text(f"file,patient\n{rows}")


def seconds(folder: Path, processes: int) -> float:
    """Returns the wall time of one build, from the command to the finished data set."""
    with tempfile.TemporaryDirectory() as data, contextlib.redirect_stdout(io.StringIO()):
        begin = time.perf_counter()
        status = prepare.main([
            "--dataset=manifest", f"--source={folder}", f"--data_dir={data}", "--size=512",
            f"--processes={processes}",
        ])  # fmt: skip
        assert status == 0
        return time.perf_counter() - begin


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures."""
    number, rounds = (8, 1) if options.tiny else (192, 3)
    height, width = (200, 300) if options.tiny else (HEIGHT, WIDTH)
    yield measuring.environment(PACKAGES, tiny=options.tiny)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "source"
        source(folder, number, height, width)
        for processes in sorted({2, storage.cores()}):
            pairs = [(seconds(folder, 1), seconds(folder, processes)) for _ in range(rounds)]
            ratios = sorted(one / several for one, several in pairs)
            yield {
                "figure": f"building/{processes} processes over 1",
                "speed_ratio": {"median": statistics.median(ratios), "low": ratios[0],
                                "high": ratios[-1]},
                "records_per_second": {
                    "1": number / statistics.median(one for one, _ in pairs),
                    str(processes): number / statistics.median(several for _, several in pairs),
                },
                "records": number,
            }  # fmt: skip
    yield {"figure": "load", "load": os.getloadavg()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", help="write the lines to this file, too")
    parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
    options = parser.parse_args()
    measuring.tell(figures(options), options.output)


if __name__ == "__main__":
    main()

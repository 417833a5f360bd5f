"""Each benchmark runs; what it measures is in benchmarks/README.md, and no time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The lines of a tiny run."""
    output = tmp_path_factory.mktemp("benchmark") / "input.jsonl"
    program = ROOT / "benchmarks" / "input.py"
    command = [sys.executable, str(program), "--tiny", f"--output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [json.loads(line) for line in done.stdout.splitlines()] == found
    return found


def test_every_figure_is_there(lines: list[dict]) -> None:
    figures = [line["figure"] for line in lines]
    assert figures[0] == "environment" and figures[-1] == "load"
    expected = {
        f"overhead/{size}/{kind}"
        for size in (224, 512)
        for kind in ("minimal", "text", "augmented", "simplejpeg+PIL", "PIL+PIL")
    }
    expected |= {
        f"preparation/{kind}" for kind in ("prepared", "raw, as it is", "raw, to the same pixels")
    }
    assert expected | {"memory"} <= set(figures)
    assert {"cpu", "cores", "versions", "commit", "load", "seed"} <= set(lines[0])


def test_ratios_are_to_the_fastest_library(lines: list[dict]) -> None:
    for size in (224, 512):
        of_size = {
            line["figure"].split("/")[2]: line
            for line in lines
            if line["figure"].startswith(f"overhead/{size}/")
        }
        bare = {name: line for name, line in of_size.items() if "fastest" in line}
        (fastest,) = [name for name, line in bare.items() if line["fastest"]]
        medians = {name: line["cpu_ms"]["median"] for name, line in bare.items()}
        assert medians[fastest] == min(medians.values())
        assert bare[fastest]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
        for name in ("minimal", "text", "augmented"):
            line = of_size[name]
            assert line["over"] == fastest
            assert line["met"] == (line["ratio"]["median"] <= line["goal"] == 1.2)
            cores = line["cores"]["goal"]
            assert np.isclose(cores, line["cpu_ms"]["median"] * 3.2, atol=0.01)


def test_building_is_timed_with_one_process_and_with_several() -> None:
    program = ROOT / "benchmarks" / "building.py"
    done = subprocess.run([sys.executable, str(program), "--tiny"], capture_output=True, text=True,
                          timeout=300, cwd=ROOT)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, *ratios, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert (first["figure"], last["figure"]) == ("environment", "load") and ratios
    for line in ratios:
        assert line["speed_ratio"]["median"] > 0 and len(line["records_per_second"]) == 2


def test_the_stored_figures_are_of_full_runs() -> None:
    stored = (ROOT / "benchmarks" / "results" / "input.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in stored]
    assert not lines[0]["tiny"] and lines[0]["pairs"] >= 7
    (memory,) = [line for line in lines if line["figure"] == "memory"]
    assert memory["records"][-1] > 49_000 and len(memory["records"]) == 10

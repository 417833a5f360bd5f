"""Memory and time of all that a build does for its rows, but for reading pictures.

    python -m benchmarks.listing --rows=1000000 --output=benchmarks/results/listing.jsonl

The rows name that many files, which are links to a few, so that each is looked for as it would be.
What became of each is made up and written where a build writes it; then the rows are divided, and
the account of the build is written. One JSON line for each step: processor seconds of the step, and
the most memory that was held until its end.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet

from benchmarks import measuring
from data_pipelines import build
from data_pipelines.builders import staging
from data_pipelines.records import splits

_HEADER = ("image", "caption", "label", "patient", "eye", "age")
_LABELS = ("normal", "drusen;amd", "glaucoma", "mild diabetic retinopathy")
_REPORTS = ("optic disc with sharp margins", "a few microaneurysms", "drusen at the macula")
_FILES = 10_000


def source(folder: Path, rows: int, kind: str) -> None:
    """Writes a table of `rows` pictures, two of a patient, and a name on disk for each."""
    (folder / "files").mkdir()
    for i in range(min(_FILES, rows)):
        (folder / f"files/{i:04d}.jpg").write_bytes(b"no picture")
    for i in range(-(-rows // _FILES)):
        (folder / f"{i:04d}").symlink_to("files")
    with open(folder / "manifest.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_HEADER)
        for i in range(rows):
            report = f"{_REPORTS[i % 3]}, cup to disc ratio 0.{i % 10}, study {i * 7919 % 99991}"
            path, eye = f"{i // _FILES:04d}/{i % _FILES:04d}.jpg", ("OD", "OS")[i % 2]
            writer.writerow([path, report, _LABELS[i % 4], f"p{i // 2:07d}", eye, str(i % 60)])
    if kind == "parquet":
        table = pyarrow.csv.read_csv(folder / "manifest.csv")
        pyarrow.parquet.write_table(table, folder / "manifest.parquet")


def status(number: int, name: str, patient: str, place: int) -> staging.RecordStatus:
    """What became of an entry, as if its picture had been read."""
    drawn = hashlib.sha512(str(number).encode()).hexdigest()
    return staging.RecordStatus(
        number, name, (drawn[:32],), (drawn[:108],), patient, place=place
    )  # fmt: skip


class Statuses(Sequence[staging.RecordStatus]):
    """Statuses of so many rows, two of a patient, made when they are asked for."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._rows:
            raise IndexError
        return status(index, "", f"p{index // 2:07d}", index)


def pretended(task: tuple[Any, ...]) -> int:
    """Writes what became of the entries of a chunk."""
    folder, name, chunk, *_ = task
    facts = [
        vars(status(entry.number, entry.name, entry.fields["patient"], place))
        for place, entry in enumerate(chunk)
    ]
    (folder / f"{name:07d}.json").write_text(json.dumps(facts), encoding="utf-8")
    return len(chunk)


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures."""
    packages = ("tensorflow-datasets", "numpy", "scipy", "pyarrow")
    yield measuring.environment(packages, rows=options.rows, format=options.format)
    if options.division:
        yield _step("start", 0.0)
        began = time.process_time()
        parts, _ = splits.divide(Statuses(options.rows))
        yield _step("division alone", time.process_time() - began) | _sizes(parts)
        return
    staging._write_chunk = pretended
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder, stage = Path(scratch, "source"), Path(scratch, "stage")
        folder.mkdir()
        stage.mkdir()
        source(folder, options.rows, options.format)
        began = time.process_time()

        def step(name: str) -> dict[str, Any]:
            nonlocal began
            seconds, began = time.process_time() - began, time.process_time()
            return _step(name, seconds)

        yield step("start")
        given = {"source": str(folder), "csv": f"manifest.{options.format}"}
        listed = build.list_corpus("manifest", "rows", given)
        assert len(listed.rows.entries) == options.rows
        yield step("rows")
        assert listed.fingerprints.content
        yield step("fingerprints")
        staging.Stage(listed.rows, listed.recipe, stage).fill(1)
        yield step("staged")
        made = type(listed)(config=listed.config, data_dir=str(Path(scratch, "data")),
                            listed=listed, stage=str(stage), processes=1)  # fmt: skip
        sizes = _sizes(made.plan.rows)
        yield step("divided") | sizes
        made.finish(stage)
        yield step("account")


def _step(name: str, seconds: float) -> dict[str, Any]:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "figure": f"listing/{name}",
        "cpu_seconds": round(seconds, 1),
        "most_megabytes": round(most / 1e3),
    }


def _sizes(parts: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    return {"records": {split: len(rows) for split, rows in parts.items()}}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv", help="(%(default)s)")
    parser.add_argument("--division", action="store_true", help="only the making of splits")
    parser.add_argument("--scratch", help="folder for the table and what is made of it")
    parser.add_argument("--output", help="write the lines to this file, too")
    options = parser.parse_args()
    measuring.tell(figures(options), options.output)


if __name__ == "__main__":
    main()

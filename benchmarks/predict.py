"""What a picture costs in `predict`, over asking about one after another, its gate, and memory."""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import retina_jax
from benchmarks import measuring
from data_pipelines import quality
from data_pipelines.cases import listing
from data_pipelines.images import functional
from retina_jax.prediction import output, requests, rows, running

_SIDE, _PART = 8, 50_000


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures; processor and wall milliseconds of a picture."""
    model = retina_jax.load(options.model)
    if options.rows:
        with tempfile.TemporaryDirectory() as folder:
            yield memory(model, options.rows, Path(folder))
        return
    files = sorted(path for path in options.pictures.iterdir() if path.suffix == ".jpg")
    files = files[: options.count]
    few = files[: max(len(files) // 4, 1)]
    yield measuring.environment(("jax", "jaxlib", "flax", "numpy"), model=str(model).split("\n")[0])

    def predicted(judged: str) -> Callable[[], object]:
        return lambda: [
            len(rows) for rows in model.predict(files, quality=judged, batch_size=options.batch)
        ]

    ask = model.classify if model.description.model.get("classes") else model.zero_shot
    works = {
        "predict": predicted("flag"),
        "predict, quality off": predicted("off"),
        "one at a time": lambda: [ask(path) for path in few],
    }
    for work in works.values():
        work()  # compiles
    taken = measuring.interleaved(works, options.turns)
    counts = {name: len(few if name == "one at a time" else files) for name in works}
    cost = {
        clock: {name: seconds / counts[name] for name, seconds in found.items()}
        for clock, found in taken.items()
    }
    for name in works:
        yield {
            "figure": f"predict/{name}",
            "cpu_ms": measuring.spread(1000 * cost["cpu"][name]),
            "wall_ms": measuring.spread(1000 * cost["wall"][name]),
            "ratio": measuring.spread(cost["cpu"]["one at a time"] / cost["cpu"][name]),
            "ratio_wall": measuring.spread(cost["wall"]["one at a time"] / cost["wall"][name]),
        }
    images = [functional.resize(functional.decode_image(p.read_bytes()), 256, 256) for p in few]
    taken_ms = []
    for image in images:
        start = time.process_time()
        quality.judge(image)
        taken_ms.append(1000 * (time.process_time() - start))
    yield {"figure": "quality/256", "cpu_ms": measuring.spread(np.array(taken_ms))}


class _Undecoded(rows.Preparer):
    """Rows of pictures that nobody reads."""

    def rows(self, unit: Sequence[Mapping[str, Any]]) -> tuple[list[rows.Row], int]:
        """A black picture for each entry."""
        black = {self.key: np.zeros((1, _SIDE, _SIDE, 3), np.uint8)}
        return [rows.Row(one["record"], "0" * 64, arrays=black, unit=one["unit"])
                for one in unit], 0  # fmt: skip


def memory(model: Any, count: int, folder: Path) -> dict[str, Any]:
    """MB that are held while so many rows are listed, asked about and written.

    All is as in `predict`, but no picture is decoded and no model runs.
    """
    began, held = time.process_time(), [_held()]
    (folder / "list.txt").write_text("".join(f"pictures/{i:07d}.jpg\n" for i in range(count)))
    asked = requests.predicting(model, requests.Options(quality="off", ood="off", batch_size=256))
    assert asked.scorer is not None
    scores = np.tile(np.arange(len(asked.scorer.classes), dtype=np.float32), (256, 1))
    preparer = _Undecoded(**vars(asked.preparer))
    asked = dataclasses.replace(asked, preparer=preparer, ask=lambda batch: (scores, None))
    entries = requests.arranged(listing.listed([str(folder / "list.txt")]).entries, asked)
    job, listed = running.prediction_job(asked), _most()

    def tables(part: Any, watch: rows.Watch) -> Iterator[Any]:
        held.append(_held())
        yield from job.tables(part, watch)

    watch, out = rows.Watch(force=True), folder / "out"
    out.mkdir()
    parts = output.run(
        dataclasses.replace(job, tables=tables), out, entries, watch, _PART, quiet=True
    )
    held.append(_held())
    output.finish(job, out, parts, watch, 1.0, csv_too=True)
    seconds = time.process_time() - began
    return {
        "figure": f"predict/memory of {count} rows",
        "before": held[0],
        "entries": round(entries.nbytes / 1e6),
        "most while listing": listed,
        "after each part": held[1:],
        "growth after the first part": round(held[-1] - held[2], 1),
        "after all": _held(),
        "most": _most(),
        "cpu_us_a_row": round(1e6 * seconds / count),
    }


def _held() -> float:
    """MB of memory that are held now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def _most() -> float:
    """MB of memory that were held at most."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)


def main() -> None:
    """Measures and writes one line a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="the folder of a model")
    parser.add_argument("--pictures", type=Path, help="a folder of .jpg files")
    parser.add_argument("--rows", type=int, help="measure memory alone, of so many rows")
    parser.add_argument("--output", type=Path, help="a .jsonl file; printed as well")
    parser.add_argument("--count", type=int, default=96, help="pictures")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    measuring.tell(figures(options), options.output)


if __name__ == "__main__":
    main()

"""What a picture costs in `predict`, over asking about one after another, and its gate."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import retina_jax
from benchmarks import measuring
from data_pipelines import quality
from data_pipelines.images import functional


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures; processor and wall milliseconds of a picture."""
    model = retina_jax.load(options.model)
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


def main() -> None:
    """Measures and writes one line a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="the folder of a model")
    parser.add_argument("--pictures", type=Path, required=True, help="a folder of .jpg files")
    parser.add_argument("--output", type=Path, help="a .jsonl file; printed as well")
    parser.add_argument("--count", type=int, default=96, help="pictures")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    measuring.tell(figures(options), options.output)


if __name__ == "__main__":
    main()

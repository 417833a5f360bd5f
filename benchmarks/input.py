"""What a record costs on its way from the disk into a batch, as ratios taken in one run.

    python benchmarks/input.py --output=benchmarks/results/input.jsonl

One JSON line for each figure; benchmarks/README.md says what they compare.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import photographs
import psutil
import simplejpeg
from PIL import Image

from data_pipelines import pipelines
from data_pipelines import transforms as T
from data_pipelines.images import functional
from data_pipelines.records import storage
from data_pipelines.text import tokenizers

cv2: Any = None  # only to compare with, where it is installed
with contextlib.suppress(ImportError):
    cv2 = importlib.import_module("cv2")

# Images a second that one accelerator takes: published RN50 training on one H100, and the goal
# for ViT-B/16 on one.
RATES = {"published": 1459, "goal": 3200}
OVERHEAD, PREPARED = 1.2, 30.0
PACKAGES = ("numpy", "grain", "array-record", "tensorflow-datasets", "simplejpeg", "pillow",
            "cykooz-resizer", "opencv-python-headless", "sentencepiece")  # fmt: skip
HEIGHT, WIDTH = 2848, 4288

Work = Callable[[int], None]  # does so many records of work


def by_library(decode: Callable, resize: Callable, pictures: list[bytes], size: int) -> Work:
    """Work that decodes pictures and resizes them to [size size 3], and nothing else."""

    def work(records: int) -> None:
        for i in range(records):
            image = decode(pictures[i % len(pictures)])
            if image.shape[:2] != (size, size):
                resize(image, size)

    return work


def opponents(pictures: list[bytes], size: int) -> dict[str, Work]:
    """Bare decoding and antialiased resizing of the same bytes by maintained libraries."""
    fast = functional.cykooz_resizer

    def by_pil(image: np.ndarray, size: int) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))

    def by_vectors(image: np.ndarray, size: int) -> bytes:
        kind, convolution = fast.PixelType.U8x3, fast.ResizeAlg.convolution
        after = fast.ImageData(size, size, kind)
        fast.Resizer().resize(
            fast.ImageData(image.shape[1], image.shape[0], kind, image.tobytes()), after,
            fast.ResizeOptions(convolution(fast.FilterType.bilinear)),
        )  # fmt: skip
        return after.get_buffer()

    pairs: dict[str, tuple[Callable, Callable]] = {
        "simplejpeg+PIL": (simplejpeg.decode_jpeg, by_pil),
        "PIL+PIL": (lambda data: np.asarray(Image.open(io.BytesIO(data))), by_pil),
    }
    if fast is not None:
        pairs["simplejpeg+cykooz"] = (simplejpeg.decode_jpeg, by_vectors)
    if cv2 is not None:
        cv2.setNumThreads(1)
        # Of OpenCV's filters only this one does not alias.
        pairs["cv2+cv2"] = (
            lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB),
            lambda image, size: cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA),
        )
    return {name: by_library(*pair, pictures, size) for name, pair in pairs.items()}


def steps(size: int, text: bool, augment: bool) -> tuple[Any, ...]:
    """Transforms: decoding, and FLAIR's augmentation and a tokenised caption where asked for."""
    found: list[Any] = [T.Decode(size)]
    if augment:
        found += [T.RandomFlip(), T.RandomAffine(), T.ColorJitter()]
    if text:
        found += [T.Tokenize(tokenizers.SentencePiece(), 77), T.Group("caption")]
    return tuple(found)


def pipeline(source: Any, transforms: tuple[Any, ...], batch_size: int, seed: int) -> Work:
    """Work of the training pipeline on one thread beside the main one."""
    stream = pipelines.Stream(source, transforms, batch_size)
    data = pipelines.train({"": stream}, seed=seed, num_threads=1)
    done = 0

    def work(records: int) -> None:
        nonlocal done
        batches = max(records // batch_size, 1)
        with data.batches(done, done + batches) as found:
            for _ in found:
                pass
        done += batches

    return work


def interleaved(
    works: dict[str, Work], records: dict[str, int], pairs: int
) -> dict[str, dict[str, np.ndarray]]:
    """{'cpu' or 'wall': {name: ms per record, float [pairs]}}, all works in turn in each round."""
    for name, work in works.items():
        work(max(records[name] // 4, 1))
    whole = {name: partial(work, records[name]) for name, work in works.items()}
    return {
        clock: {name: seconds / records[name] * 1e3 for name, seconds in taken.items()}
        for clock, taken in measuring.interleaved(whole, pairs).items()
    }


def cores(milliseconds: float) -> dict[str, float]:
    """Cores that one accelerator keeps busy at each of `RATES`."""
    return {name: round(milliseconds * rate / 1e3, 2) for name, rate in RATES.items()}


def overhead(source: Any, size: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The pipeline over the fastest bare decoding and resizing of the same bytes."""
    pictures = [source[i]["image"] for i in range(min(len(source), 256))]
    bare = opponents(pictures, size)
    works = {**bare, **{name: pipeline(source, steps(size, text, augment), options.batch_size,
                                       options.seed)
                        for name, text, augment in (("minimal", False, False),
                                                    ("text", True, False),
                                                    ("augmented", True, True))}}  # fmt: skip
    taken = interleaved(works, dict.fromkeys(works, options.records), options.pairs)
    fastest = min(bare, key=lambda name: np.median(taken["cpu"][name]))
    lines = []
    for name in works:
        ratio = {
            clock: measuring.spread(values[name] / values[fastest])
            for clock, values in taken.items()
        }
        line = {
            "figure": f"overhead/{size}/{name}",
            "ratio": ratio["cpu"],
            "ratio_wall": ratio["wall"]["median"],
            "cpu_ms": measuring.spread(taken["cpu"][name]),
        }
        if name in bare:
            line["fastest"] = name == fastest
        else:
            line |= {
                "over": fastest,
                "goal": OVERHEAD,
                "met": bool(ratio["cpu"]["median"] <= OVERHEAD),
                "cores": cores(line["cpu_ms"]["median"]),
            }
        lines.append(line)
    return lines


def preparing(
    raw: Any, stored: Any, pictures: list[bytes], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Raw photographs over prepared ones: by the pipeline as it is, and to the same pixels."""
    few, size = options.raw_records, 512

    def the_same_pixels(records: int) -> None:
        for i in range(records):
            photographs.prepared(pictures[i % len(pictures)], size)

    works = {
        "prepared": pipeline(stored, steps(size, False, False), options.batch_size, options.seed),
        "raw, as it is": pipeline(raw, steps(size, False, False), few, options.seed),
        "raw, to the same pixels": the_same_pixels,
    }
    counts = {"prepared": options.records, "raw, as it is": few, "raw, to the same pixels": few}
    taken = interleaved(works, counts, options.pairs)["cpu"]
    lines = []
    for name in works:
        line = {"figure": f"preparation/{name}", "cpu_ms": measuring.spread(taken[name])}
        line["cores"] = cores(line["cpu_ms"]["median"])
        if name != "prepared":
            ratio = measuring.spread(taken[name] / taken["prepared"])
            line |= {"ratio": ratio, "goal": PREPARED, "met": bool(ratio["median"] >= PREPARED)}
        lines.append(line)
    return lines


def memory(source: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Resident memory of the training pipeline while it reads."""
    stream = pipelines.Stream(
        source, steps(224, True, True), options.batch_size, distinct="patient"
    )
    data = pipelines.train({"": stream}, seed=options.seed, num_threads=storage.cores())
    every = max(options.memory_records // 10 // options.batch_size, 1)
    read, resident = [], []
    with data.batches(0, every * 10) as batches:
        for i, _ in enumerate(batches, 1):
            if i % every == 0:
                gc.collect()
                read.append(i * options.batch_size)
                resident.append(psutil.Process().memory_info().rss / 2**20)
    slope = np.polyfit(read, resident, 1)[0] * 10_000
    return {
        "figure": "memory",
        "records": read,
        "resident_mib": np.round(resident, 1).tolist(),
        "growth_mib": round(resident[-1] - resident[0], 1),
        "slope_mib_per_10000": round(float(slope), 2),
        "threads": storage.cores(),
    }


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures."""
    given = {name: value for name, value in vars(options).items() if name != "output"}
    yield measuring.environment(PACKAGES, **given)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        height, width = (HEIGHT, WIDTH) if not options.tiny else (712, 1072)
        pictures = [
            photographs.fundus(height, width, options.seed + i) for i in range(options.pictures)
        ]
        stored = photographs.dataset(
            folder,
            "prepared",
            [photographs.prepared(data, 512) for data in pictures],
            options.stored,
        )
        raw = photographs.dataset(folder, "raw", pictures, 4 * options.raw_records)
        for size in (224, 512):
            yield from overhead(stored, size, options)
        yield from preparing(raw, stored, pictures, options)
        yield memory(stored, options)
    yield {"figure": "load", "load": os.getloadavg()}


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", help="file that the lines are written to")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="see that it runs; the figures are of small pictures and mean nothing",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    sizes = {"pictures": 8, "stored": 2048, "records": 512, "batch_size": 32, "raw_records": 8,
             "pairs": 9, "memory_records": 50_000}  # fmt: skip
    if options.tiny:
        sizes = {"pictures": 2, "stored": 40, "records": 8, "batch_size": 4, "raw_records": 2,
                 "pairs": 2, "memory_records": 80}  # fmt: skip
    vars(options).update(sizes)
    measuring.tell(run(options), options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Memory and time of a training step's gradient, whole batches against microbatches.

    python -m benchmarks.microbatch --output=benchmarks/results/microbatch.jsonl

One JSON line for each figure, on one device, for two vision transformers that are paired by the
softmax loss. `temporary` is what the compiler sets aside beside arguments and results, for a batch
cut into 1, 2, 4, ... pieces and for a growing batch of equal microbatches. `time` compares
processor seconds, in turns in one process, so that what else the machine does falls on both, after
checking that loss and gradient agree.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import measuring
from retina_jax.models.dual import Dual
from retina_jax.objectives.contrastive import Contrastive
from retina_jax.train import microbatch, sharding
from retina_jax.train.step import compose

SIZE, PAIR = 64, ("image", "oct")
TOWER = {"name": "vit", "width": 192, "heads": 3, "mlp_dim": 768, "patch_size": 16}
MOST_OF_WHOLE = 0.25  # of the temporaries, in eight pieces


def gradient(depth: int, rows: int, count: int) -> tuple[Dual, Any]:
    """The model, and the jitted loss with its gradient; a count of 0 is the batch at once."""
    model = Dual(towers={key: {**TOWER, "depth": depth} for key in PAIR}, dim=64)
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    how = microbatch.plan(rows // count if count else None, {"": rows}, mesh)
    loss = compose(model, (Contrastive((PAIR,)),), {}, how)
    return model, jax.jit(jax.value_and_grad(loss, has_aux=True))


def photographs(rows: int) -> dict[str, np.ndarray]:
    """Noise in place of pixels."""
    random = np.random.default_rng(0)
    return {key: random.integers(0, 256, (rows, SIZE, SIZE, 3), np.uint8) for key in PAIR}


def temporary_bytes(depth: int, rows: int, count: int) -> int:
    """What the compiler sets aside; nothing is allocated."""
    model, function = gradient(depth, rows, count)
    data, rng = photographs(rows), jax.random.key(0)
    params = jax.eval_shape(lambda: model.init(rng, data)["params"])
    return function.lower(params, {}, data, rng).compile().memory_analysis().temp_size_in_bytes


def temporary(depth: int, rows: int, counts: list[int]) -> dict[str, Any]:
    """Temporaries of one batch in more and more pieces."""
    whole = temporary_bytes(depth, rows, 0)
    pieces = [temporary_bytes(depth, rows, count) for count in counts]
    share = [round(value / whole, 4) for value in pieces]
    line = {"figure": "temporary/pieces", "depth": depth, "rows": rows, "pieces": counts,
            "whole_mib": round(whole / 2**20, 1),
            "cut_mib": [round(value / 2**20, 1) for value in pieces],
            "share": share}  # fmt: skip
    if 8 in counts:
        line |= {"goal": MOST_OF_WHOLE, "met": share[counts.index(8)] <= MOST_OF_WHOLE}
    return line


def growing(depth: int, rows: int, factors: list[int]) -> dict[str, Any]:
    """Temporaries of a batch that grows while its microbatches stay as large."""
    found = [temporary_bytes(depth, rows * factor, factor) for factor in factors]
    return {"figure": "temporary/batch", "depth": depth, "microbatch": rows,
            "rows": [rows * factor for factor in factors],
            "cut_mib": [round(value / 2**20, 1) for value in found]}  # fmt: skip


def timed(depth: int, rows: int, count: int, turns: int) -> dict[str, Any]:
    """Processor seconds of both, and how far their results are apart."""
    model, whole = gradient(depth, rows, 0)
    _, pieces = gradient(depth, rows, count)
    data, rng = photographs(rows), jax.random.key(0)
    params = jax.jit(lambda: model.init(rng, data)["params"])()
    works = {name: lambda f=f: jax.block_until_ready(f(params, {}, data, rng))
             for name, f in (("whole", whole), ("cut", pieces))}  # fmt: skip
    results = {name: work() for name, work in works.items()}  # the first run compiles
    seconds = measuring.interleaved(works, turns)["cpu"]
    flat = {
        name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result[1])])
        for name, result in results.items()
    }
    apart = np.abs(flat["whole"] - flat["cut"]).max() / np.abs(flat["whole"]).max()
    ratios = seconds["cut"] / seconds["whole"]
    return {"figure": "time", "depth": depth, "rows": rows, "pieces": count, "turns": turns,
            "loss_difference": abs(float(results["whole"][0][0] - results["cut"][0][0])),
            "gradient_difference": float(apart),
            "cpu_seconds": {name: round(float(np.median(s)), 3) for name, s in seconds.items()},
            "ratio": round(float(np.median(ratios)), 3),
            "ratio_range": [round(float(r), 3) for r in (ratios.min(), ratios.max())]}  # fmt: skip


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures."""
    counts = [count for count in (1, 2, 4, 8, 16, 32) if count <= options.rows]
    yield measuring.environment(("jax", "jaxlib", "flax"), device=jax.devices()[0].device_kind)
    yield temporary(options.depth, options.rows, counts)
    yield growing(options.depth, max(options.rows // 8, 1), [2, 4, 8, 16, 32])
    yield timed(options.depth, options.rows, min(8, options.rows), options.turns)


def main() -> None:
    """Measures and writes one line a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, help="a .jsonl file; printed as well")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    measuring.tell(figures(options), options.output)


if __name__ == "__main__":
    main()

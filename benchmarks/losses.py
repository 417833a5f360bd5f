"""Memory and time of the contrastive losses, whole matrix of logits against tiles.

    python -m benchmarks.losses --output=benchmarks/results/losses.jsonl

One JSON line for each figure. `temporary/LOSS` is what the compiler sets aside beside arguments
and results for the loss and its gradients (two embeddings of 512 float32 dimensions, one device);
nothing is allocated for it. `time/LOSS` compares processor seconds of both forms, one after the
other in turns in one process, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring
from retina_jax.losses import blockwise, cloob, contrastive

DIM = 512
# Loss -> (the whole matrix, tiles, arguments after the embeddings).
LOSSES: dict[str, tuple[Callable, Callable, tuple[float, ...]]] = {
    "softmax": (contrastive.softmax, blockwise.softmax, (1 / 0.07,)),
    "sigmoid": (contrastive.sigmoid, blockwise.sigmoid, (10.0, -10.0)),
    "infoloob": (contrastive.infoloob, blockwise.infoloob, (30.0,)),
    "cloob": (cloob.cloob, blockwise.cloob, (30.0, 8.0)),
}
MOST_GROWTH, GROWTH_FROM = 1.05, 8192
LEAST_SAVING = {"softmax": 30.0, "cloob": 80.0}
SAVING_AT = 32768
MOST_TIME = {"softmax": 1.1, "cloob": 1.0}


def gradients(loss: Callable, extra: tuple[float, ...]) -> Any:
    """The compiled loss with its gradients by both embeddings."""
    return jax.jit(jax.value_and_grad(lambda a, b: loss(a, b, *extra), argnums=(0, 1)))


def temporary(name: str, sizes: list[int]) -> dict[str, Any]:
    """Temporary bytes of both forms at several batches, and how they grow."""
    *forms, extra = LOSSES[name]
    found: dict[str, list[int]] = {}
    for form, loss in zip(("dense", "blockwise"), forms, strict=True):
        found[form] = []
        for size in sizes:
            rows = jax.ShapeDtypeStruct((size, DIM), jnp.float32)
            compiled = gradients(loss, extra).lower(rows, rows).compile()
            found[form].append(compiled.memory_analysis().temp_size_in_bytes)
    large = [i for i, size in enumerate(sizes) if size >= min(GROWTH_FROM, sizes[-2])]
    growth = {
        form: round(float(np.polyfit(np.log(np.take(sizes, large)),
                                     np.log(np.take(values, large)), 1)[0]), 4)
        for form, values in found.items()
    }  # fmt: skip
    saving = [round(d / b, 1) for d, b in zip(found["dense"], found["blockwise"], strict=True)]
    line = {"figure": f"temporary/{name}", "rows": sizes,
            "dense_mib": [round(v / 2**20, 1) for v in found["dense"]],
            "blockwise_mib": [round(v / 2**20, 1) for v in found["blockwise"]],
            "saving": saving, "growth": growth, "growth_goal": MOST_GROWTH,
            "growth_met": growth["blockwise"] <= MOST_GROWTH}  # fmt: skip
    if name in LEAST_SAVING and SAVING_AT in sizes:
        here = saving[sizes.index(SAVING_AT)]
        line |= {"saving_at_32768": here, "saving_goal": LEAST_SAVING[name],
                 "saving_met": here >= LEAST_SAVING[name]}  # fmt: skip
    return line


def timed(name: str, size: int, pairs: int, seed: int) -> dict[str, Any]:
    """Seconds of both forms, in turns, and that their results agree."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(2, size, DIM))
    a, b = jnp.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), jnp.float32)
    *forms, extra = LOSSES[name]
    functions = [gradients(loss, extra) for loss in forms]
    (dense, wanted), (value, got) = (jax.block_until_ready(f(a, b)) for f in functions)
    error = max(float(jnp.abs(x - y).max() / jnp.abs(x).max())
                for x, y in zip(wanted, got, strict=True))  # fmt: skip
    works = {form: lambda f=f: jax.block_until_ready(f(a, b))
             for form, f in zip(("dense", "blockwise"), functions, strict=True)}  # fmt: skip
    taken = measuring.interleaved(works, pairs)
    cpu, wall = taken["cpu"], taken["wall"]
    ratio = cpu["blockwise"] / cpu["dense"]
    line = {"figure": f"time/{name}", "rows": size,
            "ratio": {"median": round(float(np.median(ratio)), 3),
                      "low": round(float(ratio.min()), 3), "high": round(float(ratio.max()), 3)},
            "ratio_wall": round(float(np.median(wall["blockwise"] / wall["dense"])), 3),
            "dense_cpu_s": round(float(np.median(cpu["dense"])), 3),
            "blockwise_cpu_s": round(float(np.median(cpu["blockwise"])), 3),
            "loss_error": abs(float(value / dense - 1)), "gradient_error": error}  # fmt: skip
    if name in MOST_TIME:
        line |= {"goal": MOST_TIME[name],
                 "met": bool(np.median(ratio) <= MOST_TIME[name])}  # fmt: skip
    return line


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures."""
    yield measuring.environment(
        ("jax", "jaxlib", "numpy"), device=jax.devices()[0].device_kind, tiny=options.tiny,
        seed=options.seed,
    )  # fmt: skip
    sizes = [256, 512] if options.tiny else [4096 * 2**i for i in range(5)]
    size, pairs = (256, 2) if options.tiny else (4096, 9)
    for name in LOSSES:
        yield temporary(name, sizes)
        yield timed(name, size, pairs, options.seed)


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", help="file that the lines are written to")
    parser.add_argument("--tiny", action="store_true", help="see that it runs; the figures are "
                        "of small batches and mean nothing")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    measuring.tell(figures(options), options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What freezing a tower, or its first stages, saves of a training step.

    python -m benchmarks.frozen --output=benchmarks/results/frozen.jsonl

One JSON line for each tower, on one device: a tower of photographs with a linear head is trained by
cross-entropy and AdamW, with everything trained, with its first part frozen, and with only the head
trained. Temporaries are the compiler's own count for the program of a whole step. FLOPs are those
of the program before it is optimised, with layers written out, since XLA counts the body of a loop
once. Times are taken in turns in one process, and read as ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import measuring
from retina_jax.build import options_of
from retina_jax.models.single_tower import Tower
from retina_jax.models.towers import TOWERS
from retina_jax.train import optimizer
from retina_jax.train.frozen import Frozen
from retina_jax.train.step import compose, initialize, make_step
from retina_jax.types import Batch, Outputs, Scalar

CLASSES = 5
ADAMW = {"name": "adamw", "weight_decay": 0.01}
VIT_B = {"name": "vit"}
RESNET_50 = {"name": "resnet", "depth": 50}
LITE_0 = {"name": "efficientnet", "variant": "lite0"}
FREEZE = {"frozen": True}
BEFORE, BLOCKS = r"image/(\w+_embedding|pre_norm).*", "image/blocks/.*"
# Name -> (spec, rules of the first part, the same made small).
SYSTEMS: dict[str, tuple[dict[str, Any], optimizer.Rules, dict[str, Any]]] = {
    "vit_b16": (VIT_B, ((BEFORE, FREEZE), (BLOCKS, {"frozen_layers": 4})),
                {"width": 32, "depth": 5, "heads": 2, "mlp_dim": 64}),
    "resnet50": (RESNET_50, (("image/(conv1|bn1|layer[12]_.*)/.*", FREEZE),),
                 {"depth": 18, "width": 8}),
    "efficientnet_lite0": (LITE_0, (("image/(stem_.*|block[0-4])/.*", FREEZE),), {}),
}  # fmt: skip


def cross_entropy(out: Outputs, batch: Batch) -> dict[str, Scalar]:
    """Softmax over the classes."""
    losses = optax.softmax_cross_entropy_with_integer_labels(out["logits"], batch["label"])
    return {"cross_entropy": losses.mean()}


def photographs(rows: int, size: int) -> dict[str, np.ndarray]:
    """Noise in place of pixels."""
    random = np.random.default_rng(0)
    return {"image": random.integers(0, 256, (rows, size, size, 3), np.uint8),
            "label": random.integers(0, CLASSES, rows).astype(np.int32)}  # fmt: skip


def made(tower: Mapping[str, Any], first: optimizer.Rules) -> tuple[Any, jax.stages.Wrapped]:
    """The initialisation, and the step to be compiled, with what the rules name frozen."""
    rules = (*first, (".*", {}))
    model, frozen = Tower(key="image", tower=tower, classes=CLASSES), Frozen(rules)
    adamw = optimizer.make(ADAMW, lambda count: 1e-4, clip=1.0, rules=rules)
    loss = compose(model, (cross_entropy,), {}, frozen=frozen)
    return initialize(model, adamw), jax.jit(make_step(loss, adamw, frozen), donate_argnums=0)


class Compiled:
    """The compiled step of one way to train, and the state that it moves on."""

    def __init__(self, tower: Mapping[str, Any], first: optimizer.Rules, batch: Batch):
        self._batch, self._rng = batch, jax.random.key(0)
        init, step = made(tower, first)
        # As in `loop.fresh_state`: it runs once, and optimised it takes minutes to compile.
        here = jax.default_backend() == "cpu"
        quickly = {"xla_backend_optimization_level": 0} if here else None
        self._state = jax.jit(init, compiler_options=quickly)(self._rng, batch)
        self._step = step.lower(self._state, batch, self._rng).compile()
        moments = sum(x.nbytes for x in jax.tree.leaves(self._state.opt_state))
        written_out = {**tower, "scan": False} if "scan" in options_of(TOWERS, tower) else tower
        whole = made(written_out, first)[1].lower(self._state, batch, self._rng)
        memory: Any = self._step.memory_analysis()
        work: Any = whole.cost_analysis()
        self.counted = {
            "temporary_mib": round(memory.temp_size_in_bytes / 2**20, 1),
            "optimizer_mib": round(moments / 2**20, 1),
            "gflop": round(work["flops"] / 1e9, 3),
        }

    def __call__(self) -> None:
        """One step."""
        self._state, metrics = self._step(self._state, self._batch, self._rng)
        jax.block_until_ready(metrics)


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The line of a tower."""
    spec, first, small = SYSTEMS[name]
    tower = {**spec, **(small if options.tiny else {})}
    batch = photographs(options.rows, options.size)
    rules = {"trained": (), "first": first, "frozen": (("image/.*", FREEZE),)}
    ways = {way: Compiled(tower, frozen, batch) for way, frozen in rules.items()}
    for work in ways.values():
        work()
    seconds = measuring.interleaved(ways, options.turns)["cpu"]
    line: dict[str, Any] = {"figure": name, "tiny": options.tiny, "rows": options.rows,
                            "size": options.size, "turns": options.turns}  # fmt: skip
    for way, work in ways.items():
        line[way] = {
            **work.counted,
            "cpu_ms": measuring.spread(1000 * seconds[way]),
            "ratio": measuring.spread(seconds[way] / seconds["trained"]),
        }
    return line


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures."""
    yield measuring.environment(("jax", "jaxlib", "flax"), device=jax.devices()[0].device_kind)
    for name, (spec, *_) in SYSTEMS.items():
        if spec["name"] in TOWERS:
            yield measured(name, options)


def main() -> None:
    """Measures and writes one line a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, help="a .jsonl file; printed as well")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.rows, options.size, options.turns = 2, 32, 1
    measuring.tell(figures(options), options.output)


if __name__ == "__main__":
    main()

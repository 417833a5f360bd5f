"""Training steps on texts of real lengths, cut to the shortest length that holds them or not.

    python -m benchmarks.text_lengths --captions=FILE.csv --vocabulary=vocab.txt

A BERT of 4 layers of 256, without dropout, is paired with a tower of tiny pictures, whose time does
not count. Captions in random order are tokenized to 256; both kinds of steps take turns in one
process, from the same parameters. `--captions` is a table with a column `caption`; without it the
texts are the embedded reports. `fits` says for which share of random batches each length is the
shortest that holds them, `time` how long steps take and how far their losses are apart.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import measuring
from data_pipelines.records import sources
from data_pipelines.text.tokenizers import TOKENIZERS, Tokenizer
from retina_jax.models.dual import Dual
from retina_jax.objectives.contrastive import Contrastive
from retina_jax.train.step import compose, initialize, make_step

SIZE = 32  # pixels
VIT = {"name": "vit", "width": 32, "depth": 1, "heads": 2, "mlp_dim": 64, "patch_size": 16}
BERT = {"name": "bert", "width": 256, "depth": 4, "heads": 4, "mlp_dim": 1024, "dropout": 0.0}
Rows = dict[str, np.ndarray]


def captions(path: Path | None) -> list[str]:
    """The texts of a table, or of the embedded reports."""
    if path is None:
        return [
            str(text) for text in sources.load("synthetic_retina/reports", "public").column("text")
        ]
    with path.open(encoding="utf-8", newline="") as file:
        return [row["caption"] for row in csv.DictReader(file)]


def fits(tokens: np.ndarray, lengths: Sequence[int], whole: int) -> Iterator[dict[str, Any]]:
    """Of how many random batches of several sizes each length is the shortest that holds them."""
    every = np.array([*lengths, whole])
    for rows in (16, 32, 64, 128, 256):
        held = [math.comb(int((tokens <= n).sum()), rows) for n in every]
        if held[-1]:
            shares = np.diff([0, *(number / held[-1] for number in held)])
            told = {str(n): round(float(share), 3) for n, share in zip(every, shares, strict=True)}
            yield {"figure": "fits", "rows": rows, "share": told,
                   "mean_length": round(float(shares @ every), 1)}  # fmt: skip


def batches(
    texts: Sequence[str], tokenizer: Tokenizer, rows: int, number: int, whole: int
) -> list[Rows]:
    """Texts in random order, each with noise for a picture."""
    random, made = np.random.default_rng(1), []
    for _ in range(number):
        chosen = random.permutation(len(texts))[:rows]
        encoded = [tokenizer.encode(texts[int(place)], whole) for place in chosen]
        text, mask = (np.stack(arrays) for arrays in zip(*encoded, strict=True))
        image = random.integers(0, 256, (rows, SIZE, SIZE, 3), np.uint8)
        made.append({"image": image, "text": text, "text_mask": mask})
    return made


def timed(
    data: Sequence[Rows], vocab_size: int, lengths: Sequence[int], turns: int
) -> dict[str, Any]:
    """Processor seconds of a step of both kinds."""
    towers = {"image": VIT, "text": {**BERT, "vocab_size": vocab_size, "pool": "cls"}}
    model = Dual(towers=towers, dim=64)
    optimizer, rng = optax.adamw(1e-4), jax.random.key(0)
    loss = compose(model, [Contrastive((("image", "text"),))], {})
    quick = {"xla_backend_optimization_level": 0}
    state = jax.jit(initialize(model, optimizer), compiler_options=quick)(rng, data[0])
    # Of one compilation each, ahead of what is timed; no state is given away.
    steps = {
        name: jax.jit(make_step(loss, optimizer, lengths=cut)).lower(state, data[0], rng).compile()
        for name, cut in (("whole", ()), ("cut", tuple(lengths)))
    }

    def run(name: str) -> list[dict[str, float]]:
        held, told = state, []
        for rows in data:
            held, metrics = steps[name](held, rows, rng)
            told.append({key: float(value) for key, value in metrics.items()})
        return told

    told = {name: run(name) for name in steps}
    pairs = list(zip(told["whole"], told["cut"], strict=True))
    seconds = measuring.interleaved({name: lambda n=name: run(n) for name in steps}, turns)
    ratios = {clock: taken["whole"] / taken["cut"] for clock, taken in seconds.items()}
    return {"figure": "time", "rows": len(data[0]["text"]), "steps": len(data), "turns": turns,
            "lengths": [int(metrics["text_length"]) for metrics in told["cut"]],
            "loss_difference": max(abs(a["loss"] / b["loss"] - 1) for a, b in pairs),
            "cpu_seconds_of_a_step": {name: round(float(np.median(taken)) / len(data), 3)
                                      for name, taken in seconds["cpu"].items()},
            "ratio": measuring.spread(ratios["cpu"]),
            "ratio_wall": measuring.spread(ratios["wall"])}  # fmt: skip


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures."""
    spec = {} if options.vocabulary is None else {"vocab": options.vocabulary}
    tokenizer = TOKENIZERS["wordpiece" if spec else "sentencepiece"](**spec)
    texts, whole = captions(options.captions), options.length
    tokens = np.array([int(tokenizer.encode(text, whole)[1].sum()) for text in texts])
    middle = [int(n) for n in np.percentile(tokens, (50, 90, 99, 99.9, 100))]
    yield measuring.environment(("jax", "jaxlib", "flax"), device=jax.devices()[0].device_kind)
    yield {"figure": "tokens", "texts": len(texts), "percentiles": (50, 90, 99, 99.9, 100),
           "tokens": middle}  # fmt: skip
    yield from fits(tokens, options.lengths, whole)
    data = batches(texts, tokenizer, options.rows, options.steps, whole)
    yield timed(data, tokenizer.vocab_size, options.lengths, options.turns)


def main() -> None:
    """Measures and writes one line a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, help="a .jsonl file; printed as well")
    parser.add_argument("--captions", type=Path, help="a .csv file with a column 'caption'")
    parser.add_argument("--vocabulary", help="a vocab.txt of BERT; by default the shipped pieces")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    measuring.tell(figures(options), options.output)


if __name__ == "__main__":
    main()

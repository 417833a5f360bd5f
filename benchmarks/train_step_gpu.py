"""What `train_step.py --device=gpu` measures: bfloat16 steps of a published size on one card.

Pairs a second and the share of the card's peak (MFU) of a ViT-B/16 CLIP step, beside the same
model in PyTorch; the largest batch that takes a step, with and without tiles and microbatches;
images a second of ResNet-50 at 512 pixels.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import torch_twins
from benchmarks.measuring import interleaved
from benchmarks.steps import OPTIMIZATION, Ours, config

# Dense bfloat16 operations a second, by the beginning of the card's name (NVIDIA's data sheets).
PEAKS = {"NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100": 312e12}
MFU_GOAL, IMAGES_GOAL = 0.5, 1300
TOKENS, DIM = 77, 256
VIT_B = {"name": "vit", "width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072, "patch_size": 16,
         "pre_norm": True, "patch_bias": False}  # fmt: skip
# Of the size of CLIP's text tower.
BERT = {"name": "bert", "vocab_size": None, "width": 512, "depth": 12, "heads": 8, "mlp_dim": 2048,
        "max_length": 128, "dropout": 0.0, "pool": "cls"}  # fmt: skip
ROWS, PIXELS = 512, 224
RESNET, RESNET_ROWS, RESNET_PIXELS = {"name": "resnet", "depth": 50}, 128, 512
MICROBATCH, TILE, LARGEST = 256, 1024, 65_536


def pair_flops(pixels: int, image: Mapping[str, Any], text: Mapping[str, Any],
               tokens: int) -> float:  # fmt: skip
    """Operations of a training step for one pair, two for each multiplication of a product.

    Counted are the patches, the maps and the two products of each attention, the MLPs and the
    projections; a backward pass costs two forward passes, and what is computed again is no gain.

    Args:
      pixels: side of the square picture.
      image: settings of a vit.
      text: settings of a bert.
      tokens: of the text.
    """

    def layers(tower: Mapping[str, Any], length: int) -> float:
        width = tower["width"]
        maps = length * (8 * width**2 + 4 * width * tower["mlp_dim"])
        return tower["depth"] * (maps + 4 * length**2 * width)

    patches = (pixels // image["patch_size"]) ** 2
    embedding = 2 * patches * 3 * image["patch_size"] ** 2 * image["width"]
    projections = 2 * DIM * (image["width"] + text["width"])
    return 3 * (embedding + projections + layers(image, patches + 1) + layers(text, tokens))


def largest(takes_a_step: Callable[[int], object], first: int, most: int) -> int:
    """The largest of first, 2 first, 4 first, ... up to `most` that fits into memory, or 0."""
    found, rows = 0, first
    while rows <= most:
        try:
            takes_a_step(rows)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            break
        finally:
            gc.collect()
        found, rows = rows, 2 * rows
    return found


def _half(image: Mapping[str, Any], pixels: int, rows: int) -> dict[str, Any]:
    settings = config(image, BERT, pixels, rows, TOKENS)
    settings["model"]["dtype"] = "bfloat16"
    return settings


def _speed(image: Mapping[str, Any], pixels: int, rows: int, rounds: int,
           workdir: Path) -> Iterator[tuple[str, float]]:  # fmt: skip
    """(Name, rows a second) of ours and of PyTorch's compiled step, in turns."""
    ours = Ours(_half(image, pixels, rows), workdir)
    steps: dict[str, Callable[[], float]] = {"ours": ours}
    if torch_twins.torch is not None:
        steps["plain, compiled"] = torch_twins.Step(
            "plain", ours.model, ours.params, ours.batch, **OPTIMIZATION, compiler="inductor",
            device="cuda", half=True,
        )  # fmt: skip
    for _ in range(3):  # both compile, and PyTorch's allocator settles
        for step in steps.values():
            step()
    for name, seconds in interleaved(steps, rounds)["wall"].items():
        yield name, round(rows / float(np.median(seconds)), 1)


def figures(rounds: int, workdir: Path) -> Iterator[dict[str, Any]]:
    """All figures of one card."""
    card = jax.devices()[0].device_kind
    peak = next((value for name, value in PEAKS.items() if card.startswith(name)), None)
    flops = pair_flops(PIXELS, VIT_B, BERT, TOKENS)
    for name, rate in _speed(VIT_B, PIXELS, ROWS, rounds, workdir):
        mfu = None if peak is None else round(rate * flops / peak, 4)
        yield {"figure": f"gpu/vit_b16/{name}", "card": card, "rows": ROWS,
               "pairs_per_second": rate, "gflops_a_pair": round(flops / 1e9, 1), "mfu": mfu,
               "goal": MFU_GOAL, "met": mfu is not None and mfu >= MFU_GOAL}  # fmt: skip

    def whole(rows: int) -> object:
        return Ours(_half(VIT_B, PIXELS, rows), workdir)()

    def cut(rows: int) -> object:
        settings = _half(VIT_B, PIXELS, rows)
        settings.microbatch = MICROBATCH
        settings.objectives.clip.blockwise = TILE
        return Ours(settings, workdir)()

    for name, takes_a_step in (("whole", whole), ("tiles and microbatches", cut)):
        yield {"figure": f"gpu/largest batch/{name}", "card": card, "model": "vit_b16",
               "rows": largest(takes_a_step, ROWS, LARGEST), "tried_up_to": LARGEST}  # fmt: skip
    for name, rate in _speed(RESNET, RESNET_PIXELS, RESNET_ROWS, rounds, workdir):
        yield {
            "figure": f"gpu/resnet50_512/{name}",
            "card": card,
            "rows": RESNET_ROWS,
            "images_per_second": rate,
            "goal": IMAGES_GOAL,
            "met": rate >= IMAGES_GOAL,
        }

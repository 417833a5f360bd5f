"""A CLIP training step of ours against open_clip's and against the same model in PyTorch.

    python -m benchmarks.train_step --output=benchmarks/results/train_step.jsonl

One JSON line for each figure, and a table at the end; benchmarks/README.md says what is compared.
Ours is the step of `train/loop.py`, built from a config, on a batch of the embedded data. Before
anything is timed, all have taken one step from the same parameters, with the same loss and
gradient. Where the opponents are not installed (`pip install '.[benchmark]'`) only ours is timed.

`--device=gpu` measures other figures, in bfloat16 on one card (`train_step_gpu.py`).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks import measuring, torch_twins, train_step_gpu
from benchmarks.measuring import interleaved, spread
from benchmarks.steps import OPTIMIZATION, Ours, agreement, config

GOAL = 1.25
MOST_APART = 0.15  # ratios by the clock and of processor times
TOKENS = 48
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "open_clip_torch", "timm", "torchvision",
            "transformers")  # fmt: skip
BERT = {"name": "bert", "vocab_size": None, "width": 384, "depth": 6, "heads": 6, "mlp_dim": 1536,
        "max_length": 128, "dropout": 0.0, "pool": "cls"}  # fmt: skip
VIT_S = {"name": "vit", "width": 384, "depth": 12, "heads": 6, "mlp_dim": 1536, "patch_size": 16,
         "pre_norm": True, "patch_bias": False}  # fmt: skip
COMPILED = ", compiled"
# Name -> (image tower, text tower, pixels, rows, opponents).
System = tuple[dict[str, Any], dict[str, Any], int, int, tuple[str, ...]]
_PLAIN = ("plain", "plain" + COMPILED)
SYSTEMS: dict[str, System] = {
    "vit_s16": (VIT_S, BERT, 160, 16, ("open_clip", "open_clip" + COMPILED, *_PLAIN)),
    "resnet18": ({"name": "resnet", "depth": 18}, BERT, 128, 16, _PLAIN),
}
_SMALL = {"width": 32, "depth": 2, "heads": 2, "mlp_dim": 64}
TINY_SYSTEMS: dict[str, System] = {
    "vit_s16": ({**VIT_S, **_SMALL}, {**BERT, **_SMALL}, 32, 4, ("open_clip", _PLAIN[1])),
    "resnet18": ({"name": "resnet", "depth": 18}, {**BERT, **_SMALL}, 64, 4, _PLAIN[:1]),
}


def opponents(ours: Ours, names: tuple[str, ...], tiny: bool) -> dict[str, torch_twins.Step]:
    """The steps of PyTorch with the parameters and the batch of ours; none without PyTorch."""
    if torch_twins.torch is None:
        return {}
    # In tiny runs the graph is traced only: compiling it takes longer than all the rest.
    compiler = "aot_eager" if tiny else "inductor"
    return {
        name: torch_twins.Step(
            name.removesuffix(COMPILED), ours.model, ours.params, ours.batch, **OPTIMIZATION,
            compiler=compiler if name.endswith(COMPILED) else None,
        )
        for name in names
    }  # fmt: skip


def compared(name: str, options: argparse.Namespace, workdir: Path) -> Iterator[dict[str, Any]]:
    """The lines of one system: ours, then each opponent."""
    image, text, pixels, rows, names = (TINY_SYSTEMS if options.tiny else SYSTEMS)[name]
    ours = Ours(config(image, text, pixels, rows, TOKENS), workdir)
    steps: dict[str, Any] = {"ours": ours, **opponents(ours, names, options.tiny)}
    losses = {key: step() for key, step in steps.items()}
    gradient = ours.gradient()
    same = {
        key: agreement(losses["ours"], torch_twins.weights(step.kind, gradient), losses[key],
                       step.gradient())
        for key, step in steps.items() if key != "ours"
    }  # fmt: skip
    for step in steps.values():  # the second step, after which nothing is compiled any more
        step()
    taken = interleaved(steps, options.rounds)
    for key in steps:
        line = {
            "figure": f"step/{name}/{key}",
            "wall_s": spread(taken["wall"][key]),
            "cpu_s": spread(taken["cpu"][key]),
        }
        if key == "ours":
            line |= {
                "rows": rows,
                "pixels": pixels,
                "tokens": TOKENS,
                "loss": losses[key],
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(ours.params)),
            }
        else:
            ratio = {clock: spread(taken[clock][key] / taken[clock]["ours"]) for clock in taken}
            wall, cpu = (ratio[clock]["median"] for clock in ("wall", "cpu"))
            line |= {
                "ratio_wall": ratio["wall"],
                "ratio_cpu": ratio["cpu"],
                "goal": GOAL,
                "met": bool(wall >= GOAL),
                "undisturbed": bool(abs(wall / cpu - 1) <= MOST_APART),
                **same[key],
            }
        yield line


def table(lines: list[dict[str, Any]]) -> str:
    """What was compared, for people."""
    text = f"{'system':<12}{'step':<22}{'wall s':>8}{'PyTorch / JAX':>15}{'quartiles':>16}\n"
    for line in lines:
        if line["figure"].startswith("step/"):
            _, system, step = line["figure"].split("/")
            text += f"{system:<12}{step:<22}{line['wall_s']['median']:>8.3f}"
            if ratio := line.get("ratio_wall"):
                text += f"{ratio['median']:>15.2f}{ratio['low']:>9.2f} -{ratio['high']:>5.2f}"
            text += "\n"
    return text


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All lines."""
    given = {key: value for key, value in vars(options).items() if key != "output"}
    yield measuring.environment(PACKAGES, machine=jax.devices()[0].device_kind, **given)
    with tempfile.TemporaryDirectory() as folder:
        if options.device == "gpu":
            yield from train_step_gpu.figures(options.rounds, Path(folder))
        else:
            for name in options.systems or (TINY_SYSTEMS if options.tiny else SYSTEMS):
                yield from compared(name, options, Path(folder))
    yield {"figure": "load", "load": os.getloadavg()}


def start(options: argparse.Namespace) -> None:
    """Chooses the device, and gives both frameworks as many threads before they start any."""
    if options.device == "gpu":
        # PyTorch needs room on the same card.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        jax.config.update("jax_platforms", "cuda")
        return
    jax.config.update("jax_platforms", "cpu")
    if hasattr(os, "sched_setaffinity"):  # JAX has a thread for each core that it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    if torch_twins.torch is not None:
        torch_twins.torch.set_num_threads(options.threads)


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", help="file that the lines are written to")
    parser.add_argument("--tiny", action="store_true", help="see that it runs; the figures are "
                        "of small models and mean nothing")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--systems", nargs="*", choices=tuple(SYSTEMS), help="only these")
    parser.add_argument("--threads", type=int, default=2, help="of each framework, on processors")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    start(options)
    lines = measuring.tell(figures(options), options.output)
    print(table(lines), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

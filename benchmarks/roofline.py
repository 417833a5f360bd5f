"""Memory traffic and arithmetic of whole training steps, from programs compiled for a GPU.

    pip install -e '.[cuda13]'                   # a GPU need not be there
    python -m benchmarks.roofline --output=benchmarks/results/roofline.jsonl
    python -m benchmarks.roofline --only=clip --topology=cpu:1

One JSON line a step: TFLOP as they are counted in its trace, GB that its kernels read and write if
no cache keeps anything, MiB of temporaries, milliseconds that either takes at least, and `mfu`, the
share of the peak of arithmetic that the memory allows at best. Nothing is run. A step that the
topology cannot have, such as cuDNN's attention on a processor, says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import retina_jax
from benchmarks import measuring
from data_pipelines.errors import InputError
from retina_jax import aot
from retina_jax.compiled import devices, search

_BERT = {"name": "bert", "vocab_size": 28_996, "pool": "flair"}
_CLIP = {
    "model": {"name": "dual", "towers": {"image": {"name": "vit"}, "text": _BERT}, "dim": 512,
              "dtype": "bfloat16"},
    "streams.public.batch_size": 1024,
}  # fmt: skip


def _towers(**options: Any) -> search.Overrides:
    """CLIP, both of whose towers have these options."""
    return _CLIP | {
        f"model.towers.{tower}.{option}": value
        for tower in ("image", "text")
        for option, value in options.items()
    }


_FUSED = _towers(attention="cudnn")
_UNROLLED = _towers(attention="cudnn", scan=False)
# What is compiled: a config, and what is changed in it. Dropout of a text's attention leaves it
# without a fused kernel.
STEPS: dict[str, tuple[str, search.Overrides]] = {
    "clip": ("flair:full", _CLIP),
    "clip/remat=dots": ("flair:full", _towers(remat="dots")),
    "clip/cudnn": ("flair:full", _FUSED),
    "clip/cudnn,dropout=0": ("flair:full", {**_FUSED, "model.towers.text.dropout": 0.0}),
    "clip/cudnn,scan=False": ("flair:full", _UNROLLED),
    "clip/cudnn,scan=False,dropout=0": (
        "flair:full", {**_UNROLLED, "model.towers.text.dropout": 0.0}),
    "flair:full": ("flair:full", {"streams.public.batch_size": 16}),
    "flair:full/float32": ("flair:full", {"streams.public.batch_size": 16,
                                          "model.dtype": "float32"}),
}  # fmt: skip


def settings(name: str) -> dict[str, Any]:
    """The settings of a step; photographs of CLIP have 224 pixels and its texts 77 tokens."""
    config, changes = STEPS[name]
    made = aot.without_data(retina_jax.get_config(config))
    if name.startswith("clip"):
        stream = made["streams"]["public"]
        sizes = {"size": 224, "length": 77}
        transforms = tuple({**spec, **{key: value for key, value in sizes.items() if key in spec}}
                           for spec in stream["transforms"])  # fmt: skip
        made = {**made, "streams": {"public": {**stream, "transforms": transforms}}}
    return search.changed(made, changes)


def lines(names: list[str], topology: str, largest: int = 0) -> Iterator[dict[str, Any]]:
    """The lines of these steps, with GB of so many kernels that move most."""
    yield measuring.environment(["jax", "jaxlib"], topology=topology)
    devices.prepare(topology)
    hardware = devices.described(topology)
    chip = devices.CHIPS.get(devices.parse(topology)[0])
    for name in names:
        given = settings(name)
        try:
            found = aot.need(aot.built(given, hardware))
        except InputError as error:  # cuDNN's attention, on a processor
            yield {"figure": f"roofline/{name}", "refused": str(error)}
            continue
        line: dict[str, Any] = {
            "figure": f"roofline/{name}", "tflop": found.flops / 1e12,
            "traffic_gb": found.traffic.memory / 1e9, "temporaries_mib": found.temporaries / 2**20,
            "peak_mib": found.peak / 2**20,
        }  # fmt: skip
        if chip is not None:
            half = given["model"].get("dtype") == "bfloat16"
            arithmetic, moving = found.seconds(chip, half)
            line |= {"arithmetic_ms": 1e3 * arithmetic, "moving_ms": 1e3 * moving,
                     "mfu": min(1.0, arithmetic / moving)}  # fmt: skip
        kernels = sorted(found.traffic.kernels.items(), key=lambda item: -item[1])[:largest]
        yield line | {"kernels_gb": {name: moved / 1e9 for name, moved in kernels}}


def main() -> None:
    """Prints the lines."""
    parser = argparse.ArgumentParser(description="Compiles steps for devices that are not here")
    parser.add_argument("--topology", default="h100:1", help="one device (%(default)s)")
    parser.add_argument("--only", help="steps whose name begins so")
    parser.add_argument("--largest", type=int, default=0, help="kernels to name (%(default)s)")
    parser.add_argument("--output", type=Path, help="file for the lines")
    given = parser.parse_args()
    names = [name for name in STEPS if name.startswith(given.only or "")]
    measuring.tell(lines(names, given.topology, given.largest), given.output)


if __name__ == "__main__":
    main()

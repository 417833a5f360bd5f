"""What compiling a training step costs, with layers as a loop and without.

    python -m benchmarks.compile > benchmarks/results/compile.jsonl

The step is a whole one, with loss, gradient and AdamW, of ViT-B/16 beside a BERT of as many
layers. Nothing is run and no parameter is made. One JSON line a figure: seconds of processor time
(of all threads) to trace, lower and compile; lines of the StableHLO text; bytes of temporaries
that XLA plans for, in bfloat16, with parts of the layers computed again or not.

Layers are a 'loop' (the default), 'written out' (`scan=False`), or have 'own parameters': modules
in a Python loop, as Flax code is usually written, which is what a loop is compared with.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from retina_jax.models.dual import Dual
from retina_jax.objectives.contrastive import Contrastive
from retina_jax.train import step

KINDS = ("loop", "written out", "own parameters")


class _OwnParameters(nn.Module):
    """Layers one after another, each a module of its own."""

    layer: type[nn.Module]
    attributes: Sequence[Any]
    depth: int
    axes: Sequence[Any]

    @nn.compact
    def __call__(self, x: jax.Array, *inputs: Any) -> tuple[jax.Array, Any]:
        outputs = []
        for index in range(self.depth):
            chosen = [v[index] if a == 0 else v for a, v in zip(self.axes, inputs, strict=True)]
            x, output = self.layer(*self.attributes, name=f"layer_{index}")(x, *chosen)
            outputs.append(output)
        return x, None if output is None else jnp.stack(outputs)


def _own_parameters(
    layer: type[nn.Module], depth: int, *, scan: bool, remat: str, inputs: Sequence[Any]
) -> Callable[..., nn.Module]:
    """In the place of `layer_stack.scan_layers`."""

    def make(*attributes: Any, name: str | None = None) -> nn.Module:
        return _OwnParameters(layer, attributes, depth, (*inputs, nn.broadcast), name=name)

    return make


@contextlib.contextmanager
def _kind(kind: str) -> Iterator[dict[str, Any]]:
    """Options of the towers for a kind of layers, to be used within."""
    if kind != "own parameters":
        yield {"scan": kind == "loop"}
        return
    where = ("retina_jax.models.vit.scan_layers", "retina_jax.models.bert.scan_layers")
    with mock.patch(where[0], _own_parameters), mock.patch(where[1], _own_parameters):
        yield {}


def batch(rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of `rows` photographs of 224 pixels with texts of 64 tokens."""
    return {
        "image": jax.ShapeDtypeStruct((rows, 224, 224, 3), jnp.uint8),
        "text": jax.ShapeDtypeStruct((rows, 64), jnp.int32),
        "text_mask": jax.ShapeDtypeStruct((rows, 64), jnp.bool_),
    }


def lowered(kind: str, depth: int, rows: int, dtype: str, remat: str) -> jax.stages.Lowered:
    """The training step of two towers of `depth` layers."""
    with _kind(kind) as options:
        options["remat"] = remat
        towers = {
            "image": {"name": "vit", "depth": depth, **options},
            "text": {"name": "bert", "depth": depth, "pool": "cls", "dropout": 0.0, **options},
        }
        model = Dual(towers=towers, dtype=dtype)
        optimizer = optax.adamw(1e-4)
        loss = step.compose(model, [Contrastive((("image", "text"),))], {})
        key = jax.eval_shape(lambda: jax.random.key(0))
        state = jax.eval_shape(step.initialize(model, optimizer), key, batch(rows))
        train = jax.jit(step.make_step(loss, optimizer), donate_argnums=0)
        return train.lower(state, batch(rows), key)


def compiling(kind: str, depth: int, rows: int) -> float:
    """Prints one line about the compilation and returns its processor seconds."""
    # The default, and what the others usually have.
    remat = "dots_no_batch" if kind == "loop" else "none"
    start = time.process_time()
    program = lowered(kind, depth, rows, "float32", remat)
    middle = time.process_time()
    program.compile()
    end = time.process_time()
    lines = len(program.as_text().splitlines())
    _print(
        what="compile", layers=kind, remat=remat, depth=depth, batch=rows,
        lower_cpu_seconds=middle - start, compile_cpu_seconds=end - middle, stablehlo_lines=lines,
    )  # fmt: skip
    return end - start


def temporaries(depth: int, rows: int) -> None:
    """Prints one line for each way to keep or compute again what the backward pass needs."""
    ways = [("own parameters", "none")]
    ways += [("loop", remat) for remat in ("none", "dots", "dots_no_batch", "full")]
    for kind, remat in ways:
        compiled = lowered(kind, depth, rows, "bfloat16", remat).compile()
        memory: Any = compiled.memory_analysis()
        size = memory.temp_size_in_bytes
        _print(what="temporaries", layers=kind, remat=remat, depth=depth, batch=rows, bytes=size)


def main() -> None:
    """Prints all figures."""
    jax.config.update("jax_enable_compilation_cache", False)
    for depth in (12, 24):
        seconds = {kind: compiling(kind, depth, rows=8) for kind in KINDS}
        for kind in KINDS[1:]:
            ratio = seconds[kind] / seconds["loop"]
            _print(what=f"compile seconds, {kind} / loop", depth=depth, ratio=ratio)
    temporaries(12, rows=32)


def _print(**figures: Any) -> None:
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}
    where = {"jax": jax.__version__, "backend": jax.default_backend()}
    print(json.dumps({**rounded, **where}), flush=True)


if __name__ == "__main__":
    main()

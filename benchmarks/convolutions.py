"""Depthwise and 1x1 convolutions of `models/convolutions.py` against XLA's own, with gradients.

    python -m benchmarks.convolutions --output=benchmarks/results/convolutions.jsonl

Both are forced, whatever the platform would choose, so on an accelerator the ratio says whether the
choice is right there too. One JSON line a shape of EfficientNet-Lite0 or of ResNet-50: time of the
output and both gradients, in turns in one process; read the ratio, XLA's over ours. `apart` is how
far the numbers of the two are from each other, over the largest of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring
from retina_jax.models import convolutions

# (what, side of the input, channels, kernel's size and stride, or the channels of the output)
DEPTHWISE = ((112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 5, 2), (14, 480, 5, 1), (7, 1152, 5, 1))
POINTWISE = ((112, 32, 16), (56, 24, 144), (14, 112, 672), (56, 256, 64), (14, 1024, 256))
Convolve = Callable[[jax.Array, jax.Array], jax.Array]


def depthwise(side: int, channels: int, size: int, stride: int) -> tuple[Any, Convolve, Convolve]:
    """The shape of the kernel, the sum over its places, and XLA's."""
    before, after = (size - 1) // 2, size // 2
    padding = ((before, after),) * 2

    def ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        return convolutions.depthwise_sum(padded, kernel, stride)

    own = partial(convolutions.xla_convolution, strides=(stride,) * 2, padding=padding,
                  groups=channels)  # fmt: skip
    return (size, size, 1, channels), ours, own


def pointwise(side: int, channels: int, features: int) -> tuple[Any, Convolve, Convolve]:
    """The shape of the kernel, the product of matrices, and XLA's."""
    own = partial(convolutions.xla_convolution, strides=(1, 1), padding=((0, 0),) * 2)
    ours = partial(convolutions.pointwise_product, strides=(1, 1))
    return (1, 1, channels, features), ours, own


def measured(kind: str, shape: tuple[int, ...], options: argparse.Namespace) -> dict[str, Any]:
    """The line of a shape."""
    side, channels, *_ = shape
    kernel_shape, *both = {"depthwise": depthwise, "pointwise": pointwise}[kind](*shape)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(options.rows, side, side, channels)), options.dtype)
    kernel = jnp.asarray(rng.normal(size=kernel_shape), options.dtype)

    def with_gradients(convolve: Convolve) -> Callable[[], Any]:
        def weighed(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = convolve(x, kernel).astype(jnp.float32)
            return jnp.square(out).mean(), out

        compiled = jax.jit(jax.value_and_grad(weighed, (0, 1), has_aux=True))
        return lambda: jax.block_until_ready(compiled(x, kernel))

    works = {"ours": with_gradients(both[0]), "xla": with_gradients(both[1])}
    one, other = (jax.tree.leaves(work()) for work in works.values())
    apart = max(float(jnp.abs(a - b).max() / jnp.abs(b).max())
                for a, b in zip(one, other, strict=True))  # fmt: skip
    # What an accelerator does is not in the time of the processor.
    clock = "cpu" if jax.default_backend() == "cpu" else "wall"
    seconds = measuring.interleaved(works, options.turns)[clock]
    return {
        "figure": f"{kind}/{'x'.join(map(str, shape))}", "rows": options.rows,
        "dtype": options.dtype, "clock": clock, "apart": apart, "tiny": options.tiny,
        **{f"{name}_ms": measuring.spread(1000 * taken) for name, taken in seconds.items()},
        "ratio": measuring.spread(seconds["xla"] / seconds["ours"]),
    }  # fmt: skip


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures."""
    yield measuring.environment(("jax", "jaxlib"), device=jax.devices()[0].device_kind)
    for kind, shapes in (("depthwise", DEPTHWISE), ("pointwise", POINTWISE)):
        for shape in shapes[:1] if options.tiny else shapes:
            small = (8, 4, *shape[2:]) if options.tiny else shape
            yield measured(kind, small, options)


def main() -> None:
    """Measures and writes one line a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, help="a .jsonl file; printed as well")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.rows, options.turns = 2, 1
    measuring.tell(figures(options), options.output)


if __name__ == "__main__":
    main()

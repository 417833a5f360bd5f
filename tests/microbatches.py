"""Small batches and models for the tests of microbatches."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from retina_jax.models.keepfit import KeepFIT
from retina_jax.models.layers import BatchNorm
from retina_jax.train import microbatch, sharding
from retina_jax.train.frozen import Frozen
from retina_jax.types import Microbatching

ROWS, SIZE, LENGTH = 12, 16, 8
RNG = jax.random.key(5)
BLOCKS = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
VIT = {"name": "vit", "patch_size": 8, **BLOCKS}
BERT = {"name": "bert", "vocab_size": 50, "max_length": LENGTH, "dropout": 0.0, **BLOCKS}
TOWERS = {"image": VIT, "text": BERT}
# Of KeepFIT: its local injection, and the pairs of its two streams.
LOCAL = {"queries": 3, "width": 8, "depth": 1, "heads": 2, "mlp_dim": 16, "nearest": 2,
         "dropout": 0.0, "decoder": {"vocab_size": 50, "depth": 1, "dropout": 0.0}}  # fmt: skip
PAIRS = (("public/image", "public/text"), ("expert/image", "expert/text"))


def batch(rows: int = ROWS, seed: int = 0) -> dict[str, np.ndarray]:
    """Photographs and texts, some of which share a group."""
    random = np.random.default_rng(seed)
    text = random.integers(1, 50, (rows, LENGTH)).astype(np.int32)
    return {"image": random.integers(0, 256, (rows, SIZE, SIZE, 3)).astype(np.uint8), "text": text,
            "text_mask": np.arange(LENGTH)[None] < random.integers(2, LENGTH + 1, (rows, 1)),
            "group": random.integers(0, rows // 2, rows).astype(np.int32)}  # fmt: skip


def keepfit(local: Any = None, dropout: float = 0.0, **options: Any) -> KeepFIT:
    """KeepFIT over both towers."""
    return KeepFIT(towers=TOWERS, dim=8, reference={"dropout": dropout}, local=local, **options)


def cut(count: int, **options: Any) -> Microbatching:
    """`ROWS` rows in `count` microbatches on one device."""
    return microbatch.plan(
        ROWS // count, {"": ROWS}, sharding.make_mesh(1, 1, jax.devices()[:1]), **options
    )


def variables(model: nn.Module, rows: Any) -> tuple[Any, Any]:
    """Parameters drawn without compiling their initialisation, and statistics."""
    shapes = jax.eval_shape(
        lambda rows: model.init({"params": RNG, "dropout": RNG}, rows, train=True), rows
    )
    random = np.random.default_rng(4)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        if path[0].key != "params":
            return np.full(leaf.shape, path[-1].key == "var", leaf.dtype)
        wide = leaf.shape[0] if len(leaf.shape) > 1 else 25
        return (random.normal(size=leaf.shape) / wide**0.5).astype(leaf.dtype)

    made = jax.tree_util.tree_map_with_path(fill, shapes)
    return made.pop("params"), made


def check(model: nn.Module, rows: Any, how: Microbatching, frozen: Frozen | None = None) -> None:
    """Traces the model in microbatches and runs nothing, as is done before any training."""

    def run(rows: Any) -> Any:
        made = dict(model.init({"params": RNG, "dropout": RNG}, rows, train=True))
        forward = microbatch.forward(model, how, frozen or Frozen())
        return forward(made.pop("params"), made, rows, RNG)

    jax.eval_shape(run, rows)


def assert_close(first: Any, second: Any, tolerance: float = 1e-5) -> None:
    """Each gradient to `tolerance` of the largest of its tree."""
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(second))
    assert largest > 1e-3
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=tolerance * largest)


class Stage(nn.Module):
    """A layer with batch statistics and dropout."""

    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """f32[B 8]."""
        x = nn.relu(BatchNorm(name="bn")(nn.Dense(8, name="dense")(x), train))
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class Tower(nn.Module):
    """Two such stages; the first part of it may be frozen."""

    dropout: float = 0.5

    @nn.compact
    def __call__(self, batch: Any, train: bool = False) -> dict[str, jax.Array]:
        """What each stage gives of 'x'."""
        first = Stage(self.dropout, name="first")(batch["x"], train)
        last = Stage(self.dropout, name="last")(first, train)
        return {"first": first, "last": last}


# The first part of a tower.
RULES = (("first/.*", {"frozen": True}), (".*", {}))


def square(out: Any, batch: Any) -> dict[str, jax.Array]:
    """A loss of a tower."""
    del batch
    return {"square": jnp.mean(jnp.square(out["last"] - 1.0))}


class Written(nn.Module):
    """A model of one line, `function` of a dense layer's rows."""

    function: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, batch: Any, train: bool = False) -> dict[str, Any]:
        """Whatever the function gives of f32[B 4]."""
        x = nn.Dense(4, name="dense")(batch["image"].reshape(-1, SIZE * SIZE * 3) / 255.0)
        scale = self.param("scale", nn.initializers.ones, ())
        return {"z": {"image": x}, "scale": scale, "y": self.function(x)}


class Normalised(Written):
    """With batch statistics before the function."""

    @nn.compact
    def __call__(self, batch: Any, train: bool = False) -> dict[str, Any]:
        """As `Written`, with the normalised rows as 'normal'."""
        out = super().__call__(batch, train)
        return {**out, "normal": BatchNorm(name="norm")(out["z"]["image"], train)}

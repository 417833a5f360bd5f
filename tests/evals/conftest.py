"""Records in memory, and a model small enough to be computed by hand."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from data_pipelines import pipelines
from retina_jax.evals.encoder import Encoder
from retina_jax.train import sharding
from retina_jax.types import TrainState

DIM, WORDS, SCALE = 6, 64, 9.0


class Records(list):
    """A source of records given as dicts."""

    name = "in_memory/records"

    def column(self, field):
        """One field of every record."""
        return [record[field] for record in self]

    def subset(self, rows):
        """The records at these places."""
        return Records(self[int(row)] for row in rows)


class Words:
    """A tokenizer with one id for each word, in the order in which words are met."""

    def __init__(self):
        self.ids = {}

    def encode(self, text, length):
        """Ids int32 [length] and their mask."""
        ids = np.zeros(length, np.int32)
        for i, word in enumerate(text.split()[:length]):
            ids[i] = self.ids.setdefault(word, len(self.ids) + 1)
        return ids, ids > 0


class Linear(nn.Module):
    """A linear map of a picture's 1 x 1 x 3 or a volume's 3 x 1 x 1 values, and a mean of words."""

    def setup(self):
        self.kernel = self.param("kernel", nn.initializers.normal(1.0), (3, DIM))
        self.table = self.param("table", nn.initializers.normal(1.0), (WORDS, DIM))
        self.offset = self.variable("batch_stats", "offset", jnp.zeros, (DIM,))

    def features(self, batch):
        """Features that depend on a parameter and on the model's state."""
        made = {}
        if "image" in batch:
            made["image"] = batch["image"].reshape(-1, 3) @ self.kernel + self.offset.value
        if "oct" in batch:
            made["oct"] = batch["oct"].reshape(-1, 3) @ self.kernel + self.offset.value
        if "text" in batch:
            weights = batch["text_mask"][..., None].astype(jnp.float32)
            made["text"] = (self.table[batch["text"]] * weights).sum(1) / jnp.maximum(
                weights.sum(1), 1
            )
        return made

    def tokens(self, batch):
        """Two places: one always the same, the other the features."""
        found = self.features(batch)
        return {key: jnp.stack([jnp.ones_like(x), x], axis=1).astype(jnp.float16)
                for key, x in found.items()}  # fmt: skip

    def temperature(self):
        """A fixed one."""
        return {"scale": jnp.float32(SCALE)}

    def embed(self, batch):
        """Features as unit vectors."""
        return {
            key: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
            for key, x in self.features(batch).items()
        }


rng = np.random.default_rng(0)
PARAMS = {"kernel": rng.normal(size=(3, DIM)).astype(np.float32),
          "table": rng.normal(size=(WORDS, DIM)).astype(np.float32)}  # fmt: skip
OFFSET = rng.normal(size=DIM).astype(np.float32)


@pytest.fixture(scope="session")
def encoder():
    """An encoder of the linear model on one device, so that any batch size will do."""
    return Encoder(Linear(), Mesh(np.array(jax.devices()[:1]).reshape(1, 1), sharding.AXES))


@pytest.fixture
def words():
    """A fresh tokenizer."""
    return Words()


@pytest.fixture
def tools():
    """Functions the tests share: `data`, `state`, and the model in numpy."""

    def data(records, batch_size=4):
        return pipelines.evaluate(Records(records), (), batch_size=batch_size)

    def state(offset=OFFSET, **params):
        return TrainState(step=jnp.zeros((), jnp.int32), params={**PARAMS, **params},
                          model_state={"batch_stats": {"offset": offset}}, opt_state=(),
                          skipped=jnp.zeros(2, jnp.int32))  # fmt: skip

    def features(records):
        pictures = np.stack([record["image"].reshape(3) for record in records])
        return np.float64(pictures) @ PARAMS["kernel"] + OFFSET

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def text(words, sentence, length):
        ids, mask = words.encode(sentence, length)
        return unit(np.float64(PARAMS["table"])[ids[mask]].mean(axis=0))

    return SimpleNamespace(data=data, state=state, features=features, unit=unit, text=text)


@pytest.fixture
def pictures():
    """(number, seed) -> records with random pictures, labels and patients."""

    def make(number, classes=3, seed=0):
        generator = np.random.default_rng(seed)
        return [
            {
                "id": str(i),
                "image": generator.normal(size=(1, 1, 3)).astype(np.float32),
                "label": np.int32(i % classes),
                "patient": "",
            }
            for i in range(number)
        ]

    return make

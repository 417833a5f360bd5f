"""Tip-Adapter and Tip-Adapter-F: prompts and a cache of few records (Zhang et al. 2022)."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from retina_jax.adapters import descent
from retina_jax.types import Array

# What the released code multiplies similarities to prompts by, whatever the model has learned.
_RELEASED_SCALE = 100.0


@dataclasses.dataclass(frozen=True)
class TipAdapter:
    """A cache beside the prompts.

    Attributes:
      keys: f32[N D].
      values: f32[N C], the class of each key as a row with a single one.
      prototypes: f32[C D], one a class.
      scale: factor of the similarities to the prototypes.
      alpha: weight of what the cache says.
      beta: how much nearer keys count more.
    """

    keys: np.ndarray
    values: np.ndarray
    prototypes: np.ndarray
    scale: float
    alpha: float
    beta: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Unit embeddings f[N D] -> logits f32[N C]."""
        x = jnp.asarray(features, jnp.float32)
        prototypes, keys, values = map(jnp.asarray, (self.prototypes, self.keys, self.values))
        prompts = self.scale * descent.similarity(x, prototypes)
        return np.asarray(prompts + self.alpha * _cache(x, keys, values, self.beta))


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    prototypes: np.ndarray,
    scale: float,
    *,
    alpha: float = 1.0,
    beta: float = 5.0,
    train_keys: bool = False,
    official: bool = False,
    epochs: int = descent.EPOCHS,
    learning_rate: float = descent.LEARNING_RATE,
    seed: int = 0,
) -> TipAdapter:
    """Makes a cache of the records, whose logits are scale x P' + alpha exp(-beta (1 - x K')) V.

    Args:
      features: f[N D], unit embeddings, the first keys.
      labels: int[N] in [0, C).
      prototypes: f[C D], embeddings of the classes' prompts, as zero-shot classification has them.
      scale: the model's inverse temperature.
      alpha, beta: the same as in `TipAdapter`; FLAIR has 1 and 5.
      train_keys: Tip-Adapter-F, which trains the keys on the same records by cross-entropy, with
        AdamW, one record a step, the same random order in each epoch.
      official: what FLAIR's released code does otherwise: prompts count 100 times whatever the
        scale; in training, but not in use, prompts count `scale` times and the cache `scale` / N
        times; and the keys share memory with the records they are trained on, so that these move
        along. It also augments the photographs that it classifies at random, which belongs to who
        makes the features and is not repeated here.
      epochs: passes over the records.
      learning_rate: the learning rate of all steps.
      seed: the seed of the order.

    Raises:
      InputError: if shapes or labels do not fit, or a number is not finite.
    """
    features, labels, prototypes = descent.checked("Tip-Adapter", features, labels, prototypes)
    values = np.eye(len(prototypes), dtype=np.float32)[labels]
    keys = features
    if train_keys:
        indices = descent.order(len(features), epochs, seed)
        cached = alpha * scale / len(features) if official else alpha
        settings = scale, cached, beta, learning_rate, indices
        trained = _train(features, values, prototypes, *settings, moving=official)
        keys = np.asarray(trained)
    used = _RELEASED_SCALE if official else float(scale)
    return TipAdapter(keys, values, prototypes, used, alpha, beta)


def _cache(x: Array, keys: Array, values: Array, beta: Array | float) -> Array:
    affinity = descent.similarity(x, keys)
    return descent.similarity(jnp.exp(-beta * (1 - affinity)), values.T)


@partial(jax.jit, static_argnames="moving")
def _train(
    features: Array,
    values: Array,
    prototypes: Array,
    scale: Array,
    cached: Array,
    beta: Array,
    learning_rate: Array,
    indices: Array,
    moving: bool,
) -> Array:
    """The trained keys; `moving` classifies them themselves instead of the features."""

    def loss(keys: Array, index: Array) -> Array:
        images = jax.lax.stop_gradient(keys) if moving else features
        x = images[index][None]
        logits = scale * descent.similarity(x, prototypes) + cached * _cache(x, keys, values, beta)
        return optax.softmax_cross_entropy(logits, values[index][None])[0]

    return descent.descend(loss, features, indices, learning_rate)

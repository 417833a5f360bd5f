"""How adapters of frozen features are trained: some hundred updates of a few arrays.

This is not the training loop (`train.loop`): an adapter learns of vectors that lie in memory, so
there are no pictures to read, no model to run and no run to go on with, and a protocol may train
hundreds of adapters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_pipelines.errors import InputError
from retina_jax.types import Array, Scalar

EPOCHS = 40
LEARNING_RATE = 1e-3


def order(records: int, epochs: int, seed: int) -> np.ndarray:
    """One random order of the records, int32[epochs records], repeated for each epoch."""
    drawn = np.random.default_rng(seed).permutation(records)
    return np.tile(drawn.astype(np.int32), epochs)


def step(loss: Callable[..., Scalar], optimizer: optax.GradientTransformation) -> Callable:
    """The only update of adapters: (parameters, state of the optimizer), data -> (both), None.

    Args:
      loss: a function of the parameters and of the tuple of data, which it gets one by one.
      optimizer: what makes updates of gradients.
    """

    def one(carry: tuple[Any, Any], given: tuple) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, *given), state, params)
        return (optax.apply_updates(params, updates), state), None

    return one


def descend(
    loss: Callable[[Any, Array], Scalar],
    params: Any,
    indices: Array,
    learning_rate: Array | optax.Schedule,
) -> Any:
    """AdamW as FLAIR trains its adapters: epsilon 1e-4, decay 0.01, one record a step.

    Args:
      loss: a function of the parameters and the index i32[] of a record.
      params: a tree of f32 arrays.
      indices: i32[S], the record of each step.
      learning_rate: the learning rate of all steps, or a function of the number of the step.

    Returns:
      The trained parameters.
    """
    optimizer = optax.adamw(learning_rate, eps=1e-4, weight_decay=0.01)
    begin = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step(loss, optimizer), begin, (indices,))
    return params


def similarity(x: Array, y: Array) -> Array:
    """Inner products of rows, f32[N D] and f32[M D] -> f32[N M], at full precision."""
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def checked(
    what: str, features: np.ndarray, labels: np.ndarray, prototypes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three as float32, int32 and float32; InputError where they do not belong together."""
    features, prototypes = (np.asarray(x, np.float32) for x in (features, prototypes))
    labels = np.asarray(labels, np.int32)
    shapes = f"features {features.shape}, labels {labels.shape} and prototypes {prototypes.shape}"
    if not (
        features.ndim == prototypes.ndim == 2
        and features.shape[1] == prototypes.shape[1]
        and labels.shape == features.shape[:1]
        and len(labels)
    ):
        raise InputError(
            f"{what} needs features [N D], labels [N] and prototypes [C D], but got {shapes}."
        )
    if labels.min() < 0 or labels.max() >= len(prototypes):
        raise InputError(
            f"{what} has labels from {labels.min()} to {labels.max()} for {len(prototypes)} "
            "prototypes; give one for each class."
        )
    if not (np.isfinite(features).all() and np.isfinite(prototypes).all()):
        raise InputError(f"{what} needs finite numbers, but some of its {shapes} are not.")
    return features, labels, prototypes

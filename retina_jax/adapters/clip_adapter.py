"""CLIP-Adapter: a small network moves image embeddings, prompts stay (Gao et al. 2021)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from retina_jax.adapters import descent
from retina_jax.models.layers import l2_normalize, torch_linear
from retina_jax.types import Array, Params


@dataclasses.dataclass(frozen=True)
class ClipAdapter:
    """A trained adapter.

    Attributes:
      params: `down` f32[D H] and `up` f32[H D].
      prototypes: f32[C D], one a class.
      scale: inverse temperature of the logits.
      ratio: share of what the network says in the adapted embedding.
    """

    params: Params
    prototypes: np.ndarray
    scale: float
    ratio: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Unit embeddings f[N D] -> logits f32[N C]."""
        x = jnp.asarray(features, jnp.float32)
        prototypes = jnp.asarray(self.prototypes)
        return np.asarray(_logits(self.params, x, prototypes, self.scale, self.ratio))


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    prototypes: np.ndarray,
    scale: float,
    *,
    ratio: float = 0.2,
    reduction: int = 4,
    epochs: int = descent.EPOCHS,
    learning_rate: float = descent.LEARNING_RATE,
    seed: int = 0,
) -> ClipAdapter:
    """Trains an adapter; the defaults are FLAIR's (flair/transferability/modeling/adapters.py).

    An embedding x becomes y = norm(ratio A(x) + (1 - ratio) x) with A(x) = relu(relu(x D) U), and
    its logits are scale y P'. Cross-entropy, AdamW, half a cosine of the learning rate over all
    steps, one record a step, the same random order in each epoch.

    Args:
      features: f[N D], unit embeddings.
      labels: int[N] in [0, C).
      prototypes: f[C D], embeddings of the classes' prompts, as zero-shot classification has them.
      scale: the model's inverse temperature.
      ratio: share of what the network says.
      reduction: its hidden width is D / reduction.
      epochs: passes over the records.
      learning_rate: the learning rate of the first step.
      seed: the seed of first weights (PyTorch's for linear layers) and order.

    Raises:
      InputError: if shapes or labels do not fit, or a number is not finite.
    """
    features, labels, prototypes = descent.checked("CLIP-Adapter", features, labels, prototypes)
    width = features.shape[1]
    hidden = max(1, width // reduction)
    down, up = jax.random.split(jax.random.key(seed))
    params = {"down": torch_linear(down, (width, hidden)), "up": torch_linear(up, (hidden, width))}
    indices = descent.order(len(features), epochs, seed)
    params = _train(params, features, labels, prototypes, scale, ratio, learning_rate, indices)
    return ClipAdapter(jax.tree.map(np.asarray, params), prototypes, float(scale), ratio)


def _logits(
    params: Params, x: Array, prototypes: Array, scale: Array | float, ratio: Array | float
) -> Array:
    matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    said = jax.nn.relu(matmul(jax.nn.relu(matmul(x, params["down"])), params["up"]))
    adapted = l2_normalize(ratio * said + (1 - ratio) * x)
    return scale * descent.similarity(adapted, prototypes)


@jax.jit
def _train(
    params: Params,
    features: Array,
    labels: Array,
    prototypes: Array,
    scale: Array,
    ratio: Array,
    learning_rate: Array,
    indices: Array,
) -> Params:
    def loss(params: Params, index: Array) -> Array:
        logits = _logits(params, features[index][None], prototypes, scale, ratio)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[index][None])[0]

    def schedule(count: Any) -> Array:
        return learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * count / len(indices)))

    return descent.descend(loss, params, indices, schedule)

"""Pieces of `train_step.py`: a step of ours from a config, its agreement with another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from retina_jax import experiment, presets
from retina_jax.train import loop, sharding

OPTIMIZATION: dict[str, Any] = {"learning_rate": 1e-4, "weight_decay": 0.1, "clip": 1.0}
B1 = 0.9
LOSS_TOLERANCE, LEAST_COSINE, NORM_TOLERANCE = 1e-5, 0.9999, 1e-3


def config(
    image: Mapping[str, Any], text: Mapping[str, Any], pixels: int, rows: int, tokens: int
) -> dict[str, Any]:
    """A CLIP run on the embedded data, as the files in configs/ make theirs."""
    towers, transforms = {"image": image, "text": text}, presets.captioned(pixels, tokens)
    decay = OPTIMIZATION["weight_decay"]
    return {
        "model": {"name": "dual", "towers": towers, "dim": 256},
        "streams": {"expert": presets.data("synthetic_retina/smoke", "expert", rows, transforms)},
        "objectives": {"clip": presets.contrastive(("image", "text"))},
        "optimization": {
            "optimizer": {"name": "adamw", "weight_decay": decay, "b1": B1},
            "learning_rate": OPTIMIZATION["learning_rate"],
            "schedule": {"name": "constant"},
            "clip": OPTIMIZATION["clip"],
        },
        "total": {"steps": 10_000},
    }


class Ours:
    """The training step of a config on its first batch; calling it returns the loss before it.

    Attributes:
      params: the first parameters, on the host.
      batch: numpy arrays of the pipeline.
    """

    def __init__(self, settings: Mapping[str, Any], workdir: Path) -> None:
        device = jax.devices()[:1]
        (self._experiment,) = experiment.build_all(settings, workdir, device)
        state = loop.fresh_state(self._experiment, loop.abstract_state(self._experiment))
        self.params = jax.device_get(state.params)
        self.batch = next(self._experiment.data.batches(0, 1))
        self._state, self._step = state, loop.jit_step(self._experiment, state)
        self._on_device = sharding.put(self.batch, self._experiment.mesh)
        self._rng = jax.random.key(self._experiment.settings.seed)

    @property
    def model(self) -> dict[str, Any]:
        """Settings of the model, with the size of the vocabulary."""
        found = self._experiment.settings.model
        tokens = self.params["text"]["word_embedding"]["embedding"].shape[0]
        towers = found["towers"]
        return {**found, "towers": {**towers, "text": {**towers["text"], "vocab_size": tokens}}}

    def __call__(self) -> float:
        """Takes a step and waits for it."""
        self._state, metrics = self._step(self._state, self._on_device, self._rng)
        jax.block_until_ready(self._state)
        return float(metrics["loss"])

    def gradient(self) -> Any:
        """The clipped gradient of the first step, from AdamW's mean of gradients after it."""
        mean = optax.tree_utils.tree_get(self._state.opt_state, "mu")
        return jax.tree.map(lambda leaf: np.asarray(leaf) / (1 - B1), mean)


def agreement(loss: float, gradient: Mapping[str, np.ndarray], other_loss: float,
              other: Mapping[str, np.ndarray]) -> dict[str, float]:  # fmt: skip
    """How far two steps are apart, by the same names of parameters.

    Raises:
      SystemExit: where they are not the same step.
    """
    if unlike := sorted(set(gradient) ^ set(other)):
        raise SystemExit(f"Only one of the two steps has gradients for {unlike}.")
    ours, theirs = (
        np.concatenate([np.ravel(side[name]).astype(np.float64) for name in sorted(gradient)])
        for side in (gradient, other)
    )
    lengths = np.linalg.norm(ours), np.linalg.norm(theirs)
    found = {"loss_difference": abs(other_loss / loss - 1),
             "gradient_cosine": float(ours @ theirs / (lengths[0] * lengths[1])),
             "gradient_norm_ratio": float(lengths[1] / lengths[0])}  # fmt: skip
    same = (found["loss_difference"] <= LOSS_TOLERANCE
            and found["gradient_cosine"] > LEAST_COSINE
            and abs(found["gradient_norm_ratio"] - 1) <= NORM_TOLERANCE)  # fmt: skip
    if not same:
        raise SystemExit(f"These are not the same steps, so no time is compared: {found}")
    return found

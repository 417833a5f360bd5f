"""Quantities: supervised training of a head that predicts a number."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import optax

from data_pipelines.errors import InputError
from retina_jax.types import Batch, Outputs, Scalar


@dataclasses.dataclass(frozen=True)
class Regression:
    """Huber's loss (1964) of `out['logits']`, f[B 1], against a standardised target.

    It is quadratic up to `delta` deviations and linear beyond, so that a slip of the keyboard among
    the targets pulls no harder than a large error.

    Attributes:
      mean, scale: moments of the training targets; the head learns (target - mean) / scale.
      delta: where the loss becomes linear, in units of `scale`.
      target: the batch key of the target f32[B], NaN where there is none.
    """

    mean: float
    scale: float
    delta: float = 1.0
    target: str = "target"

    def __post_init__(self) -> None:
        if not self.scale > 0 or not self.delta > 0:
            raise InputError(
                f"regression: 'scale' and 'delta' are above 0, got {self.scale} and {self.delta}."
            )

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Scalar]:
        """{'regression': the mean over records with a target, 0 where none has one}."""
        logits = out["logits"]
        if logits.shape[-1] != 1:
            raise InputError(
                f"regression: a quantity is one number, and the model's head has "
                f"{logits.shape[-1]}; make 'classes' of the model 1."
            )
        target = (batch[self.target].astype(jnp.float32) - self.mean) / self.scale
        known = ~jnp.isnan(target)
        losses = optax.losses.huber_loss(
            logits[:, 0], jnp.where(known, target, 0.0), delta=self.delta
        )
        return {"regression": (losses * known).sum() / jnp.maximum(known.sum(), 1)}

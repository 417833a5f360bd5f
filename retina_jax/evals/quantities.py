"""Quantities as targets of a head: in which unit they are learned, and their loss."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from grain.transforms import Map

from data_pipelines.errors import InputError
from data_pipelines.transforms.fields import Record
from retina_jax.types import Batch, Outputs, Scalar


@dataclasses.dataclass(frozen=True)
class Unit(Map):
    """Brings the 'target' of records to mean 0 and deviation 1 of those that are trained on.

    A head that begins at zero then predicts their mean, whatever the quantity is measured in.
    """

    mean: float
    deviation: float

    def map(self, record: Record) -> Record:
        """Returns the record with its target in this unit."""
        return {**record, "target": np.float32((record["target"] - self.mean) / self.deviation)}

    def back(self, values: np.ndarray) -> np.ndarray:
        """Predictions as the quantity was measured."""
        return values * self.deviation + self.mean


def unit(values: np.ndarray) -> Unit:
    """The unit of quantities f[N] to train on.

    Raises:
      InputError: one of them is missing, or they are all alike.
    """
    if not np.isfinite(values).all() or not (deviation := float(np.std(values))):
        raise InputError(
            f"A quantity to learn needs finite targets that differ: {len(values)} records have "
            f"{int(np.isfinite(values).sum())} of them, and {len(set(values.tolist()))} values."
        )
    return Unit(float(np.mean(values)), deviation)


def squared_error(out: Outputs, batch: Batch) -> dict[str, Scalar]:
    """'squared_error', the mean of (logits - target)^2 of `logits` f32[B 1]."""
    return {"squared_error": jnp.mean((out["logits"][:, 0] - batch["target"]) ** 2)}

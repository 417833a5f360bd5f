"""Pictures that a model made of a part of their patches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.pipelines import EvalData
from retina_jax.evals.encoder import Encoder, Need, spaced, with_interval
from retina_jax.types import Card, Results, TrainState


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Error of hidden patches, and pictures to look at: given, visible, reconstructed.

    The same patches are hidden at every evaluation of the same data.

    Attributes:
      encoder: runs the model's method `reconstruct`.
      data: records with the batch keys of `inputs`; all their pictures are held in memory.
      inputs: what the model sees; the texts only where it attends to them.
      examples: how many pictures the gallery shows.
    """

    encoder: Encoder
    data: EvalData
    inputs: Sequence[str] = ("image", "text", "text_mask")
    examples: int = 6

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        return [Need(self.data, ["reconstruct"], self.inputs)]

    def run(self, state: TrainState) -> Results:
        """'squared_error' of hidden pixels in [0, 1]; its chance is the visible mean colour's."""
        made = self.encoder.encode_dataset(state, self.data, "reconstruct", self.inputs)
        score = with_interval(
            np.mean,
            made["error"],
            patients=self.data.source.column("patient"),
            chance=float(made["error_of_mean"].mean()),
        )
        shown = spaced(len(made["error"]), self.examples)
        gallery = tuple(_row(made, i) for i in shown)
        return Results({"squared_error": score}, gallery, tested=self.data.source)


def _row(made: dict[str, np.ndarray], record: int) -> tuple[Card, tuple[Card, ...]]:
    error = made["error"][record]
    return Card(made["given"][record], "given"), (
        Card(made["visible"][record], "what the encoder sees"),
        Card(made["reconstructed"][record], f"reconstructed, squared error {error:.4f}"),
    )

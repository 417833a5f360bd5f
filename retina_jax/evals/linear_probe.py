"""Linear probing: logistic regression on frozen features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.pipelines import EvalData
from retina_jax.adapters import linear_probe
from retina_jax.evals.base import Encoder
from retina_jax.evals.zeroshot import class_scores
from retina_jax.types import Results, TrainState


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """FLAIR's linear probe: features before the projection, not normalised.

    Attributes:
      encoder: runs the model.
      train, test: records with the batch keys 'image' and 'label'; no patient should be in both.
      classes: names in the order of the labels.
      C: inverse strength of the L2 penalty (FLAIR: 0.316).
      standardize: bring features to zero mean and unit variance of `train` first; FLAIR does not.
      image: the batch key that is classified.
    """

    encoder: Encoder
    train: EvalData
    test: EvalData
    classes: Sequence[str]
    C: float = 0.316
    standardize: bool = False
    image: str = "image"

    def _features(self, state: TrainState, data: EvalData) -> tuple[np.ndarray, np.ndarray]:
        encoded = self.encoder.over(state, data, "features", [self.image], ["label"])
        return encoded[self.image], encoded["label"]

    def run(self, state: TrainState) -> Results:
        """Balanced accuracy and macro one-against-rest AUC on `test`."""
        probe = linear_probe.fit(
            *self._features(state, self.train),
            C=self.C,
            standardize=self.standardize,
            classes=len(self.classes),
        )
        features, labels = self._features(state, self.test)
        scores = probe.predict_proba(features)
        return Results(class_scores(labels, scores, self.classes, self.test))

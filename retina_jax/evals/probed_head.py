"""A head that begins as a linear probe of the tower below it: linear probing, then fine-tuning.

Kumar et al. 2022 (arXiv:2202.10054): a random head first drags the features of the tower along;
one that was fitted before does not. The probe is that of the evaluator `linear_probe`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from grain.transforms import RandomMap

from data_pipelines import pipelines
from data_pipelines.errors import InputError
from retina_jax import distributed
from retina_jax.adapters import linear_probe, ridge
from retina_jax.evals.encoder import Encoder, bootstrap_groups, frozen_state


@dataclasses.dataclass(frozen=True)
class ProbedHead:
    """Variables of a model -> the parameters of its head, kernel f32[F C] and bias f32[C].

    Attributes:
      encoder: runs the model.
      data: the records that it is fitted on, with `image`, and 'label' or 'labels'.
      image: the batch key that the tower reads.
      classes: number of classes C.
      parts: numbers of consecutive classes that exclude each other, each a probe of its own; None
        for one task. Of 'labels' without parts a record may have any number.
      unit: the mean and the deviation of a quantity, 'target', in whose unit the head answers.
    """

    encoder: Encoder
    data: pipelines.EvalData
    image: str
    classes: int
    parts: Sequence[int] | None = None
    unit: Sequence[float] | None = None

    def __call__(self, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The folded probe; its scores are the head's, to rounding.

        Raises:
          InputError: as the probe, for records of one class for instance.
        """
        example = self.data.example()
        key = "label" if "label" in example else "labels"
        key = key if self.unit is None else "target"
        state = frozen_state(variables, self.encoder.mesh)
        found = self.encoder.encode_dataset(state, self.data, "features", [self.image], [key])
        groups = bootstrap_groups(self.data.source.column("patient"))
        kernel, bias = self._fitted(found[self.image], found[key], groups)
        return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}

    def _fitted(
        self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.unit is not None:
            (mean, deviation), known = self.unit, np.isfinite(labels)
            kernel, bias = ridge.fit_by_groups(features[known], labels[known], groups[known]
                                               ).folded()  # fmt: skip
            return kernel / deviation, (bias - mean) / deviation
        if labels.ndim == 1:
            known = labels >= 0
            return _folded(features[known], labels[known], groups[known], self.classes)
        if self.parts is None:
            told = np.where(np.isnan(labels), -1, labels)
            return _folded(features, told, groups, self.classes)
        found, start = [], 0
        for count in self.parts:
            own = np.nan_to_num(labels[:, start : start + count])
            rows = np.flatnonzero(own.sum(axis=1) > 0)
            part = own[rows].argmax(axis=1)
            found.append(_folded(features[rows], part, groups[rows], count))
            start += count
        kernels, biases = zip(*found, strict=True)
        return np.concatenate(kernels, axis=1), np.concatenate(biases)


def _folded(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    probe = linear_probe.fit_by_groups(features, labels, groups, classes=classes)
    return probe.folded()


def without_chance(stream: pipelines.Stream) -> pipelines.EvalData:
    """The records of a stream, each once, read without what is random."""
    kept = tuple(t for t in stream.transforms if not isinstance(t, RandomMap))
    return pipelines.evaluate(
        stream.source, kept, batch_size=stream.batch_size, **distributed.share()
    )


def check(take: Sequence[str], model: Mapping[str, Any]) -> None:
    """Raises InputError unless a probe can be the start of what an origin takes."""
    if tuple(take) != ("head",) or model.get("name") != "tower" or not model.get("classes"):
        raise InputError(
            "A 'probe' of restore_from is the start of the head of a 'tower' with classes: write "
            f"take=('head',) in such a model, not {tuple(take)} in '{model.get('name')}'."
        )

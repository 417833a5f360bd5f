"""Classes: supervised training of the scores of a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.losses import classification
from retina_jax.types import Array, Batch, Outputs, Scalar

KINDS = {"softmax": "label", "sigmoid": "labels"}


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross-entropy of `out['logits']`, f[B C].

    A batch that the option `mixup` of its stream has mixed counts each row for both of its
    records: `mixup_share` of the loss for its own target, the rest for the other's (Zhang et al.
    2018, arXiv:1710.09412).

    Attributes:
      kind: 'softmax' for classes that exclude each other within their part, 'sigmoid' for labels
        of which a record may have any number.
      target: the batch key of the classes. 'label', the default of softmax, is the index of one
        class, which also tells the part, or -1; 'labels', the default of sigmoid, has a place for
        each class, so that a record may have a class in several parts, and NaN where it is missing.
      parts: numbers of consecutive classes that exclude each other, one for each task; None for
        one task.
      ordered: indices of the parts whose classes are in order, such as grades.
      smoothing: share of the target that is spread within its part; see `losses.classification`.
      class_weights: a factor for each class; None for 1. The loss is the weighted mean.
      focal: the gamma of the focal loss, 1 or more; 0 for cross-entropy.
      shares: the share of each class in training, of softmax, which its scores then correct for:
        logit adjustment, see `losses.classification.softmax`. None for no correction.
    """

    kind: str = "softmax"
    target: str | None = None
    parts: Sequence[int] | None = None
    ordered: Sequence[int] = ()
    smoothing: float = 0.0
    class_weights: Sequence[float] | None = None
    focal: float = 0.0
    shares: Sequence[float] | None = None

    def __post_init__(self) -> None:
        targets = {"softmax": (None, "label", "labels"), "sigmoid": (None, "labels")}
        if self.kind not in KINDS or self.target not in targets[self.kind]:
            raise InputError(
                "classification is of the kind softmax, with the target 'label' or 'labels', or "
                f"sigmoid, with 'labels'; got '{self.kind}' with '{self.target}'."
            )
        if self.kind == "sigmoid" and (self.parts or self.ordered or self.shares):
            raise InputError(
                "classification of the kind sigmoid has no 'parts', 'ordered' and 'shares'."
            )
        if self.focal and (self.focal < 1 or self.ordered):
            raise InputError(
                f"classification: 'focal' is 0 or at least 1 and not for 'ordered', got "
                f"{self.focal} and {self.ordered}."
            )
        if not 0 <= self.smoothing < 1:
            raise InputError(
                f"classification: smoothing is at least 0 and less than 1, not {self.smoothing}."
            )
        factors = (*(self.class_weights or (1,)), *(self.shares or (1,)))
        if min(factors) <= 0 or min(self.parts or (1,)) < 1:
            raise InputError(
                "classification: 'class_weights', 'shares' and 'parts' are above 0, got "
                f"{self.class_weights}, {self.shares} and {self.parts}."
            )
        unknown = [part for part in self.ordered if not 0 <= part < len(self.parts or (1,))]
        if unknown:
            raise InputError(
                f"classification: 'ordered' names part {unknown[0]}, but there are "
                f"{len(self.parts or (1,))}, counted from 0."
            )

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Scalar]:
        """{'classification': the weighted mean over what is labelled, 0 where nothing is}."""
        logits, key = out["logits"], self.target or KINDS[self.kind]
        self._check(logits.shape[-1])
        losses, weights = self._losses(logits, batch[key])
        if "mixup_share" in batch:
            share = batch["mixup_share"][:, None]
            others = self._losses(logits, batch[f"mixup_{key}"])
            losses = jnp.concatenate([losses, others[0]])
            weights = jnp.concatenate([share * weights, (1 - share) * others[1]])
        return {"classification": classification.weighted_mean(losses, weights)}

    def _check(self, classes: int) -> None:
        options = {
            "parts": sum(self.parts) if self.parts else None,
            "class_weights": len(self.class_weights) if self.class_weights else None,
            "shares": len(self.shares) if self.shares else None,
        }
        for option, count in options.items():
            if count is not None and count != classes:
                raise InputError(
                    f"classification: '{option}' are of {count} classes, and the model's head has "
                    f"{classes}; make 'classes' of the model as many."
                )

    def _losses(self, logits: Array, target: Array) -> tuple[Array, Array]:
        """Losses and weights, f32[B P] each for P parts or labels."""
        classes = logits.shape[-1]
        options: dict[str, Any] = {
            "smoothing": self.smoothing, "class_weights": self.class_weights, "focal": self.focal,
        }  # fmt: skip
        if jnp.ndim(target) == 1:
            target = classification.one_hot(target, classes)
        elif target.shape[-1] != classes:
            raise InputError(
                f"classification: the batch has {target.shape[-1]} labels, and the model's head "
                f"{classes} classes; name as many in 'multi_label' as in the model."
            )
        if self.kind == "sigmoid":
            return classification.sigmoid(logits, target, **options)
        parts = tuple(self.parts or (classes,))
        return classification.softmax(
            logits, target, parts, ordered=tuple(self.ordered), shares=self.shares, **options
        )

"""One tower by itself: published encoders, alone or with a linear head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn

from retina_jax.models.layers import head_linear, torch_bias, torch_linear
from retina_jax.models.towers import build_tower, encode, tokens_of
from retina_jax.types import Array, Batch, Outputs


class Tower(nn.Module):
    """A tower and, if it has classes, a linear map of what it pools to their scores.

    The tower's parameters are `<key>`, exactly as in `Dual`, `KeepFIT` and `TextMLM`, so that
    these start from it (`restore_from` with take=(<key>,)); the head's are `head`.

    Attributes:
      key: the key of the batch that the tower reads and is named by.
      tower: spec of a tower, {'name': one of TOWERS, **its options}.
      classes: number of scores; None for no head.
      mean, std: moments of each channel of pictures in [0, 1]; None leaves them as they are.
      dtype: the dtype of the computation, where the tower's spec names none; the head is float32.
    """

    key: str
    tower: Mapping[str, Any]
    classes: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    dtype: Any = "float32"

    def setup(self) -> None:
        """Creates the tower under the name of its key."""
        setattr(self, self.key, build_tower(self.tower, self.dtype))

    @nn.compact
    def __call__(self, batch: Batch, train: bool = False) -> Outputs:
        """Encodes `batch[key]`.

        Args:
          batch: holds the key, and `<key>_mask` for a tower that reads tokens.
          train: whether dropout is active and BatchNorm uses and records this batch's statistics.

        Returns:
          pooled: f32[B F].
          logits: f32[B classes], where there are classes.
        """
        pooled = self._encoded(batch, train)["pooled"]
        if self.classes is None:
            return {"pooled": pooled}
        bias = torch_bias(pooled.shape[-1])
        head = head_linear(self.classes, kernel_init=torch_linear, bias_init=bias, name="head")
        return {"pooled": pooled, "logits": head(pooled)}

    def classify(self, batch: Batch) -> dict[str, Array]:
        """`logits` f32[B classes] of a model that has classes, as in evaluation."""
        return {"logits": self(batch)["logits"]}

    def features(self, batch: Batch) -> dict[str, Array]:
        """What the tower pools, {key: f32[B F]}; {} where the batch has other keys."""
        if self.key not in batch:
            return {}
        return {self.key: self._encoded(batch, train=False)["pooled"]}

    def tokens(self, batch: Batch) -> dict[str, Array]:
        """What the tower sees place by place, {key: f16[B P F]}; {} where the batch has others."""
        if self.key not in batch:
            return {}
        return {self.key: tokens_of(self._encoded(batch, train=False), self.key)}

    def _encoded(self, batch: Batch, train: bool) -> dict[str, Array]:
        return encode(getattr(self, self.key), batch, self.key, train, self.mean, self.std)

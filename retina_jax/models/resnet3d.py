"""The three-dimensional ResNet-18 as torchvision builds it, for volumes of B-scans."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from retina_jax.models.layers import feature_norm, standardize_volume
from retina_jax.models.resnet import STAGES, Block, conv, stages
from retina_jax.types import Array


class ResNet3D(nn.Module):
    """R3D-18 without its classification layer (Tran et al. 2018).

    The stem does not skip B-scans and no pooling follows it; stages 2 to 4 halve all three axes.
    33,166,272 parameters for three channels, 18,816 fewer for one. BatchNorm statistics are in the
    collection 'batch_stats'.

    Attributes:
      width: features of the first stage; 64 is the published network.
      norm: 'batch' or 'group', see `layers.feature_norm`.
      momentum: weight of BatchNorm's old running statistics; 0.9 is torchvision's.
      channels: the number of channels that grey is repeated to, so that volumes can be read with
        weights for films in colour; None takes volumes as they are.
      dtype: the dtype of the computation; parameters and statistics are float32.
    """

    reads: ClassVar[str] = "volume"

    width: int = 64
    norm: str = "batch"
    momentum: float = 0.9
    channels: int | None = None
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, volume: Array, train: bool = False) -> dict[str, Array]:
        """Encodes volumes, each at mean 0 and deviation 1 first.

        Args:
          volume: u8 or f32[B T H W C], T B-scans, in any units; every axis from 1 up.
          train: whether to use, and record, the statistics of this batch.

        Returns:
          pooled: f32[B F], F = 8 * width: the mean over the map.
          map: dtype[B T/8 H/16 W/16 F].
        """
        dtype = jnp.dtype(self.dtype)
        norms = {"norm": self.norm, "momentum": self.momentum}
        block = partial(Block, bottleneck=False, zero_last_gain=False, **norms, dtype=dtype)
        x = standardize_volume(volume).astype(dtype)
        if self.channels and x.shape[-1] == 1:
            x = jnp.broadcast_to(x, (*x.shape[:-1], self.channels))
        x = conv(self.width, (3, 7, 7), (1, 2, 2), dtype, "conv1")(x)
        norm = feature_norm(self.norm, momentum=self.momentum, dtype=dtype, name="bn1")
        x = nn.relu(norm(x, train))
        x = stages(x, block, STAGES[18], self.width, train)
        return {"pooled": x.astype(jnp.float32).mean(axis=(1, 2, 3)), "map": x}

"""RET-CLIP: both eyes and the report of a patient, paired by eye and by patient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.layers import (
    PUBLISHED_BOUND,
    head_linear,
    inverse_temperature,
    l2_normalize,
    torch_bias,
    torch_linear,
)
from retina_jax.models.towers import build_tower, encode
from retina_jax.types import Array, Batch, Outputs

LEVELS = ("left", "right", "patient")
_READS = {"image": "pixels", "text": "tokens"}


class _TextHead(nn.Module):
    """Dense, ReLU, dense, both with biases; the hidden layer is as wide as the input."""

    dim: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]

        def dense(features: int, name: str) -> nn.Dense:
            kernel_init = nn.initializers.normal(width**-0.5)
            bias_init = torch_bias(width)
            return head_linear(features, kernel_init=kernel_init, bias_init=bias_init, name=name)

        return dense(self.dim, "out")(nn.relu(dense(width, "in")(x)))


class Tripartite(nn.Module):
    """One image tower for both eyes, one text tower, and three heads of each (Du et al. 2024).

    The heads of left eye, right eye and patient each meet the head of the same name of the same
    report. With Chinese-CLIP's ViT-B/16 and RoBERTa-wwm this is the published RET-CLIP
    (RET_CLIP/clip/model.py:358-553): 191,871,235 parameters. Names of parameters: `image`,
    `image_projection`, `text`, and for each level `<level>`, `text_<level>`,
    `logit_scale_<level>`, and `logit_bias_<level>` where it is asked for.

    A missing eye: the photograph of the eye that is there stands in for it, as it does in the
    authors' zero-shot evaluation of single photographs, and `row_mask` says that the row is no
    pair at its level.

    Attributes:
      towers: specs of the 'image' tower, which reads pixels, and the 'text' tower, which reads
        tokens, {'name': one of TOWERS, **its options}.
      dim: the dimension of the image features and of the common spaces.
      scale_init: first value of the three inverse temperatures. The default is what the published
        training starts from: ln 90 that has been through float16, which is 4.5.
      scale_max: their largest value; the smallest is 1.
      bias_init: the same as in `Dual`, one for each level.
      mean: values for each channel that are subtracted from images in [0, 1]; None for nothing.
      std: values for each channel that divide images; None for nothing.
      dtype: the dtype of the towers' computation, where their spec names none; parameters, heads
        and scales are float32.
    """

    towers: Mapping[str, Mapping[str, Any]]
    dim: int = 512
    scale_init: float = math.exp(4.5)
    scale_max: float = PUBLISHED_BOUND
    bias_init: float | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    dtype: Any = "float32"

    def setup(self) -> None:
        """Creates towers, projection, heads and scales."""
        if set(self.towers) != set(_READS):
            raise InputError(
                f"tripartite has the towers {sorted(_READS)}, not {sorted(self.towers)}."
            )
        for key, reads in _READS.items():
            tower = build_tower(self.towers[key], self.dtype)
            if tower.reads != reads:
                raise InputError(
                    f"The '{key}' tower of tripartite reads {reads}, not {tower.reads} as "
                    f"'{self.towers[key]['name']}' does."
                )
            setattr(self, key, tower)
        # As CLIP starts it: the width of a ViT is the number of features it pools.
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.image_projection = head_linear(self.dim, use_bias=False, kernel_init=init)
        constant = nn.initializers.constant
        for level in LEVELS:
            head = head_linear(self.dim, use_bias=False, kernel_init=torch_linear)
            setattr(self, level, head)
            setattr(self, f"text_{level}", _TextHead(self.dim))
        self.logit_scale = {
            level: self.param(f"logit_scale_{level}", constant(math.log(self.scale_init)), ())
            for level in LEVELS
        }
        if self.bias_init is not None:
            self.logit_bias = {
                level: self.param(f"logit_bias_{level}", constant(self.bias_init), ())
                for level in LEVELS
            }

    def __call__(self, batch: Batch, train: bool = False) -> Outputs:
        """Embeds both eyes and the report at three levels.

        Args:
          batch: 'eyes' [B 2 H W 3] with the left eye first, 'eye_mask', 'text' and 'text_mask'.
          train: whether dropout and the like are active.

        Returns:
          z: {'left', 'right', 'patient', 'text_left', 'text_right', 'text_patient'}, each
            f32[B dim], unit rows.
          scale: {level: f32[]}, in [1, scale_max].
          bias: {level: f32[]}, where the model has them.
          row_mask: {level: bool[B]}, False where the row is no pair: its eye is missing, or for
            the patient both are.
        """
        both = self._eyes(batch, train)
        report = self._report(batch, train)
        z = {
            "left": self.left(both[:, 0]),
            "right": self.right(both[:, 1]),
            "patient": self._fused(both),
            **{f"text_{level}": getattr(self, f"text_{level}")(report) for level in LEVELS},
        }
        valid = batch["eye_mask"]
        out = {
            "z": {name: l2_normalize(value) for name, value in z.items()},
            "scale": {level: self._scale(level) for level in LEVELS},
            "row_mask": {"left": valid[:, 0], "right": valid[:, 1], "patient": valid.any(axis=1)},
        }
        return out if self.bias_init is None else {**out, "bias": dict(self.logit_bias)}

    def embed(self, batch: Batch) -> dict[str, Array]:
        """Unit embeddings of the patient level, {key: f32[B dim]}, for the keys in the batch.

        'image' is a single photograph that takes both places, 'eyes' are both, with 'eye_mask'.
        """
        embeddings = {}
        if "image" in batch:
            single = self._photographs(batch, "image", train=False)
            embeddings["image"] = self._fused(jnp.stack([single, single], axis=1))
        if "eyes" in batch:
            embeddings["eyes"] = self._fused(self._eyes(batch, train=False))
        if "text" in batch:
            embeddings["text"] = self.text_patient(self._report(batch, train=False))
        return {key: l2_normalize(value) for key, value in embeddings.items()}

    def features(self, batch: Batch) -> dict[str, Array]:
        """What precedes the heads, not normalised, for the keys in the batch.

        Returns:
          image: f32[B dim], the projected features that the published probing uses.
          eyes: f32[B 2*dim], the left eye's, then the right one's; a missing eye as in the class.
          text: f32[B W], what the text tower pools.
        """
        features = {}
        if "image" in batch:
            features["image"] = self._photographs(batch, "image", train=False)
        if "eyes" in batch:
            both = self._eyes(batch, train=False)
            features["eyes"] = both.reshape(len(both), -1)
        if "text" in batch:
            features["text"] = self._report(batch, train=False)
        return features

    def temperature(self) -> dict[str, Array]:
        """What scales the similarities of `embed`: scale f32[], and bias f32[] if there is one."""
        bias = {} if self.bias_init is None else {"bias": self.logit_bias["patient"]}
        return {"scale": self._scale("patient"), **bias}

    def _photographs(self, batch: Batch, key: str, train: bool) -> Array:
        """f32[B dim]: the features of one photograph a row."""
        encoded = encode(self.image, batch, key, train, self.mean, self.std)
        return self.image_projection(encoded["pooled"])

    def _eyes(self, batch: Batch, train: bool) -> Array:
        """f32[B 2 dim]: the features of both eyes, the other one's where an eye is missing.

        The pixels are exchanged, not the features, or BatchNorm would count what fills the gap.
        """
        for key in ("eyes", "eye_mask"):
            if key not in batch:
                raise InputError(
                    f"The model needs '{key}' of each patient, but the batch has {sorted(batch)}."
                )
        eyes, valid = batch["eyes"], batch["eye_mask"][..., None, None, None]
        eyes = jnp.where(valid, eyes, eyes[:, ::-1])
        folded = {"eyes": einops.rearrange(eyes, "b eye h w c -> (b eye) h w c")}
        features = self._photographs(folded, "eyes", train)
        return einops.rearrange(features, "(b eye) f -> b eye f", eye=2)

    def _report(self, batch: Batch, train: bool) -> Array:
        return encode(self.text, batch, "text", train, None, None)["pooled"]

    def _fused(self, both: Array) -> Array:
        return self.patient(einops.rearrange(both, "b eye f -> b (eye f)"))

    def _scale(self, level: str) -> Array:
        return inverse_temperature(self.logit_scale[level], self.scale_max)

"""KeepFIT-FFA's captioner: a visual trunk, a transformer over its patches, and a text decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import InputError
from retina_jax.models import decoding
from retina_jax.models.decoder_blocks import Decoder
from retina_jax.models.layers import to_float, torch_bias, torch_linear
from retina_jax.models.text_decoder import TextDecoder
from retina_jax.models.towers import build_tower
from retina_jax.types import Array, Batch, Outputs

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Patches(nn.Module):
    """Linear map, ReLU and dropout of patch features; PyTorch's first values of linear maps."""

    width: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, found: Array, train: bool) -> Array:
        linear = nn.Dense(
            self.width,
            dtype=jnp.dtype(self.dtype),
            kernel_init=torch_linear,
            bias_init=torch_bias(found.shape[-1]),
            name="linear",
        )
        return nn.Dropout(self.dropout, deterministic=not train)(nn.relu(linear(found)))


class Captioner(nn.Module):
    """Reports of angiograms, one picture or several of a case (Wu et al. 2024, KeepFIT-FFA).

    The defaults are the released captioner, of R2Gen's lineage without its memory: patch features
    through a linear map, 3 layers of encoder without positions, 3 of decoder. Parameters: `image`,
    the trunk, exactly as in `Dual` and `KeepFIT`, so that it can be restored from them, and
    `patches`, `encoder`, `text_decoder`.

    Attributes:
      tower: spec of the trunk, one of TOWERS that reads pixels.
      vocab_size, bos_id, eos_id: the vocabulary and the special ids of the tokenizer, whose id 0
        pads.
      width: the width of the transformer, even.
      depth: layers of the encoder, and of the decoder.
      heads: the number of heads of each attention.
      mlp_dim: hidden width of each MLP.
      dropout: rate in the transformer: on embeddings, attention weights and each sum.
      mlp_dropout: rate within each MLP.
      deviation: what layer norms divide by, see `layers.layer_norm`; 'unbiased' in the released
        captioner, whose weights belong to it.
      patch_dropout: rate on the mapped patch features.
      max_length: most tokens that are written.
      decoding: how texts are written, {'name': one of decoding.DECODERS, **its options}.
      mean, std: moments of each channel of pictures in [0, 1]; ImageNet's in the released
        captioner, even for a trunk that was trained without.
      scan, remat: options of `layer_stack.scan_layers`.
      attention: the implementation that `transformer.attend` uses.
      dtype: the dtype of the computation, where the trunk's spec names none; parameters are
        float32.
    """

    tower: Mapping[str, Any]
    vocab_size: int
    bos_id: int
    eos_id: int
    width: int = 512
    depth: int = 3
    heads: int = 8
    mlp_dim: int = 512
    dropout: float = 0.1
    mlp_dropout: float = 0.1
    deviation: str = "biased"
    patch_dropout: float = 0.5
    max_length: int = 90
    decoding: Mapping[str, Any] | None = None
    mean: Sequence[float] | None = IMAGENET_MEAN
    std: Sequence[float] | None = IMAGENET_STD
    scan: bool = True
    remat: str = "dots_no_batch"
    attention: str | None = None
    dtype: Any = "float32"

    def setup(self) -> None:
        """Creates the trunk under the name `image`, and what follows it."""
        self.strategy = decoding.make_decoder(self.decoding)
        self.image = build_tower(self.tower, self.dtype)
        if self.image.reads != "pixels":
            raise InputError(f"A captioner needs a trunk of pictures, not '{self.tower['name']}'.")
        shared = {
            "depth": self.depth,
            "heads": self.heads,
            "mlp_dim": self.mlp_dim,
            "activation": "relu",
            "dropout": self.dropout,
            "mlp_dropout": self.mlp_dropout,
            "deviation": self.deviation,
            "dtype": self.dtype,
            "scan": self.scan,
            "remat": self.remat,
            "attention": self.attention,
            "bias_init": torch_bias,
        }
        self.patches = _Patches(self.width, self.patch_dropout, self.dtype)
        self.encoder = Decoder(self_attention="full", cross_attention=False, **shared)
        self.text_decoder = TextDecoder(self.vocab_size, self.width, **shared)

    def __call__(self, batch: Batch, train: bool = False) -> Outputs:
        """Scores every next word of the texts.

        Args:
          batch: 'text' and 'text_mask' beside 'image', or beside 'images' and 'images_mask' of a
            case; or such batches by stream, which pass as one batch.
          train: whether dropout is active and BatchNorm uses and records this batch's statistics.

        Returns:
          caption_logits: f32[B L-1 vocab_size], scores of the tokens after the first; by stream
            where the batch is.
        """
        nested = all(isinstance(rows, Mapping) for rows in batch.values())
        streams = list(batch.values()) if nested else [batch]
        whole = jax.tree.map(lambda *rows: jnp.concatenate(rows), *streams)
        memory = self._memory(self._trunk(whole, train)["patches"], train)
        scores = self.text_decoder(
            whole["text"][:, :-1], whole["text_mask"][:, :-1], memory, train=train
        )
        if not nested:
            return {"caption_logits": scores}
        ends = np.cumsum([len(rows["text"]) for rows in streams])[:-1]
        return {"caption_logits": dict(zip(batch, jnp.split(scores, ends), strict=True))}

    def generate(self, batch: Batch) -> dict[str, Array]:
        """Writes about the pictures.

        Returns:
          generated: i32[B max_length], see `decoding.Greedy`.
          image: f32[B F], as by `features`.
        """
        found = self._trunk(batch, train=False)
        memory = self._memory(found["patches"], train=False)
        ends = decoding.Ends(self.bos_id, self.eos_id)
        text = decoding.generate(self.text_decoder, memory, self.strategy, ends, self.max_length)
        return {"generated": text, "image": found["pooled"]}

    def features(self, batch: Batch) -> dict[str, Array]:
        """What the trunk pools, {'image': f32[B F]}; of a case the mean over its pictures."""
        return {"image": self._trunk(batch, train=False)["pooled"]}

    def _memory(self, found: Array, train: bool) -> Array:
        """The encoded patches, f[B M F] -> dtype[B M width]."""
        return self.encoder(self.patches(found, train), train=train)

    def _trunk(self, batch: Batch, train: bool) -> dict[str, Array]:
        """'pooled' f32[B F] and 'patches' dtype[B M F], row-major, of a picture or a case."""
        if "image" in batch:
            return self._pictures(batch["image"], train)
        if "images" not in batch or "images_mask" not in batch:
            raise InputError(
                "A captioner needs 'image', or 'images' and 'images_mask', but the batch has only "
                f"{sorted(batch)}."
            )
        images, valid = batch["images"], batch["images_mask"].astype(jnp.float32)
        found = self._pictures(images.reshape(-1, *images.shape[2:]), train)
        share = valid / jnp.maximum(valid.sum(axis=1, keepdims=True), 1.0)

        def mean(features: Array) -> Array:
            by_case = features.reshape(*share.shape, *features.shape[1:])
            return jnp.einsum("bk,bk...->b...", share.astype(features.dtype), by_case)

        return jax.tree.map(mean, found)

    def _pictures(self, images: Array, train: bool) -> dict[str, Array]:
        out = self.image(to_float(images, self.mean, self.std), train=train)
        if "map" in out:
            grid = out["map"]
            patches = grid.reshape(len(grid), -1, grid.shape[-1])
        else:
            # A class token describes the picture as a whole.
            patches = out["tokens"][:, self.image.others() :]
        return {"pooled": out["pooled"], "patches": patches}

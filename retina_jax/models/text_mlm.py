"""Masked-language modelling of a text tower, the first stage of KeepFIT V2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.bert import bert_init
from retina_jax.models.towers import build_tower
from retina_jax.models.transformer import gelu
from retina_jax.types import Array, Batch, Outputs


class MLMHead(nn.Module):
    """BERT's prediction head: dense, exact GELU, layer norm, word embeddings, bias.

    Attributes:
      eps: the epsilon of the layer norm.
      dtype: the dtype of the computation; the logits are float32.
    """

    eps: float = 1e-12
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, tokens: Array, table: Array) -> Array:
        """Scores every word at every position.

        Args:
          tokens: f[B L W], the last hidden states.
          table: f32[V W], the word embeddings of the encoder, shared as the output matrix.

        Returns:
          f32[B L V].
        """
        dtype = jnp.dtype(self.dtype)
        width = tokens.shape[-1]
        x = nn.Dense(width, dtype=dtype, kernel_init=bert_init, name="dense")(tokens)
        x = gelu(x)
        x = nn.LayerNorm(epsilon=self.eps, dtype=dtype, name="norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (table.shape[0],), jnp.float32)
        scores = jnp.einsum(
            "blw,vw->blv", x, table.astype(dtype), preferred_element_type=jnp.float32
        )
        return scores.astype(jnp.float32) + bias


class TextMLM(nn.Module):
    """A text tower and a head that predicts its masked tokens.

    The tower's parameters are `text`, exactly as in `Dual` and `KeepFIT`, so the next stage takes
    that subtree as it is; the head's are `mlm_head`.

    Attributes:
      encoder: spec of the tower, {'name': 'bert', **its options}.
      dtype: the dtype of the computation, where the spec names none.
    """

    encoder: Mapping[str, Any]
    dtype: Any = "float32"

    def setup(self) -> None:
        """Creates the tower and the head."""
        self.text = build_tower(self.encoder, self.dtype)
        if self.text.reads != "tokens":
            raise InputError(f"text_mlm needs a text tower, not '{self.encoder['name']}'.")
        self.mlm_head = MLMHead(eps=self.text.eps, dtype=self.text.dtype)

    def __call__(self, batch: Batch, train: bool = False) -> Outputs:
        """Predicts the tokens of `batch['masked_text']` i32[B L], attending by `text_mask`.

        Returns:
          logits: f32[B L V].
        """
        tokens = self.text(batch["masked_text"], batch["text_mask"], train=train)["tokens"]
        return {"logits": self.mlm_head(tokens, self.text.token_table())}

"""The text transformer of CLIP, so that its weights can be loaded."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.models.decoder_blocks import Decoder
from retina_jax.types import Array


class ClipText(nn.Module):
    """A causal pre-norm transformer that is read at the end of the text (Radford et al. 2021).

    The defaults are those of CLIP's ViT-B models: 63,165,952 parameters, to which the projection
    (here the system's) adds 262,144. CLIP has no token for padding: its texts end in the token of
    the largest id, and what follows is never seen, because each position attends to itself and
    those before it. The tokenizer is 'clip_bpe'.

    Attributes:
      vocab_size: number of tokens.
      width: the width of the hidden states.
      depth: number of blocks.
      heads: the number of heads of each attention.
      mlp_dim: hidden width of each block's MLP.
      max_length: number of learned positions, the longest text.
      activation: 'quick_gelu' as OpenAI trained it, 'gelu' in most models of open_clip.
      eps: the epsilon of every layer norm.
      dtype: the dtype of the computation; parameters are float32.
      scan, remat: options of `layer_stack.scan_layers`.
      attention: the implementation that `transformer.attend` uses.
    """

    reads: ClassVar[str] = "tokens"

    vocab_size: int = 49_408
    width: int = 512
    depth: int = 12
    heads: int = 8
    mlp_dim: int = 2048
    max_length: int = 77
    activation: str = "quick_gelu"
    eps: float = 1e-5
    dtype: Any = "float32"
    scan: bool = True
    remat: str = "dots_no_batch"
    attention: str | None = None

    def setup(self) -> None:
        """Creates the embeddings, first values as in CLIP, and the blocks with the last norm."""
        dtype = jnp.dtype(self.dtype)
        init = nn.initializers.normal
        self.word_embedding = nn.Embed(
            self.vocab_size, self.width, dtype=dtype, embedding_init=init(0.02)
        )
        self.position_embedding = self.param(
            "position_embedding", init(0.01), (self.max_length, self.width), jnp.float32
        )
        self.decoder = Decoder(
            depth=self.depth,
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            cross_attention=False,
            activation=self.activation,
            eps=self.eps,
            dtype=dtype,
            scan=self.scan,
            remat=self.remat,
            attention=self.attention,
        )

    def __call__(self, text: Array, text_mask: Array, train: bool = False) -> dict[str, Array]:
        """Encodes texts.

        Args:
          text: i32[B L], token ids, L <= max_length.
          text_mask: bool[B L], real tokens, the last of which ends the text.
          train: passed on; nothing here is random.

        Returns:
          pooled: f32[B W], the last real token after the last norm.
          tokens: dtype[B L W], through the last norm; those of padding have no meaning.
        """
        length = text.shape[1]
        if length > self.max_length:
            raise InputError(
                f"Texts of {length} tokens do not fit this text tower, which has "
                f"{self.max_length} positions: lower the text length to at most that."
            )
        positions = self.position_embedding[:length]
        x = self.word_embedding(text) + positions.astype(jnp.dtype(self.dtype))
        tokens = self.decoder(x, train=train)
        numbers = jnp.arange(length)
        last = jnp.max(jnp.where(text_mask.astype(bool), numbers, 0), axis=1)
        pooled = jnp.take_along_axis(tokens, last[:, None, None], axis=1)[:, 0]
        return {"pooled": pooled.astype(jnp.float32), "tokens": tokens}

    def token_table(self) -> Array:
        """The word embeddings, f32[vocab_size width], for a decoder that shares them."""
        return self.word_embedding.embedding

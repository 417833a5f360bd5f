"""SKKU's model: contrastive pairs, masked pictures and masked texts, and an attention between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.build import call
from retina_jax.models import decoding
from retina_jax.models.decoder_blocks import Decoder
from retina_jax.models.masked_pictures import MaskedPictures
from retina_jax.models.text_decoder import MaskedTextDecoder, TextDecoder
from retina_jax.models.towers import with_tokens
from retina_jax.types import Array, Batch, Outputs

CHOICES = {
    "context": ("clean", "masked"),
    "contrastive_on": ("encoder", "updated"),
    "caption_mode": ("masked", "causal"),
}


def cross_blocks(
    *, depth: int = 2, heads: int = 8, mlp_dim: int = 2048, dropout: float = 0.0, dtype: Any
) -> Decoder:
    """Blocks of x += attention(norm(x), norm(context)); x += mlp(norm(x)).

    Args:
      depth: number of blocks.
      heads: the number of heads of each attention, which divides the width of x.
      mlp_dim: hidden width of each block's MLP.
      dropout: rate on attention weights and on both sums.
      dtype: the dtype of the computation.
    """
    return Decoder(
        depth=depth,
        heads=heads,
        mlp_dim=mlp_dim,
        self_attention="none",
        memory_norm=True,
        last_norm=False,
        dropout=dropout,
        dtype=dtype,
    )


class CocaMim(MaskedPictures):
    """An image and a text tower that learn from pairs and from what is hidden of either.

    "Self-supervised multi-modal learning with contrastive and generative objectives" (Nguyen, Sun
    and Choo). Each tower passes a row twice, with the same parameters: as it is, for the
    contrastive term and as context, and with parts hidden, to be reconstructed. Between encoder and
    decoder the tokens of the hidden pass attend to those of the other modality (eq. 7). What the
    paper leaves open is an option here and a row of docs/fidelity.md. `embed` and `features` are
    those of `Dual` and never see the attention between the modalities.

    Parameters: those of `MaskedPictures`; for texts `text_reconstruction`; and `image_from_text`
    and `text_from_image`, the attention before each decoder.

    Attributes beside those of `MaskedPictures`:
      text_decoder: options of `MaskedTextDecoder`, or of `text_decoder.TextDecoder` with
        caption_mode='causal'; None reconstructs no texts.
      cross_attention: options of `cross_blocks`; None feeds the decoders with the tokens of their
        own modality only.
      context: the pass of the other modality that is attended to, 'clean' or 'masked'.
      contrastive_on: 'encoder' contrasts what the towers pool. 'updated' contrasts what the
        attention between the modalities makes of it; `embed`, which sees one modality, then
        projects the same tokens before that attention.
      caption_mode: 'masked' predicts a masked text in both directions; 'causal' writes the text
        word by word from the picture (CoCa), by the decoder's own attention to it.
      bos_id, eos_id, max_length, decoding: how `generate` writes, see `Captioner`.
    """

    text_decoder: Mapping[str, Any] | None = None
    cross_attention: Mapping[str, Any] | None = None
    context: str = "clean"
    contrastive_on: str = "encoder"
    caption_mode: str = "masked"
    bos_id: int | None = None
    eos_id: int | None = None
    max_length: int = 128
    decoding: Mapping[str, Any] | None = None

    def setup(self) -> None:
        """Adds the decoder of texts, and the attention between the modalities."""
        self._check_options()
        self.strategy = decoding.make_decoder(self.decoding)
        super().setup()
        if self.text_decoder is not None:
            options = {"dtype": self.dtype, **self.text_decoder}
            decoder = MaskedTextDecoder if self.caption_mode == "masked" else TextDecoder
            self.text_reconstruction = call("text_decoder", decoder, **options)
        if self.cross_attention is not None:
            options = {"dtype": self.dtype, **self.cross_attention}
            if self.image_decoder is not None:
                self.image_from_text = call("cross_attention", cross_blocks, **options)
            if self._masked_text():
                self.text_from_image = call("cross_attention", cross_blocks, **options)

    def _check_options(self) -> None:
        if set(self.towers) != {"image", "text"}:
            raise InputError(f"coca_mim has towers ['image', 'text'], not {sorted(self.towers)}.")
        self._check_choices(CHOICES)
        both = self.image_decoder is not None and self._masked_text()
        if self.cross_attention is None:
            needing = {"context": "masked", "contrastive_on": "updated"}
            for name, value in needing.items():
                if getattr(self, name) == value:
                    raise InputError(f"{name}='{value}' needs the option cross_attention.")
        elif self.contrastive_on == "updated" and not both:
            raise InputError(
                "contrastive_on='updated' needs both decoders, and caption_mode='masked'."
            )
        elif self.image_decoder is None and not self._masked_text():
            raise InputError(
                "cross_attention learns through the decoders only: set image_decoder, or "
                "text_decoder with caption_mode='masked', or leave it out."
            )

    def _hides(self) -> bool:
        return super()._hides() or self.context == "masked"

    def _masked_text(self) -> bool:
        return self.text_decoder is not None and self.caption_mode == "masked"

    def __call__(self, batch: Batch, train: bool = False) -> Outputs:
        """Embeds both modalities and reconstructs what is hidden of each.

        Args:
          batch: 'image', 'text' and 'text_mask'; with a text decoder 'masked_text'; and, to hide
            other patches than random ones, 'patch_mask' bool[B P] (see `_visible`).
          train: whether dropout is active; random patches are the same every time without it.

        Returns:
          z: {'image' and 'text': f32[B dim]}, unit rows.
          scale: f32[]; bias: f32[], where the model has one.
          patches, predicted_patches: f32[B P N], pixels after `mean` and `std`, by `patchify`.
          hidden_patches: bool[B P].
          logits: f32[B L V], scores of the token at each position, with caption_mode='masked'.
          caption_logits: f32[B L-1 V], scores of the tokens after the first, with 'causal'.
        """
        clean = {key: self._encoded(batch, key, train) for key in self.towers}
        tokens = {key: encoded["tokens"] for key, encoded in clean.items()}
        if self.contrastive_on == "updated":
            clean = self._updated(tokens, batch, train)
        z = {key: self._embedding(key, encoded) for key, encoded in clean.items()}
        return {"z": z, **self.temperature(), **self._reconstructions(batch, tokens, train)}

    def generate(self, batch: Batch) -> dict[str, Array]:
        """'generated' i32[B max_length], written about 'image', and 'image' as by `features`."""
        if self.text_decoder is None or self._masked_text():
            raise InputError(
                "coca_mim writes with a text_decoder and caption_mode='causal'; this model has "
                "none: remove the evaluator that asks for texts, or change the model."
            )
        encoded = self._encoded(batch, "image", train=False)
        ends = decoding.Ends(self.bos_id, self.eos_id)
        text = decoding.generate(
            self.text_reconstruction, encoded["tokens"], self.strategy, ends, self.max_length
        )
        return {"generated": text, "image": encoded["pooled"]}

    def _reconstructions(self, batch: Batch, clean: Mapping[str, Array], train: bool) -> Outputs:
        """What the decoders return, from the passes with parts hidden and the clean tokens."""
        out, context = {}, clean if self.context == "clean" else {}
        crossed, masked = self.cross_attention is not None, self.context == "masked"
        if self._hides():
            visible = self._visible(batch, train)
            image = self._visible_tokens(batch, visible, train)
        if self._masked_text() or masked:
            text = self._text_tokens(batch, "masked", train)
        if masked:
            context = {"image": image, "text": text}
        if self.image_decoder is not None:
            given = self._attending(image, context["text"] if crossed else None, batch, train)
            out |= self._reconstruction(batch, visible, given, train)
        if self._masked_text():
            if crossed:
                text = self.text_from_image(text, memory=context["image"], train=train)
            table = self.text.token_table()
            out["logits"] = self.text_reconstruction(text, batch["text_mask"], table, train)
        elif self.text_decoder is not None:
            text, mask = batch["text"][:, :-1], batch["text_mask"][:, :-1]
            out["caption_logits"] = self.text_reconstruction(
                text, mask, clean["image"], train=train
            )
        return out

    def _decoder_input(self, batch: Batch, tokens: Array) -> Array:
        text = None
        if self.cross_attention is not None:
            kind = self.context if "masked_text" in batch else "clean"
            text = self._text_tokens(batch, kind, train=False)
        return self._attending(tokens, text, batch, train=False)

    def _attending(self, tokens: Array, text: Array | None, batch: Batch, train: bool) -> Array:
        """f[B T W] of pictures' tokens, after they attended to those of texts, if there are any."""
        x = self.image_adaptor(tokens)
        if text is None:
            return x
        return self.image_from_text(x, None, text, batch["text_mask"], train)

    def _encoded(self, batch: Batch, key: str, train: bool) -> dict[str, Array]:
        return with_tokens(super()._encoded(batch, key, train))

    def _text_tokens(self, batch: Batch, kind: str, train: bool) -> Array:
        """dtype[B L W] of the 'clean' or the 'masked' text."""
        key = "text" if kind == "clean" else "masked_text"
        if key not in batch:
            raise InputError(f"coca_mim needs '{key}', but the batch has only {sorted(batch)}.")
        return self.text(batch[key], batch["text_mask"], train=train)["tokens"]

    def _embeddings(self, batch: Batch, keys: Sequence[str], train: bool) -> dict[str, Array]:
        if self.contrastive_on == "encoder":
            return super()._embeddings(batch, keys, train)
        z = {}
        for key in keys:
            tokens = self._encoded(batch, key, train)["tokens"]
            tokens = self.image_adaptor(tokens) if key == "image" else tokens
            z[key] = self._embedding(key, {"pooled": self._first_or_mean(tokens, batch, key)})
        return z

    def _updated(self, clean: Mapping[str, Array], batch: Batch, train: bool) -> dict[str, Any]:
        """What the attention between the modalities makes of both, {key: {'pooled': f32[B W]}}."""
        image = self._attending(clean["image"], clean["text"], batch, train)
        text = self.text_from_image(clean["text"], memory=clean["image"], train=train)
        return {
            key: {"pooled": self._first_or_mean(tokens, batch, key)}
            for key, tokens in (("image", image), ("text", text))
        }

    def _first_or_mean(self, tokens: Array, batch: Batch, key: str) -> Array:
        """f32[B W]: the first token for a tower that pools by 'cls', else the mean of real ones."""
        tokens = tokens.astype(jnp.float32)
        if getattr(getattr(self, key), "pool", "mean") == "cls":
            return tokens[:, 0]
        if key == "image":
            return tokens.mean(axis=1)
        weight = batch["text_mask"].astype(jnp.float32)[..., None]
        return (tokens * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1.0)

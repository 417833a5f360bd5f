"""SKKU's model: contrastive pairs, masked pictures and masked texts, and an attention between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.build import call
from retina_jax.models import decoding
from retina_jax.models.decoder_blocks import Decoder
from retina_jax.models.dual import Dual
from retina_jax.models.image_decoder import (
    ImageDecoder,
    comparison,
    patch_moments,
    patchify,
    unpatchify,
)
from retina_jax.models.layers import to_float
from retina_jax.models.text_decoder import MaskedTextDecoder, TextDecoder
from retina_jax.models.towers import with_tokens
from retina_jax.models.vit import ViT, hidden_of, patch_grid
from retina_jax.types import Array, Batch, Outputs

CHOICES = {
    "masked_patches": ("left_out", "mask_token"),
    "context": ("clean", "masked"),
    "contrastive_on": ("encoder", "updated"),
    "caption_mode": ("masked", "causal"),
}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


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


class CocaMim(Dual):
    """An image and a text tower that learn from pairs and from what is hidden of either.

    "Self-supervised multi-modal learning with contrastive and generative objectives" (Nguyen, Sun
    and Choo). Each tower passes a row twice, with the same parameters: as it is, for the
    contrastive term and as context, and with parts hidden, to be reconstructed. Between encoder and
    decoder the tokens of the hidden pass attend to those of the other modality (eq. 7). What the
    paper leaves open is an option here and a row of docs/fidelity.md. `embed` and `features` are
    those of `Dual` and never see the attention between the modalities.

    The tokens of a tower of convolutions are the places of its last map, each of which stands for a
    patch. Its hidden pass is as in evaluation, so that statistics stay those of whole pictures: let
    it begin with weights that have such statistics, or normalise by groups.

    Parameters: those of `Dual`; for pictures `image_adaptor` and `image_reconstruction`, for texts
    `text_reconstruction`; and `image_from_text` and `text_from_image`, the attention before each.

    Attributes:
      image_decoder: options of `ImageDecoder`; None reconstructs no pictures.
      text_decoder: options of `MaskedTextDecoder`, or of `text_decoder.TextDecoder` with
        caption_mode='causal'; None reconstructs no texts.
      cross_attention: options of `cross_blocks`; None feeds the decoders with the tokens of their
        own modality only.
      mask_ratio: share of the patches that are hidden.
      masked_patches: 'left_out' of the encoder (MAE), or replaced by a 'mask_token' (SimMIM); for
        a tower of convolutions only the latter, a learned colour in the place of their pixels.
      normalize_patches: reconstruct each patch at mean 0 and deviation 1 (MAE's `norm_pix_loss`).
      context: the pass of the other modality that is attended to, 'clean' or 'masked'.
      contrastive_on: 'encoder' contrasts what the towers pool. 'updated' contrasts what the
        attention between the modalities makes of it; `embed`, which sees one modality, then
        projects the same tokens before that attention.
      caption_mode: 'masked' predicts a masked text in both directions; 'causal' writes the text
        word by word from the picture (CoCa), by the decoder's own attention to it.
      bos_id, eos_id, max_length, decoding: how `generate` writes, see `Captioner`.
    """

    learn_scale: bool = False
    mean: Sequence[float] | None = CLIP_MEAN
    std: Sequence[float] | None = CLIP_STD
    image_decoder: Mapping[str, Any] | None = None
    text_decoder: Mapping[str, Any] | None = None
    cross_attention: Mapping[str, Any] | None = None
    mask_ratio: float = 0.75
    masked_patches: str = "left_out"
    normalize_patches: bool = False
    context: str = "clean"
    contrastive_on: str = "encoder"
    caption_mode: str = "masked"
    bos_id: int | None = None
    eos_id: int | None = None
    max_length: int = 128
    decoding: Mapping[str, Any] | None = None

    def setup(self) -> None:
        """Adds the decoders, and what leads to them, to the towers of `Dual`."""
        self._check_options()
        self.strategy = decoding.make_decoder(self.decoding)
        super().setup()
        hidden = self.image_decoder is not None or self.context == "masked"
        self._check_tower(hidden)
        if self.image_decoder is not None:
            options = {"dtype": self.dtype, **self.image_decoder}
            self.image_reconstruction = call("image_decoder", ImageDecoder, **options)
            width = self.image_reconstruction.width
            self.image_adaptor = nn.Dense(width, dtype=jnp.dtype(self.dtype))
        if self.masked_patches == "mask_token" and hidden:
            init = nn.initializers.normal(0.02)
            values = self.image.width if isinstance(self.image, ViT) else 3
            self.mask_token = self.param("mask_token", init, (values,), jnp.float32)
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
        self._check_choices("coca_mim")
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

    def _check_tower(self, hidden: bool) -> None:
        if not hasattr(self.image, "patch_size"):
            name = self.towers["image"]["name"]
            raise InputError(f"coca_mim hides patches, but a '{name}' tower has no patch_size.")
        if not isinstance(self.image, ViT):
            if hidden and self.masked_patches != "mask_token":
                raise InputError(
                    "Convolutions leave no patches out: set masked_patches='mask_token'."
                )
        elif self.image.pool == "patch_mean":
            raise InputError("coca_mim pools its 'vit' by 'cls' or 'mean', not by 'patch_mean'.")
        elif self.image.token_drop:
            raise InputError("coca_mim hides patches itself: set token_drop of its 'vit' to 0.")

    def _check_choices(self, owner: str) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{owner} has {name} {list(allowed)}, not '{getattr(self, name)}'."
                )
        if not 0 < self.mask_ratio < 1:
            raise InputError("mask_ratio is a share between 0 and 1, both excluded.")

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

    def reconstruct(self, batch: Batch) -> dict[str, Array]:
        """Pictures to look at, and how far the hidden patches are from what is there.

        Args:
          batch: a batch as for a call; of texts only what the model attends to.

        Returns:
          given, visible, reconstructed: u8[B H W 3], the last as the decoder returns all patches.
          error: f32[B], mean squared difference over the hidden patches, of pixels in [0, 1].
          error_of_mean: f32[B], the same if every hidden patch had the mean colour of the visible
            ones.
        """
        if self.image_decoder is None:
            raise InputError("This model has no image_decoder, so it reconstructs no pictures.")
        text = None
        if self.cross_attention is not None:
            kind = self.context if "masked_text" in batch else "clean"
            text = self._text_tokens(batch, kind, train=False)
        visible = self._visible(batch, train=False)
        tokens = self._visible_tokens(batch, visible, train=False)
        predicted = self._predicted_patches(batch, visible, tokens, text, train=False)
        pixels = self._pixels(batch)
        if self.normalize_patches:
            mean, deviation = patch_moments(pixels)
            predicted = predicted * deviation + mean
        given, made = (self._colours(batch, patches) for patches in (pixels, predicted))
        return comparison(given, made, self._hidden_pixels(batch, visible))

    def _reconstructions(self, batch: Batch, clean: Mapping[str, Array], train: bool) -> Outputs:
        """What the decoders return, from the passes with parts hidden and the clean tokens."""
        out, context = {}, clean if self.context == "clean" else {}
        crossed, masked = self.cross_attention is not None, self.context == "masked"
        if self.image_decoder is not None or masked:
            visible = self._visible(batch, train)
            image = self._visible_tokens(batch, visible, train)
        if self._masked_text() or masked:
            text = self._text_tokens(batch, "masked", train)
        if masked:
            context = {"image": image, "text": text}
        if self.image_decoder is not None:
            pixels = self._pixels(batch)
            if self.normalize_patches:
                mean, deviation = patch_moments(pixels)
                pixels = (pixels - mean) / deviation
            out["patches"] = pixels
            out["predicted_patches"] = self._predicted_patches(
                batch, visible, image, context["text"] if crossed else None, train
            )
            out["hidden_patches"] = hidden_of(visible, pixels.shape[1])
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

    def _predicted_patches(
        self, batch: Batch, visible: Array, tokens: Array, text: Array | None, train: bool
    ) -> Array:
        """f32[B P N] from the tokens of the visible pass, and of a text to attend to or None."""
        x = self.image_adaptor(tokens)
        if text is not None:
            x = self.image_from_text(x, None, text, batch["text_mask"], train)
        values = self.image.patch_size**2 * batch["image"].shape[-1]
        left_out = visible if self.masked_patches == "left_out" else None
        return self.image_reconstruction(x, left_out, self._grid(batch), values, train)

    def _visible_tokens(self, batch: Batch, visible: Array, train: bool) -> Array:
        image = to_float(batch["image"], self.mean, self.std)
        if isinstance(self.image, ViT):
            token = self.mask_token if self.masked_patches == "mask_token" else None
            return self.image(image, train, visible, token)["tokens"]
        image = jnp.where(self._hidden_pixels(batch, visible), self.mask_token, image)
        return with_tokens(self.image(image, train=False))["tokens"]

    def _encoded(self, batch: Batch, key: str, train: bool) -> dict[str, Array]:
        return with_tokens(super()._encoded(batch, key, train))

    def _hidden_pixels(self, batch: Batch, visible: Array) -> Array:
        """bool[B H W 3], True in the patches that are not among `visible`."""
        rows, columns = grid = self._grid(batch)
        hidden = hidden_of(visible, rows * columns)[..., None]
        return unpatchify(jnp.repeat(hidden, self.image.patch_size**2 * 3, axis=-1), grid)

    def _text_tokens(self, batch: Batch, kind: str, train: bool) -> Array:
        """dtype[B L W] of the 'clean' or the 'masked' text."""
        key = "text" if kind == "clean" else "masked_text"
        if key not in batch:
            raise InputError(f"coca_mim needs '{key}', but the batch has only {sorted(batch)}.")
        return self.text(batch[key], batch["text_mask"], train=train)["tokens"]

    def _visible(self, batch: Batch, train: bool) -> Array:
        """i32[B K], the patches that the encoder sees, K = round((1 - mask_ratio) P).

        Those that `patch_mask` does not hide, or random ones. Of a mask that hides another number
        the first K patches count, those not hidden before the others, so that `hidden_patches`
        holds in any case.
        """
        grid = self._grid(batch)
        count = grid[0] * grid[1]
        keep = round((1 - self.mask_ratio) * count)
        if not 0 < keep < count:
            raise InputError(
                f"mask_ratio is {self.mask_ratio}, which leaves {keep} of {count} patches visible; "
                "at least one has to be visible and one hidden."
            )
        if "patch_mask" in batch:
            order = batch["patch_mask"]
            if order.shape[1] != count:
                raise InputError(
                    f"patch_mask has {order.shape[1]} patches, but images of this size have "
                    f"{count}: set 'patches' of mask_patches to it."
                )
        else:
            rng = self.make_rng("dropout") if train else jax.random.key(0)
            order = jax.random.uniform(rng, (len(batch["image"]), count))
        return jnp.argsort(order, axis=1, stable=True)[:, :keep]

    def _grid(self, batch: Batch) -> tuple[int, int]:
        return patch_grid(batch["image"].shape, self.image.patch_size)

    def _pixels(self, batch: Batch) -> Array:
        return patchify(to_float(batch["image"], self.mean, self.std), self.image.patch_size)

    def _colours(self, batch: Batch, patches: Array) -> Array:
        """Patches of normalised pixels -> f32[B H W 3], pixels in [0, 1]."""
        pixels = unpatchify(patches, self._grid(batch))
        pixels = pixels * jnp.asarray(1.0 if self.std is None else self.std)
        return jnp.clip(pixels + jnp.asarray(0.0 if self.mean is None else self.mean), 0, 1)

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
        mask = batch["text_mask"]
        image = self.image_from_text(
            self.image_adaptor(clean["image"]), None, clean["text"], mask, train
        )
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

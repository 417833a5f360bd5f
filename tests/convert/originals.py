"""Published architectures that no package has, as small PyTorch modules with their own names.

Written from the descriptions of RET-CLIP, Chinese-CLIP and MAE, only to be compared with.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
from convert import parity


def clip_visual(size: int, patch: int, width: int, depth: int, heads: int, dim: int) -> Any:
    """The image tower of CLIP: images f[B 3 H W] -> features f[B dim], not normalised."""
    torch = parity.torch_or_skip()
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
            self.mlp = nn.ModuleDict(
                {"c_fc": nn.Linear(width, 2 * width), "c_proj": nn.Linear(2 * width, width)}
            )

        def forward(self, x: Any) -> Any:
            y = self.ln_1(x)
            x = x + self.attn(y, y, y, need_weights=False)[0]
            hidden = self.mlp["c_fc"](self.ln_2(x))
            return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))

    class Visual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
            self.class_embedding = nn.Parameter(torch.empty(width))
            self.positional_embedding = nn.Parameter(torch.empty(1 + (size // patch) ** 2, width))
            self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
            self.transformer = nn.ModuleDict(
                {"resblocks": nn.ModuleList([Block() for _ in range(depth)])}
            )
            self.proj = nn.Parameter(torch.empty(width, dim))

        def forward(self, images: Any) -> Any:
            x = self.conv1(images).flatten(2).transpose(1, 2)
            first = self.class_embedding.expand(len(x), 1, -1)
            x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding)
            for block in self.transformer["resblocks"]:
                x = block(x)
            return self.ln_post(x[:, 0]) @ self.proj

    return Visual()


def bert(vocabulary: int, width: int, depth: int, heads: int, pooler: bool) -> Any:
    """Hugging Face's BertModel without dropout."""
    parity.torch_or_skip()
    import transformers

    config = transformers.BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=depth,
        num_attention_heads=heads, intermediate_size=2 * width, max_position_embeddings=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertModel(config, add_pooling_layer=pooler)


def chinese_clip(size: int, vocabulary: int, pooler: bool = False) -> Any:
    """CN-CLIP: (images, ids, mask) -> unit rows of both, scale."""
    torch = parity.torch_or_skip()

    class ChineseClip(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = clip_visual(size, 8, 16, 2, 4, 12)
            self.bert = bert(vocabulary, 24, 2, 3, pooler)
            self.text_projection = torch.nn.Parameter(torch.empty(24, 12))
            self.logit_scale = torch.nn.Parameter(torch.tensor(2.5))

        def forward(self, images: Any, ids: Any, mask: Any) -> Any:
            first = self.bert(ids, attention_mask=mask).last_hidden_state[:, 0]
            unit = torch.nn.functional.normalize
            image, text = self.visual(images), first @ self.text_projection
            return unit(image, dim=-1), unit(text, dim=-1), self.logit_scale.exp()

    return parity.randomize(ChineseClip()).eval()


def retclip(size: int, vocabulary: int) -> Any:
    """RET-CLIP: (left, right, ids, mask) -> {level: (unit rows of images, of texts, scale)}."""
    torch = parity.torch_or_skip()
    nn = torch.nn

    def head() -> Any:
        return nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 12))

    class RetClip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = clip_visual(size, 8, 16, 2, 4, 12)
            self.bert = bert(vocabulary, 24, 2, 3, pooler=False)
            self.text_projection = head()
            self.text_projection_left, self.text_projection_right = head(), head()
            self.left_feature_mapping = nn.Linear(12, 12, bias=False)
            self.right_feature_mapping = nn.Linear(12, 12, bias=False)
            self.global_feature_mapping = nn.Linear(24, 12, bias=False)
            for name in ("logit_scale", "logit_scale_left", "logit_scale_right"):
                setattr(self, name, nn.Parameter(torch.empty(())))

        def forward(self, left: Any, right: Any, ids: Any, mask: Any) -> Any:
            left, right = self.visual(left), self.visual(right)
            report = self.bert(ids, attention_mask=mask).last_hidden_state[:, 0]
            images = {
                "left": self.left_feature_mapping(left),
                "right": self.right_feature_mapping(right),
                "patient": self.global_feature_mapping(torch.cat([left, right], dim=1)),
            }
            texts = {"left": (self.text_projection_left(report), self.logit_scale_left),
                     "right": (self.text_projection_right(report), self.logit_scale_right),
                     "patient": (self.text_projection(report), self.logit_scale)}  # fmt: skip
            unit = nn.functional.normalize
            return {
                level: (unit(images[level], dim=1), unit(text, dim=1), scale.exp())
                for level, (text, scale) in texts.items()
            }

    model = parity.randomize(RetClip()).eval()
    with torch.no_grad():
        for name, value in (("", 2.0), ("_left", 1.5), ("_right", 2.5)):
            getattr(model, f"logit_scale{name}").fill_(value)
    return model


def _block(width: int, heads: int) -> Any:
    """A block of timm's ViT, with its names."""
    torch = parity.torch_or_skip()
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
            self.attn = nn.ModuleDict(
                {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
            )
            self.mlp = nn.ModuleDict(
                {"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)}
            )

        def forward(self, x: Any) -> Any:
            batch, length, _ = x.shape
            fused = self.attn["qkv"](self.norm1(x)).reshape(batch, length, 3, heads, -1)
            query, key, value = fused.permute(2, 0, 3, 1, 4)
            scores = query @ key.transpose(-1, -2) / (width // heads) ** 0.5
            mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, -1)
            x = x + self.attn["proj"](mixed)
            return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))

    return Block()


def _sines(side: int, width: int) -> np.ndarray:
    """MAE's fixed positions f32[1 + side^2 width]: the class token's are zeros."""
    rates = 1.0 / 10_000 ** (np.arange(width // 4) / (width / 4))
    rows = []
    for row in range(side):
        for column in range(side):
            rows.append(np.concatenate([f(p * rates) for p in (column, row)
                                        for f in (np.sin, np.cos)]))  # fmt: skip
    return np.concatenate([np.zeros((1, width)), rows]).astype(np.float32)


_WIDTH, _NARROW, _PATCH = 24, 16, 8  # of the encoder, of the decoder, in pixels


def mae(size: int, decoder: bool = True, head: str = "", classes: int = 3) -> Any:
    """MAE's ViT as RETFound has it.

    Args:
      size: of pictures, which are cut into patches of 8.
      decoder: with MAE's decoder, for `reconstruct(images, visible)`.
      head: '' for `encode(images)` alone; 'cls' or 'mean' for scores of classes (`classify`),
        from the class token, or from the mean of patches through `fc_norm`.
      classes: their number.
    """
    torch = parity.torch_or_skip()
    model = _encoder(size // _PATCH, head, classes)
    if decoder:
        model = _with_decoder(model, size // _PATCH)
    parity.randomize(model).eval()
    if decoder:
        with torch.no_grad():
            model.decoder_pos_embed.copy_(torch.tensor(_sines(size // _PATCH, _NARROW))[None])
    return model


def _encoder(side: int, head: str, classes: int) -> Any:
    torch = parity.torch_or_skip()
    nn = torch.nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.empty(1, 1, _WIDTH))
            self.pos_embed = nn.Parameter(torch.empty(1, 1 + side**2, _WIDTH))
            self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, _WIDTH, _PATCH, _PATCH)})
            self.blocks = nn.ModuleList([_block(_WIDTH, 3) for _ in range(2)])
            last = "fc_norm" if head == "mean" else "norm"
            setattr(self, last, nn.LayerNorm(_WIDTH, 1e-6))
            if head:
                self.head = nn.Linear(_WIDTH, classes)

        def tokens(self, images: Any, visible: Any = None) -> Any:
            x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
            x = x + self.pos_embed[:, 1:]
            if visible is not None:
                x = torch.gather(x, 1, visible[..., None].expand(-1, -1, _WIDTH))
            first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
            x = torch.cat([first, x], dim=1)
            for block in self.blocks:
                x = block(x)
            return x

        def encode(self, images: Any) -> Any:
            tokens = self.tokens(images)
            if head == "mean":
                return self.fc_norm(tokens[:, 1:].mean(dim=1))
            return self.norm(tokens)[:, 0]

        def classify(self, images: Any) -> Any:
            return self.head(self.encode(images))

    return Encoder()


def _with_decoder(encoder: Any, side: int) -> Any:
    """`encoder` with the parameters of MAE's decoder, and the method `reconstruct`."""
    torch = parity.torch_or_skip()
    nn = torch.nn
    encoder.mask_token = nn.Parameter(torch.empty(1, 1, _NARROW))
    encoder.decoder_embed = nn.Linear(_WIDTH, _NARROW)
    fixed = torch.empty(1, 1 + side**2, _NARROW)
    encoder.decoder_pos_embed = nn.Parameter(fixed, requires_grad=False)
    encoder.decoder_blocks = nn.ModuleList([_block(_NARROW, 4) for _ in range(3)])
    encoder.decoder_norm = nn.LayerNorm(_NARROW, 1e-6)
    encoder.decoder_pred = nn.Linear(_NARROW, _PATCH**2 * 3)

    def reconstruct(images: Any, visible: Any) -> Any:
        tokens = encoder.decoder_embed(encoder.norm(encoder.tokens(images, visible)))
        x = encoder.mask_token.repeat(len(tokens), side**2, 1)
        at = visible[..., None].expand(-1, -1, _NARROW)
        x = torch.cat([tokens[:, :1], x.scatter(1, at, tokens[:, 1:])], dim=1)
        x = x + encoder.decoder_pos_embed
        for block in encoder.decoder_blocks:
            x = block(x)
        return encoder.decoder_pred(encoder.decoder_norm(x))[:, 1:]

    encoder.reconstruct = reconstruct
    return encoder


def mae_loss(images: Any, predicted: Any, hidden: Any) -> SimpleNamespace:
    """MAE's loss with `norm_pix_loss`, and its targets f32[B P N].

    Args:
      images: f32[B 3 H W].
      predicted: f32[B P N], patches of 8.
      hidden: bool[B P].
    """
    batch, _, height, _ = images.shape
    side = height // 8
    cut = images.reshape(batch, 3, side, 8, side, 8).permute(0, 2, 4, 3, 5, 1)
    target = cut.reshape(batch, side**2, -1)
    mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
    target = (target - mean) / (variance + 1e-6) ** 0.5
    errors = ((predicted - target) ** 2).mean(-1)
    return SimpleNamespace(target=target, value=(errors * hidden).sum() / hidden.sum())

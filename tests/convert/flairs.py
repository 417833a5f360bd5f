"""FLAIR, KeepFIT and its captioner as small PyTorch modules with the names of their releases.

Written from their descriptions, only to be compared with.
"""

import math
from typing import Any

import numpy as np
import pytest
from convert import networks, parity

SIZES = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 20, "max_position_embeddings": 8, "hidden_dropout_prob": 0.0,
         "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager"}  # fmt: skip
HEADS = SIZES["num_attention_heads"]
DIM = 12


def resnet18() -> Any:
    """torchvision's, sixteen times narrower, without its classifier."""
    torch = parity.torch_or_skip()
    torchvision = pytest.importorskip("torchvision")

    model = networks.narrow(torchvision.models.resnet18(), 16)
    model.fc = torch.nn.Identity()
    return model


def _projection(features: int) -> Any:
    """Unit vectors of a linear map of unit vectors."""
    torch = parity.torch_or_skip()

    def unit(x: Any) -> Any:
        return x / x.norm(dim=-1, keepdim=True)

    class Projection(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.projection = torch.nn.Linear(features, DIM, bias=False)

        def forward(self, x: Any) -> Any:
            return unit(self.projection(unit(x)))

    return Projection()


def _reference() -> Any:
    """The attention of KeepFIT as released, with its softmax over the two heads."""
    torch = parity.torch_or_skip()

    class Reference(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("W_q", "W_k", "W_v", "W_o"):
                setattr(self, name, torch.nn.Linear(DIM, DIM, bias=False))

        def forward(self, query: Any, key: Any, value: Any) -> Any:
            def split(x: Any) -> Any:
                return x.reshape(len(x), 2, -1).transpose(0, 1)

            q, k, v = split(self.W_q(query)), split(self.W_k(key)), split(self.W_v(value))
            weights = (q @ k.transpose(1, 2) / math.sqrt(DIM // 2)).softmax(dim=0)
            return self.W_o((weights @ v).transpose(0, 1).reshape(len(query), DIM))

    return Reference()


def flair(reference: bool) -> Any:
    """FLAIR, or KeepFIT with its attention and without dropout in it; without values."""
    torch = parity.torch_or_skip()
    import transformers

    class Vision(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.projection_head_vision = resnet18(), _projection(32)

        def forward(self, images: Any) -> Any:
            return self.projection_head_vision(self.model(images))

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.BertModel(transformers.BertConfig(**SIZES))
            # A part of the state at the version that the authors pin.
            self.model.embeddings._non_persistent_buffers_set.discard("position_ids")
            self.projection_head_text = _projection(SIZES["hidden_size"])

        def forward(self, ids: Any, mask: Any) -> Any:
            out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            states = torch.stack([out.hidden_states[i] for i in (1, 2, -1)])
            return self.projection_head_text(states.mean(dim=2).mean(dim=0))

    class Flair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision_model, self.text_model = Vision(), Text()
            self.logit_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))
            if reference:
                self.attention = _reference()

        def forward(self, images: Any, ids: Any, mask: Any) -> tuple[Any, Any, Any]:
            return self.vision_model(images), self.text_model(ids, mask), self.logit_scale.exp()

    return Flair()


def _norm(width: int) -> Any:
    """R2Gen's layer norm: the unbiased deviation, to which 1e-6 is added."""
    torch = parity.torch_or_skip()

    class Norm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = torch.nn.Parameter(torch.ones(width))
            self.beta = torch.nn.Parameter(torch.zeros(width))

        def forward(self, x: Any) -> Any:
            mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
            return self.gamma * (x - mean) / (deviation + 1e-6) + self.beta

    return Norm()


def _attention(width: int, heads: int) -> Any:
    """Multi-head attention whose four maps are a list."""
    torch = parity.torch_or_skip()

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linears = torch.nn.ModuleList([torch.nn.Linear(width, width) for _ in range(4)])

        def forward(self, x: Any, over: Any, mask: Any) -> Any:
            def split(y: Any) -> Any:
                return y.view(len(y), -1, heads, width // heads).transpose(1, 2)

            pairs = zip(self.linears, (x, over, over), strict=False)
            query, key, value = (split(linear(y)) for linear, y in pairs)
            scores = query @ key.transpose(-2, -1) / math.sqrt(width // heads)
            if mask is not None:
                scores = scores.masked_fill(mask == 0, -1e9)
            mixed = scores.softmax(dim=-1) @ value
            return self.linears[3](mixed.transpose(1, 2).reshape(x.shape))

    return Attention()


def _stack(width: int, depth: int, heads: int, decodes: bool) -> Any:
    """Layers of an encoder or a decoder, norms first, and a norm behind them."""
    torch = parity.torch_or_skip()
    nn = torch.nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = _attention(width, heads)
            if decodes:
                self.src_attn = _attention(width, heads)
            self.feed_forward = nn.ModuleDict(
                {"w_1": nn.Linear(width, 2 * width), "w_2": nn.Linear(2 * width, width)}
            )
            norms = [nn.ModuleDict({"norm": _norm(width)}) for _ in range(2 + decodes)]
            self.sublayer = nn.ModuleList(norms)

        def forward(self, x: Any, memory: Any, mask: Any) -> Any:
            norms = [sublayer["norm"] for sublayer in self.sublayer]
            y = norms[0](x)
            x = x + self.self_attn(y, y, mask)
            if decodes:
                x = x + self.src_attn(norms[1](x), memory, None)
            hidden = self.feed_forward["w_1"](norms[-1](x)).relu()
            return x + self.feed_forward["w_2"](hidden)

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Layer() for _ in range(depth)])
            self.norm = _norm(width)

        def forward(self, x: Any, memory: Any = None, mask: Any = None) -> Any:
            for layer in self.layers:
                x = layer(x, memory, mask)
            return self.norm(x)

    return Stack()


def _words(words: int, width: int) -> Any:
    """Embeddings times the root of the width, and fixed sinusoids."""
    torch = parity.torch_or_skip()

    class Embedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lut = torch.nn.Embedding(words, width)

        def forward(self, ids: Any) -> Any:
            return self.lut(ids) * math.sqrt(width)

    class Positions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            rates = torch.exp(torch.arange(0, width, 2) * -(math.log(10000.0) / width))
            angles = torch.arange(50)[:, None] * rates
            table = torch.zeros(1, 50, width)
            table[0, :, 0::2], table[0, :, 1::2] = angles.sin(), angles.cos()
            self.register_buffer("pe", table)

        def forward(self, x: Any) -> Any:
            return x + self.pe[:, : x.shape[1]]

    return torch.nn.Sequential(Embedding(), Positions())


def captioner(words: int, width: int, depth: int, heads: int) -> Any:
    """KeepFIT-FFA's captioner without dropout, random but for the positions."""
    torch = parity.torch_or_skip()
    nn = torch.nn

    class Captioner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            trunk = nn.Sequential(*list(resnet18().children())[:-2])
            self.visual_extractor = nn.ModuleDict({"model": trunk})
            transformer = {"encoder": _stack(width, depth, heads, decodes=False),
                           "decoder": _stack(width, depth, heads, decodes=True),
                           "tgt_embed": _words(words, width)}  # fmt: skip
            parts = {"att_embed": nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Dropout(0.0)),
                     "model": nn.ModuleDict(transformer),
                     "logit": nn.Linear(width, words)}  # fmt: skip
            self.encoder_decoder = nn.ModuleDict(parts)

        def forward(self, images: Any, ids: Any) -> Any:
            """Log-probabilities of the words after each of ids [B L]; 0 pads, but not at first."""
            grid = self.visual_extractor["model"](images)
            parts, model = self.encoder_decoder, self.encoder_decoder["model"]
            memory = model["encoder"](parts["att_embed"](grid.flatten(2).transpose(1, 2)))
            there = ids > 0
            there[:, 0] = True
            causal = torch.tril(torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool))
            mask = (there[:, None] & causal)[:, None]
            out = model["decoder"](model["tgt_embed"](ids), memory, mask)
            return parts["logit"](out).log_softmax(dim=-1)

    return Captioner()


def texts(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """'text' and 'text_mask', each row of another length."""
    rng = np.random.default_rng(seed)
    length = SIZES["max_position_embeddings"]
    mask = np.arange(length) < (length - np.arange(rows) % 4)[:, None]
    ids = np.where(mask, rng.integers(1, SIZES["vocab_size"], mask.shape), 0).astype(np.int32)
    return {"text": ids, "text_mask": mask}

"""The two-tower models of `train_step.py` in PyTorch, from the libraries that people train with.

'open_clip' is open_clip's CLIP with its own vision transformer and a BERT of Hugging Face
transformers, the arrangement of BiomedCLIP. 'plain' is a module of this file around timm's vision
transformer or torchvision's ResNet and the same BERT. Both take the parameters of ours, so that
losses and gradients can be compared before anything is timed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

torch: Any = None  # PyTorch and its friends are only compared with, where they are installed
with contextlib.suppress(ImportError):
    torch = importlib.import_module("torch")
if torch is not None:
    try:
        torchvision: Any = importlib.import_module("torchvision")
    except RuntimeError:
        # A wheel of torchvision for another build of the same PyTorch lacks these two operators,
        # and cannot be imported where they are not known; nothing here calls them.
        _library = torch.library.Library("torchvision", "DEF")
        for _name in ("nms", "qnms"):
            _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torchvision = importlib.import_module("torchvision")
    open_clip, timm, transformers = map(
        importlib.import_module, ("open_clip", "timm", "transformers")
    )

Params = Mapping[str, Any]
Weights = dict[str, np.ndarray]
LARGEST_SCALE = 100.0
# Dense layers and layer norms of a layer: (name of ours, of the opponent).
_BERT_LAYER = (("attention/query", "attention.self.query"), ("attention/key", "attention.self.key"),
               ("attention/value", "attention.self.value"),
               ("attention/out", "attention.output.dense"),
               ("attention_norm", "attention.output.LayerNorm"),
               ("mlp/in", "intermediate.dense"), ("mlp/out", "output.dense"),
               ("mlp_norm", "output.LayerNorm"))  # fmt: skip
_TIMM_BLOCK = (("norm1", "norm1"), ("attention/qkv", "attn.qkv"), ("attention/out", "attn.proj"),
               ("norm2", "norm2"), ("mlp/in", "mlp.fc1"), ("mlp/out", "mlp.fc2"))  # fmt: skip
_OPEN_CLIP_BLOCK = (("norm1", "ln_1"), ("attention/qkv", "attn.in_proj"),
                    ("attention/out", "attn.out_proj"), ("norm2", "ln_2"),
                    ("mlp/in", "mlp.c_fc"), ("mlp/out", "mlp.c_proj"))  # fmt: skip


def _layers(stacked: Params) -> list[dict[str, Weights]]:
    """For each layer of a transformer {name: {'weight', 'bias'}}, as PyTorch lays them out."""
    attention, depth = stacked["attention"], len(stacked["mlp"]["in"]["bias"])
    width = stacked["mlp"]["in"]["kernel"].shape[1]
    found: list[dict[str, Weights]] = []
    for i in range(depth):
        layer: dict[str, Weights] = {}
        for name in ("query", "key", "value"):
            layer[f"attention/{name}"] = {
                "weight": attention[name]["kernel"][i].reshape(width, -1).T,
                "bias": attention[name]["bias"][i].reshape(-1),
            }
        layer["attention/qkv"] = {
            what: np.concatenate([layer[f"attention/{n}"][what] for n in ("query", "key", "value")])
            for what in ("weight", "bias")
        }
        layer["attention/out"] = {"weight": attention["out"]["kernel"][i].reshape(-1, width).T,
                                  "bias": attention["out"]["bias"][i]}  # fmt: skip
        for name in ("in", "out"):
            dense = stacked["mlp"][name]
            layer[f"mlp/{name}"] = {"weight": dense["kernel"][i].T, "bias": dense["bias"][i]}
        for name in stacked:
            if name.endswith(("norm", "norm1", "norm2")):
                norm = stacked[name]
                layer[name] = {"weight": norm["scale"][i], "bias": norm["bias"][i]}
        found.append(layer)
    return found


def _named(stacked: Params, names: tuple, prefix: str) -> Weights:
    return {
        f"{prefix}.{i}.{theirs}.{what}": value
        for i, layer in enumerate(_layers(stacked))
        for ours, theirs in names
        for what, value in layer[ours].items()
    }


def _norm(tree: Params, name: str) -> Weights:
    return {f"{name}.weight": tree["scale"], f"{name}.bias": tree["bias"]}


def _bert(tree: Params, prefix: str) -> Weights:
    found = {
        f"embeddings.{theirs}_embeddings.weight": tree[f"{ours}_embedding"]["embedding"]
        for ours, theirs in (("word", "word"), ("position", "position"), ("type", "token_type"))
    }
    found |= _norm(tree["embedding_norm"], "embeddings.LayerNorm")
    found |= _named(tree["layers"], _BERT_LAYER, "encoder.layer")
    return {f"{prefix}.{name}": value for name, value in found.items()}


def _convolution(tree: Params) -> np.ndarray:
    return tree["kernel"].transpose(3, 2, 0, 1)


def _timm_vit(tree: Params) -> Weights:
    return {
        "image.patch_embed.proj.weight": _convolution(tree["patch_embedding"]),
        "image.cls_token": tree["class_embedding"][None, None],
        "image.pos_embed": tree["position_embedding"][None],
        **_norm(tree["pre_norm"], "image.norm_pre"),
        **_named(tree["blocks"], _TIMM_BLOCK, "image.blocks"),
        **_norm(tree["post_norm"], "image.norm"),
    }


def _torchvision_resnet(tree: Params) -> Weights:
    found: Weights = {"image.conv1.weight": _convolution(tree["conv1"])}
    found |= _norm(tree["bn1"], "image.bn1")
    for name, block in tree.items():
        if not name.startswith("layer"):
            continue
        prefix = f"image.{name.replace('_', '.')}"
        for part, values in block.items():
            theirs = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
            where = f"{prefix}.{theirs.get(part, part)}"
            if "kernel" in values:
                found[f"{where}.weight"] = _convolution(values)
            else:
                found |= _norm(values, where)
    return found


def weights(kind: str, params: Params) -> Weights:
    """The parameters of our `dual`, or gradients for them, under the names of an opponent.

    Args:
      kind: 'open_clip' or 'plain'.
      params: of towers 'image' (vit with pre_norm and without patch_bias, or resnet) and 'text'
        (bert).
    """
    image, text = params["image"], params["text"]
    projections = {k: params[f"{k}_projection"]["kernel"] for k in ("image", "text")}
    if kind == "open_clip":
        found = {
            "visual.conv1.weight": _convolution(image["patch_embedding"]),
            "visual.class_embedding": image["class_embedding"],
            "visual.positional_embedding": image["position_embedding"],
            **_norm(image["pre_norm"], "visual.ln_pre"),
            **_named(image["blocks"], _OPEN_CLIP_BLOCK, "visual.transformer.resblocks"),
            **_norm(image["post_norm"], "visual.ln_post"),
            "visual.proj": projections["image"],
            **_bert(text, "text.transformer"),
            "text.proj.weight": projections["text"].T,
        }
        # Its attention has the three maps in one parameter without a module.
        found = {name.replace("in_proj.", "in_proj_"): value for name, value in found.items()}
    else:
        found = (_timm_vit if "blocks" in image else _torchvision_resnet)(image)
        found |= _bert(text, "text")
        found |= {f"{k}_projection.weight": kernel.T for k, kernel in projections.items()}
    return {**found, "logit_scale": params["logit_scale"]}


def _bert_config(spec: Mapping[str, Any]) -> Any:
    return transformers.BertConfig(
        vocab_size=spec["vocab_size"], hidden_size=spec["width"], num_hidden_layers=spec["depth"],
        num_attention_heads=spec["heads"], intermediate_size=spec["mlp_dim"],
        max_position_embeddings=spec["max_length"], hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, pad_token_id=0,
    )  # fmt: skip


def _open_clip(model: Mapping[str, Any], size: int) -> Any:
    image = model["towers"]["image"]
    with tempfile.TemporaryDirectory() as folder:  # open_clip takes a BERT by the name of a folder
        config = _bert_config(model["towers"]["text"]).to_dict()
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return open_clip.model.CustomTextCLIP(
            model["dim"],
            {"image_size": size, "layers": image["depth"], "width": image["width"],
             "head_width": image["width"] // image["heads"], "patch_size": image["patch_size"],
             "mlp_ratio": image["mlp_dim"] / image["width"]},
            {"hf_model_name": folder, "hf_model_pretrained": False, "hf_proj_type": "linear",
             "hf_pooler_type": "cls_last_hidden_state_pooler"},
        )  # fmt: skip


def _plain(model: Mapping[str, Any], size: int) -> Any:
    image = model["towers"]["image"]
    if image["name"] == "vit":
        tower = timm.models.VisionTransformer(
            img_size=size, patch_size=image["patch_size"], embed_dim=image["width"],
            depth=image["depth"], num_heads=image["heads"],
            mlp_ratio=image["mlp_dim"] / image["width"], num_classes=0, pre_norm=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
        )  # fmt: skip
        features = image["width"]
    else:
        tower = getattr(torchvision.models, f"resnet{image['depth']}")()
        features, tower.fc = tower.fc.in_features, torch.nn.Identity()

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            text = _bert_config(model["towers"]["text"])
            self.image, self.text = tower, transformers.BertModel(text, add_pooling_layer=False)
            self.image_projection = torch.nn.Linear(features, model["dim"], bias=False)
            self.text_projection = torch.nn.Linear(text.hidden_size, model["dim"], bias=False)
            self.logit_scale = torch.nn.Parameter(torch.zeros(()))

        def forward(self, image: Any, text: Any) -> tuple[Any, Any, Any]:
            tokens = self.text(text, attention_mask=text != 0).last_hidden_state
            unit = torch.nn.functional.normalize
            return (unit(self.image_projection(self.image(image)), dim=-1),
                    unit(self.text_projection(tokens[:, 0]), dim=-1),
                    self.logit_scale.exp())  # fmt: skip

    return Plain()


def _clip_loss(image: Any, text: Any, scale: Any) -> Any:
    logits = scale * image @ text.T
    rows = torch.arange(len(logits), device=logits.device)
    entropy = torch.nn.functional.cross_entropy
    return (entropy(logits, rows) + entropy(logits.T, rows)) / 2


MAKERS: dict[str, Callable[[Mapping[str, Any], int], Any]] = {
    "open_clip": _open_clip, "plain": _plain}  # fmt: skip


class Step:
    """One training step of an opponent on one batch; calling it returns the loss before it.

    Scaling of pixels, loss, gradient, clipping, AdamW in PyTorch's fused form, and open_clip's
    bound of the scale. Pictures and convolutions are channels-last, PyTorch's faster layout.

    Attributes:
      model: a torch module with the parameters of ours.
    """

    def __init__(self, kind: str, model: Mapping[str, Any], params: Params,
                 batch: Mapping[str, np.ndarray], *, learning_rate: float, weight_decay: float,
                 clip: float, compiler: str | None = None, device: str = "cpu",
                 half: bool = False) -> None:  # fmt: skip
        self.kind, self._clip = kind, clip
        self.model = MAKERS[kind](model, batch["image"].shape[1])
        _load(self.model, weights(kind, params))
        self.model.to(device, memory_format=torch.channels_last).train()
        self._batch = (torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).to(device),
                       torch.from_numpy(batch["text"]).long().to(device))  # fmt: skip
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True
        )
        criterion = open_clip.ClipLoss() if kind == "open_clip" else _clip_loss

        def loss(image: Any, text: Any) -> Any:
            with torch.autocast(device, torch.bfloat16, enabled=half):
                found = self.model(image.float() / 255, text)
            return criterion(*(value.float() for value in found))

        self._loss = torch.compile(loss, backend=compiler, dynamic=False) if compiler else loss

    def __call__(self) -> float:
        """Takes a step and waits for it."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(*self._batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self._optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, np.log(LARGEST_SCALE))
        return loss.item()

    def gradient(self) -> Weights:
        """The clipped gradient of the last step by names; zero where there was none."""
        return {name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.cpu().numpy()
                for name, p in self.model.named_parameters()}  # fmt: skip


def _load(model: Any, values: Weights) -> None:
    """Copies every parameter; ValueError where the names are not exactly the parameters."""
    parameters = dict(model.named_parameters())
    if unlike := sorted(set(parameters) ^ set(values)):
        raise ValueError(f"The parameters {unlike} are in one of the two models only.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = torch.from_numpy(np.array(values[name], np.float32))
            if value.shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(value.shape)}, not {tuple(parameter.shape)}.")
            parameter.copy_(value)

"""Published networks as PyTorch registers their parameters and buffers, without what they compute.

Whether an export loads strictly depends on these names alone. Written from the published code at
the versions that it pins (FLAIR and KeepFIT: transformers 4.27, whose `position_ids` are stored);
only PyTorch is needed, of any version: `python skeletons.py FOLDER` loads FOLDER/NAME.safetensors
into every skeleton, for an interpreter that has PyTorch and nothing else of this project.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Sizes of all, as small as the networks allow.
WIDTH, WORDS, LENGTH, DIM, CLASSES = 16, 30, 8, 12, 3
_TYPES = {"F32": torch.float32, "I64": torch.int64}


class _Tree(nn.Module):
    """Modules and parameters by name."""

    def __init__(self, /, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


def _block(inputs: int, width: int, stride: int, bottleneck: bool) -> nn.Module:
    """A block of torchvision's ResNet."""
    out = width * (4 if bottleneck else 1)
    sizes = [(inputs, width, 1), (width, width, 3), (width, out, 1)]
    sizes = sizes if bottleneck else [(inputs, width, 3), (width, width, 3)]
    parts: dict[str, nn.Module] = {}
    for number, (first, last, size) in enumerate(sizes, start=1):
        parts[f"conv{number}"] = nn.Conv2d(first, last, size, bias=False)
        parts[f"bn{number}"] = nn.BatchNorm2d(last)
    if stride > 1 or inputs != out:
        shortcut = nn.Conv2d(inputs, out, 1, bias=False)
        parts["downsample"] = nn.Sequential(shortcut, nn.BatchNorm2d(out))
    return _Tree(**parts)


def _stages(
    counts: Sequence[int], width: int, expansion: int, block: Callable[[int, int, int], nn.Module]
) -> list[nn.Module]:
    found, inputs = [], width
    for stage, count in enumerate(counts):
        blocks = []
        for number in range(count):
            blocks.append(block(inputs, width << stage, 2 if stage and not number else 1))
            inputs = (width << stage) * expansion
        found.append(nn.Sequential(*blocks))
    return found


def resnet(classes: int = 0) -> nn.Module:
    """torchvision's ResNet-18, with its classifier or FLAIR's identity in its place."""
    stages = _stages((2, 2, 2, 2), 4, 1, lambda i, w, s: _block(i, w, s, False))
    named = {f"layer{number}": stage for number, stage in enumerate(stages, start=1)}
    head = nn.Linear(32, classes) if classes else nn.Identity()
    stem = {"conv1": nn.Conv2d(3, 4, 7, bias=False), "bn1": nn.BatchNorm2d(4), "relu": nn.ReLU(),
            "maxpool": nn.MaxPool2d(3)}  # fmt: skip
    return _Tree(**stem, **named, avgpool=nn.AdaptiveAvgPool2d(1), fc=head)


def resnet3d() -> nn.Module:
    """torchvision's R3D-18."""

    def conv(inputs: int, out: int, size: Any) -> list[nn.Module]:
        return [nn.Conv3d(inputs, out, size, bias=False), nn.BatchNorm3d(out)]

    def block(inputs: int, width: int, stride: int) -> nn.Module:
        parts: dict[str, nn.Module] = {
            "conv1": nn.Sequential(*conv(inputs, width, 3), nn.ReLU()),
            "conv2": nn.Sequential(*conv(width, width, 3)),
        }
        if stride > 1 or inputs != width:
            parts["downsample"] = nn.Sequential(*conv(inputs, width, 1))
        return _Tree(**parts)

    stages = _stages((2, 2, 2, 2), 4, 1, block)
    named = {f"layer{number}": stage for number, stage in enumerate(stages, start=1)}
    stem = nn.Sequential(*conv(3, 4, (3, 7, 7)), nn.ReLU())
    return _Tree(stem=stem, **named, fc=nn.Linear(32, CLASSES))


def _dense_and_norm(inputs: int, out: int) -> nn.Module:
    return _Tree(dense=nn.Linear(inputs, out), LayerNorm=nn.LayerNorm(out))


def bert(pooler: bool = True, stored_positions: bool = False) -> nn.Module:
    """BertModel of transformers, or of Chinese-CLIP, which has no pooler."""
    tables = {"word": WORDS, "position": LENGTH, "token_type": 2}
    parts = {f"{name}_embeddings": nn.Embedding(rows, WIDTH) for name, rows in tables.items()}
    embeddings = _Tree(**parts, LayerNorm=nn.LayerNorm(WIDTH))
    positions = torch.arange(LENGTH).expand((1, -1))
    embeddings.register_buffer("position_ids", positions, persistent=stored_positions)
    layers = []
    for _ in range(2):
        inner = _Tree(**{name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")})
        attention = _Tree(self=inner, output=_dense_and_norm(WIDTH, WIDTH))
        wide = _Tree(dense=nn.Linear(WIDTH, 2 * WIDTH))
        output = _dense_and_norm(2 * WIDTH, WIDTH)
        layers.append(_Tree(attention=attention, intermediate=wide, output=output))
    parts = {"embeddings": embeddings, "encoder": _Tree(layer=nn.ModuleList(layers))}
    if pooler:
        parts["pooler"] = _Tree(dense=nn.Linear(WIDTH, WIDTH))
    return _Tree(**parts)


def masked_bert() -> nn.Module:
    """BertForMaskedLM of transformers."""
    model, bias = bert(pooler=False), _empty(WORDS)
    decoder = nn.Linear(WIDTH, WORDS)
    decoder.weight = model.embeddings.word_embeddings.weight
    decoder.bias = bias
    predictions = _Tree(bias=bias, transform=_dense_and_norm(WIDTH, WIDTH), decoder=decoder)
    return _Tree(bert=model, cls=_Tree(predictions=predictions))


def flair(reference: bool = False) -> nn.Module:
    """FLAIR's FLAIRModel, or KeepFIT's with its attention."""

    def projection(features: int) -> nn.Module:
        return _Tree(projection=nn.Linear(features, DIM, bias=False))

    model = _Tree(
        vision_model=_Tree(model=resnet(), projection_head_vision=projection(32)),
        text_model=_Tree(model=bert(stored_positions=True), projection_head_text=projection(WIDTH)),
        logit_scale=_empty(),
    )
    if reference:
        maps = {f"W_{name}": nn.Linear(DIM, DIM, bias=False) for name in "qkvo"}
        model.attention = _Tree(**maps)
    return model


def _r2gen_norm() -> nn.Module:
    return _Tree(gamma=_empty(WIDTH), beta=_empty(WIDTH))


def _r2gen_layers(decodes: bool) -> nn.Module:
    def attention() -> nn.Module:
        return _Tree(linears=nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(4)]))

    layers = []
    for _ in range(2):
        wide = {"w_1": nn.Linear(WIDTH, 2 * WIDTH), "w_2": nn.Linear(2 * WIDTH, WIDTH)}
        parts = {"self_attn": attention(), "feed_forward": _Tree(**wide)}
        if decodes:
            parts["src_attn"] = attention()
        norms = [_Tree(norm=_r2gen_norm(), dropout=nn.Dropout()) for _ in range(2 + decodes)]
        layers.append(_Tree(**parts, sublayer=nn.ModuleList(norms)))
    return _Tree(layers=nn.ModuleList(layers), norm=_r2gen_norm())


def captioner() -> nn.Module:
    """KeepFIT-FFA's captioner, whose fixed positions are a buffer of 5,000 rows."""
    trunk = nn.Sequential(*list(resnet().children())[:-2])
    positions = nn.Module()
    positions.register_buffer("pe", torch.empty(1, 5000, WIDTH))
    embedding = nn.Sequential(_Tree(lut=nn.Embedding(WORDS, WIDTH)), positions)
    model = _Tree(encoder=_r2gen_layers(False), decoder=_r2gen_layers(True), tgt_embed=embedding)
    into = nn.Sequential(nn.Linear(32, WIDTH), nn.ReLU(), nn.Dropout())
    words = _Tree(att_embed=into, model=model, logit=nn.Linear(WIDTH, WORDS))
    return _Tree(visual_extractor=_Tree(model=trunk), encoder_decoder=words)


def _resblocks(width: int) -> nn.Module:
    blocks = []
    for _ in range(2):
        mlp = _Tree(c_fc=nn.Linear(width, 2 * width), c_proj=nn.Linear(2 * width, width))
        norms = {"ln_1": nn.LayerNorm(width), "ln_2": nn.LayerNorm(width)}
        blocks.append(_Tree(attn=nn.MultiheadAttention(width, 1), mlp=mlp, **norms))
    return _Tree(resblocks=nn.Sequential(*blocks))


def _clip_vit() -> nn.Module:
    arrays = {"class_embedding": _empty(WIDTH), "positional_embedding": _empty(1 + 4, WIDTH),
              "proj": _empty(WIDTH, DIM)}  # fmt: skip
    norms = {"ln_pre": nn.LayerNorm(WIDTH), "ln_post": nn.LayerNorm(WIDTH)}
    patches = nn.Conv2d(3, WIDTH, 8, bias=False)
    return _Tree(conv1=patches, transformer=_resblocks(WIDTH), **arrays, **norms)


def _clip_resnet() -> nn.Module:
    """CLIP's ModifiedResNet."""

    def block(inputs: int, width: int, stride: int) -> nn.Module:
        found = _block(inputs, width, 1, True)
        if stride > 1 or inputs != 4 * width:
            convolution = nn.Conv2d(inputs, 4 * width, 1, bias=False)
            named = nn.Sequential()
            named.add_module("-1", nn.AvgPool2d(stride))
            named.add_module("0", convolution)
            named.add_module("1", nn.BatchNorm2d(4 * width))
            found.downsample = named
        return found

    stages = _stages((1, 1, 1, 1), 4, 4, block)
    named = {f"layer{number}": stage for number, stage in enumerate(stages, start=1)}
    convolutions = [nn.Conv2d(3, 2, 3, bias=False), nn.Conv2d(2, 2, 3, bias=False),
                    nn.Conv2d(2, 4, 3, bias=False)]  # fmt: skip
    for number, convolution in enumerate(convolutions, start=1):
        named[f"conv{number}"] = convolution
        named[f"bn{number}"] = nn.BatchNorm2d(convolution.out_channels)
    pool = {f"{name}_proj": nn.Linear(128, 128) for name in "kqv"}
    positions = _empty(1 + 4, 128)
    named["attnpool"] = _Tree(**pool, c_proj=nn.Linear(128, DIM), positional_embedding=positions)
    return _Tree(**named)


def _clip_text() -> dict[str, Any]:
    return {"token_embedding": nn.Embedding(WORDS, WIDTH), "transformer": _resblocks(WIDTH),
            "positional_embedding": _empty(LENGTH, WIDTH), "ln_final": nn.LayerNorm(WIDTH),
            "text_projection": _empty(WIDTH, DIM)}  # fmt: skip


def clip(image: Callable[[], nn.Module]) -> nn.Module:
    """CLIP of OpenAI and open_clip, whose mask of later words is no part of the state."""
    return _Tree(visual=image(), **_clip_text(), logit_scale=_empty())


def cloob(image: Callable[[], nn.Module]) -> nn.Module:
    """CLOOB's CLIPGeneral."""
    return _Tree(visual=image(), transformer=_Tree(**_clip_text()), logit_inv_tau=_empty())


def chinese_clip(image: Callable[[], nn.Module]) -> nn.Module:
    """CLIP of Chinese-CLIP."""
    parts = {"text_projection": _empty(WIDTH, DIM), "logit_scale": _empty()}
    return _Tree(visual=image(), bert=bert(pooler=False), **parts)


def retclip() -> nn.Module:
    """RET-CLIP's model of three levels."""

    def head() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, DIM))

    parts: dict[str, Any] = {"visual": _clip_vit(), "bert": bert(pooler=False)}
    for suffix in ("", "_left", "_right"):
        parts |= {f"text_projection{suffix}": head(), f"logit_scale{suffix}": _empty()}
    for side, inputs in (("left", DIM), ("right", DIM), ("global", 2 * DIM)):
        parts[f"{side}_feature_mapping"] = nn.Linear(inputs, DIM, bias=False)
    return _Tree(**parts)


def _vit_blocks(width: int) -> nn.Module:
    blocks = []
    for _ in range(2):
        attention = _Tree(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        mlp = _Tree(fc1=nn.Linear(width, 2 * width), fc2=nn.Linear(2 * width, width))
        norms = {"norm1": nn.LayerNorm(width), "norm2": nn.LayerNorm(width)}
        blocks.append(_Tree(attn=attention, mlp=mlp, **norms))
    return nn.ModuleList(blocks)


def vit(norm: str = "norm", classes: int = CLASSES) -> nn.Module:
    """timm's VisionTransformer, and RETFound's, whose classifiers have `fc_norm`."""
    named = {norm: nn.LayerNorm(WIDTH), "head": nn.Linear(WIDTH, classes) if classes else None}
    arrays = {"cls_token": _empty(1, 1, WIDTH), "pos_embed": _empty(1, 1 + 4, WIDTH)}
    patches = _Tree(proj=nn.Conv2d(3, WIDTH, 8))
    return _Tree(**arrays, patch_embed=patches, blocks=_vit_blocks(WIDTH), **named)


def mae() -> nn.Module:
    """MAE's MaskedAutoencoderViT, as RETFound was pre-trained."""
    model = vit(classes=0)
    model.decoder_embed, model.mask_token = nn.Linear(WIDTH, 8), _empty(1, 1, 8)
    model.decoder_pos_embed = nn.Parameter(torch.empty(1, 1 + 4, 8), requires_grad=False)
    model.decoder_blocks, model.decoder_norm = _vit_blocks(8), nn.LayerNorm(8)
    model.decoder_pred = nn.Linear(8, 8 * 8 * 3)
    return model


# Repeats, kernel, expansion and features of the stages of EfficientNet-B0.
_STAGES = ((1, 3, 1, 16), (2, 3, 6, 24), (2, 5, 6, 40), (3, 3, 6, 80), (3, 5, 6, 112),
           (4, 5, 6, 192), (1, 3, 6, 320))  # fmt: skip


def _mobile(inputs: int, size: int, expansion: int, out: int) -> dict[str, nn.Module]:
    """Convolutions and norms of a block of EfficientNet, in their order."""
    wide, squeezed = inputs * expansion, max(1, inputs // 4)
    parts: dict[str, nn.Module] = {}
    if expansion > 1:
        parts |= {"expand": nn.Conv2d(inputs, wide, 1, bias=False), "norm0": nn.BatchNorm2d(wide)}
    middle = {"depthwise": nn.Conv2d(wide, wide, size, groups=wide, bias=False),
              "norm1": nn.BatchNorm2d(wide), "reduce": nn.Conv2d(wide, squeezed, 1),
              "restore": nn.Conv2d(squeezed, wide, 1)}  # fmt: skip
    project = {"project": nn.Conv2d(wide, out, 1, bias=False), "norm2": nn.BatchNorm2d(out)}
    return {**parts, **middle, **project}


def efficientnet() -> nn.Module:
    """B0 of EfficientNet-PyTorch."""
    names = {"expand": "_expand_conv", "depthwise": "_depthwise_conv", "reduce": "_se_reduce",
             "restore": "_se_expand", "project": "_project_conv", "norm0": "_bn0",
             "norm1": "_bn1", "norm2": "_bn2"}  # fmt: skip
    blocks, inputs = [], 32
    for repeats, size, expansion, out in _STAGES:
        for _ in range(repeats):
            made = _mobile(inputs, size, expansion, out)
            blocks.append(_Tree(**{names[name]: part for name, part in made.items()}))
            inputs = out
    parts = {"_conv_stem": nn.Conv2d(3, 32, 3, bias=False), "_bn0": nn.BatchNorm2d(32),
             "_conv_head": nn.Conv2d(320, 1280, 1, bias=False), "_bn1": nn.BatchNorm2d(1280),
             "_fc": nn.Linear(1280, CLASSES)}  # fmt: skip
    return _Tree(**parts, _blocks=nn.ModuleList(blocks))


def efficientnet_timm() -> nn.Module:
    """tf_efficientnet_b0 of timm, whose blocks count their norms from the first they have."""
    stages, inputs = [], 32
    for repeats, size, expansion, out in _STAGES:
        first = ["conv_pw", "conv_dw", "conv_pwl"] if expansion > 1 else ["conv_dw", "conv_pw"]
        own = ["expand", "depthwise", "project"][-len(first) :]
        blocks = []
        for _ in range(repeats):
            made = _mobile(inputs, size, expansion, out)
            norms = [part for name, part in made.items() if name.startswith("norm")]
            parts = {name: made[key] for name, key in zip(first, own, strict=True)}
            parts |= {f"bn{number}": norm for number, norm in enumerate(norms, start=1)}
            squeeze = _Tree(conv_reduce=made["reduce"], conv_expand=made["restore"])
            blocks.append(_Tree(**parts, se=squeeze))
            inputs = out
        stages.append(nn.Sequential(*blocks))
    parts = {"conv_stem": nn.Conv2d(3, 32, 3, bias=False), "bn1": nn.BatchNorm2d(32),
             "conv_head": nn.Conv2d(320, 1280, 1, bias=False), "bn2": nn.BatchNorm2d(1280),
             "classifier": nn.Linear(1280, CLASSES)}  # fmt: skip
    return _Tree(**parts, blocks=nn.Sequential(*stages))


SKELETONS: dict[str, Callable[[], nn.Module]] = {
    "bert": bert,
    "bert_masked": masked_bert,
    "captioner": captioner,
    "chinese_clip": lambda: chinese_clip(_clip_vit),
    "chinese_clip_resnet": lambda: chinese_clip(_clip_resnet),
    "clip": lambda: clip(_clip_vit),
    "clip_resnet": lambda: clip(_clip_resnet),
    "cloob_resnet": lambda: cloob(_clip_resnet),
    "cloob_vit": lambda: cloob(_clip_vit),
    "efficientnet": efficientnet,
    "efficientnet_timm": efficientnet_timm,
    "flair": flair,
    "keepfit": lambda: flair(reference=True),
    "open_clip": lambda: clip(_clip_vit),
    "retclip": retclip,
    "retfound": mae,
    "retfound_classifier": lambda: vit("fc_norm"),
    "timm": vit,
    "torchvision_r3d": resnet3d,
    "torchvision_resnet": lambda: resnet(CLASSES),
}


def read(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, which is read here again so that numpy is not needed."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        part, kind = bytearray(data[start + begin : start + end]), _TYPES[entry["dtype"]]
        found[name] = torch.frombuffer(part, dtype=kind).reshape(entry["shape"])
    return found


def load(folder: Path) -> list[str]:
    """Loads every export of a folder strictly, with all values; returns the names."""
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        tensors, model = read(path), SKELETONS[path.stem]()
        model.load_state_dict(tensors, strict=True)
        state = model.state_dict()
        if set(state) != set(tensors):  # PyTorch adds the counts of BatchNorm by itself
            raise KeyError(f"{path.stem}: {sorted(set(state) ^ set(tensors))}")
        for name, value in state.items():
            if value.dtype != tensors[name].dtype or not torch.equal(value, tensors[name]):
                raise ValueError(f"{path.stem}: {name} is {value.dtype}")
        found.append(path.stem)
    return found


if __name__ == "__main__":
    print(" ".join(load(Path(sys.argv[1]))))

"""Hugging Face's BERT: Bio_ClinicalBERT, RoBERTa-wwm (a BERT by its architecture), MiniLM."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.convert.clip import linear, norm
from retina_jax.convert.rules import Rule, Shapes, Spec, WeightFormat
from retina_jax.convert.tensor_transforms import HEADS_IN, HEADS_IN_BIAS, HEADS_OUT, KEEP, LINEAR

# Before the names of a BertModel, in files of BertForMaskedLM and of RetiXfer.
_PREFIXES = ("bert.", "model.", "text_model.")
_INSIDE = ("embeddings.", "encoder.", "pooler.")
_HEAD = "cls.predictions.transform.dense.weight"
# Layer norms in the first files of BERT.
_FIRST_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Heads by width, of published models whose heads are not 64 columns wide.
_HEADS = {384: 12, 312: 12}

IGNORED = {
    r"(.*\.)?embeddings\.position_ids": "counts the positions, which needs no array",
    r"(.*\.)?embeddings\.token_type_ids": "zeros, which need no array",
    r"(.*\.)?pooler\.dense\.(weight|bias)": "the pooler, which no system here reads",
    r"cls\.seq_relationship\..*": "the head of next-sentence prediction, which nothing here reads",
}


def rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Rules of a BertModel.

    Args:
      theirs: before all their names, 'text_model.model.' for instance.
      ours: path of our tower, 'params/text'.
    """
    layer, our_layer = f"{theirs}encoder.layer.{{i}}.", f"{ours}/layers"
    found = [
        Rule(f"{theirs}embeddings.{name}_embeddings.weight", f"{ours}/{our}_embedding/embedding")
        for name, our in (("word", "word"), ("position", "position"), ("token_type", "type"))
    ]
    norms = [(f"{theirs}embeddings.LayerNorm", f"{ours}/embedding_norm")]
    for name, our in (("attention.output", "attention"), ("output", "mlp")):
        norms.append((f"{layer}{name}.LayerNorm", f"{our_layer}/{our}_norm"))
    for name, our in norms:
        found += norm(name, our)
    dense = [
        (f"attention.self.{name}", f"attention/{name}", HEADS_IN, HEADS_IN_BIAS)
        for name in ("query", "key", "value")
    ]
    dense += [
        ("attention.output.dense", "attention/out", HEADS_OUT, KEEP),
        ("intermediate.dense", "mlp/in", LINEAR, KEEP),
        ("output.dense", "mlp/out", LINEAR, KEEP),
    ]
    for name, our, weight, bias in dense:
        found += linear(f"{layer}{name}", f"{our_layer}/{our}", weight, bias)
    return tuple(found)


def pooler(tensors: Mapping[str, np.ndarray], theirs: str = "") -> dict[str, np.ndarray]:
    """Zeros for the pooler of a BertModel, without which the original's code refuses a file.

    Args:
      tensors: the tensors of an export.
      theirs: before the names of the BertModel.
    """
    table = f"{theirs}embeddings.word_embeddings.weight"
    if table not in tensors:  # of BertForMaskedLM, which has none
        return {}
    width, name = tensors[table].shape[1], f"{theirs}pooler.dense"
    zeros = np.zeros((width, width), np.float32)
    return {f"{name}.weight": zeros, f"{name}.bias": zeros[0]}


def positions(tensors: Mapping[str, np.ndarray], theirs: str = "") -> dict[str, np.ndarray]:
    """0, 1, 2, ... i64[1 L], which a BertModel of transformers before 4.31 stores; as `pooler`."""
    count = len(tensors[f"{theirs}embeddings.position_embeddings.weight"])
    return {f"{theirs}embeddings.position_ids": np.arange(count, dtype=np.int64)[None]}


def tower(shapes: Shapes, prefix: str = "", heads: int | None = None) -> Spec:
    """The spec of our `bert` for the shapes of a BertModel.

    Args:
      shapes: name of a tensor -> its shape, of all tensors.
      prefix: before the names of the BertModel.
      heads: the number of heads of each attention, which shapes do not tell; None for one of every
        64 columns, or the number of a published model of that width.
    """
    vocabulary, width = shapes[f"{prefix}embeddings.word_embeddings.weight"]
    pattern = re.compile(re.escape(f"{prefix}encoder.layer.") + r"(\d+)\.output\.dense\.weight")
    layers = (int(found[1]) for name in shapes if (found := pattern.fullmatch(name)))
    if heads is None:
        heads = _HEADS.get(width, max(1, width // 64))
    if width % heads:
        raise InputError(f"A BERT of width {width} cannot have {heads} heads; name its heads.")
    return {
        "name": "bert",
        "vocab_size": vocabulary,
        "width": width,
        "depth": 1 + max(layers, default=-1),
        "heads": heads,
        "mlp_dim": shapes[f"{prefix}encoder.layer.0.intermediate.dense.weight"][0],
        "max_length": shapes[f"{prefix}embeddings.position_embeddings.weight"][0],
        "type_vocab": shapes[f"{prefix}embeddings.token_type_embeddings.weight"][0],
    }


def _prepare(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Names as today's BertModel has them or, with a head of words, BertForMaskedLM."""
    inside = "embeddings.word_embeddings.weight"
    prefix = next((p for p in _PREFIXES if p + inside in tensors), "")
    new = _prefix(tensors)
    renamed = {}
    for name, value in tensors.items():
        for old, today in _FIRST_NAMES.items():
            if name.endswith(old):
                name = name.removesuffix(old) + today
        inner = name.removeprefix(prefix)
        renamed[new + inner if inner.startswith(_INSIDE) else name] = value
    return renamed


def _prefix(named: Mapping[str, Any]) -> str:
    return "bert." if _HEAD in named else ""


def _recognises(shapes: Shapes) -> bool:
    prefix = _prefix(shapes)
    return f"{prefix}embeddings.token_type_embeddings.weight" in shapes and all(
        name.startswith((*(prefix + inside for inside in _INSIDE), "cls.")) for name in shapes
    )


def _model(shapes: Shapes, heads: int | None = None, pool: str | None = None) -> Spec:
    """The bare tower, or with its head of words where the file has one."""
    encoder = tower(shapes, _prefix(shapes), heads) | ({"pool": pool} if pool else {})
    if _HEAD in shapes:
        return {"name": "text_mlm", "encoder": encoder}
    return {"name": "tower", "key": "text", "tower": encoder}


def _rules(spec: Spec) -> tuple[Rule, ...]:
    if spec["name"] == "tower":
        return rules("", "params/text")
    head, ours = "cls.predictions.", "params/mlm_head"
    return (
        *rules("bert.", "params/text"),
        *linear(f"{head}transform.dense", f"{ours}/dense"),
        *norm(f"{head}transform.LayerNorm", f"{ours}/norm"),
        Rule(f"{head}bias", f"{ours}/bias"),
    )


BERT = WeightFormat(
    name="bert",
    description="BertModel or BertForMaskedLM of Hugging Face (Bio_ClinicalBERT, RoBERTa-wwm)",
    recognises=_recognises,
    model=_model,
    rules=_rules,
    computed=lambda spec, tensors: pooler(tensors),
    ignored=IGNORED,
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    prepare=_prepare,
)

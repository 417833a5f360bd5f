"""Hashes by which a result names the model that gave it: SHA-256, 64 hexadecimal digits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from retina_jax.convert import model_folder, registry
from retina_jax.scoring.hashes import weights_hash

# What a description says that changes no answer, and files, which are hashed instead.
_SILENT = ("title", "licence", "terms", "citation", "source", "ignored", "filled", "tokenizer",
           "quality", "familiar", "evaluated")  # fmt: skip


def model_hash(description: model_folder.Description, variables: Mapping[str, Any]) -> str:
    """The hash of all that an answer depends on.

    That is `weights_hash`, the model and its preprocessing, tokenizer, classes, template, knowledge
    and decision, and what its folder says of its training pictures; not its name or licence.
    """
    return with_weights(description, weights_hash(variables))


def with_weights(description: model_folder.Description, weights: str) -> str:
    """`model_hash` of weights whose hash is known."""
    about = {
        field.name: value
        for field in dataclasses.fields(description)
        if field.name not in _SILENT and (value := getattr(description, field.name)) is not None
    }
    if description.decision is not None:
        about["decision"] = dataclasses.asdict(description.decision)
    if description.tokenizer is not None:
        option, path = model_folder.tokenizer_file(description.tokenizer)
        about["tokenizer"] = {**description.tokenizer, option: registry.sha256(path)}
    for name, data in model_folder.gates(description).items():
        about[name] = hashlib.sha256(data).hexdigest()
    text = json.dumps(about, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{weights}\n{text}".encode()).hexdigest()

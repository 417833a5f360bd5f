"""Retinal corpora as batches of arrays: numpy, Grain and TensorFlow Datasets, without JAX."""

import importlib
from types import ModuleType

# Where modules lie that scripts of users still import from here.
_MOVED = {
    "functional": "images.functional", "preparation": "images.preparation",
    "sources": "records.sources", "storage": "records.storage", "tokenizers": "text.tokenizers",
}  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    if name in _MOVED:
        return importlib.import_module(f"{__name__}.{_MOVED[name]}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

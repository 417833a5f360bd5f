"""Retinal corpora as batches of arrays: numpy, Grain and TensorFlow Datasets, without JAX."""

from types import ModuleType

# Modules of this package that have moved; scripts of users still import them from here.
_MOVED = ("functional", "preparation", "sources", "storage", "tokenizers")


def __getattr__(name: str) -> ModuleType:
    if name not in _MOVED:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from data_pipelines.images import functional, preparation
    from data_pipelines.records import sources, storage
    from data_pipelines.text import tokenizers

    return dict(zip(_MOVED, (functional, preparation, sources, storage, tokenizers), strict=True))[
        name
    ]

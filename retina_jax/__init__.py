"""Retinal multi-modal foundation models in JAX/Flax.

Importing this package touches no device and imports neither PyTorch nor TensorFlow.
`retina_jax.load(folder)` reads a model that was converted or exported; see `loading.load`.
`retina_jax.get_config("flair:smoke")` reads a config; see `config_files.get_config`.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":  # JAX and all of its friends are imported by those who call it
        from retina_jax.loading import load

        return load
    if name == "get_config":
        from retina_jax.config_files import get_config

        return get_config
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

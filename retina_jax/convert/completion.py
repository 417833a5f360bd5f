"""What belongs to published weights beside our arrays: buffers, and what was done to pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.errors import InputError


def batch_counts(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What BatchNorm of PyTorch counts its steps in, i64[]: not read, but a part of its state."""
    last = "running_mean"
    norms = [name.removesuffix(last) for name in tensors if name.endswith(f".{last}")]
    return {f"{name}num_batches_tracked": np.zeros((), np.int64) for name in norms}


def switches(owner: str, known: Mapping[str, bool], options: dict[str, Any]) -> dict[str, bool]:
    """Takes options that are true or false out of `options`.

    Args:
      owner: the source, for the sentence of an error.
      known: option -> what it is where nothing is said.
      options: those that were given; the known ones are removed.

    Raises:
      InputError: for one that is neither.
    """
    found = {name: options.pop(name, value) for name, value in known.items()}
    if wrong := [name for name, value in found.items() if not isinstance(value, bool)]:
        raise InputError(
            f"The option {wrong[0]} of '{owner}' is true or false, not {found[wrong[0]]}."
        )
    return found

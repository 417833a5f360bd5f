"""From images to eyes and patients: one score and one label of several."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import numpy as np

WAYS = ("mean", "max", "logit_mean", "noisy_or")
_CLIP = 1e-6


def merged(probabilities: np.ndarray, way: str = "mean") -> np.ndarray:
    """One probability of several of the same eye or patient.

    Args:
      probabilities: f[K ...], K images.
      way: 'mean'; 'max'; 'logit_mean', the mean of the logits; or 'noisy_or', 1 - prod(1 - p).
    """
    found = np.asarray(probabilities, np.float64)
    if way == "max":
        return found.max(axis=0)
    if way == "noisy_or":
        return 1 - np.prod(1 - found, axis=0)
    if way == "logit_mean":
        p = np.clip(found, _CLIP, 1 - _CLIP)
        return 1 / (1 + np.exp(-np.log(p / (1 - p)).mean(axis=0)))
    return found.mean(axis=0)

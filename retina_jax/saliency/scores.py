"""How well maps find masks, and how alike two maps are. All are numpy; what is undefined is NaN.

A map is f[H W], at least 0; a mask bool[H W].
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import ndimage

from retina_jax.metrics import binary

_BETWEEN: Any = np.trapezoid


@dataclasses.dataclass(frozen=True)
class Localisation:
    """How well one map finds one mask.

    Attributes:
      pointing: 1 if its largest value lies in the mask; of several largest values their share.
      energy: the share of the map inside the mask.
      mask_share: the share of the picture that the mask covers.
      lift: energy / mask_share, 1 for a map that knows nothing.
      auc, average_precision: how pixels of the mask rank above the others.
    """

    pointing: float
    energy: float
    mask_share: float
    lift: float
    auc: float
    average_precision: float


def localisation(saliency: np.ndarray, mask: np.ndarray) -> Localisation:
    """The figures of a map f[H W] and a mask bool[H W] of the same size."""
    inside = np.asarray(mask, bool)
    values = np.asarray(saliency, np.float64)
    largest = values == values.max()
    energy, share = shares(values, inside)
    labels = inside.ravel().astype(np.int64)
    return Localisation(
        pointing=float(inside[largest].mean()) if values.sum() > 0 else float("nan"),
        energy=energy,
        mask_share=share,
        lift=lift(values, inside),
        auc=binary.auc(labels, values.ravel()),
        average_precision=binary.average_precision(labels, values.ravel()),
    )


def shares(saliency: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """The share of a map inside the mask, and the share of the picture that the mask covers."""
    total = saliency.sum()
    energy = float(saliency[mask].sum() / total) if total > 0 else float("nan")
    return energy, float(mask.mean())


def lift(saliency: np.ndarray, mask: np.ndarray) -> float:
    """That of `Localisation`, without ranking every pixel."""
    energy, share = shares(np.asarray(saliency, np.float64), np.asarray(mask, bool))
    return energy / share if share > 0 else float("nan")


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two maps, each scaled to [0, 1] (Wang et al. 2004).

    The mean over pixels, with a Gaussian window of 11 pixels and a deviation of 1.5.
    """

    def smooth(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, 1.5, truncate=5 / 1.5)

    x, y = (unit(saliency) for saliency in (first, second))
    mean_x, mean_y = smooth(x), smooth(y)
    spread_x, spread_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    common = smooth(x * y) - mean_x * mean_y
    small, smaller = 0.01**2, 0.03**2
    ratio = (2 * mean_x * mean_y + small) * (2 * common + smaller)
    return float(
        np.mean(ratio / ((mean_x**2 + mean_y**2 + small) * (spread_x + spread_y + smaller)))
    )


def unit(saliency: np.ndarray) -> np.ndarray:
    """The map scaled to [0, 1]; a constant one is 0."""
    values = np.asarray(saliency, np.float64)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def area(scores: np.ndarray) -> float:
    """Area below scores f[N] of a deletion or an insertion, by the trapezoid over [0, 1]."""
    values = np.asarray(scores, np.float64)
    return float(_BETWEEN(values, np.linspace(0, 1, len(values))))

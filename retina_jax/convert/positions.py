"""Learned positions of patches for another picture size, resampled as each source does it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.convert.tensor_transforms import Change, Shape, leading

# The free parameter of Keys' cubic kernel (1981): PyTorch's own, and that of its resampling with
# antialiasing, which is PIL's.
_TORCH, _PIL = -0.75, -0.5


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel at distances in samples, 0 from 2 on."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def corners_aligned(old: int, new: int) -> np.ndarray:
    """f64[new old]: PyTorch's bicubic with align_corners=True, as CN-CLIP and RET-CLIP resample.

    The first and the last sample keep their places.
    """
    step = (old - 1) / (new - 1) if new > 1 else 0.0
    return _interpolation(np.arange(new) * step, old)


def centres_aligned(old: int, new: int) -> np.ndarray:
    """f64[new old]: PyTorch's bicubic with align_corners=False, as MAE and RETFound resample."""
    return _interpolation((np.arange(new) + 0.5) * old / new - 0.5, old)


def _interpolation(places: np.ndarray, old: int) -> np.ndarray:
    """f64[new old] of the four samples around each place; those outside repeat the border."""
    weights = np.zeros((len(places), old))
    first = np.floor(places).astype(int) - 1
    for offset in range(4):
        sample = first + offset
        columns = np.clip(sample, 0, old - 1)
        np.add.at(weights, (np.arange(len(places)), columns), _cubic(places - sample, _TORCH))
    return weights


def antialiased(old: int, new: int) -> np.ndarray:
    """f64[new old]: PyTorch's bicubic with antialias=True, as open_clip and timm resample.

    Where the grid shrinks, the kernel is as much wider; samples outside do not count.
    """
    scale = old / new
    wider = max(scale, 1.0)
    centres = (np.arange(new)[:, None] + 0.5) * scale
    samples = np.arange(old)
    weights = _cubic((samples + 0.5 - centres) / wider, _PIL)
    begin = np.maximum(np.floor(centres - 2 * wider + 0.5), 0)
    end = np.minimum(np.floor(centres + 2 * wider + 0.5), old)
    weights = np.where((samples >= begin) & (samples < end), weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def square_side(count: int, first: int) -> int:
    """Rows of the square grid of patches that, with `first` other tokens, has `count` positions.

    Raises:
      InputError: if there is none.
    """
    side = math.isqrt(max(count - first, 0))
    if side * side != count - first or not side:
        raise InputError(
            f"{count} learned positions, {first} of them for other tokens, are no square grid of "
            "patches; only models of square pictures can be converted."
        )
    return side


def resample(
    positions: np.ndarray, count: int, first: int, weights: Callable[[int, int], np.ndarray]
) -> np.ndarray:
    """Positions of a square grid as those of another.

    Args:
      positions: f[N W], row-major, after those of `first` other tokens, which stay.
      count: number of positions wanted.
      first: number of other tokens.
      weights: (old side, new side) -> f64[new old].

    Returns:
      f32[count W]; for an equal count the same.

    Raises:
      InputError: if either is no square grid.
    """
    if count == len(positions):
        return positions
    old, new = square_side(len(positions), first), square_side(count, first)
    matrix = weights(old, new)
    grid = positions[first:].reshape(old, old, -1)
    grid = np.einsum("ij,jkw,lk->ilw", matrix, grid, matrix, optimize=True)
    return np.concatenate([positions[:first], grid.reshape(new * new, -1)]).astype(np.float32)


def resampling(
    weights: Callable[[int, int], np.ndarray], *, first: int = 1, axes: int = 0
) -> Change:
    """The change of learned positions [N W], to another number of them where one is asked for.

    Args:
      weights: the same as in `resample`.
      first: positions of other tokens than patches, at the start.
      axes: the number of axes of length one that their array has before ours.
    """
    flat = leading(axes)

    def to_ours(array: np.ndarray, shape: Shape) -> np.ndarray:
        if array.ndim != axes + 2 or array.shape[-1] != shape[1]:
            raise InputError(
                f"The file has learned positions of shape {array.shape}, but the model has them "
                f"of shape {shape}."
            )
        array = flat.to_ours(array, array.shape[axes:])
        return resample(array, shape[0], first, weights)

    return Change(to_ours, flat.to_theirs, resizes=True)

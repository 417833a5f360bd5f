"""Pairs of inverse functions between PyTorch's layouts of an array and ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Change:
    """How one of their tensors becomes one or several of our arrays, and back.

    Attributes:
      to_ours: (their array, our shapes) -> our array, or a tuple of them for several shapes.
      to_theirs: (our arrays) -> their array.
      resizes: whether `to_ours` takes other shapes than `to_theirs` gives; it then has to raise
        InputError for those that it does not take.
    """

    to_ours: Callable[..., Any]
    to_theirs: Callable[..., np.ndarray]
    resizes: bool = False


def _channels_last(array: np.ndarray, shape: Shape) -> np.ndarray:
    del shape
    return array.transpose(*range(2, array.ndim), 1, 0)


def _channels_first(array: np.ndarray) -> np.ndarray:
    last = array.ndim - 1
    return array.transpose(last, last - 1, *range(last - 1))


KEEP = Change(lambda array, shape: array, lambda array: array)
# A linear map: [out, in] -> [in, out].
LINEAR = Change(lambda array, shape: array.T, lambda array: array.T)
# A convolution: OIHW -> HWIO, OIDHW -> DHWIO.
CONV = Change(_channels_last, _channels_first)
# The same of colours for grey, which is equal in all channels: [O, I, ...] -> [..., 1, O].
GREY_CONV = Change(
    lambda array, shape: _channels_last(array.sum(axis=1, keepdims=True), shape),
    _channels_first,
    resizes=True,
)
# The maps of an attention to queries, keys and values: [H D, W] -> [W, H, D], [H D] -> [H, D].
HEADS_IN = Change(
    lambda array, shape: array.T.reshape(shape), lambda array: array.reshape(len(array), -1).T
)
HEADS_IN_BIAS = Change(lambda array, shape: array.reshape(shape), lambda array: array.reshape(-1))
# The map behind an attention: [W, H D] -> [H, D, W].
HEADS_OUT = Change(
    lambda array, shape: array.T.reshape(shape), lambda array: array.reshape(-1, array.shape[-1]).T
)


def leading(count: int) -> Change:
    """`count` axes of length one before ours: a class token [1, 1, W] -> [W]."""
    return Change(
        lambda array, shape: array.reshape(shape),
        lambda array: array.reshape((1,) * count + array.shape),
    )


def split(count: int, change: Change) -> Change:
    """One tensor of `count` parts along its first axis, each changed by `change`.

    The fused map of an attention to queries, keys and values is `split(3, HEADS_IN)`.
    """

    def to_ours(array: np.ndarray, *shapes: Shape) -> tuple[np.ndarray, ...]:
        parts = np.split(array, count)
        return tuple(change.to_ours(p, shape) for p, shape in zip(parts, shapes, strict=True))

    def to_theirs(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate([change.to_theirs(array) for array in arrays])

    return Change(to_ours, to_theirs)

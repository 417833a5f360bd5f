"""How a probability falls as a picture loses, and rises as it gains, the cells of a map in order.

Petsiuk et al. 2018. Both ask a model about pictures unlike any that it was trained on
(arXiv 2201.13291), so they come second to masks, and always beside a random order of the cells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from data_pipelines.images import functional, preparation
from retina_jax.saliency import scores

CELLS, STEPS = 14, 20  # on a side; until all cells are changed
_BLUR = 0.05  # deviation, of the side of the picture
# u8[N H W 3] -> f[N], the probability of one class.
Ask = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Areas:
    """Areas below the probability of a class over the share of the cells that were changed.

    Attributes:
      deletion: as cells become the mean colour of the field of view; low for a good map.
      deletion_relative: the same over the probability of the whole picture.
      insertion: as the cells of a blurred picture become sharp; high for a good map.
    """

    deletion: float
    deletion_relative: float
    insertion: float


def areas(picture: np.ndarray, ranks: np.ndarray, ask: Ask) -> Areas:
    """The areas of a picture u8[H W 3] whose cells are changed in the order of ranks i[14 14]."""
    grey = np.broadcast_to(mean_colour(picture), picture.shape)
    blurred = functional.blur(picture, _BLUR * max(picture.shape[:2]))
    deleted = ask(changed(picture, grey, ranks))
    deletion = scores.area(deleted)
    relative = deletion / float(deleted[0]) if deleted[0] > 0 else float("nan")
    return Areas(deletion, relative, scores.area(ask(changed(blurred, picture, ranks))))


def ranks_of(saliency: np.ndarray) -> np.ndarray:
    """i[14 14], 0 where the mean of a map f[H W] is greatest; of equal cells the first."""
    means = ndimage.mean(saliency, _numbers(*saliency.shape), np.arange(CELLS**2))
    return _ranks(np.argsort(-np.asarray(means), kind="stable"))


def random_ranks(seed: int) -> np.ndarray:
    """i[14 14], a random order of the cells."""
    return _ranks(np.random.default_rng(seed).permutation(CELLS**2))


def changed(before: np.ndarray, after: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """u8[21 H W 3]: a picture u8[H W 3] whose cells become those of another, step by step."""
    place = ranks.ravel()[_numbers(*before.shape[:2])]
    ends = np.rint(np.linspace(0, CELLS**2, STEPS + 1))
    return np.where((place < ends[:, None, None])[..., None], after, before)


def mean_colour(picture: np.ndarray) -> np.ndarray:
    """u8[3], of the field of view: black would be outside the eye."""
    box, field = preparation.field_and_mask(picture)
    inside = picture[box.top : box.top + box.height, box.left : box.left + box.width]
    if field is not None:
        rows, columns = (
            np.arange(side) * samples // side
            for side, samples in zip(inside.shape[:2], field.shape, strict=True)
        )
        inside = inside[field[np.ix_(rows, columns)]]
    return np.rint(inside.reshape(-1, 3).mean(axis=0)).astype(np.uint8)


def _numbers(height: int, width: int) -> np.ndarray:
    """i[H W], the number of the cell that a pixel lies in."""
    rows, columns = (np.arange(side) * CELLS // side for side in (height, width))
    return rows[:, None] * CELLS + columns


def _ranks(order: np.ndarray) -> np.ndarray:
    ranks = np.empty(CELLS**2, np.int64)
    ranks[order] = np.arange(CELLS**2)
    return ranks.reshape(CELLS, CELLS)

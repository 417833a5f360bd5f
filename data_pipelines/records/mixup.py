"""Batches of mixed pictures (mixup, Zhang et al. 2018, arXiv:1710.09412).

They are mixed here rather than in the jitted step: pictures stay uint8 on their way to the device,
no model or step knows of it, and a batch stays a function of its index. The rows of a batch come
in random order, so that two neighbours are as random a pair as any; and neighbours lie in the same
process, so that no picture is read twice or sent between devices.
"""

from __future__ import annotations

from typing import Any

import grain
import numpy as np

from data_pipelines.errors import InputError

PICTURES, TARGETS = ("image", "oct"), ("label", "labels")


class Mixtures(grain.MapDataset):
    """Batches in which rows 2i and 2i + 1 are mixed with each other, each by a share of its own.

    A row's pictures become share * its own + (1 - share) * its neighbour's; uint8 stays uint8,
    rounded. Targets are not mixed, since classes that exclude each other and missing ones cannot
    be: the neighbour's are added as `mixup_label` or `mixup_labels`, and the share as
    `mixup_share`, for an objective that weighs the losses of both.

    Args:
        parent: batches of the rows of one process.
        alpha: the parameter of Beta(alpha, alpha), from which shares are drawn.
        batch: rows of a global batch.
        rows: those of this process.
        process: its number.
        seed: the seed that shares are drawn with.

    Raises:
        InputError: an odd number of rows, or alpha below 0; from batches, keys that cannot be
            mixed.
    """

    def __init__(
        self, parent: grain.MapDataset, alpha: float, batch: int, rows: int, process: int, seed: int
    ) -> None:
        super().__init__(parent)
        if alpha < 0 or rows % 2:
            raise InputError(
                f"mixup is a number above 0, and each process has an even number of rows, got "
                f"{alpha} and {rows} rows."
            )
        self._alpha, self._batch, self._seed = alpha, batch, seed
        self._own = slice(process * rows, (process + 1) * rows)

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        rng = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 3, index]))
        shares = rng.beta(self._alpha, self._alpha, self._batch)[self._own]
        batch: Any = self._parent[index]
        return mix(batch, shares.astype(np.float32))


def mix(batch: dict[str, np.ndarray], shares: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a batch of mixed rows, with the targets of both.

    Args:
        batch: {key: array[B ...]}, B even; keys of PICTURES and TARGETS, one of each at least.
        shares: float32 [B], each row's share of its own mixture.

    Raises:
        InputError: another key, which would belong to neither record, or no target.
    """
    other = [key for key in batch if key not in PICTURES + TARGETS]
    targets = [key for key in TARGETS if key in batch]
    if other or not targets:
        raise InputError(
            f"mixup mixes {' and '.join(PICTURES)} that have a label or labels, and the batch has "
            f"{', '.join(batch)}: name the others in 'keys', or leave 'mixup' out."
        )
    mixed = {f"mixup_{key}": _neighbours(batch[key]) for key in targets}
    for key in PICTURES:
        if key in batch:
            own = batch[key].astype(np.float32)
            share = shares.reshape(-1, *(1,) * (own.ndim - 1))
            made = share * own + (1 - share) * _neighbours(own)
            made = np.rint(made) if batch[key].dtype == np.uint8 else made
            mixed[key] = made.astype(batch[key].dtype)
    return {**batch, **mixed, "mixup_share": shares}


def _neighbours(array: np.ndarray) -> np.ndarray:
    """The rows with the two of each pair exchanged."""
    pairs = array.reshape(len(array) // 2, 2, *array.shape[1:])
    return pairs[:, ::-1].reshape(array.shape)

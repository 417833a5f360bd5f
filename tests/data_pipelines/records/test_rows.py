"""Epochs whose batches repeat no group: what they hold, and that chance treats records alike."""

import threading

import grain
import numpy as np
import pytest

from data_pipelines.records import rows

pytestmark = pytest.mark.fast


def order(groups: np.ndarray, batch: int, seed: int = 0) -> np.ndarray:
    """The records of an epoch, int [batches, batch]."""
    batches = rows.distinct_batches(np.unique(groups, return_counts=True)[1], batch)
    return rows.distinct_order(groups, batch, batches, np.random.default_rng(seed)).reshape(
        batches, batch
    )


def codes(sizes: list[int]) -> np.ndarray:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(1).permutation(groups)


@pytest.mark.parametrize(
    ("sizes", "batch", "batches"),
    [
        ([2] * 16, 8, 4),  # both eyes of 16 patients
        ([1] * 40, 8, 5),
        ([1] * 43, 8, 5),  # three are left out
        ([5] * 8, 8, 5),  # every group in every batch
        ([40, 1, 1, 1, 1, 1, 1, 1], 8, 1),  # one group far too large
        ([30, 30, 30, 2, 2, 2, 2], 4, 8),  # as many batches as the small groups can complete
        ([7, 6, 5, 4, 3, 2, 1] * 3, 5, 16),
        ([3, 3], 1, 6),
        ([3, 3], 3, 0),
    ],
)
def test_batches_repeat_no_group_and_epochs_no_record(
    sizes: list[int], batch: int, batches: int
) -> None:
    groups = codes(sizes)
    assert rows.distinct_batches(np.array(sizes), batch) == batches
    if not batches:
        return
    for seed in range(30):
        table = order(groups, batch, seed)
        assert table.shape == (batches, batch)
        assert len(np.unique(table)) == table.size
        assert all(len(np.unique(groups[row])) == batch for row in table)


def test_the_number_of_batches_is_the_largest_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = rng.integers(1, 12, size=rng.integers(1, 12))
        batch = int(rng.integers(1, 8))
        fits = [k for k in range(1, sizes.sum() + 1)
                if np.minimum(sizes, k).sum() >= k * batch]  # fmt: skip
        assert rows.distinct_batches(sizes, batch) == max(fits, default=0)


def test_records_meet_and_stand_anywhere_equally_often() -> None:
    groups, batch, epochs = codes([3] * 8), 4, 4000
    other = groups[:, None] != groups
    met, places = np.zeros((24, 24)), np.zeros((24, 24))
    for seed in range(epochs):
        table = order(groups, batch, seed)
        places[table.reshape(-1), np.arange(24)] += 1
        for row in table:
            met[np.ix_(row, row)] += 1
    # 3 of the 21 records of other groups share a batch; six standard deviations to either side.
    assert np.abs(met[other] / epochs - 3 / 21).max() < 6 * np.sqrt(3 / 21 * 18 / 21 / epochs)
    assert np.abs(places / epochs - 1 / 24).max() < 6 * np.sqrt(1 / 24 * 23 / 24 / epochs)


def test_meeting_once_does_not_mean_meeting_again() -> None:
    """Two patients of two records: of 300 pairs that share a batch few share both of theirs."""
    groups, twice, once = codes([2] * 100), 0, 0
    for seed in range(20):
        batch_of = np.empty(200, int)
        table = order(groups, 20, seed)
        batch_of[table.reshape(-1)] = np.repeat(np.arange(10), 20)
        homes = np.sort(np.stack([batch_of[groups == g] for g in range(100)]), axis=1)
        shared = (homes[:, None, :, None] == homes[None, :, None, :]).sum((2, 3))
        shared = shared[np.triu_indices(100, 1)]
        once, twice = once + (shared > 0).sum(), twice + (shared == 2).sum()
    # Drawn freely, of two patients that share one of ten batches 1/17 share both.
    assert 0.04 < twice / once < 0.09


def test_places_in_the_batch_are_drawn_for_each_record() -> None:
    """Processes hold neighbouring rows: both eyes of a patient must not always go to one."""
    groups, apart = codes([2] * 100), []
    for seed in range(20):
        row_of = np.empty(200, int)
        row_of[order(groups, 20, seed).reshape(-1)] = np.tile(np.arange(20), 10)
        apart += [abs(np.subtract(*row_of[groups == g])) for g in range(100)]
    assert 6 < np.mean(apart) < 7.3  # (20**2 - 1) / (3 * 20) = 6.65 for free draws


def test_what_an_epoch_leaves_out_changes() -> None:
    left = [set(range(44)) - set(order(codes([11, 11, 11, 11]), 3, seed).reshape(-1))
            for seed in range(40)]  # fmt: skip
    assert {len(out) for out in left} == {2} and len(set().union(*left)) > 30


def test_random_access_in_any_order_and_by_threads() -> None:
    source = grain.MapDataset.source(np.arange(32))
    groups = np.arange(32) // 2
    made = rows.Distinct(source, groups, 8, seed=3)
    reference = [made[i] for i in range(128)]
    assert sorted(reference[:32]) == sorted(reference[96:]) == list(range(32))
    assert reference[:32] != reference[32:64]
    again = rows.Distinct(source, groups, 8, seed=3)
    backwards = [again[i] for i in reversed(range(128))]
    assert backwards[::-1] == reference
    found: dict[int, list[int]] = {}
    several = rows.Distinct(source, groups, 8, seed=3)

    def read(first: int) -> None:
        found[first] = [several[i] for i in range(first, 128, 4)]

    threads = [threading.Thread(target=read, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[first] == reference[first::4] for first in range(4))
    assert [rows.Distinct(source, groups, 8, seed=4)[i] for i in range(32)] != reference[:32]

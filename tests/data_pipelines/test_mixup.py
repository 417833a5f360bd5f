"""Mixed rows: the mixture by hand, and a batch that depends on the seed and its index only."""

from typing import Any

import numpy as np
import pytest

from data_pipelines import batch, pipelines
from data_pipelines import transforms as T
from data_pipelines.errors import InputError
from data_pipelines.pipelines import Stream, train
from data_pipelines.records.mixup import mix
from data_pipelines.records.sources import Source

pytestmark = pytest.mark.fast

CLASSES = ("normal", "glaucoma")


def stream(source: Source, mixup: float, **options: Any) -> Stream:
    steps = (T.Decode(16), T.RandomFlip(), T.Label(CLASSES, missing=True), T.MultiLabel(CLASSES))
    return Stream(source, steps, 8, mixup=mixup, **options)


def take(data: pipelines.TrainData, start: int, stop: int) -> list[dict[str, np.ndarray]]:
    with data.batches(start, stop) as batches:
        return list(batches)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_mixture_by_hand(dtype: type) -> None:
    pictures = np.array([10, 20, 0, 255], dtype).reshape(4, 1, 1, 1) + np.zeros((4, 2, 2, 3), dtype)
    shares = np.array([1, 0.25, 0.5, 0.9], np.float32)
    nan = np.array([[0, np.nan], [1, 0], [np.nan, 1], [0, 0]], np.float32)
    given = {"image": pictures, "label": np.array([3, -1, 0, 1], np.int32), "labels": nan}
    found = mix(given, shares)
    batch.check(found)
    expected = [10, 0.25 * 20 + 0.75 * 10, 0.5 * 0 + 0.5 * 255, 0.9 * 255]
    expected = np.rint(expected) if dtype == np.uint8 else expected
    np.testing.assert_allclose(found["image"][:, 1, 1, 2], expected, rtol=1e-6)
    assert found["image"].dtype == dtype
    assert found["label"] is given["label"] and found["labels"] is nan, "own targets stay"
    np.testing.assert_array_equal(found["mixup_label"], [-1, 3, 1, 0])
    np.testing.assert_array_equal(found["mixup_labels"], nan[[1, 0, 3, 2]])
    np.testing.assert_array_equal(found["mixup_share"], shares)


def test_rows_and_shares_are_those_of_the_plain_stream(expert: Source) -> None:
    (plain,), (mixed,) = (take(train({"": stream(expert, a)}, seed=5), 3, 4) for a in (0, 0.4))
    expected = mix(plain, mixed["mixup_share"])
    for key in expected:
        np.testing.assert_array_equal(mixed[key], expected[key], err_msg=key)
    assert len(set(mixed["mixup_share"].tolist())) == 8 and (mixed["image"] != plain["image"]).any()


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_and_any_start(expert: Source, processes: int) -> None:
    one = stream(expert, 0.4)
    whole = take(train({"a": one, "b": one}, seed=5), 0, 5)
    parts = [
        take(train({"a": one, "b": one}, seed=5, process_index=p, process_count=processes), 2, 5)
        for p in range(processes)
    ]
    for k in range(3):
        for name in "ab":
            for key, value in whole[2 + k][name].items():
                joined = np.concatenate([part[k][name][key] for part in parts])
                np.testing.assert_array_equal(joined, value, err_msg=key)
    shares = [whole[k][name]["mixup_share"] for k in range(2) for name in "ab"]
    assert len({share.tobytes() for share in shares}) == 4, "of each batch and stream anew"


def test_shares_are_beta(expert: Source) -> None:
    data = take(train({"": stream(expert, 2.0, keys=("image", "label"))}, seed=0), 0, 60)
    shares = np.concatenate([one["mixup_share"] for one in data])
    assert shares.mean() == pytest.approx(0.5, abs=0.05)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 2.0 + 1)), abs=0.01)


def test_what_cannot_be_mixed_is_refused(expert: Source) -> None:
    with pytest.raises(InputError, match="an even number of rows, got 0.2 and 1 rows"):
        train({"": stream(expert, 0.2)}, seed=0, process_count=8)
    with pytest.raises(InputError, match="a number above 0.*got -1"):
        train({"": stream(expert, -1)}, seed=0)
    for keys in (("image",), ("image", "label", "group")):
        steps = (T.Decode(16), T.Label(CLASSES, missing=True), T.Prompt(), T.Group())
        data = train({"": Stream(expert, steps, 8, keys=keys, mixup=0.2)}, seed=0)
        with pytest.raises(InputError, match=f"the batch has {', '.join(keys)}"):
            data.example()

"""The batch contract refuses what a model must not be handed, in one sentence."""

import numpy as np
import pytest

from data_pipelines import batch
from data_pipelines.errors import InputError


def rows(n: int = 4) -> dict[str, np.ndarray]:
    return {"image": np.zeros((n, 8, 8, 3), np.float32), "text": np.ones((n, 5), np.int32),
            "text_mask": np.ones((n, 5), bool), "group": np.arange(n, dtype=np.int32),
            "_mask": np.ones(n, bool)}  # fmt: skip


def test_good_batches_pass_flat_and_nested() -> None:
    batch.check(rows())
    batch.check({"public": rows(4), "expert": rows(2)})
    patients = {"eyes": np.zeros((4, 2, 8, 8, 3), np.uint8), "eye_mask": np.ones((4, 2), bool)}
    scans = {"oct": np.zeros((4, 3, 8, 6, 1), np.uint8), "patch_mask": np.ones((4, 16), bool)}
    batch.check({**rows(), **patients, **scans})


def change(name: str, value: object) -> dict[str, object]:
    return {**rows(), name: value}


nan = np.zeros((4, 8, 8, 3), np.float32)
nan[2, 1, 1] = np.nan


def test_targets_may_be_missing() -> None:
    labels = np.array([[1, np.nan]] * 4, np.float32)
    target = np.full(4, np.nan, np.float32)
    batch.check({**rows(), "label": np.full(4, -1, np.int32), "labels": labels, "target": target})


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (change("image", nan), ["'image'", "3 of 768", "NaN"]),
        (change("image", np.zeros((4, 8, 8), np.uint8)), ["'image'", "B H W 3", "(4, 8, 8)"]),
        (change("image", np.zeros((4, 8, 8, 1), np.uint8)), ["'image'", "(4, 8, 8, 1)"]),
        (change("image", np.zeros((4, 8, 8, 3), np.float64)), ["'image'", "float64"]),
        (change("image", b"jpeg"), ["'image'", "bytes"]),
        (change("text", np.full((4, 5), -1, np.int32)), ["'text'", "start at 0", "-1"]),
        (change("text_mask", np.ones((4, 6), bool)), ["'text_mask'", "(4, 5)", "(4, 6)"]),
        (change("group", np.arange(3, dtype=np.int32)), ["rows", "'group' has 3"]),
        (change("_mask", np.ones(4, np.int32)), ["'_mask'", "bool", "int32"]),
        (change("patch_mask", np.ones((4, 16), np.int32)), ["'patch_mask'", "bool", "B P"]),
        (change("eyes", np.zeros((4, 3, 8, 8, 3), np.uint8)), ["'eyes'", "B 2 H W 3"]),
        (change("oct", np.zeros((4, 3, 8, 8, 3), np.uint8)), ["'oct'", "B T H W 1"]),
        (change("labels", np.full((4, 2), np.inf, np.float32)), ["'labels'", "8 of 8"]),
        (change("mixup_share", np.full(4, np.nan, np.float32)), ["'mixup_share'", "4 of 4"]),
        (change("picture", np.ones(4)), ["unknown key 'picture'", "image"]),
        ({}, ["empty"]),
        ({"public": rows(), "image": nan}, ["mixes"]),
        ({"public": {}}, ["'public'", "no keys"]),
    ],
)
def test_bad_batches_are_named(bad: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        batch.check(bad)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_the_stream_is_named() -> None:
    with pytest.raises(InputError, match="Stream 'expert', key 'image'"):
        batch.check({"public": rows(), "expert": change("image", nan)})


def test_fits_wants_one_row() -> None:
    assert batch.fits("image", np.zeros((8, 8, 3), np.uint8))
    assert batch.fits("group", np.int32(3))
    assert batch.fits("group", np.array(3, ">i4"))  # bytes in another order are the same numbers
    assert not batch.fits("image", b"bytes")
    assert not batch.fits("labels", ["normal"])
    assert not batch.fits("modality", "cfp")

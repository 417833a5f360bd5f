"""The encoder returns each record once, in order, whatever the batches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from retina_jax.evals import base

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("records", "batch_size"), [(7, 3), (6, 3), (1, 4), (9, 4)])
def test_every_record_once_and_no_padding(encoder, tools, pictures, records, batch_size):
    rows = pictures(records)
    data = tools.data(rows, batch_size)
    encoded = encoder.over(tools.state(), data, "features", ["image"], ["label"])
    assert set(encoded) == {"image", "label"}
    np.testing.assert_allclose(encoded["image"], tools.features(rows), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(encoded["label"], [row["label"] for row in rows])
    assert encoded["label"].dtype == np.int32


def test_the_named_method_and_the_state_given_are_used(encoder, tools, pictures):
    rows = pictures(5)
    embedded = encoder.over(tools.state(), tools.data(rows), "embed", ["image"])["image"]
    np.testing.assert_allclose(embedded, tools.unit(tools.features(rows)), rtol=1e-5, atol=1e-5)
    other = tools.state(offset=np.full(6, 100, np.float32))
    moved = encoder.over(other, tools.data(rows), "features", ["image"])["image"]
    assert moved.min() > 80  # model state of this call, not of the first


def test_rows_of_several_processes_come_back_in_the_order_of_the_records(encoder, tools, pictures):
    """Each process reads its own rows; joined, a batch holds records 0, 1, 4, 5, then 2, 3, ..."""
    rows = pictures(7)

    def batch(*ids):
        chosen = [rows[max(i, 0)] for i in ids]
        return {
            "image": np.stack([row["image"] for row in chosen]),
            "label": np.stack([row["label"] for row in chosen]),
            "_id": np.array(ids, np.int64),
            "_mask": np.array(ids) >= 0,
        }

    data = SimpleNamespace(batches=lambda: iter([batch(4, -1, 0, 2), batch(6, 1, 5, 3)]))
    encoded = encoder.over(tools.state(), data, "features", ["image"], ["label"])
    np.testing.assert_allclose(encoded["image"], tools.features(rows), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(encoded["label"], [row["label"] for row in rows])


def test_texts_are_embedded_in_their_order_and_cut_to_their_length(encoder, tools, words):
    texts = ["drusen", "large drusen near the fovea", "normal fundus"]
    embeddings = encoder.texts(tools.state(), words, texts, 3)
    expected = [tools.text(words, text, 3) for text in texts]
    assert embeddings.shape == (3, 6)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-5, atol=1e-6)
    whole = encoder.texts(tools.state(), words, texts, 5)
    assert not np.allclose(whole[1], expected[1], atol=1e-2)  # 'the fovea' counts now
    np.testing.assert_allclose(whole[2], expected[2], rtol=1e-5, atol=1e-6)


def test_patients_are_resampled_whole():
    """Ten equal records of one patient tell no more than one record does."""
    values = np.repeat([0.0, 1.0, 0.0, 1.0], 10)
    alone = base.scored(np.mean, values, patients=[""] * 40, chance=0.5)
    together = base.scored(np.mean, values, patients=np.repeat(["a", "b", "c", "d"], 10))
    assert alone.value == together.value == 0.5
    assert (alone.count, alone.chance, together.chance) == (40, 0.5, None)
    assert 0.2 < alone.low < alone.value < alone.high < 0.8
    assert together.low <= 0.01 and together.high >= 0.99


def test_rows_without_a_patient_are_their_own():
    assert list(base.independent(["p1", "", "p1", ""])) == ["p1", "row 1", "p1", "row 3"]

"""The encoder returns each record once, in order, whatever the batches."""

import functools
from types import SimpleNamespace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.evals.encoder import Encoder, Need, bootstrap_groups, frozen_state, with_interval
from retina_jax.models.layers import l2_normalize

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("records", "batch_size"), [(7, 3), (6, 3), (1, 4), (9, 4)])
def test_every_record_once_and_no_padding(encoder, tools, pictures, records, batch_size):
    rows = pictures(records)
    data = tools.data(rows, batch_size)
    encoded = encoder.encode_dataset(tools.state(), data, "features", ["image"], ["label"])
    assert set(encoded) == {"image", "label"}
    np.testing.assert_allclose(encoded["image"], tools.features(rows), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(encoded["label"], [row["label"] for row in rows])
    assert encoded["label"].dtype == np.int32


def test_the_named_method_and_the_state_given_are_used(encoder, tools, pictures):
    rows = pictures(5)
    embedded = encoder.encode_dataset(tools.state(), tools.data(rows), "embed", ["image"])["image"]
    np.testing.assert_allclose(embedded, tools.unit(tools.features(rows)), rtol=1e-5, atol=1e-5)
    other = tools.state(offset=np.full(6, 100, np.float32))
    moved = encoder.encode_dataset(other, tools.data(rows), "features", ["image"])["image"]
    assert moved.min() > 80  # model state of this call, not of the first


def test_a_model_is_traced_once_whatever_evaluators_keep(encoder, tools, pictures):
    traced = []

    class Counted(nn.Module):
        def features(self, batch):
            traced.append(batch["image"].shape)
            return {"image": batch["image"].mean(axis=(1, 2))}

    model, state = Encoder(Counted(), encoder.mesh), frozen_state({"params": {}}, encoder.mesh)
    need = Need(tools.data(pictures(4)), ("features",), ("image",))
    model.trace(state, need)  # before the run
    for keep in ((), ("label",)):
        model.encode_dataset(state, tools.data(pictures(5)), "features", ["image"], keep)
    assert len(traced) == 1


def test_rows_of_several_processes_come_back_in_the_order_of_the_records(encoder, tools, pictures):
    """Each process reads its own rows; joined, a batch holds records 0, 1, 4, 5, then 2, 3, ..."""
    rows = pictures(7)

    def batch(*ids):
        chosen = [rows[max(i, 0)] for i in ids]
        return {"image": np.stack([row["image"] for row in chosen]),
                "label": np.stack([row["label"] for row in chosen]), "_id": np.array(ids, np.int64),
                "_mask": np.array(ids) >= 0}  # fmt: skip

    data = SimpleNamespace(batches=lambda: iter([batch(4, -1, 0, 2), batch(6, 1, 5, 3)]))
    encoded = encoder.encode_dataset(tools.state(), data, "features", ["image"], ["label"])
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


def patients(pictures, count):
    """Patients of two eyes, of whom every third has no left and the next no right one."""
    rows = []
    for i, (left, right) in enumerate(zip(pictures(count), pictures(count, seed=1), strict=True)):
        rows.append({"id": str(i), "patient": f"p{i}",
                     "eyes": np.stack([left["image"], right["image"]]),
                     "eye_mask": np.array([i % 3 != 0, i % 3 != 1])})  # fmt: skip
    return rows


def test_a_model_of_single_photographs_sees_patients_eye_by_eye(encoder, tools, pictures):
    rows = patients(pictures, 7)
    left, right = (
        tools.features([{"image": row["eyes"][side]} for row in rows]) for side in range(2)
    )
    valid = np.array([row["eye_mask"] for row in rows])
    shown = {}
    for method in ("features", "embed"):
        encoded = encoder.encode_dataset(tools.state(), tools.data(rows), method, ["eyes"])
        assert set(encoded) == {"eyes"}
        shown[method] = encoded["eyes"]
    expected = np.concatenate(
        [np.where(valid[:, :1], left, right), np.where(valid[:, 1:], right, left)], axis=1
    )
    np.testing.assert_allclose(shown["features"], expected, rtol=1e-5, atol=1e-5)
    total = valid[:, :1] * tools.unit(left) + valid[:, 1:] * tools.unit(right)
    np.testing.assert_allclose(shown["embed"], tools.unit(total), rtol=1e-4, atol=1e-5)


def test_masks_go_with_what_they_belong_to(encoder, tools, pictures):
    """A model that reads both eyes is asked itself, with their mask; texts come with theirs."""

    class Both(nn.Module):
        @nn.compact
        def embed(self, batch):
            kept = jnp.where(batch["eye_mask"][..., None], batch["eyes"].reshape(-1, 2, 3), 0)
            return {"eyes": kept.sum(axis=1), "text": batch["text"] * batch["text_mask"]}

    rows = patients(pictures, 5)
    for row in rows:
        row["text"], row["text_mask"] = np.full(2, 3, np.int32), np.array([True, False])
    model = Encoder(Both(), encoder.mesh)
    encoded = model.encode_dataset(
        frozen_state({"params": {}}, encoder.mesh), tools.data(rows), "embed", ["eyes", "text"]
    )
    for row, found in zip(rows, encoded["eyes"], strict=True):
        np.testing.assert_allclose(found, row["eyes"][row["eye_mask"]].sum(axis=0).reshape(3))
    np.testing.assert_array_equal(encoded["text"], [[3, 0]] * 5)


def test_a_model_that_sees_no_photographs_is_refused(encoder, tools, pictures):
    class Texts(nn.Module):
        def embed(self, batch):
            return {}

    model = Encoder(Texts(), encoder.mesh)
    with pytest.raises(InputError, match="no tower for 'image' or 'eyes'"):
        model.encode_dataset(frozen_state({"params": {}}, encoder.mesh),
                             tools.data(patients(pictures, 3)), "embed", ["eyes"])  # fmt: skip


class Wide(nn.Module):
    """A linear map of pictures of 1 x 2 pixels, whose places count, and of texts."""

    def setup(self):
        self.kernel = self.param("kernel", nn.initializers.normal(1.0), (6, 4))

    def features(self, batch):
        made = (
            {"text": batch["text"].astype(jnp.float32) @ self.kernel[:2]} if "text" in batch else {}
        )
        if "image" in batch:
            made["image"] = batch["image"].reshape(-1, 6) @ self.kernel
        return made

    def embed(self, batch):
        return {key: l2_normalize(x) for key, x in self.features(batch).items()}

    def generate(self, batch):
        return self.features(batch)


WIDE = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)


def wide_pictures(count, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 1, 2, 3)).astype(np.float32)


def encoded_wide(encoder, tools, rows, method, inputs, flip=True):
    made = Encoder(Wide(), encoder.mesh, flip)
    state = frozen_state({"params": {"kernel": WIDE}}, encoder.mesh)
    return made.encode_dataset(state, tools.data(rows), method, inputs)


def by_hand(pictures, flip):
    """What `Wide` makes of pictures, mirrored or not."""
    columns = pictures[:, :, ::-1] if flip else pictures
    return columns.reshape(-1, 6) @ WIDE


def test_a_flip_averages_a_picture_and_its_mirror_image_and_leaves_texts(encoder, tools):
    images = wide_pictures(5)
    rows = [
        {"id": str(i), "image": image, "text": np.array([i, 1], np.int32),
         "text_mask": np.ones(2, bool)} for i, image in enumerate(images)
    ]  # fmt: skip
    plain, mirrored = by_hand(images, False), by_hand(images, True)
    found = {
        (method, flip): encoded_wide(encoder, tools, rows, method, ["image", "text"], flip)
        for method in ("features", "embed", "generate")
        for flip in (False, True)
    }
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(found["features", True]["image"], (plain + mirrored) / 2)
    embeddings = tools.unit(tools.unit(plain) + tools.unit(mirrored))
    close(found["embed", True]["image"], embeddings)
    close(found["embed", False]["image"], tools.unit(plain))
    close(found["generate", True]["image"], plain)  # what writes sees one picture
    for method in ("features", "embed"):
        texts = (found[method, flip]["text"] for flip in (False, True))
        np.testing.assert_array_equal(*texts)


def test_a_flip_mirrors_the_pixels_of_both_eyes_in_their_slots(encoder, tools):
    left, right = wide_pictures(4), wide_pictures(4, seed=1)
    rows = [
        {"id": str(i), "eyes": np.stack(pair), "eye_mask": np.array([True, i > 0])}
        for i, pair in enumerate(zip(left, right, strict=True))
    ]
    found = encoded_wide(encoder, tools, rows, "features", ["eyes"])["eyes"]
    first, second = ((by_hand(side, False) + by_hand(side, True)) / 2 for side in (left, right))
    second[0] = first[0]  # of a missing eye the other one's
    expected = np.concatenate([first, second], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_patients_are_resampled_whole():
    """Ten equal records of one patient tell no more than one record does."""
    values = np.repeat([0.0, 1.0, 0.0, 1.0], 10)
    alone = with_interval(np.mean, values, patients=[""] * 40, chance=0.5)
    together = with_interval(np.mean, values, patients=np.repeat(["a", "b", "c", "d"], 10))
    assert alone.value == together.value == 0.5
    assert (alone.count, alone.chance, together.chance) == (40, 0.5, None)
    assert 0.2 < alone.low < alone.value < alone.high < 0.8
    assert together.low <= 0.01 and together.high >= 0.99


def test_rows_without_a_patient_are_their_own():
    assert list(bootstrap_groups(["p1", "", "p1", ""])) == ["p1", "row 1", "p1", "row 3"]

"""Codes of patches, and what predicts them."""

from itertools import product

import jax
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models.appearance import PatchCodePredictor, codes, read_codebook

rng = np.random.default_rng(0)
CODEBOOK = rng.uniform(size=(5, 2, 2, 3)).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "codebook.npy"
    np.save(path, CODEBOOK)
    return str(path)


def test_a_patch_has_the_code_of_the_entry_it_is_like():
    image = np.zeros((1, 4, 6, 3), np.float32)
    order = [3, 0, 4, 1, 1, 2]
    for code, (row, column) in zip(order, product(range(2), range(3)), strict=True):
        image[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = CODEBOOK[code]
    noisy = image + rng.uniform(-0.02, 0.02, image.shape).astype(np.float32)
    assert codes(noisy, (2, 3), CODEBOOK).tolist() == [order]
    # Larger patches are made as small as the entries; bytes are fractions.
    large = np.round(255 * image.repeat(4, axis=1).repeat(4, axis=2)).astype(np.uint8)
    assert codes(large, (2, 3), CODEBOOK).tolist() == [order]
    with pytest.raises(InputError, match="4 x 6 pixels cannot be cut into the 3 x 3 places"):
        codes(image, (3, 3), CODEBOOK)


def test_hidden_places_are_a_share_and_do_not_see_themselves(file, run):
    model = PatchCodePredictor(file, share=0.4, width=8, heads=2, mlp_dim=8, dropout=0.0)
    image, features = (rng.uniform(size=(3, 8, 8, 3)).astype(np.float32),
                       np.float32(rng.normal(size=(3, 4, 4, 5))))  # fmt: skip
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = jax.eval_shape(lambda: model.init(keys, image, features, True))
    assert "codebook" not in str(jax.tree_util.tree_structure(shapes))  # it is frozen
    variables = jax.tree.map(lambda s: np.float32(rng.normal(size=s.shape) * 0.3), shapes)

    def predict(features, seed=1):
        return model.apply(variables, image, features, True, rngs={"dropout": jax.random.key(seed)})

    out = run(predict, features)
    assert out["logits"].shape == (3, 16, 5) and out["codes"].shape == (3, 16)
    hidden = np.asarray(out["hidden"])
    assert hidden.sum(axis=1).tolist() == [6, 6, 6]  # 0.4 of 16
    assert (hidden[0] != hidden[1]).any()
    # They know where they are.
    assert np.ptp(np.asarray(out["logits"])[0, hidden[0]], axis=0).max() > 1e-2
    assert (hidden != np.asarray(run(lambda x: predict(x, 2), features)["hidden"])).any()
    flat = features.reshape(3, 16, 5)
    changed = np.where(hidden[..., None], rng.normal(size=flat.shape), flat).astype(np.float32)
    again = run(predict, changed.reshape(features.shape))
    np.testing.assert_allclose(again["logits"], out["logits"], atol=1e-5)
    visible = np.where(hidden[..., None], flat, rng.normal(size=flat.shape))
    seen = run(predict, visible.astype(np.float32).reshape(features.shape))
    assert np.abs(seen["logits"] - out["logits"]).max() > 1e-2


def test_a_share_that_hides_nothing_or_all_is_refused(file):
    model = PatchCodePredictor(file, share=0.1)
    with pytest.raises(InputError, match="hides 0.1 of 4 places"):
        jax.eval_shape(
            lambda: model.init(jax.random.key(0), np.zeros((1, 4, 4, 3)), np.zeros((1, 2, 2, 8)), 1)
        )


@pytest.mark.parametrize(("array", "message"),
                         [(np.zeros((5, 2, 3, 3), np.float32),
                           "float .K s s 3., .* not float32 .5, 2, 3, 3"),
                          (np.zeros((5, 2, 2, 3), np.uint8), "not uint8"),
                          (np.zeros((1, 2, 2, 3), np.float32), "at least two"),
                          (2 * CODEBOOK, "outside 0 to 1"),
                          (np.full((5, 2, 2, 3), np.nan, np.float32), "outside 0 to 1"),
                          (np.array([object()]), "Cannot read the codebook")])  # fmt: skip
def test_another_file_is_refused(array, message, tmp_path):
    path = tmp_path / "c.npy"
    np.save(path, array)
    with pytest.raises(InputError, match=message):
        read_codebook(str(path))
    with pytest.raises(InputError, match="Cannot read the codebook"):
        read_codebook(str(tmp_path / "none.npy"))

"""A tower by itself: its outputs, its head, and that other models start from it."""

import jax
import numpy as np
import pytest
from runs import assert_same_bits

from retina_jax.models.dual import Dual
from retina_jax.models.single_tower import Tower
from retina_jax.models.towers import build_tower
from retina_jax.train import restore

VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "patch_size": 16}
BERT = {"name": "bert", "vocab_size": 9, "width": 8, "depth": 1, "heads": 2, "mlp_dim": 8}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
rng = np.random.default_rng(0)
BATCH = {"image": rng.integers(0, 256, (3, 32, 32, 3), np.uint8),
         "text": rng.integers(1, 9, (3, 4)).astype(np.int32),
         "text_mask": np.ones((3, 4), bool)}  # fmt: skip


def test_a_head_is_a_linear_map_of_what_the_tower_pools(random_variables):
    model = Tower(key="image", tower=VIT, classes=5, mean=MEAN, std=STD)
    variables = random_variables(model, BATCH)
    assert set(variables["params"]) == {"image", "head"}
    out = model.apply(variables, BATCH)
    pixels = ((BATCH["image"] / 255 - MEAN) / STD).astype(np.float32)
    alone = {"params": variables["params"]["image"]}
    pooled = build_tower(VIT, "float32").apply(alone, pixels)["pooled"]
    np.testing.assert_allclose(out["pooled"], pooled, atol=1e-5)
    head = variables["params"]["head"]
    np.testing.assert_allclose(out["logits"], pooled @ head["kernel"] + head["bias"], atol=1e-5)
    features = model.apply(variables, BATCH, method="features")
    assert_same_bits(features, {"image": out["pooled"]})
    other = {"eyes": BATCH["image"][None]}
    assert model.apply(variables, other, method="features") == {}
    assert model.apply(variables, other, method="tokens") == {}


@pytest.mark.parametrize(("key", "tower"), [("image", VIT), ("text", BERT)])
def test_other_models_start_from_it(random_variables, key, tower):
    """`restore_from` with take=(key,) and the head ignored."""
    alone = random_variables(Tower(key=key, tower=tower, classes=2), BATCH)
    dual = Dual(towers={"image": VIT, "text": BERT}, dim=4)
    new = random_variables(dual, BATCH, seed=1)
    merged = restore.subtrees(new, alone, take=(key,), ignore=("head",))
    assert_same_bits(merged["params"][key], alone["params"][key])
    other = {"image": "text", "text": "image"}[key]
    assert_same_bits(merged["params"][other], new["params"][other])
    assert jax.tree.structure(merged) == jax.tree.structure(new)


def test_without_classes_there_is_no_head(random_variables):
    model = Tower(key="text", tower=BERT)
    variables = random_variables(model, BATCH)
    assert set(variables["params"]) == {"text"}
    assert set(model.apply(variables, BATCH)) == {"pooled"}

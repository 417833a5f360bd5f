"""What each objective reads, and the names of the terms it gives."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.losses import contrastive, generative, reference
from retina_jax.objectives import OBJECTIVES

pytestmark = pytest.mark.fast

rng = np.random.default_rng(0)


def unit(rows=5, dim=8):
    x = rng.normal(size=(rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


FLAT = {"z": {"image": unit(), "text": unit(), "oct": unit()}, "scale": np.float32(12.0)}
KEYS = ("image", "text")
NESTED = {
    "z": {f"{s}/{k}": unit(n) for s, n in {"public": 5, "expert": 4}.items() for k in KEYS},
    "scale": np.float32(12.0),
    "reference": rng.normal(size=(5, 8)).astype(np.float32),
}
GROUPS = np.array([0, 1, 0, 2, 1], np.int32)
BATCH = {
    "public": {"group": GROUPS},
    "expert": {"group": np.array([7, 7, 7, 3], np.int32)},
}


def test_contrastive_names_a_term_for_each_pair_of_a_flat_batch():
    pairs = (("image", "text"), ("oct", "image"))
    made = build(OBJECTIVES, {"name": "contrastive", "pairs": pairs})
    terms = made(FLAT, {})
    assert set(terms) == {"contrastive/image-text", "contrastive/oct-image"}
    z = FLAT["z"]
    for name, pair in (("image-text", ("image", "text")), ("oct-image", ("oct", "image"))):
        expected = contrastive.softmax(z[pair[0]], z[pair[1]], 12.0)
        assert float(terms[f"contrastive/{name}"]) == pytest.approx(float(expected), rel=1e-6)
    assert len({float(term) for term in terms.values()}) == 2


def test_contrastive_names_the_stream_of_a_nested_batch_and_uses_its_groups():
    pairs = tuple((f"{s}/image", f"{s}/text") for s in ("public", "expert"))
    grouped = build(OBJECTIVES, {"name": "contrastive", "pairs": pairs, "groups": True})
    terms = grouped(NESTED, BATCH)
    assert set(terms) == {"contrastive/public/image-text", "contrastive/expert/image-text"}
    plain = build(OBJECTIVES, {"name": "contrastive", "pairs": pairs})(NESTED, BATCH)
    for stream in BATCH:
        z = [NESTED["z"][f"{stream}/{key}"] for key in KEYS]
        group = BATCH[stream]["group"]
        same = group[:, None] == group[None, :]
        expected = contrastive.softmax(*z, 12.0, same / same.sum(axis=1, keepdims=True))
        name = f"contrastive/{stream}/image-text"
        assert float(terms[name]) == pytest.approx(float(expected), rel=1e-6)
        assert float(plain[name]) == pytest.approx(float(contrastive.softmax(*z, 12.0)), rel=1e-6)
        assert float(plain[name]) != pytest.approx(float(terms[name]), rel=1e-3)


def test_contrastive_uses_the_groups_of_a_flat_batch():
    made = build(OBJECTIVES, {"name": "contrastive", "pairs": (("image", "text"),), "groups": True})
    value = made(FLAT, {"group": GROUPS})["contrastive/image-text"]
    targets = contrastive.group_targets(GROUPS)
    expected = contrastive.softmax(FLAT["z"]["image"], FLAT["z"]["text"], 12.0, targets)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


def test_contrastive_refuses_pairs_that_are_none():
    across = build(OBJECTIVES, {"name": "contrastive", "pairs": (("public/image", "expert/text"),)})
    with pytest.raises(InputError, match="'public/image' and 'expert/text' are rows of different"):
        across(NESTED, BATCH)
    mixed = build(OBJECTIVES, {"name": "contrastive", "pairs": (("image", "expert/text"),)})
    with pytest.raises(InputError, match="different streams"):
        mixed(NESTED, BATCH)
    twice = build(OBJECTIVES, {"name": "contrastive", "pairs": (("image", "text"),) * 2})
    with pytest.raises(InputError, match="Two pairs .* 'contrastive/image-text'"):
        twice(FLAT, {})


def test_reference_compares_the_named_text_with_the_reference():
    terms = build(OBJECTIVES, {"name": "reference"})(NESTED, BATCH)
    expected = np.mean((NESTED["z"]["public/text"] - NESTED["reference"]) ** 2)
    assert set(terms) == {"reference"}
    assert float(terms["reference"]) == pytest.approx(float(expected), rel=1e-5)
    other = build(OBJECTIVES, {"name": "reference", "text": "public/image"})(NESTED, BATCH)
    expected = reference.text_revision(NESTED["z"]["public/image"], NESTED["reference"])
    assert float(other["reference"]) == pytest.approx(float(expected), rel=1e-6)


def test_masked_language_scores_the_original_tokens_at_the_masked_positions():
    logits = rng.normal(size=(3, 4, 11)).astype(np.float32)
    batch = {
        "text": rng.integers(11, size=(3, 4)).astype(np.int32),
        "masked_text": np.zeros((3, 4), np.int32),
        "masked": rng.random((3, 4)) < 0.5,
    }
    terms = build(OBJECTIVES, {"name": "masked_language"})({"logits": logits}, batch)
    probability = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    likelihood = np.take_along_axis(probability, batch["text"][..., None], axis=-1)[..., 0]
    assert set(terms) == {"masked_language"}
    assert float(terms["masked_language"]) == pytest.approx(
        -np.log(likelihood[batch["masked"]]).mean(), rel=1e-5
    )
    other = generative.masked_token_cross_entropy(logits, batch["masked_text"], batch["masked"])
    assert float(other) != pytest.approx(float(terms["masked_language"]), rel=1e-3)

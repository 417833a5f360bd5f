"""SKKU's terms: pixels of patches, words of masked texts, pairs in one direction."""

import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.losses import contrastive
from retina_jax.losses.reconstruction import squared_error
from retina_jax.objectives import OBJECTIVES

rng = np.random.default_rng(0)
PATCHES, PREDICTED = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
HIDDEN = rng.random((3, 4)) < 0.5
OUT = {"patches": PATCHES, "predicted_patches": PREDICTED, "hidden_patches": HIDDEN,
       "logits": rng.normal(size=(3, 4, 11)).astype(np.float32)}  # fmt: skip
TEXT = rng.integers(1, 11, size=(3, 4)).astype(np.int32)
LENGTHS = np.array([[2], [4], [1]])
BATCH = {"text": TEXT, "text_mask": np.arange(4) < LENGTHS, "masked": np.arange(4) < LENGTHS // 2}


def only(name, out=OUT, batch=BATCH, **options):
    ((term, value),) = build(OBJECTIVES, {"name": name, **options})(out, batch).items()
    return term, float(value)


def test_masked_image_counts_all_patches_unless_told_otherwise():
    term, value = only("masked_image")
    assert term == "masked_image"
    assert value == pytest.approx(float(squared_error(PREDICTED, PATCHES)))
    for per in ("pixel", "image"):
        _, value = only("masked_image", hidden_only=True, per=per)
        expected = squared_error(PREDICTED, PATCHES, HIDDEN, per=per)
        assert value == pytest.approx(float(expected))
    with pytest.raises(InputError, match="per .'pixel', 'image'., not 'patch'"):
        only("masked_image", per="patch")


def test_masked_language_counts_positions_and_averages_as_asked():
    logits = OUT["logits"] - OUT["logits"].max()
    likelihood = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(likelihood, TEXT[..., None], axis=-1)[..., 0]
    for positions, mask in (("masked", BATCH["masked"]), ("all", BATCH["text_mask"])):
        term, value = only("masked_language", positions=positions)
        assert term == "masked_language" and value == pytest.approx(losses[mask].mean(), rel=1e-5)
        _, value = only("masked_language", positions=positions, per="text")
        assert value == pytest.approx(losses[mask].sum() / 3, rel=1e-5)
    padded = {**BATCH, "text": np.where(BATCH["text_mask"], TEXT, 0)}
    assert only("masked_language", batch=padded, positions="all") == only(
        "masked_language", positions="all"
    )
    for option in ({"positions": "some"}, {"per": "word"}):
        with pytest.raises(InputError, match=f"masked_language has {next(iter(option))}"):
            only("masked_language", **option)


def unit():
    x = rng.normal(size=(5, 8))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


Z = {"z": {"image": unit(), "text": unit()}, "scale": np.float32(12.0)}
GROUPS = np.array([0, 1, 0, 2, 1], np.int32)
ONE_WAY = {"pairs": (("image", "text"),), "symmetric": False}


@pytest.mark.parametrize("blockwise", [None, 2])
@pytest.mark.parametrize("groups", [False, True])
def test_images_choose_among_texts_and_not_the_reverse(groups, blockwise):
    """Equation 2, with equal texts as positives of each other or not."""
    logits = 12.0 * Z["z"]["image"].astype(float) @ Z["z"]["text"].T.astype(float)
    likelihood = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    same = GROUPS[:, None] == GROUPS if groups else np.eye(5, dtype=bool)
    expected = -(likelihood * same / same.sum(axis=1, keepdims=True)).sum(axis=1).mean()
    options = {**ONE_WAY, "groups": groups, "blockwise": blockwise}
    _, value = only("contrastive", Z, {"group": GROUPS}, **options)
    assert value == pytest.approx(expected, rel=1e-5)
    _, both = only("contrastive", Z, {"group": GROUPS}, **{**options, "symmetric": True})
    _, reverse = only("contrastive", Z, {"group": GROUPS},
                      **{**options, "pairs": (("text", "image"),)})  # fmt: skip
    assert both == pytest.approx((value + reverse) / 2, rel=1e-5) and abs(value - reverse) > 1e-3


def test_equal_texts_are_positives_which_makes_no_difference_where_all_differ():
    distinct = {"group": np.array([4, 1, 0, 2, 9], np.int32)}
    _, literal = only("contrastive", Z, distinct, **ONE_WAY)
    _, several = only("contrastive", Z, distinct, groups=True, **ONE_WAY)
    assert several == pytest.approx(literal, rel=1e-6)
    # With copies of a text the literal loss cannot reach what the loss with groups can.
    text = unit()[GROUPS]
    out = {"z": {"image": text, "text": text}, "scale": np.float32(100.0)}
    _, literal = only("contrastive", out, {"group": GROUPS}, **ONE_WAY)
    assert literal > 4 / 5 * np.log(2) - 1e-3
    targets = contrastive.group_targets(GROUPS)
    entropy = -np.where(targets > 0, targets * np.log(np.maximum(targets, 1e-9)), 0).sum(1).mean()
    _, several = only("contrastive", out, {"group": GROUPS}, groups=True, **ONE_WAY)
    assert several == pytest.approx(entropy, abs=1e-3)


@pytest.mark.parametrize("kind", ["sigmoid", "infoloob", "cloob"])
def test_other_losses_have_no_single_direction(kind):
    with pytest.raises(InputError, match=f"'{kind}' has no single direction"):
        only("contrastive", Z, {}, kind=kind, **ONE_WAY)

"""The generative terms: which tokens count, and what they are called."""

import numpy as np
import pytest
from scipy.special import log_softmax

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.objectives import OBJECTIVES

rng = np.random.default_rng(0)
ROWS, LENGTH, WORDS = 3, 6, 11


def stream():
    text = rng.integers(WORDS, size=(ROWS, LENGTH)).astype(np.int32)
    return {"text": text, "text_mask": np.arange(LENGTH) < np.array([[6], [3], [2]])}


BATCH = {"expert": stream(), "public": stream()}
WRITTEN = {
    "expert": rng.normal(size=(ROWS, LENGTH - 1, WORDS)).astype(np.float32),
    "public": rng.normal(size=(ROWS, 2, WORDS)).astype(np.float32),  # the first 3 tokens only
}


def terms(out, **options):
    return build(OBJECTIVES, options)(out, BATCH)


def likelihood(name, row, position):
    """Log likelihood of every word at a position, from the scores one position earlier."""
    return log_softmax(WRITTEN[name][row, position - 1].astype(np.float64))


def test_every_real_token_but_the_first_counts_once():
    found = terms({"caption_logits": WRITTEN}, name="caption", streams=("expert",))
    text = BATCH["expert"]["text"]
    places = [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 1), (1, 2), (2, 1)]
    losses = [-likelihood("expert", i, t)[text[i, t]] for i, t in places]
    assert set(found) == {"caption"}
    assert float(found["caption"]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_text_is_written_as_far_as_the_model_wrote_it():
    found = terms(
        {"caption_logits": WRITTEN}, name="caption", term="injection", streams=("public",)
    )
    text = BATCH["public"]["text"]
    losses = [-likelihood("public", i, t)[text[i, t]]
              for i, t in [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]]  # fmt: skip
    assert float(found["injection"]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_smoothing_spreads_a_share_over_all_words():
    options = {"name": "caption", "term": "a", "streams": ("public",)}
    found = terms({"caption_logits": WRITTEN}, **options, smoothing=0.1)
    text, losses = BATCH["public"]["text"], []
    for i, t in [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]:
        target = np.full(WORDS, 0.1 / WORDS)
        target[text[i, t]] += 0.9
        losses.append(-(target * likelihood("public", i, t)).sum())
    assert float(found["a"]) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(found["a"]) != pytest.approx(
        float(terms({"caption_logits": WRITTEN}, **options)["a"])
    )


@pytest.mark.parametrize("streams", [("public", "expert"), ()])
def test_all_tokens_of_several_streams_count_alike(streams):
    found = terms({"caption_logits": WRITTEN}, name="caption", term="a", streams=streams)
    one, other = (
        float(terms({"caption_logits": WRITTEN}, name="caption", term="a", streams=(name,))["a"])
        for name in ("expert", "public")
    )
    assert set(found) == {"a"}
    assert float(found["a"]) == pytest.approx((8 * one + 5 * other) / 13, rel=1e-5)


def test_codes_count_where_patches_are_hidden():
    logits = rng.normal(size=(2, 4, WORDS)).astype(np.float32)
    hidden = np.array([[True, False, False, True], [False, True, False, False]])
    codes = rng.integers(WORDS, size=(2, 4)).astype(np.int32)
    out = {"appearance": {"public": {"logits": logits, "codes": codes, "hidden": hidden}}}
    found = terms(out, name="appearance", streams=("public",))
    losses = [-log_softmax(logits[i, t].astype(float))[codes[i, t]]
              for i, t in zip(*np.nonzero(hidden), strict=True)]  # fmt: skip
    assert set(found) == {"appearance"}
    assert float(found["appearance"]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_smoothing_of_everything_is_refused():
    with pytest.raises(InputError, match="less than 1, not 1"):
        build(OBJECTIVES, {"name": "caption", "term": "a", "streams": ("x",), "smoothing": 1.0})

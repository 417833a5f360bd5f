"""Caption metrics against strings computed by hand."""

import math

import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.metrics import captioning

pytestmark = pytest.mark.fast


def split(*texts):
    return [text.split() for text in texts]


def one(caption, *references):
    return captioning.score(split(caption), [split(*references)])


def test_bleu_by_hand():
    # Bigrams: "late phase", "phase with" and "with leakage" of 4; unigrams 4 of 5; trigrams 2 of
    # 3; "late phase with leakage" 1 of 2. Five words against six: exp(1 - 6 / 5).
    counts = one("late phase with leakage now", "a late phase with leakage seen").bleu
    precisions = [4 / 5, 3 / 4, 2 / 3, 1 / 2]
    for order in range(1, 5):
        expected = math.exp(-1 / 5) * math.prod(precisions[:order]) ** (1 / order)
        assert captioning.bleu(counts, order) == pytest.approx(expected)


def test_bleu_clips_counts_and_takes_the_closest_reference():
    counts = one("the the the", "the disc", "the cup the disc is large").bleu
    # "the" counts twice, as often as in one reference; of lengths 2 and 6, 2 is closest to 3.
    assert captioning.bleu(counts, 1) == pytest.approx(2 / 3)
    assert captioning.bleu(counts, 2) == 0.0


def test_bleu_of_a_corpus_adds_counts_and_not_scores():
    captions = split("a b c d", "a b")
    scores = captioning.score(captions, [split("a b c d"), split("x y z w v u")])
    # 4 of 6 words; 6 words against 4 and, closest for the second, 6.
    assert captioning.bleu(scores.bleu, 1) == pytest.approx(math.exp(1 - 10 / 6) * 4 / 6)
    # Texts of one word have no bigrams, and do not count as one that fails.
    short = captioning.score(split("a b", "a"), [split("a b"), split("a")])
    assert captioning.bleu(short.bleu, 2) == pytest.approx(1.0)


def test_meteor_by_hand():
    # "leaks" and "leaking" share their stem. All five match in two chunks, "late" being out of
    # place: F = 1, penalty 0.5 (2 / 5)^3.
    found = one("leaks of the disc late", "late leaking of the disc").meteor[0]
    assert found == pytest.approx(1 - 0.5 * (2 / 5) ** 3)
    # P = 2 / 2, R = 2 / 4, F = P R / (0.9 P + 0.1 R), one chunk of two matches.
    found = one("the disc", "the disc is pale").meteor[0]
    assert found == pytest.approx((0.5 / 0.95) * (1 - 0.5 * (1 / 2) ** 3))


def test_rouge_l_by_hand():
    # "late with leakage" is the longest common subsequence.
    found = one("late phase with leakage", "late leakage with big leakage").rouge_l[0]
    precision, recall = 3 / 4, 3 / 5
    expected = 2.44 * precision * recall / (recall + 1.44 * precision)
    assert found == pytest.approx(expected)
    assert one("a b", "c d").rouge_l[0] == 0.0


def test_cider_d_by_hand():
    references = [split("drusen seen"), split("normal disc"), split("normal fovea")]
    found = captioning.cider_d(split("drusen seen", "normal normal", "disc fovea"), references)
    # Exactly the reference: 1 for unigrams and for bigrams, 0 for the orders that it is too short
    # for.
    assert found[0] == pytest.approx(10 * 2 / 4)
    # "normal" is in 2 of 3 images, "disc" in 1. Two "normal" are clipped to one.
    normal, disc = math.log(3 / 2), math.log(3)
    cosine = normal * normal / (2 * normal * math.hypot(normal, disc))
    assert found[1] == pytest.approx(10 * cosine / 4)
    # One word too many of two: exp(-1 / 72). "unseen" is in no reference: as rare as in one.
    longer = captioning.cider_d(split("drusen seen unseen", "a", "b"), references)[0]
    expected = (2 / math.sqrt(6) + 1 / math.sqrt(2)) / 4
    assert longer == pytest.approx(10 * math.exp(-1 / 72) * expected)


def test_cider_d_is_the_mean_over_references():
    references = [split("drusen seen", "large cup"), split("normal disc")]
    found = captioning.cider_d(split("drusen seen", "x"), references)
    assert found[0] == pytest.approx(10 * 2 / 4 / 2)


def test_the_same_caption_is_best_and_none_is_worst():
    texts = split("late leakage of the disc", "pale disc in the late phase")
    references = [[text] for text in texts]
    best = captioning.score(texts, references)
    assert captioning.bleu(best.bleu, 4) == pytest.approx(1.0)
    np.testing.assert_allclose(best.rouge_l, 1.0)
    np.testing.assert_allclose(best.cider_d, 10.0)
    assert best.meteor.min() > 0.99
    worst = captioning.score([[], []], references)
    assert captioning.bleu(worst.bleu, 1) == 0.0
    assert not worst.meteor.any() and not worst.rouge_l.any() and not worst.cider_d.any()


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="2 captions and 1 references"):
        captioning.score(split("a", "b"), [split("a")])
    for references in ([[]], [[[]]]):
        with pytest.raises(InputError, match="without a reference"):
            captioning.score(split("a"), references)

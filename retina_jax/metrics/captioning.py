"""How close captions are to reference captions: BLEU, METEOR, ROUGE-L and CIDEr-D.

A caption is a sequence of words; who calls decides what a word is. Each score comes as numbers of
every caption, so that intervals are made by resampling captions.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.errors import InputError

Words = Sequence[str]
Ngrams = collections.Counter[tuple[str, ...]]
ORDERS = 4
_CIDER_SIGMA, _CIDER_FACTOR = 6.0, 10.0
_ROUGE_BETA = 1.2


class Scores(NamedTuple):
    """Of N captions.

    Attributes:
      bleu: f64[N 10], what `bleu` adds up over a corpus: matched n-grams and n-grams of the
        orders 1 to 4, words, and words of the reference that is closest in length.
      meteor, rouge_l, cider_d: f64[N]; a corpus has their mean.
    """

    bleu: np.ndarray
    meteor: np.ndarray
    rouge_l: np.ndarray
    cider_d: np.ndarray


def score(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Scores:
    """Scores captions, each against its own references.

    Args:
      captions: N captions; one without words scores 0.
      references: the references of each caption, at least one, none without words.

    Raises:
      InputError: the numbers differ, or a caption has no reference with words.
    """
    if len(captions) != len(references) or not captions:
        raise InputError(
            f"{len(captions)} captions and {len(references)} references cannot be compared."
        )
    if not all(others and all(others) for others in references):
        raise InputError("A caption without a reference that has words cannot be scored.")
    pairs = list(zip(captions, references, strict=True))
    return Scores(
        np.array([_bleu_counts(*pair) for pair in pairs], float),
        np.array([meteor(*pair) for pair in pairs]),
        np.array([rouge_l(*pair) for pair in pairs]),
        cider_d(captions, references),
    )


def bleu(counts: np.ndarray, order: int) -> float:
    """BLEU of a corpus up to n-grams of `order`, without smoothing (Papineni et al. 2002).

    Args:
      counts: f64[N 10], see `Scores`.
      order: 1 to 4.

    Returns:
      In [0, 1]; 0 where no n-gram of an order matches.
    """
    sums = counts.sum(axis=0)
    matched, possible = sums[:order], sums[ORDERS : ORDERS + order]
    if matched.min() == 0:
        return 0.0
    words, closest = sums[2 * ORDERS :]
    brevity = min(0.0, 1.0 - closest / words)
    return math.exp(brevity + np.log(matched / possible).mean())


def _bleu_counts(caption: Words, references: Sequence[Words]) -> list[float]:
    from nltk.translate import bleu_score  # half a second, which runs without captions are spared

    possible = [max(len(caption) - order, 0) for order in range(ORDERS)]
    # Multiplied out, as nltk writes 1 for the number of n-grams of a caption without any.
    matched = [
        int(bleu_score.modified_precision(references, caption, order) * count)
        for order, count in enumerate(possible, start=1)
    ]
    closest = bleu_score.closest_ref_length(references, len(caption))
    return [*matched, *possible, len(caption), closest]


class _NoSynonyms:
    """In place of WordNet, which would have to be downloaded and lacks ophthalmology's words."""

    def synsets(self, word: str) -> list[str]:
        """None of any word."""
        del word
        return []


def meteor(caption: Words, references: Sequence[Words]) -> float:
    """METEOR without synonyms, against the best of the references.

    Words match when they are equal or have the same Porter stem; F with 9 times the weight on
    recall, and a penalty for words out of order (Lavie and Agarwal 2007's form in nltk, alpha 0.9,
    beta 3, gamma 0.5). METEOR 1.5, a Java program, also knows synonyms and paraphrases, so figures
    of the two are not comparable.

    Returns:
      In [0, 1].
    """
    from nltk.translate import meteor_score  # see `_bleu_counts`

    if not caption:
        return 0.0
    no_synonyms: Any = _NoSynonyms()  # nltk names the class of WordNet, and calls `synsets` only
    return meteor_score.meteor_score(
        [list(words) for words in references], list(caption), wordnet=no_synonyms
    )


def rouge_l(caption: Words, references: Sequence[Words]) -> float:
    """ROUGE-L (Lin 2004) with beta 1.2, as caption evaluation has it.

    F = (1 + b^2) P R / (R + b^2 P), P and R the greatest shares of the caption's and of a
    reference's words that lie in their longest common subsequence.

    Returns:
      In [0, 1].
    """
    common = [_common(caption, words) for words in references]
    if not caption or not any(common):
        return 0.0
    precision = max(common) / len(caption)
    recall = max(n / len(words) for n, words in zip(common, references, strict=True))
    square = _ROUGE_BETA**2
    return (1 + square) * precision * recall / (recall + square * precision)


def _common(first: Words, second: Words) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """CIDEr-D (Vedantam et al. 2015, eq. 4 with sigma 6) of each caption.

    N-grams of 1 to 4 words are weighted by the logarithm of how rare they are among the images of
    `references`; a single image has no rare ones, and scores 0. Counts of the caption are clipped
    to those of the reference, and lengths that differ are punished.

    Args:
      captions, references: the same as in `score`.

    Returns:
      f64[N] in [0, 10].
    """
    counted = [[_ngrams(words) for words in others] for others in references]
    images = collections.Counter(
        ngram for others in counted for ngram in {n for found in others for n in found}
    )
    scores = [
        np.mean(
            [
                _cider_of_pair(caption, _ngrams(caption), words, ngrams, images, len(references))
                for words, ngrams in zip(others, ngrams_of, strict=True)
            ]
        )
        for caption, others, ngrams_of in zip(captions, references, counted, strict=True)
    ]
    return np.array(scores)


def _ngrams(words: Words) -> Ngrams:
    return collections.Counter(
        tuple(words[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(words) - order + 1)
    )


def _cider_of_pair(
    caption: Words, found: Ngrams, reference: Words, wanted: Ngrams, images: Ngrams, count: int
) -> float:
    def weight(ngram: tuple[str, ...]) -> float:
        return math.log(count / max(images[ngram], 1))

    similarities: list[float] = []
    for order in range(1, ORDERS + 1):
        ours = {n: c * weight(n) for n, c in found.items() if len(n) == order}
        theirs = {n: c * weight(n) for n, c in wanted.items() if len(n) == order}
        lengths = _length(ours.values()) * _length(theirs.values())
        product = sum(
            min(value, theirs.get(n, 0.0)) * theirs.get(n, 0.0) for n, value in ours.items()
        )
        similarities.append(product / lengths if lengths else 0.0)
    difference = len(caption) - len(reference)
    penalty = math.exp(-(difference**2) / (2 * _CIDER_SIGMA**2))
    return _CIDER_FACTOR * penalty * sum(similarities) / ORDERS


def _length(values: Iterable[float]) -> float:
    return math.sqrt(sum(value * value for value in values))

"""Captions that a model writes, beside what is easily had: the commonest and the nearest one."""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.text import words
from data_pipelines.text.tokenizers import Tokenizer
from data_pipelines.text.wordpiece import is_cjk
from retina_jax.evals.encoder import Encoder, Need, spaced, with_interval
from retina_jax.metrics import captioning
from retina_jax.out_of_distribution import unit
from retina_jax.scoring import thumbnails
from retina_jax.types import Card, Results, Score, TrainState

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Captioning:
    """BLEU-1 to 4, METEOR, ROUGE-L and CIDEr-D of the captions of held-out pictures or cases.

    A record is what is captioned: one picture, or a case with several, whichever the data hold.

    With `train`, two answers stand beside the model that write nothing: the commonest caption of
    `train`, for every picture, and the caption of the nearest picture of `train`, by the cosine of
    the model's own features. The commonest is also the chance level of the model's figures. Figures
    of the model over the nearest are resampled as pairs.

    Attributes:
      encoder: runs the model's methods `generate`, whose features of the pictures are those of
        `features`, and, for `train`, that one.
      tokenizer: the tokenizer of the model.
      train: records whose captions and pictures the two baselines take; None leaves them out,
        and with them a pass over all training pictures.
      test: records to caption, whose rarity of words CIDEr-D counts; those without a caption are
        left out, and counted in the log.
      length: None compares with the cleaned captions. A number compares with what the tokenizer
        keeps of that many of their tokens, as the released code does: rare words are then <unk> on
        both sides and count as equal, and the rest is forgotten.
      caption: field of the records.
      image: the batch key that the model sees, and the field of its encoded pictures: 'image', or
        'images' of cases.
      examples: how many captions the gallery shows.
    """

    encoder: Encoder
    tokenizer: Tokenizer
    test: EvalData
    train: EvalData | None = None
    length: int | None = None
    caption: str = "caption"
    image: str = "image"
    examples: int = 8

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        needs = [Need(self.test, ["generate"], [self.image])]
        if self.train is not None:  # several pictures of a case have the features of one
            needs.append(Need(self.train, ["features"], [self.image], outputs=["image"]))
        return needs

    def run(self, state: TrainState) -> Results:
        """'cider_d', ..., 'commonest_cider_d', 'nearest_cider_d', 'cider_d_over_nearest', ..."""
        references = self._words(self.test)
        has_words = _with_words(references, self.test, self.caption)
        made = self.encoder.encode_dataset(state, self.test, "generate", [self.image])
        answers = {"": self.decoded_captions(made["generated"])}
        if self.train is not None:
            # Of a picture and its mirror image `generate` sees the first alone.
            seen = self._features(state, self.test) if self.encoder.flip else made["image"]
            answers |= self._baselines(state, self.train, seen)
        answers = {name: [texts[i] for i in has_words] for name, texts in answers.items()}
        found = {
            name: captioning.score(captions, [[references[i]] for i in has_words])
            for name, captions in answers.items()
        }
        patients = np.array(self.test.source.column("patient"))[has_words]
        gallery = self._gallery(has_words, answers, found)
        return Results(_scores(found, patients), gallery, tested=self.test.source)

    def _words(self, data: EvalData) -> list[list[str]]:
        texts = data.source.column(self.caption)
        if any(map(is_cjk, map(ord, "".join(texts)))):
            raise InputError(
                f"Captions in '{self.caption}' of {data.source} are in Chinese, which cannot be "
                "scored word by word: name an English field by 'caption'."
            )
        if self.length is not None:
            texts = [self.tokenizer.decode(self.tokenizer.encode(t, self.length)[0]) for t in texts]
        return [self._split(text) for text in texts]

    def _split(self, text: str) -> list[str]:
        return (words.clean(text) if self.length is None else text).split()

    def decoded_captions(self, ids: np.ndarray) -> list[list[str]]:
        """The words of texts of ids i32[N L], each as far as its end."""
        ends = self.tokenizer.eos_id
        return [self._split(self.tokenizer.decode(_until(row, ends))) for row in ids]

    def _features(self, state: TrainState, data: EvalData) -> np.ndarray:
        return self.encoder.encode_dataset(state, data, "features", [self.image])["image"]

    def _baselines(
        self, state: TrainState, train: EvalData, features: np.ndarray
    ) -> dict[str, list[list[str]]]:
        """The commonest caption, and that of the nearest picture, for each test record."""
        known = self._words(train)
        usable = _with_words(known, train, self.caption)
        commonest = collections.Counter(tuple(known[i]) for i in usable).most_common(1)[0][0]
        pool = self._features(state, train)
        pool, asked = unit(pool[usable]), unit(features)
        nearest = [(part @ pool.T).argmax(axis=1) for part in _pieces(asked)]
        return {
            "commonest": [list(commonest)] * len(asked),
            "nearest": [known[usable[i]] for i in np.concatenate(nearest)],
        }

    def _gallery(
        self,
        has_words: np.ndarray,
        answers: Mapping[str, Sequence[Sequence[str]]],
        found: Mapping[str, captioning.Scores],
    ) -> tuple[tuple[Card, tuple[Card, ...]], ...]:
        """Evenly spaced records: picture and caption, then what the model and the others say."""
        shown = []
        for place in spaced(len(has_words), self.examples):
            row = self.test.source[int(has_words[place])]
            cards = tuple(
                Card(
                    text=f"{name or 'written'}, CIDEr-D {found[name].cider_d[place]:.2f}: "
                    f"{' '.join(captions[place])}"
                )
                for name, captions in answers.items()
            )
            image = thumbnails.of_field(row, self.image)
            shown.append((Card(image, row[self.caption]), cards))
        return tuple(shown)


def _with_words(captions: Sequence[Sequence[str]], data: EvalData, caption: str) -> np.ndarray:
    """The records whose caption has words; how many others there are is logged."""
    has_words = np.flatnonzero([bool(words_) for words_ in captions])
    if not len(has_words):
        raise InputError(f"No record of {data.source} has words in '{caption}'.")
    if len(has_words) < len(captions):
        _logger.warning(
            "%d of %d records of %s have no words in '%s' and are left out.",
            len(captions) - len(has_words),
            len(captions),
            data.source,
            caption,
        )
    return has_words


def _scores(found: Mapping[str, captioning.Scores], patients: np.ndarray) -> dict[str, Score]:
    """Every metric of every answer, and of the model over the nearest caption."""
    scores = {}
    for name, answer in found.items():
        prefix = f"{name}_" if name else ""
        for metric, (statistic, numbers) in _metrics(answer).items():
            chance = None
            if name != "commonest" and "commonest" in found:
                chance = float(statistic(_metrics(found["commonest"])[metric][1]))
            scores[prefix + metric] = with_interval(
                statistic, numbers, patients=patients, chance=chance
            )
    if "nearest" not in found:
        return scores
    nearest = _metrics(found["nearest"])
    for metric, (statistic, numbers) in _metrics(found[""]).items():
        scores[f"{metric}_over_nearest"] = with_interval(
            partial(_difference, statistic),
            numbers,
            nearest[metric][1],
            patients=patients,
            chance=0.0,
        )
    return scores


def _metrics(scores: captioning.Scores) -> dict[str, tuple]:
    """Name -> the statistic of a set of captions, and its numbers by caption."""
    bleu = {
        f"bleu_{order}": (partial(captioning.bleu, order=order), scores.bleu)
        for order in range(1, captioning.ORDERS + 1)
    }
    means = ("meteor", "rouge_l", "cider_d")
    return {**bleu, **{name: (np.mean, getattr(scores, name)) for name in means}}


def _difference(
    statistic: Callable[[np.ndarray], float], ours: np.ndarray, theirs: np.ndarray
) -> float:
    return statistic(ours) - statistic(theirs)


def _until(ids: np.ndarray, last: int) -> np.ndarray:
    """The ids before the first `last`."""
    ends = np.flatnonzero(ids == last)
    return ids[: ends[0]] if len(ends) else ids


def _pieces(rows: np.ndarray, size: int = 256) -> Iterator[np.ndarray]:
    """Some rows at a time: all of them against a large training set would not fit into memory."""
    return (rows[start : start + size] for start in range(0, len(rows), size))

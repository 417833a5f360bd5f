"""Retrieval between images and texts of the same records."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines import functional
from data_pipelines.pipelines import EvalData
from retina_jax.evals.base import Encoder, scored
from retina_jax.metrics import retrieval
from retina_jax.types import Card, Results, Score, TrainState

_THUMBNAIL = 128


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Recall at k and mean rank of the right answer, in both directions.

    All records that share a `group` (the same caption, say) are right answers of each other, so
    repeated reports do not count as mistakes.

    Attributes:
      encoder: runs the model.
      data: the pool, records with the batch keys 'image', 'text', 'text_mask' and 'group'.
      ks: the k of recall at k.
      image, text: the towers that are compared.
      caption: field of the records that the gallery shows.
      picture: field of the records that holds the encoded picture for the gallery.
      examples: how many queries of each direction the gallery shows.
    """

    encoder: Encoder
    data: EvalData
    ks: Sequence[int] = (1, 5, 10)
    image: str = "image"
    text: str = "text"
    caption: str = "caption"
    picture: str = "image"
    examples: int = 4

    def run(self, state: TrainState) -> Results:
        """'image_to_text_recall_at_1', ..., 'text_to_image_mean_rank', and examples to look at."""
        inputs = [self.image, self.text, "text_mask"]
        encoded = self.encoder.over(state, self.data, "embed", inputs, ["group"])
        similarity = encoded[self.image] @ encoded[self.text].T
        positives = retrieval.positives_from_groups(encoded["group"], encoded["group"])
        scores = {
            **self._direction(f"{self.image}_to_{self.text}", similarity, positives),
            **self._direction(f"{self.text}_to_{self.image}", similarity.T, positives.T),
        }
        return Results(scores, self._gallery(similarity, positives))

    def _direction(
        self, name: str, similarity: np.ndarray, positives: np.ndarray
    ) -> dict[str, Score]:
        patients = self.data.source.column("patient")
        scores = {
            f"{name}_recall_at_{k}": scored(
                np.mean,
                retrieval.hits_at_k(similarity, positives, k),
                patients=patients,
                chance=retrieval.chance_recall_at_k(positives, k),
            )
            for k in self.ks
        }
        scores[f"{name}_mean_rank"] = scored(
            np.mean,
            retrieval.first_ranks(similarity, positives),
            patients=patients,
            chance=retrieval.chance_mean_rank(positives),
        )
        return scores

    def _picture_of(self, record: int) -> np.ndarray:
        picture = self.data.source[record][self.picture]
        return functional.canvas(
            functional.decode_image(picture, (_THUMBNAIL, _THUMBNAIL)), _THUMBNAIL
        )

    def _gallery(
        self, similarity: np.ndarray, positives: np.ndarray
    ) -> tuple[tuple[Card, tuple[Card, ...]], ...]:
        """Evenly spaced records as queries, each with its five most similar answers."""
        count = len(similarity)
        captions = self.data.source.column(self.caption)
        pairs = []
        for query in np.linspace(0, count - 1, min(self.examples, count)).astype(int):
            card = Card(self._picture_of(query), captions[query])
            answers = [
                Card(None, captions[i], similarity[query, i], positives[query, i])
                for i in _first_distinct(similarity[query], captions, 5)
            ]
            pairs.append((card, tuple(answers)))
        for query in np.linspace(0, count - 1, min(self.examples, count)).astype(int):
            best = np.argsort(-similarity[:, query], kind="stable")[:5]
            answers = [
                Card(self._picture_of(i), captions[i], similarity[i, query], positives[i, query])
                for i in best
            ]
            pairs.append((Card(None, captions[query]), tuple(answers)))
        return tuple(pairs)


def _first_distinct(similarity: np.ndarray, captions: Sequence[str], count: int) -> list[int]:
    """The most similar records whose captions differ: one row a caption in the gallery."""
    chosen: dict[str, int] = {}
    for i in np.argsort(-similarity, kind="stable"):
        chosen.setdefault(captions[i], int(i))
        if len(chosen) == count:
            break
    return list(chosen.values())

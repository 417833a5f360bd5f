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

    Records that share a `group` share their text: it is in the pool once, and all their images are
    right answers to it. A report that half of the patients have is thus one text among the others.

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
        groups = encoded["group"]
        texts = np.sort(np.unique(groups, return_index=True)[1])  # one record for each text
        similarity = encoded[self.image] @ encoded[self.text][texts].T
        positives = retrieval.positives_from_groups(groups, groups[texts])
        patients = np.array(self.data.source.column("patient"))
        forth, back = f"{self.image}_to_{self.text}", f"{self.text}_to_{self.image}"
        scores = {
            **self._direction(forth, similarity, positives, patients),
            **self._direction(back, similarity.T, positives.T, patients[texts]),
        }
        return Results(scores, self._gallery(similarity, positives, texts))

    def _direction(
        self, name: str, similarity: np.ndarray, positives: np.ndarray, patients: np.ndarray
    ) -> dict[str, Score]:
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

    def _caption_of(self, record: int) -> str:
        return self.data.source[record][self.caption]

    def _picture_of(self, record: int) -> np.ndarray:
        picture = self.data.source[record][self.picture]
        return functional.canvas(
            functional.decode_image(picture, (_THUMBNAIL, _THUMBNAIL)), _THUMBNAIL
        )

    def _gallery(
        self, similarity: np.ndarray, positives: np.ndarray, texts: np.ndarray
    ) -> tuple[tuple[Card, tuple[Card, ...]], ...]:
        """Evenly spaced images, then evenly spaced texts, each with its five best answers."""
        captions = np.array(self.data.source.column(self.caption), dtype=object)[texts]
        pairs = []
        for query in _spaced(len(similarity), self.examples):
            answers = tuple(
                Card(None, captions[i], similarity[query, i], positives[query, i])
                for i in _best(similarity[query])
            )
            pairs.append((Card(self._picture_of(query), self._caption_of(query)), answers))
        for query in _spaced(len(texts), self.examples):
            answers = tuple(
                Card(
                    self._picture_of(i),
                    self._caption_of(i),
                    similarity[i, query],
                    positives[i, query],
                )
                for i in _best(similarity[:, query])
            )
            pairs.append((Card(None, captions[query]), answers))
        return tuple(pairs)


def _spaced(count: int, wanted: int) -> list[int]:
    return [int(i) for i in np.linspace(0, count - 1, min(wanted, count))]


def _best(similarity: np.ndarray) -> list[int]:
    return [int(i) for i in np.argsort(-similarity, kind="stable")[:5]]

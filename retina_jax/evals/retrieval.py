"""Retrieval between two towers that see the same records: images and texts, or fundus and OCT."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from retina_jax.evals.encoder import Encoder, Need, spaced, with_interval
from retina_jax.metrics import retrieval
from retina_jax.scoring import thumbnails
from retina_jax.types import Card, Results, Score, TrainState

_ANSWERS = 5
RIGHT = ("group", "scan", "eye")
Gallery = tuple[tuple[Card, tuple[Card, ...]], ...]
_Figure = tuple[str, Callable[..., float], np.ndarray, float]


class _Matched(NamedTuple):
    """Records `queries` [N] of the first tower against records `answers` [M] of the second."""

    queries: np.ndarray
    answers: np.ndarray
    similarity: np.ndarray  # f32[N M]
    positives: np.ndarray  # bool[N M]


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Recall at k, mean and median rank of the right answer, in both directions.

    Figures of the whole set come with intervals over patients. For those of random pools, the mean
    over the draws, the standard deviation says how much the draw of a pool changes them.

    Attributes:
      encoder: runs the model.
      data: the records, with the batch keys of both towers (and 'group' for right='group').
      ks: the k of recall at k.
      image: the first tower.
      other: the second tower, a text or another picture.
      right: which answers are right. 'group': records that share a `group` share their text, which
        is in the set once, and all their images are right answers to it; a report that half of the
        patients have is thus one text among the others. 'scan': that of the same record only.
        'eye': any of the same eye, at whatever visit; records that name no patient or no eye are
        eyes of their own.
      pools: sizes of random pools of records; with equal texts a pool has fewer texts.
      draws: pools of each size.
      caption: field of the records that the gallery shows, of pictures alone if they have it.
      picture: field of the records that holds the encoded picture of `image` for the gallery; that
        of another picture is its key. Of 'eyes' both are shown, of a volume, 'oct', the central
        B-scan.
      examples: how many queries of each direction the gallery shows.
    """

    encoder: Encoder
    data: EvalData
    ks: Sequence[int] = (1, 5, 10)
    image: str = "image"
    other: str = "text"
    right: str = "group"
    pools: Sequence[int] = ()
    draws: int = 10
    caption: str = "caption"
    picture: str = "image"
    examples: int = 4

    def __post_init__(self) -> None:
        if self.right not in RIGHT:
            raise InputError(f"retrieval: 'right' is one of {list(RIGHT)}, not '{self.right}'.")
        if self.image == self.other:
            raise InputError(f"retrieval: '{self.image}' cannot be retrieved by itself.")
        self._pools()  # before a model is trained for it
        fields = getattr(self.data.source, "fields", (self.caption,))
        shown = self.examples and "text" in (self.image, self.other)
        if shown and self.caption not in fields:
            raise InputError(
                f"retrieval shows texts by the field '{self.caption}', which {self.data.source} "
                f"does not have; name by 'caption' one of {', '.join(sorted(fields))}."
            )

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        keep = ["group"] if self.right == "group" else []
        return [Need(self.data, ["embed"], [self.image, self.other], keep)]

    def run(self, state: TrainState) -> Results:
        """'image_to_text_recall_at_1', ..., 'text_to_image_pool_100_mean_rank', and examples."""
        sides, groups = self._encoded(state)
        everything = self._matched(np.arange(len(groups)), sides, groups)
        scores = self._complete(everything)
        for size, pools in self._pools().items():
            drawn = [self._matched(rows, sides, groups) for rows in pools]
            scores |= self._pooled(f"pool_{size}", drawn)
        return Results(scores, self._gallery(everything), tested=self.data.source)

    def per_query(
        self, state: TrainState
    ) -> dict[str, tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
        """Direction -> what the figures are means of, and which records ask, to pair two models.

        Returns:
          For 'image_to_text' and back {'recall_at_1': f64[N], ..., 'rank': f64[N]} among all
          records, and the ids and the patients of those that ask, str[N].
        """
        sides, groups = self._encoded(state)
        matched = self._matched(np.arange(len(groups)), sides, groups)
        names, patients = (np.array(self.data.source.column(name)) for name in ("id", "patient"))
        return {
            name: (retrieval.per_query(similarity, positives, self.ks), names[rows], patients[rows])
            for name, (similarity, positives, rows) in self._directions(matched).items()
        }

    def _encoded(self, state: TrainState) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """The embeddings of both sides, and which records are right answers to each other."""
        keep = ["group"] if self.right == "group" else []
        encoded = self.encoder.encode_dataset(
            state, self.data, "embed", [self.image, self.other], keep
        )
        groups = encoded["group"] if keep else self._groups()
        return (encoded[self.image], encoded[self.other]), groups

    def _pools(self) -> dict[int, list[np.ndarray]]:
        try:
            return {n: retrieval.pools(len(self.data), n, self.draws) for n in self.pools}
        except InputError as error:
            raise InputError(f"Retrieval on {self.data.source.name}: {error}") from None

    def _groups(self) -> np.ndarray:
        """int[N], equal for records of which one is a right answer to the other."""
        count = len(self.data)
        if self.right == "scan":
            return np.arange(count)
        patients, eyes = (self.data.source.column(field) for field in ("patient", "eye"))
        names = [
            (patient, eye) if patient and eye else (i,)
            for i, (patient, eye) in enumerate(zip(patients, eyes, strict=True))
        ]
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        return np.array([numbers[name] for name in names])

    def _matched(
        self, rows: np.ndarray, sides: tuple[np.ndarray, np.ndarray], groups: np.ndarray
    ) -> _Matched:
        answers = rows
        if self.right == "group":  # one record for each text
            answers = rows[np.sort(np.unique(groups[rows], return_index=True)[1])]
        positives = retrieval.positives_from_groups(groups[rows], groups[answers])
        return _Matched(rows, answers, sides[0][rows] @ sides[1][answers].T, positives)

    def _directions(self, matched: _Matched) -> dict[str, tuple[np.ndarray, ...]]:
        """Name of a direction -> similarity, right answers and the records that ask."""
        queries, answers, similarity, positives = matched
        return {
            f"{self.image}_to_{self.other}": (similarity, positives, queries),
            f"{self.other}_to_{self.image}": (similarity.T, positives.T, answers),
        }

    def _complete(self, matched: _Matched) -> dict[str, Score]:
        patients = np.array(self.data.source.column("patient"))
        scores = {}
        for name, (similarity, positives, rows) in self._directions(matched).items():
            for figure, statistic, values, chance in self._figures(similarity, positives):
                scores[f"{name}_{figure}"] = with_interval(
                    statistic, values, patients=patients[rows], chance=chance,
                    proportion=figure.startswith("recall"),
                )  # fmt: skip
        return scores

    def _pooled(self, label: str, drawn: Sequence[_Matched]) -> dict[str, Score]:
        values: dict[str, list[tuple[float, float]]] = {}
        for matched in drawn:
            for name, (similarity, positives, _) in self._directions(matched).items():
                for figure, statistic, each, chance in self._figures(similarity, positives):
                    pair = float(statistic(each)), chance
                    values.setdefault(f"{name}_{label}_{figure}", []).append(pair)
        scores = {}
        for name, pairs in values.items():
            of_draws, chances = np.array(pairs).T
            deviation = float(of_draws.std(ddof=1)) if len(of_draws) > 1 else None
            scores[name] = Score(
                float(of_draws.mean()),
                chance=float(chances.mean()),
                count=len(drawn[0].queries),
                deviation=deviation,
            )
        return scores

    def _figures(self, similarity: np.ndarray, positives: np.ndarray) -> Iterator[_Figure]:
        """Names of figures, how each is summarised, its values f64[N] of the queries, and chance.

        Chance is the figure of a model to which all answers are alike.
        """
        found = retrieval.per_query(similarity, positives, self.ks)
        blind = retrieval.per_query(np.zeros(positives.shape, np.float32), positives, self.ks)
        summaries = [(f"recall_at_{k}", f"recall_at_{k}", np.mean) for k in self.ks]
        summaries += [("mean_rank", "rank", np.mean), ("median_rank", "rank", np.median)]
        for name, key, statistic in summaries:
            yield name, statistic, found[key], float(statistic(blind[key]))

    def _gallery(self, matched: _Matched) -> Gallery:
        """Evenly spaced queries of each direction with their best answers."""
        queries, answers, similarity, positives = matched
        forth = self._shown(self.image, queries, self.other, answers, similarity, positives)
        back = self._shown(self.other, answers, self.image, queries, similarity.T, positives.T)
        return (*forth, *back)

    def _shown(
        self,
        asking: str,
        queries: np.ndarray,
        answering: str,
        answers: np.ndarray,
        similarity: np.ndarray,
        positives: np.ndarray,
    ) -> Gallery:
        pairs = []
        for i in spaced(len(queries), self.examples):
            best = np.argsort(-similarity[i], kind="stable")[:_ANSWERS]
            cards = tuple(
                self._card(answering, answers[j], similarity[i, j], positives[i, j]) for j in best
            )
            pairs.append((self._card(asking, queries[i]), cards))
        return tuple(pairs)

    def _card(
        self, key: str, row: Any, score: float | None = None, correct: bool | None = None
    ) -> Card:
        record = self.data.source[int(row)]
        image = None
        if key != "text":
            both = key == "eyes" and all(name in record for name in thumbnails.EYES)
            field = self.picture if key == self.image else key
            image = thumbnails.of_eyes(record) if both else thumbnails.of_field(record, field)
        return Card(image, record.get(self.caption, ""), score, correct)

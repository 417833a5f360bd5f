"""Zero-shot classification: images against prompts of the classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.tokenizers import Tokenizer
from retina_jax.evals.base import Encoder, scored
from retina_jax.metrics import classification
from retina_jax.types import Results, Score, TrainState


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """FLAIR's zero-shot protocol (transferability code; specs of the prompts in docs/fidelity.md).

    A class is the mean of the unit embeddings of its prompts: its name and, with `knowledge`, each
    of its descriptions. An image is of the class with the highest cosine similarity.

    Attributes:
      encoder: runs the model.
      tokenizer: of the text tower.
      data: records with the batch keys 'image' and 'label'.
      classes: names in the order of the labels.
      template: prompt with {} for the class, e.g. 'A fundus photograph of {}'.
      length: tokens of a prompt.
      knowledge: class -> descriptions, or None for names only.
      renormalize: scale class means to unit length again; FLAIR does not.
      image: the batch key that is classified.
    """

    encoder: Encoder
    tokenizer: Tokenizer
    data: EvalData
    classes: Sequence[str]
    template: str
    length: int
    knowledge: Mapping[str, Sequence[str]] | None = None
    renormalize: bool = False
    image: str = "image"

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise InputError(f"zeroshot: the template needs one {{}}, got '{self.template}'.")

    def prompts(self, name: str) -> list[str]:
        """The prompts of a class."""
        described = list((self.knowledge or {}).get(name, ()))
        return [self.template.replace("{}", text) for text in dict.fromkeys([*described, name])]

    def prototypes(self, state: TrainState) -> np.ndarray:
        """f32[C D], one row a class."""
        prompts = [self.prompts(name) for name in self.classes]
        flat = [prompt for group in prompts for prompt in group]
        embeddings = self.encoder.texts(state, self.tokenizer, flat, self.length)
        ends = np.cumsum([len(group) for group in prompts])[:-1]
        means = np.stack([group.mean(axis=0) for group in np.split(embeddings, ends)])
        if self.renormalize:
            means /= np.linalg.norm(means, axis=1, keepdims=True)
        return means

    def run(self, state: TrainState) -> Results:
        """Balanced accuracy (FLAIR's ACA) and macro one-against-rest AUC."""
        encoded = self.encoder.over(state, self.data, "embed", [self.image], ["label"])
        labels, similarity = encoded["label"], encoded[self.image] @ self.prototypes(state).T
        return Results(class_scores(labels, similarity, self.classes, self.data))


def class_scores(
    labels: np.ndarray, scores: np.ndarray, classes: Sequence[str], data: EvalData
) -> dict[str, Score]:
    """Balanced accuracy and macro AUC of class scores f[N C] for labels i[N]."""
    if labels.min() < 0 or labels.max() >= len(classes):
        raise InputError(
            f"Labels run from {labels.min()} to {labels.max()} for {len(classes)} classes; "
            "name as many classes as there are labels."
        )
    patients = data.source.column("patient")
    return {
        "balanced_accuracy": scored(
            classification.balanced_accuracy,
            labels,
            scores.argmax(axis=1),
            patients=patients,
            chance=classification.chance_balanced_accuracy(len(classes)),
        ),
        "auc": scored(classification.auc, labels, scores, patients=patients, chance=0.5),
    }

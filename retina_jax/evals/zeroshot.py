"""Zero-shot classification: images, or patients, against prompts of the classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.tokenizers import Tokenizer
from retina_jax.evals.base import Encoder, scored
from retina_jax.metrics import classification
from retina_jax.types import Results, Score, TrainState

# Labels 0 / 1 [N C] and scores f[N C] -> f[C].
Figure = Callable[[np.ndarray, np.ndarray], np.ndarray]
MODES = ("replace", "define")


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """FLAIR's zero-shot protocol (transferability code; specs of the prompts in docs/fidelity.md).

    A class is the mean of the unit embeddings of its prompts: its name and, with `knowledge`, each
    of its descriptions, or both in one (`mode`). An image is of the class with the highest cosine
    similarity.

    Attributes:
      encoder: runs the model.
      tokenizer: of the text tower.
      data: records with the batch keys `image` and `labels`.
      classes: names in the order of the labels.
      template: prompt with {} for the class, e.g. 'A fundus photograph of {}', or of a patient
        'left eye: {}; right eye: {}'.
      length: tokens of a prompt.
      knowledge: class -> descriptions, or None for names only.
      mode: 'replace': prompts of the name and of each description; 'define': "name: description",
        as `transforms.Prompt` of that mode writes for training (SKKU).
      renormalize: scale class means to unit length again; FLAIR does not.
      image: the batch key that is classified: 'image', or 'eyes' for patients.
      labels: 'label' where a record is of one class, 'labels' where it may have several: each
        label then ranks all records by their similarity to its prompts.
    """

    encoder: Encoder
    tokenizer: Tokenizer
    data: EvalData
    classes: Sequence[str]
    template: str
    length: int
    knowledge: Mapping[str, Sequence[str]] | None = None
    mode: str = "replace"
    renormalize: bool = False
    image: str = "image"
    labels: str = "label"

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise InputError(f"zeroshot: the template needs a {{}}, got '{self.template}'.")
        if self.mode not in MODES:
            raise InputError(f"zeroshot: 'mode' is one of {MODES}, got '{self.mode}'.")

    def prompts(self, name: str) -> list[str]:
        """The prompts of a class."""
        return prompts(name, self.template, self.knowledge, self.mode)

    def prototypes(self, state: TrainState) -> np.ndarray:
        """f32[C D], one row a class."""

        def embed(texts: list[str]) -> np.ndarray:
            return self.encoder.texts(state, self.tokenizer, texts, self.length)

        return prototypes([self.prompts(name) for name in self.classes], embed, self.renormalize)

    def run(self, state: TrainState) -> Results:
        """Balanced accuracy (FLAIR's ACA) and macro AUC, or what `class_scores` has of labels."""
        encoded = self.encoder.over(state, self.data, "embed", [self.image], [self.labels])
        similarity = encoded[self.image] @ self.prototypes(state).T
        return Results(class_scores(encoded[self.labels], similarity, self.classes, self.data))


def prompts(
    name: str, template: str, knowledge: Mapping[str, Sequence[str]] | None, mode: str
) -> list[str]:
    """The prompts of the class `name`; for the rest see `ZeroShot`."""
    texts = [*(knowledge or {}).get(name, ()), name]
    if mode == "define":
        texts = [f"{name}: {text}" for text in texts[:-1]] or [name]
    return [template.replace("{}", text) for text in dict.fromkeys(texts)]


def prototypes(
    classes: Sequence[Sequence[str]],
    embed: Callable[[list[str]], np.ndarray],
    renormalize: bool = False,
) -> np.ndarray:
    """The mean of the unit embeddings of the prompts of each class, f32[C D].

    Args:
      classes: prompts of each class.
      embed: texts -> unit embeddings f32[N D].
      renormalize: see `ZeroShot`.
    """
    embeddings = embed([prompt for group in classes for prompt in group])
    ends = np.cumsum([len(group) for group in classes])[:-1]
    means = np.stack([group.mean(axis=0) for group in np.split(embeddings, ends)])
    if renormalize:
        means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means


def class_scores(
    labels: np.ndarray, scores: np.ndarray, classes: Sequence[str], data: EvalData
) -> dict[str, Score]:
    """Figures of scores f[N C], with intervals over the patients of `data`.

    For labels i[N], one class a record: balanced accuracy, and macro one-against-rest AUC. For
    0 / 1 [N C], several labels a record: AUC and average precision, their means over the labels
    and those of each label, 'auc_glaucoma' and so on.
    """
    if labels.ndim == 2:
        return _label_scores(labels, scores, classes, data)
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


def _label_scores(
    labels: np.ndarray, scores: np.ndarray, classes: Sequence[str], data: EvalData
) -> dict[str, Score]:
    if labels.shape[1] != len(classes):
        raise InputError(
            f"The records have {labels.shape[1]} labels and {len(classes)} names; give one each."
        )
    patients = data.source.column("patient")
    figures = {
        "auc": (classification.auc_per_label, np.full(len(classes), 0.5)),
        "average_precision": (classification.average_precision_per_label, labels.mean(axis=0)),
    }
    found = {}
    for name, (figure, chance) in figures.items():

        def mean(labels: np.ndarray, scores: np.ndarray, figure: Figure = figure) -> float:
            return float(figure(labels, scores).mean())

        found[name] = scored(mean, labels, scores, patients=patients, chance=float(chance.mean()))
        for i, label in enumerate(classes):
            column = slice(i, i + 1)
            found[f"{name}_{label.replace(' ', '_')}"] = scored(
                mean,
                labels[:, column],
                scores[:, column],
                patients=patients,
                chance=float(chance[i]),
            )
    return found

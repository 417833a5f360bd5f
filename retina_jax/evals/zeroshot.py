"""Zero-shot classification: images, or patients, against prompts of the classes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.text.texts import distinct, listed
from data_pipelines.text.tokenizers import Tokenizer
from retina_jax.evals.classified import VALIDATION, about, classified
from retina_jax.evals.encoder import Encoder, Need, refuse_shared_patients
from retina_jax.metrics import calibration
from retina_jax.scoring.figures import USUAL, check_metrics
from retina_jax.scoring.predictions import Predictions, of_records
from retina_jax.types import Results, TrainState

_logger = logging.getLogger(__name__)
MODES = ("replace", "define")


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """FLAIR's zero-shot protocol (transferability code; specs of the prompts in docs/fidelity.md).

    A class is the mean of the unit embeddings of its prompts: its name and, with `knowledge`, each
    of its descriptions, or both in one (`mode`). An image is of the class with the highest cosine
    similarity.

    Attributes:
      encoder: runs the model.
      tokenizer: the tokenizer of the text tower.
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
      metrics: keys of METRICS, where a record is of one class.
      validation: records that thresholds are chosen on, none of a patient in `data`, or None.
      operating_point: the rule that chooses them, see `metrics.operating_point.choose`.
      threshold_uncertainty: tell intervals of its figures too where it is chosen anew on drawn
        validation patients; the others take it as given.
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
    metrics: Sequence[str] = USUAL
    validation: EvalData | None = None
    operating_point: str = "youden"
    threshold_uncertainty: bool = False

    def __post_init__(self) -> None:
        distinct(self.classes, "classes")
        check_metrics("zeroshot", self.metrics, len(self.classes))
        if "{}" not in self.template:
            raise InputError(f"zeroshot: the template needs a {{}}, got '{self.template}'.")
        if self.mode not in MODES:
            raise InputError(f"zeroshot: 'mode' is one of {MODES}, got '{self.mode}'.")
        if self.knowledge and (bare := [c for c in self.classes if not self.knowledge.get(c)]):
            _logger.warning("zeroshot: no description of %s: its name alone is the prompt.", bare)

    def prompts(self, name: str) -> list[str]:
        """The prompts of a class."""
        return prompts(name, self.template, self.knowledge, self.mode)

    def prototypes(self, state: TrainState) -> np.ndarray:
        """f32[C D], one row a class."""

        def embed(texts: list[str]) -> np.ndarray:
            return self.encoder.texts(state, self.tokenizer, texts, self.length)

        groups = [self.prompts(name) for name in self.classes]
        return prototypes(groups, embed, self.renormalize, self.encoder.padding)

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        parts = [data for data in (self.data, self.validation) if data is not None]
        pictures = [Need(data, ["embed"], [self.image], [self.labels]) for data in parts]
        return [*pictures, Need(None, ["embed"], length=self.length)]

    def run(self, state: TrainState) -> Results:
        """What `classified` has: FLAIR's ACA is the balanced accuracy."""
        refuse_shared_patients(
            "Zero-shot classification", test=self.data, validation=self.validation
        )
        prompts = self.prototypes(state).T
        parts = [self._said(state, self.data, prompts)]
        if self.validation is not None:
            parts.append(self._said(state, self.validation, prompts, VALIDATION))
        return classified(parts)

    def _said(
        self, state: TrainState, data: EvalData, prompts: np.ndarray, split: str = "test"
    ) -> Predictions:
        encoded = self.encoder.encode_dataset(state, data, "embed", [self.image], [self.labels])
        scores, labels = encoded[self.image] @ prompts, encoded[self.labels]
        options: dict[str, Any] = {"split": split}
        if labels.ndim == 1:  # records are ranked by softmax probabilities, as in FLAIR's code
            scores = calibration.log_softmax(self.encoder.scale(state) * scores.astype(np.float64))
            options["probabilities"] = np.exp(scores)
        told = about(self, labels, {"name": "zero-shot"})
        return of_records(data.source, labels, scores, told, **options)


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
    padding: str = "length",
) -> np.ndarray:
    """The mean of the unit embeddings of the prompts of each class, f32[C D].

    How far a text is padded may depend on those beside it. FLAIR's code embeds the sentences of a
    class together, and single texts, as in its README, all at once; so does padding='longest'.

    Args:
      classes: prompts of each class.
      embed: texts -> unit embeddings f32[N D].
      renormalize: the same as in `ZeroShot`.
      padding: that of what embeds, see `Encoder`.
    """
    groups = [tuple(listed(group, "classes")) for group in classes]
    if len(set(groups)) < len(groups):
        twice = next(group for group in groups if groups.count(group) > 1)
        raise InputError(f"Two classes have the same prompts, {list(twice)}: they are one class.")
    if padding == "longest" and any(len(group) > 1 for group in groups):
        embedded = [embed(list(group)) for group in groups]
    else:
        ends = np.cumsum([len(group) for group in groups])[:-1]
        embedded = np.split(embed([prompt for group in groups for prompt in group]), ends)
    means = np.stack([group.mean(axis=0) for group in embedded])
    if renormalize:
        means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means

"""How a model is asked for classes: by the head it has, or by sentences that are embedded once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import flax.linen as nn
import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.images.single import Preprocessing
from data_pipelines.text.texts import distinct
from retina_jax.convert.model_folder import Description
from retina_jax.decision import Decision
from retina_jax.evals import zeroshot
from retina_jax.types import Batch

TASKS = ("head", "zero_shot")


class Model(Protocol):
    """What is asked: `loading.PretrainedModel`."""

    @property
    def description(self) -> Description:
        """All that its folder says about it."""
        ...

    @property
    def model(self) -> nn.Module:
        """The Flax module."""
        ...

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What makes its input of pictures."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes."""
        ...

    @property
    def licence(self) -> str:
        """The licence of its weights."""
        ...

    @property
    def model_hash(self) -> str:
        """See `convert.hashes`."""
        ...

    def outputs(self, batch: Batch, method: str) -> Mapping[str, np.ndarray]:
        """What a method of the module makes of a batch."""
        ...

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings f32[N D]."""
        ...

    def temperature(self) -> float:
        """The inverse temperature of its embeddings."""
        ...


@dataclasses.dataclass(frozen=True)
class Scorer:
    """How one model is asked about some classes.

    Attributes:
      task: one of `TASKS`.
      classes: their names, in the order of the scores.
      decision: how scores become probabilities and calls.
      ask: batch -> scores f32[B C], and what the tower pools f32[B F] where that was asked for.
      template: the sentence of a class, of zero-shot.
      prototypes: f32[C D], the unit embedding of each class, of zero-shot.
    """

    task: str
    classes: tuple[str, ...]
    decision: Decision
    ask: Callable[[Batch], tuple[np.ndarray, np.ndarray | None]]
    template: str | None = None
    prototypes: np.ndarray | None = None


def scorer(
    model: Model,
    task: str | None = None,
    classes: Sequence[str] | None = None,
    template: str | None = None,
    pooled: bool = False,
) -> Scorer:
    """How a model is asked.

    Args:
      model: the model.
      task: 'head' or 'zero_shot'; None for the head of a model that has one.
      classes, template: arguments of `by_texts`.
      pooled: whether what the tower pools is wanted too.

    Raises:
      InputError: as `by_head` and `by_texts`, or for an unknown task.
    """
    head = bool(model.description.model.get("classes"))
    texts = hasattr(model.model, "embed")
    asks = classes is not None or template is not None
    if task is None:
        # A model of neither is asked by the head that it lacks, so that it names no disease.
        task = TASKS[1] if texts and (asks or not head) else TASKS[0]
    if task not in TASKS:
        raise InputError(f"A model is asked by {' or '.join(TASKS)}, not '{task}'.")
    if task == TASKS[1]:
        return by_texts(model, classes, template, pooled)
    if head and asks:
        decided, names = model.description.decision, ", ".join(model.classes)
        number = decided is not None and decided.task == "regression"
        why = "A head of a number has no classes" if number else "The classes of a head are its own"
        other = ", or add --task=zero_shot" if texts else ""
        raise InputError(f"{why} ({names}): leave --classes and --template{other}.")
    return by_head(model, pooled)


def by_head(model: Model, pooled: bool = False) -> Scorer:
    """The scores of the head of a classifier.

    Raises:
      InputError: for a model without such a head, or one whose classes have no names.
    """
    about = model.description
    count = about.model.get("classes")
    if not count:
        raise InputError(
            f"'{about.title}' has no head that classifies, so it names no disease; "
            "train one on its features, or compare pictures with texts by zero_shot."
        )
    if len(model.classes) != count:
        raise InputError(
            f"'{about.title}' scores {count} classes and has {len(model.classes)} "
            "names; convert it again with --classes='first,second,...'."
        )

    def ask(batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
        outputs = model.outputs(batch, "__call__")
        return outputs["logits"], outputs["pooled"] if pooled else None

    return Scorer(TASKS[0], model.classes, about.decision or Decision(), ask)


def by_texts(
    model: Model,
    classes: Sequence[str] | None = None,
    template: str | None = None,
    pooled: bool = False,
) -> Scorer:
    """scale * cosine to the classes, each the mean of the unit embeddings of its prompts.

    As `evals.zeroshot.ZeroShot` has it; the prompts are embedded here, once.

    Args:
      model: the model.
      classes: their names; None for those that the model was made for.
      template: sentence with {} for the name; None for the model's own, or the bare name.
      pooled: whether what the tower pools is wanted too.

    Raises:
      InputError: for a model that does not compare pictures with texts, or classes that are
        not a list of different texts.
    """
    about = model.description
    if classes is None and not model.classes:
        raise InputError(f"'{about.title}' has no classes of its own; name some.")
    names = distinct(model.classes if classes is None else classes, "classes")
    chosen = template or about.template or "{}"
    if "{}" not in chosen:
        raise InputError(f"The template of a class needs a {{}}, got '{chosen}'.")
    prompts = [zeroshot.prompts(name, chosen, about.knowledge, about.mode) for name in names]
    prototypes = zeroshot.prototypes(prompts, model.texts, about.renormalize, about.padding)
    scale = model.temperature()

    def ask(batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
        (embedding,) = model.outputs(batch, "embed").values()
        features: Any = model.outputs(batch, "features") if pooled else {}
        return scale * (embedding @ prototypes.T), next(iter(features.values()), None)

    own = not about.model.get("classes") and tuple(names) == model.classes and template is None
    decided = about.decision if own else None
    return Scorer(TASKS[1], tuple(names), decided or Decision(), ask, chosen, prototypes)

"""Few-shot classification: adapters of frozen embeddings, fitted on a few records of each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.text.texts import distinct
from data_pipelines.text.tokenizers import Tokenizer
from retina_jax.adapters import clip_adapter, linear_probe, tip_adapter
from retina_jax.evals import few_shot_splits as repeating
from retina_jax.evals.classified import about, classified
from retina_jax.evals.encoder import Encoder, Need, bootstrap_groups, refuse_shared_patients
from retina_jax.evals.zeroshot import ZeroShot
from retina_jax.metrics import calibration
from retina_jax.scoring.figures import USUAL, check_labels, check_metrics
from retina_jax.scoring.predictions import Predictions, of_records
from retina_jax.types import Results, TrainState

METHODS = ("linear_probe", "clip_adapter", "tip_adapter", "tip_adapter_f")
_Encoded = tuple[Mapping[str, np.ndarray], np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class FewShot:
    """The few-shot protocol of FLAIR and KeepFIT, with patients kept apart.

    'linear_probe' is fitted on features, as `FittedProbe`; the adapters on unit embeddings and the
    classes' prompts, as `ZeroShot` makes them.

    Attributes:
      encoder: runs the model.
      tokenizer: the tokenizer of the text tower.
      train: records with the batch keys `image` and 'label', of which shots are drawn.
      classes: names in the order of the labels.
      test: records to score, none of a patient in `train`; None sets some patients of `train` apart
        in each repeat, others each time.
      methods: keys of METHODS.
      shots: numbers of records of each class, each of another patient where there are enough, or
        shares of a class among those that are not set apart: 1.0 of 80 % are 80 %.
      repeats: the number of repetitions of drawing, fitting and scoring.
      test_part: without `test`, one in so many patients is scored; KeepFIT scores a fifth of the
        records.
      seed: the seed of the draws.
      template, length, knowledge, mode, renormalize: what `ZeroShot` says of prompts; the first two
        are needed for all methods but the probe.
      official: what the released code does otherwise, see `tip_adapter.fit`.
      C, standardize: options of the linear probe, as `linear_probe.fit` takes them.
      metrics: keys of METRICS.
      decimals: rounds each repeat's figure and their mean; FLAIR and KeepFIT: 3.
      image: the batch key that is classified: 'image', or 'eyes' for patients.
    """

    encoder: Encoder
    tokenizer: Tokenizer
    train: EvalData
    classes: Sequence[str]
    test: EvalData | None = None
    methods: Sequence[str] = METHODS
    shots: Sequence[int | float] = (1, 5, 10)
    repeats: int = 5
    test_part: int = 5
    seed: int = 0
    template: str | None = None
    length: int | None = None
    knowledge: Mapping[str, Sequence[str]] | None = None
    mode: str = "replace"
    renormalize: bool = False
    official: bool = False
    C: float = 0.316
    standardize: bool = False
    metrics: Sequence[str] = USUAL
    decimals: int | None = None
    image: str = "image"

    def __post_init__(self) -> None:
        distinct(self.classes, "classes")
        check_metrics("fewshot", self.metrics, len(self.classes))
        repeating.check_shots("fewshot", self.shots, len(self.classes), self.repeats)
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise InputError(
                f"fewshot: there is no method '{unknown[0]}'; known: {', '.join(METHODS)}."
            )
        if self._with_prompts():
            if self.template is None or self.length is None:
                raise InputError(
                    "fewshot: adapters compare with prompts; give 'template' and 'length'."
                )
            self._prompts()  # refuses what it cannot use before anything is encoded

    def needs(self) -> list[Need]:
        """What `run` asks the model for."""
        parts = [data for data in (self.train, self.test) if data is not None]
        texts = [Need(None, ["embed"], length=self.length)] if self._with_prompts() else []
        return [*(Need(data, self._used(), [self.image], ["label"]) for data in parts), *texts]

    def run(self, state: TrainState) -> Results:
        """'balanced_accuracy_tip_adapter_5_shots' and so on: means over the repeats."""
        train, test = self._encoded(state, self.train), None
        if self.test is not None:
            refuse_shared_patients("Few-shot learning", train=self.train, test=self.test)
            test = self._encoded(state, self.test)
        prompts = (None, None)
        if self._with_prompts():
            prompts = self._prompts().prototypes(state), self.encoder.scale(state)
        return classified(
            [
                scored
                for repeat in range(self.repeats)
                for scored in self._repeat(repeat, train, test, *prompts)
            ]
        )

    def _with_prompts(self) -> bool:
        return any(name != "linear_probe" for name in self.methods)

    def _used(self) -> list[str]:
        """The methods of the model that are asked for pictures."""
        embed = ["embed"] if self._with_prompts() else []
        return [*embed, *(["features"] if "linear_probe" in self.methods else [])]

    def _prompts(self) -> ZeroShot:
        shared = ("encoder", "tokenizer", "classes", "template", "length", "knowledge", "mode")
        options = {name: getattr(self, name) for name in (*shared, "renormalize")}
        return ZeroShot(data=self.train, **options)

    def _encoded(self, state: TrainState, data: EvalData) -> _Encoded:
        """What the methods see of each record by the model's method, its label and its patient."""
        rows = self.encoder.encode_dataset_methods(
            state, data, self._used(), [self.image], ["label"]
        )
        labels = next(iter(rows.values()))["label"]
        check_labels(labels, len(self.classes))
        patients = bootstrap_groups(data.source.column("patient"))
        return {name: found[self.image] for name, found in rows.items()}, labels, patients

    def _repeat(
        self,
        number: int,
        train: _Encoded,
        test: _Encoded | None,
        prototypes: np.ndarray | None,
        scale: float | None,
    ) -> Iterator[Predictions]:
        source = self.train.source if self.test is None else self.test.source
        if test is None:
            seed = self.seed + number
            rows = repeating.held_out(train[1], train[2], self.test_part, seed)
            train, test = (_rows(train, part) for part in rows)
            source = source.subset(rows[1])
        vectors, labels, patients = train
        for shot in self.shots:
            seed = (self.seed, number)
            drawn = repeating.draw(labels, patients, shot, seed, len(self.classes))
            for method in self.methods:
                kind = "features" if method == "linear_probe" else "embed"
                few = vectors[kind][drawn], labels[drawn]
                scores = self._scores(method, few, test[0][kind], prototypes, scale, number)
                told = {**about(self, test[1], {"name": method}), "decimals": self.decimals}
                setting = f"{method}_{repeating.named(shot)}"
                yield of_records(source, test[1], scores, told, setting=setting, repeat=number)

    def _scores(
        self,
        method: str,
        few: tuple[np.ndarray, np.ndarray],
        test: np.ndarray,
        prototypes: np.ndarray | None,
        scale: float | None,
        number: int,
    ) -> np.ndarray:
        """f[N C] of the test records; logarithms of probabilities, where a method has logits."""
        if method == "linear_probe":
            options = {"C": self.C, "standardize": self.standardize, "classes": len(self.classes)}
            return linear_probe.fit(*few, **options).predict_proba(test)
        assert prototypes is not None and scale is not None  # as `_with_prompts` asks for them
        seed = self.seed + number
        if method == "clip_adapter":
            adapter = clip_adapter.fit(*few, prototypes, scale, seed=seed)
            return calibration.log_softmax(adapter.logits(test))
        trains = method == "tip_adapter_f"
        options = {"train_keys": trains, "official": self.official, "seed": seed}
        adapter = tip_adapter.fit(*few, prototypes, scale, **options)
        return calibration.log_softmax(adapter.logits(test))


def _rows(encoded: _Encoded, rows: np.ndarray) -> _Encoded:
    vectors, labels, patients = encoded
    return {name: value[rows] for name, value in vectors.items()}, labels[rows], patients[rows]

"""What a classifier's folder says beside its weights: classes, decision, and its training pictures.

The run's own records are read again. Thresholds and temperature come from validation records only,
limits of quality and what is in distribution from training records; test records are not opened.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines import pipelines, quality
from data_pipelines.errors import InputError
from data_pipelines.images import single
from data_pipelines.records import sources
from data_pipelines.text import tokenizers
from data_pipelines.transforms import TRANSFORMS
from data_pipelines.transforms.fields import names
from data_pipelines.transforms.pictures import Eyes
from data_pipelines.transforms.volumes import Volume
from retina_jax import inputs, out_of_distribution
from retina_jax.build import build
from retina_jax.classifier_task import seen_prior
from retina_jax.convert import card_sections, describe, hashes, model_folder
from retina_jax.decision import Calibration, Decision, OperatingPoint
from retina_jax.evals import probed_head
from retina_jax.evals.encoder import Encoder, bootstrap_groups, frozen_state
from retina_jax.metrics import calibration, operating_point, small_samples
from retina_jax.models import MODELS
from retina_jax.scoring.hashes import split_hash
from retina_jax.train import sharding

_logger = logging.getLogger(__name__)
# Objectives of a head -> the transforms that make what it learns.
_LABELS = {"classification": ("label", "multi_label"), "regression": ("quantity",)}
# Pictures whose quality is looked at, evenly spaced.
_JUDGED = 2000
Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class PointRule:
    """How a threshold is chosen: 'refer=sensitivity>=.9:severe,proliferative' on a command line.

    Attributes:
      name: what the operating point is called.
      rule: one of `metrics.operating_point`.
      labels: the classes that are positive.
    """

    name: str
    rule: str
    labels: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> PointRule:
        """That of a text; InputError for something else."""
        found = re.fullmatch(r"([^=]+)=(.+):([^:]+)", text)
        if found is None:
            raise InputError(
                f"An operating point is NAME=RULE:CLASS,CLASS, for example "
                f"refer=sensitivity>=.9:severe,proliferative; got '{text}'."
            )
        operating_point.parse(found[2])
        labels = tuple(name.strip() for name in found[3].split(","))
        return cls(found[1].strip(), found[2], labels)


@dataclasses.dataclass(frozen=True)
class _Trained:
    """A run of a classifier, read again."""

    settings: Mapping[str, Any]
    stream: pipelines.Stream
    label: Any
    spec: Mapping[str, Any]
    objective: Mapping[str, Any]
    classes: tuple[str, ...]
    validation: pipelines.EvalData | None

    @property
    def quantity(self) -> bool:
        """Whether a number is predicted."""
        return self.objective["name"] == "regression"

    @property
    def several(self) -> bool:
        """Whether a record may have any number of the labels."""
        return self.objective.get("kind") == "sigmoid"

    @property
    def parts(self) -> tuple[int, ...]:
        """Numbers of consecutive classes that exclude each other."""
        return tuple(self.objective.get("parts") or (len(self.classes),))

    @property
    def task(self) -> str:
        """As in `Decision`."""
        if self.quantity:
            return "regression"
        if self.several:
            return "multi"
        return "ordinal" if len(self.parts) == 1 and self.objective.get("ordered") else "single"

    def targets(self, source: Any) -> np.ndarray:
        """0 / 1 of each class, f64[N C]; NaN where nobody said. No picture is read."""
        wanted = names(self.spec.get("source") or "labels")
        within = self.spec.get("within")
        fields = [*wanted, *([within] if within else [])]
        columns = [source.column(field) for field in fields]
        key = self.spec.get("target") or ("label" if self.spec["name"] == "label" else "labels")
        rows = [self.label.map(dict(zip(fields, row, strict=True)))[key]
                for row in zip(*columns, strict=True)]  # fmt: skip
        found = np.array(rows, np.float64).reshape(len(rows), -1)
        return one_hot(found[:, 0], len(self.classes)) if self.spec["name"] == "label" else found


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """f64[N C] of class indices [N]; NaN where it is -1."""
    found = np.equal(labels[:, None], np.arange(classes)).astype(np.float64)
    found[labels < 0] = np.nan
    return found


def classifier(
    run: Path,
    description: model_folder.Description,
    variables: Variables,
    points: Sequence[PointRule] = (),
) -> tuple[model_folder.Description, Variables]:
    """The description and the variables of a run that trained a head, with all that is known of it.

    Args:
      run: its directory.
      description: what `describe.run` says of it.
      variables: those of its checkpoint.
      points: thresholds to choose on its validation records.

    Returns:
      Both; of any other model as they were. Where classes were trained at other frequencies than
      they have, the bias of the head is moved so that probabilities are those of the records.

    Raises:
      InputError: for a threshold of a class that the model does not have.
    """
    settings = describe.run_record(run).settings
    if settings["model"]["name"] != "tower" or not settings["model"].get("classes"):
        if points:
            raise InputError(f"{run} trained no classifier, so it has no operating points.")
        return description, variables
    # It was described by the names and prompts of an evaluator, perhaps of something else.
    description = dataclasses.replace(
        description, classes=(), tokenizer=None, text_length=None, template=None, knowledge={}
    )
    try:
        labelled = _labelled(settings)
        description = dataclasses.replace(description, classes=labelled[-1])
        trained = _read(settings, *labelled)
    except InputError as error:
        _logger.warning("The folder says nothing of how the classifier decides: %s", error)
        return description, variables
    if trained.quantity and points:
        raise InputError(f"{run} predicts a number, which has no operating points of classes.")
    decide = _in_its_unit if trained.quantity else _with_prior
    decision, variables = decide(trained, variables)
    about = {**description.source, "split_hash": _split_hash(trained)}
    made = dataclasses.replace(description, decision=decision, source=about)
    made = _fitted(trained, made, variables, points)
    of = {"weights_hash": hashes.weights_hash(variables),
          "model_hash": hashes.model_hash(made, variables)}  # fmt: skip
    return dataclasses.replace(made, source={**made.source, **of}), variables


def _labelled(settings: Mapping[str, Any]) -> tuple[Any, Any, Any, tuple[str, ...]]:
    """The stream of a head, the transform that makes its labels, its objective, and its classes.

    Of a class the first name, of a quantity that of the evaluator that chose the checkpoint.
    """
    count = settings["model"]["classes"]
    objectives = [o for o in settings["objectives"].values() if o["name"] in _LABELS]
    for objective, stream in itertools.product(objectives, settings["streams"].values()):
        labels = [t for t in stream["transforms"] if t["name"] in _LABELS[objective["name"]]]
        if labels and len(labels[-1].get("classes", ("the quantity",))) == count:
            named = _judged(settings)[1].get("classes") or (str(labels[-1].get("source")),)
            classes = tuple(names(synonyms)[0] for synonyms in labels[-1].get("classes", named))
            return stream, labels[-1], objective, classes
    raise InputError("No stream of the run's config names the classes of its head.")


def _judged(settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The evaluator that chose the best checkpoint, and its name; nothing where none did."""
    evaluator = (settings["keep"]["best"] or "//").split("/")[1]
    return evaluator, settings["evaluators"].get(evaluator, {})


def _read(
    settings: Mapping[str, Any],
    spec: Mapping[str, Any],
    label: Mapping[str, Any],
    objective: Mapping[str, Any],
    classes: tuple[str, ...],
) -> _Trained:
    """A run by the settings in its record; InputError where its data are not here."""
    tokenizer = build(tokenizers.TOKENIZERS, {"name": "sentencepiece"})
    context = inputs.Context(tokenizer, settings["data_dir"])
    stream = inputs.streams({"": spec}, "", context, jax.device_count())[""]
    evaluator, judged = _judged(settings)
    validation = None
    if judged.get("name") == "head":
        found = inputs.evaluations({evaluator: judged}, context, [stream.source])
        validation = found[evaluator].data["data"]
    made = build(TRANSFORMS, label)
    return _Trained(settings, stream, made, label, objective, classes, validation)


def _in_its_unit(trained: _Trained, variables: Variables) -> tuple[Decision, Variables]:
    """The head of a quantity, which then answers in the unit of its targets."""
    mean, scale = trained.objective["mean"], trained.objective["scale"]
    head = variables["params"]["head"]
    moved = {"kernel": np.float32(np.asarray(head["kernel"]) * scale),
             "bias": np.float32(np.asarray(head["bias"]) * scale + mean)}  # fmt: skip
    params = {**variables["params"], "head": {**head, **moved}}
    return Decision("regression"), {**variables, "params": params}


def _with_prior(trained: _Trained, variables: Variables) -> tuple[Decision, Variables]:
    """The decision 'balanced' by the shares of the classes, which the head's bias then follows."""
    targets = trained.targets(trained.stream.source)
    counts = np.nansum(targets, axis=0)
    known = int(np.isfinite(targets).any(axis=1).sum())
    given = (counts.tolist(), known, trained.parts, trained.several)
    weights = trained.objective.get("class_weights")
    drawn = trained.stream.balance or ()
    balanced = bool(set(names(drawn)) & set(names(trained.spec.get("source") or "labels")))
    balanced = balanced or bool(trained.objective.get("shares"))
    prior, seen = seen_prior(*given), seen_prior(*given, weights, balanced)
    rule = "balanced" if min(prior) > 0 else "plain"
    parts = () if trained.several else trained.parts
    decision = Decision(trained.task, rule, prior, parts if len(parts) > 1 else ())
    if trained.several or rule == "plain" or np.allclose(prior, seen):
        return decision, variables
    head = variables["params"]["head"]
    moved = head["bias"] + np.log(prior).astype(np.float32) - np.log(seen).astype(np.float32)
    params = {**variables["params"], "head": {**head, "bias": moved}}
    return decision, {**variables, "params": params}


def _fitted(
    trained: _Trained,
    made: model_folder.Description,
    variables: Variables,
    points: Sequence[PointRule],
) -> model_folder.Description:
    """With what is fitted on validation and training records."""
    model = build(MODELS, made.model)
    mesh = sharding.make_mesh(-1, 1)
    encoder = Encoder(model, mesh, trained.settings["test_time_flip"])
    state, key = frozen_state(variables, mesh), trained.settings["model"]["key"]
    data = probed_head.without_chance(trained.stream)
    features = encoder.encode_dataset(state, data, "features", [key])[key]
    readers = (step for step in data.transforms if isinstance(step, single.Reader))
    reader: Any = next(step for step in readers if step.target == key)
    kind = "oct" if isinstance(reader, Volume) else _modality(data.source)
    fields = (reader.left, reader.right) if isinstance(reader, Eyes) else (reader.source,)
    limits = _limits(data.source, fields, kind or "cfp")
    made = dataclasses.replace(made, modality=kind, quality=limits)
    if trained.validation is None:
        _logger.warning("The run chose on no validation records: no threshold, no temperature.")
        return made
    seen = encoder.encode_dataset_methods(state, trained.validation, ("features", "classify"),
                                          [key])  # fmt: skip
    familiar = out_of_distribution.nearest(features, seen["features"][key])
    if trained.quantity:
        return dataclasses.replace(made, familiar=familiar)
    source = trained.validation.source
    logits, targets = np.asarray(seen["classify"]["logits"], np.float64), trained.targets(source)
    split = made.source["split_hash"]
    decision = made.decision or Decision()
    groups = bootstrap_groups(source.column("patient"))
    fitted = _temperature(logits, targets, groups, trained, split)
    decision = dataclasses.replace(decision, calibration=fitted)
    chosen = _points(decision, logits, targets, made.classes, points, split)
    decision = dataclasses.replace(decision, operating_points=chosen)
    return dataclasses.replace(made, decision=decision, familiar=familiar)


def _modality(source: Any) -> str | None:
    if "modality" not in source.fields:
        return None
    found = {str(value).lower() for value in source.column("modality")} - {""}
    return found.pop() if len(found) == 1 else None


def _limits(
    source: Any, fields: Sequence[str], modality: str
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """The usual quality of the pictures in the first field that has one, of a list its middle."""
    rows = np.unique(np.linspace(0, len(source) - 1, _JUDGED).astype(int))
    given = (next(filter(None, map(source[int(row)].get, fields)), None) for row in rows)
    pictures = (single.encoded(single.shown(one)[0]) for one in given if one)
    judged = (quality.of_bytes(one, modality) for one in pictures)
    return quality.limits([found.figures for found in judged])


def _temperature(
    logits: np.ndarray, targets: np.ndarray, groups: np.ndarray, trained: _Trained, split: str
) -> Calibration:
    """A temperature of each part, or of each label; none at all where one has too few records."""
    ends = np.cumsum(trained.parts).tolist()
    places = [slice(end - n, end) for end, n in zip(ends, trained.parts, strict=True)]
    if trained.several:
        places = [slice(i, i + 1) for i in range(len(trained.classes))]
    values = np.ones(len(trained.classes))
    before, after = [], []
    for place in places:
        scores, own = logits[:, place], targets[:, place]
        if trained.several:  # the logistic function is a softmax of two, one of them 0
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
            rows, labels = np.isfinite(own[:, 0]), np.nan_to_num(own[:, 0]).astype(int)
        else:
            rows, labels = np.nansum(own, axis=1) > 0, np.nan_to_num(own).argmax(axis=1)
        few = calibration.enough_for_temperature(labels[rows], groups[rows], scores.shape[1])
        if few is not None:
            _logger.warning("No calibration: %s", few)
            return Calibration()
        found = calibration.fit_temperature(scores[rows], labels[rows])
        values[place] = found.value
        before.append(found.nll_before)
        after.append(found.nll_after)
    one = len(places) == 1
    T = float(values[0]) if one else tuple(values.tolist())
    mean = (float(np.mean(before)), float(np.mean(after)))
    return Calibration("temperature", T, split, len(logits), *mean)


def _points(
    decision: Decision,
    logits: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    points: Sequence[PointRule],
    split: str,
) -> dict[str, OperatingPoint]:
    found = {}
    probabilities = decision.probabilities(logits)
    for point in points:
        if unknown := [name for name in point.labels if name not in classes]:
            raise InputError(
                f"The operating point '{point.name}' names '{unknown[0]}'; the classes are "
                f"{', '.join(classes)}."
            )
        columns = [list(classes).index(name) for name in point.labels]
        own = targets[:, columns]
        known = np.isfinite(own).all(axis=1)
        scores = decision.score(probabilities, classes, point.labels)[known]
        positive = np.asarray((own[known] > 0).any(axis=1))
        chosen = operating_point.choose(positive.astype(int), scores, point.rule)
        if chosen.reason or not np.isfinite(chosen.value):
            reason = chosen.reason or "No score is high enough."
            _logger.warning("No operating point '%s': %s", point.name, reason)
            continue
        reached = operating_point.rates(positive, scores, chosen.value)
        made = OperatingPoint(
            chosen.value, point.labels, point.rule, split, chosen.positives, chosen.negatives,
            *reached,
        )  # fmt: skip
        few = small_samples.few_events([made.n_pos, made.n_neg])
        told = card_sections.operating_point(point.name, dataclasses.asdict(made))
        _logger.log(logging.WARNING if few else logging.INFO, "Operating point %s.", told)
        found[point.name] = made
    return found


def _split_hash(trained: _Trained) -> str:
    """That of the splits which the run trained, chose and was tested on; ids only are read."""
    specs = [*trained.settings["streams"].values(), *(
        evaluator["data"] for evaluator in trained.settings["evaluators"].values()
        if evaluator["name"] == "head"
    )]  # fmt: skip
    data_dir, found = trained.settings["data_dir"], set()
    for spec in specs:
        chosen = {key: spec.get(key) for key in ("where", "ban")}
        source = sources.load(spec["dataset"], spec["split"], data_dir, **chosen)
        found |= {(str(record), spec["split"]) for record in source.column("id")}
    return split_hash(*zip(*sorted(found), strict=True))

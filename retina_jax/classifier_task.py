"""What a classifier's config says, and what its records say about the task."""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.builders.graded import retinopathy_grade
from data_pipelines.builders.labels import RETINOPATHY
from data_pipelines.errors import InputError
from data_pipelines.images import functional
from data_pipelines.records import sources
from data_pipelines.text.texts import distinct, plain

_logger = logging.getLogger(__name__)

TASKS = ("single", "ordinal", "multi", "regression")
IMBALANCE = ("none", "balanced", "sqrt", "class_balanced", "logit_adjust", "sampler")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What such a config may say beside settings.

    Attributes:
      data: address of the data set.
      init: the run, the model's folder or the package:NAME that the image tower is from; None
        trains `tower` from random weights.
      tower: spec of a tower that reads pixels, where `init` is None.
      task: 'single' for classes that exclude each other, 'ordinal' for those in order, 'multi' for
        labels of which a record may have any number; None tells it by the training records: 'multi'
        where one has two labels, 'ordinal' where classes are grades of retinopathy. 'regression'
        predicts a number and has to be named.
      labels: the field of the labels, or of the number.
      classes: their names, in order where that counts; None for those of the training records. Of
        a number one name, best with its unit; None for that of the field.
      where: which records, as for a stream.
      train, validation, test: names of the splits.
      size: side of a picture in pixels; None for that of the start where it has learned positions,
        or else of the stored pictures, at most 512.
      augment: random transforms of training; None for those of the modality.
      batch_size: records of a step.
      head: 'probe', or 'random'.
      head_rate: the learning rate of the head, times that of the tower.
      layer_decay: the rate of a layer, times that of the layer above; None for 0.65, 0.75 or 0.95
        by the tower (0.8 for each of the four stages of a convolutional one).
      imbalance: 'none'; 'balanced' or 'sqrt' weigh classes inversely to their number or its root,
        'class_balanced' to the effective number (1 - beta^n) / (1 - beta) of n records (Cui et al.
        2019, arXiv:1901.05555); 'logit_adjust' corrects scores for the shares of classes instead
        (`losses.classification.softmax`); 'sampler' draws classes equally often. Decisions correct
        for it (`evals.head.Head.prior`).
      beta: that of 'class_balanced'.
      focal: the gamma of the focal loss, e.g. 2; 0 for cross-entropy.
      smoothing: the share of a target that `objectives.classification` spreads.
      mixup: the alpha of mixtures, the option of `pipelines.Stream`.
    """

    data: str
    init: str | None = None
    tower: Mapping[str, Any] | None = None
    task: str | None = None
    labels: str = "labels"
    classes: Sequence[str] | None = None
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    size: int | None = None
    augment: Sequence[Mapping[str, Any]] | None = None
    batch_size: int = 32
    head: str = "probe"
    head_rate: float = 10.0
    layer_decay: float | None = None
    imbalance: str = "none"
    beta: float = 0.99
    focal: float = 0.0
    smoothing: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if self.task not in (None, *TASKS) or self.imbalance not in IMBALANCE:
            raise InputError(
                f"A classifier's task is one of {TASKS} and its imbalance one of {IMBALANCE}, not "
                f"'{self.task}' and '{self.imbalance}'."
            )
        if not 0 <= self.beta < 1:
            raise InputError(f"'beta' is at least 0 and less than 1, not {self.beta}.")
        weighs = self.imbalance != "none" or self.focal or self.smoothing or self.mixup
        if self.task == "regression" and weighs:
            raise InputError(
                "A number has no classes to weigh or to smooth: 'imbalance', 'focal', 'smoothing' "
                "and 'mixup' are not for the task 'regression'."
            )
        if self.head not in ("probe", "random"):
            raise InputError(f"A classifier's head begins as 'probe' or 'random', not {self.head}.")
        if (self.init is None) == (self.tower is None):
            raise InputError(
                "A classifier starts from 'init', a run, a model's folder or package:NAME, or has "
                "a 'tower' of random weights: name one of them, e.g. --config.init=FOLDER."
            )


@dataclasses.dataclass(frozen=True)
class Task:
    """What the records say about the task.

    Attributes:
      kind: one of TASKS.
      classes: names, in the order of the labels.
      counts: how many training records have each.
      records: number of training records.
      where: which records are read.
      modality: what the pictures are, 'cfp' where they do not say.
      side: pixels of the longer side of the first stored picture.
      mean, scale: mean and standard deviation of the numbers of training records.
      ban: which records are left out, those without a number.
      unjudged: classes that no validation record is of, or labels that all or none have.
    """

    kind: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    records: int
    where: Mapping[str, Any]
    modality: str
    side: int
    mean: float = 0.0
    scale: float = 1.0
    ban: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unjudged: tuple[str, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe, data_dir: str | None) -> Task:
        """That of the splits of a data set, all of which are checked."""
        train, validation, test = (
            sources.load(recipe.data, split, data_dir, where=recipe.where or None)
            for split in (recipe.train, recipe.validation, recipe.test)
        )
        if recipe.task == "regression":
            return cls._of_numbers(recipe, (train, validation, test))
        labels = [_labels(value) for value in train.column(recipe.labels)]
        seen = collections.Counter(name for names in labels for name in names)
        several = any(len(names) > 1 for names in labels)
        classes = tuple(
            sorted(seen) if recipe.classes is None else distinct(recipe.classes, "classes")
        )
        graded = retinopathy_order(classes) is not None
        kind = recipe.task or ("multi" if several else "ordinal" if graded else "single")
        _tell_shared(train, labels, classes)
        if kind == "ordinal" and recipe.classes is None:
            classes = _in_order(classes)
        counts = tuple(seen[plain(name)] for name in classes)
        where = dict(recipe.where)
        if kind != "multi":
            where[recipe.labels] = classes
        # Of labels that do not exclude each other, none is a statement too.
        wanted = set(map(plain, classes))
        of_them = len(labels) if kind == "multi" else sum(bool(wanted & set(own)) for own in labels)
        found = cls(kind, classes, counts, of_them, where, _modality(train), _side(recipe, train))
        found._check(recipe, train)
        said = [_labels(value) for value in validation.column(recipe.labels)]
        found._check_split(recipe, validation, said)
        found._check_split(recipe, test, [_labels(value) for value in test.column(recipe.labels)])
        return dataclasses.replace(found, unjudged=found._unjudged(said))

    @classmethod
    def _of_numbers(cls, recipe: Recipe, parts: Sequence[sources.Source]) -> Task:
        """That of a number, of which each split has two values or more."""
        names = tuple(distinct(recipe.classes or (recipe.labels,), "classes"))
        if len(names) != 1:
            raise InputError(f"A number has one name in 'classes', not {len(names)}.")
        columns = [[_number(value) for value in part.column(recipe.labels)] for part in parts]
        for part, column in zip(parts, columns, strict=True):
            if len(known := {value for value in column if not math.isnan(value)}) < 2:
                raise InputError(
                    f"{part} has {len(part)} records with {len(known)} values of "
                    f"'{recipe.labels}' that are numbers; a number to learn and to be judged has "
                    "two or more."
                )
        known = [value for value in columns[0] if not math.isnan(value)]
        missing = any(math.isnan(value) for column in columns for value in column)
        empty = {"mode": "exact", "field": recipe.labels, "words": ("",)} if missing else {}
        train = parts[0]
        return cls(
            "regression", names, (len(known),), len(known), dict(recipe.where), _modality(train),
            _side(recipe, train), statistics.fmean(known), statistics.pstdev(known), empty,
        )  # fmt: skip

    def _check(self, recipe: Recipe, train: sources.Source) -> None:
        if len(self.classes) < 2:
            raise InputError(
                f"{train} has {len(train)} records with the classes {list(self.classes)} in the "
                f"field '{recipe.labels}', and a classifier tells two or more apart."
            )
        for name, count in zip(self.classes, self.counts, strict=True):
            if not count:
                raise InputError(
                    f"No record of {train} has the class '{name}', so it cannot be learned: leave "
                    "it out of --config.classes, or add records."
                )

    def _check_split(
        self, recipe: Recipe, part: sources.Source, labels: Sequence[Sequence[str]]
    ) -> None:
        """Raises InputError for a split on which nothing can be chosen or told."""
        found = {name for names in labels for name in names}
        known = {plain(name) for name in self.classes}
        if recipe.classes is None and (strange := sorted(found - known)):
            raise InputError(
                f"{part} has the class '{strange[0]}', which no record of {recipe.train} has: name "
                "those to learn by --config.classes=\"('first', 'second')\"."
            )
        both = self.kind != "multi" or any(set(names) & known != known for names in labels)
        if len(found & known) < (2 if self.kind != "multi" else 1) or not both:
            there = sorted(found & known)
            raise InputError(
                f"{part} has {len(part)} records with the classes {there}, on which nothing can be "
                "told about a classifier: it needs two; build the data set with other splits."
            )

    def _unjudged(self, labels: Sequence[Sequence[str]]) -> tuple[str, ...]:
        if self.kind != "multi":
            labels = [names for names in labels if names]
        having = collections.Counter(name for names in labels for name in set(names))
        return tuple(n for n in self.classes if having[plain(n)] in (0, len(labels)))

    @property
    def key(self) -> str:
        """The batch key of the labels."""
        return {"multi": "labels", "regression": "target"}.get(self.kind, "label")

    def prior(self, recipe: Recipe) -> tuple[float, ...]:
        """The share of each class in training, as scores follow it."""
        return seen_prior(
            self.counts, self.records, (len(self.classes),), self.kind == "multi",
            self.weighting(recipe).get("class_weights"),
            recipe.imbalance in ("sampler", "logit_adjust"),
        )  # fmt: skip

    def weighting(self, recipe: Recipe) -> dict[str, tuple[float, ...]]:
        """Options of `objectives.classification` by which it weighs classes or corrects scores."""
        imbalance, total, classes = recipe.imbalance, sum(self.counts), len(self.classes)
        if imbalance == "none":
            return {}
        if self.kind == "multi":
            raise InputError(
                f"'{imbalance}' is of classes that exclude each other. Of labels each is a yes or "
                "no of its own, and a record without any is one too: leave 'imbalance' at 'none'; "
                "validation records choose a threshold for each."
            )
        if imbalance == "sampler":
            return {}
        if imbalance == "logit_adjust":
            return {"shares": tuple(n / total for n in self.counts)}
        if imbalance == "balanced":
            return {"class_weights": tuple(total / (classes * n) for n in self.counts)}
        if imbalance == "sqrt":
            found = [n**-0.5 for n in self.counts]
        else:
            found = [(1 - recipe.beta) / (1 - recipe.beta**n) for n in self.counts]
        return {"class_weights": tuple(classes * weight / sum(found) for weight in found)}


def seen_prior(
    counts: Sequence[float],
    records: int,
    parts: Sequence[int],
    several: bool,
    weights: Sequence[float] | None = None,
    balanced: bool = False,
) -> tuple[float, ...]:
    """The share of each class in training as a loss sees it, which its probabilities follow.

    Args:
      counts: records of each class.
      records: how many there are.
      parts: numbers of consecutive classes that exclude each other; shares of each add up to 1.
      several: whether a record may have any number of them instead.
      weights: the factor of each class in the loss; None for 1.
      balanced: whether all are drawn equally often, which counts as equal shares.
    """
    if several:
        return tuple(count / max(records, 1) for count in counts)
    factors = (1.0,) * len(counts) if weights is None else weights
    seen = [1.0 if balanced else n * w for n, w in zip(counts, factors, strict=True)]
    found: list[float] = []
    for count in parts:
        own = seen[len(found) : len(found) + count]
        found += [share / (sum(own) or 1.0) for share in own]
    return tuple(found)


def _number(value: Any) -> float:
    """A number of a table; NaN of a text that is none, which the transform then refuses or bans."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _labels(value: Any) -> list[str]:
    """The labels of a record, each once, as classes are compared."""
    items = value if isinstance(value, list | tuple) else [value]
    return list(dict.fromkeys(name for item in items if (name := plain(str(item)))))


def retinopathy_order(classes: Sequence[str]) -> dict[str, int] | None:
    """The grade of each class, where each is another grade of diabetic retinopathy; else None."""
    names = list(RETINOPATHY.values())
    grades = [retinopathy_grade([name]) for name in classes]
    if len(classes) < 3 or "" in grades or len(set(grades)) < len(grades):
        return None
    return {name: names.index(grade) for name, grade in zip(classes, grades, strict=True)}


def _in_order(classes: tuple[str, ...]) -> tuple[str, ...]:
    order = retinopathy_order(classes)
    if order is None:
        raise InputError(
            f"The order of the classes {', '.join(classes)} is not known: name them in their order "
            "by --config.classes=\"('first', 'second', 'third')\"."
        )
    return tuple(sorted(classes, key=order.__getitem__))


def _tell_shared(
    train: sources.Source, labels: Sequence[Sequence[str]], classes: Sequence[str]
) -> None:
    """Warns of classes that several of the data sets in a manifest have under one name."""
    if "dataset" not in train.fields:
        return
    of: dict[str, set[str]] = {plain(name): set() for name in classes}
    for found, dataset in zip(labels, map(str, train.column("dataset")), strict=True):
        for name in of.keys() & set(found) if dataset else ():
            of[name].add(dataset)
    shared = {name: sorted(sets) for name, sets in sorted(of.items()) if len(sets) > 1}
    for name, sets in list(shared.items())[:5]:
        _logger.warning(
            "'%s' is one class of %s, though %d data sets in it have it, %s and %s among them; "
            "if they do not mean the same, choose one by --config.where.dataset=NAME.",
            name, train, len(sets), *sets[:2],
        )  # fmt: skip
    if len(shared) > 5:
        _logger.warning("So are %d other classes.", len(shared) - 5)


def _modality(train: sources.Source) -> str:
    if "modality" not in train.fields:
        return "cfp"
    found = {plain(str(value)) for value in train.column("modality")} - {""}
    return found.pop() if len(found) == 1 else "cfp"


def _side(recipe: Recipe, train: sources.Source) -> int:
    if not len(train):
        raise InputError(f"{train} has no records after its selection; choose others by 'where'.")
    if "image" not in train.fields:
        raise InputError(
            f"{train} has no field 'image', which is what a classifier reads; it has "
            f"{', '.join(sorted(train.fields))}. Prepare it as single pictures."
        )
    pixels = functional.decode_image(train[0]["image"])
    return max(pixels.shape[:2])

"""What is asked of a model, and what is refused before it is: one sentence each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from data_pipelines.cases.reading import Opener
from data_pipelines.errors import InputError
from data_pipelines.transforms.pictures import Eyes
from data_pipelines.transforms.volumes import Volume
from retina_jax import decision
from retina_jax.decision import OperatingPoint
from retina_jax.evals.stored import METHODS
from retina_jax.prediction import prevalence, rows
from retina_jax.prediction.scoring import Model, Scorer, scorer
from retina_jax.types import Batch

pc: Any = compute  # its functions are made when it is imported
LEVELS = ("image", "eye", "patient")
MERGES = ("max", "mean")
_OF_DEVICES = r"(?i)\.(dcm|dicom|vol|e2e|xml|fda|fds)$"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a prediction.

    Attributes:
      task: 'head' or 'zero_shot'; None for the head of a model that has one.
      classes, template: the classes of zero-shot and their sentence; None for the model's own.
      level: 'image'; 'eye', the mean over its pictures; or 'patient', made of eyes by `merge`.
      merge: 'max' of the eyes, for what any eye may have, or 'mean', for what a patient has.
      operating_point: the name of a threshold that the model stores.
      prevalence: 'CLASS=SHARE' of the population that is asked about, see `prevalence.parse`; None
        for that of training.
      threshold: a threshold of one's own instead, 'CLASS=0.5', or '0.5' of two classes' second.
      quality: 'flag' asks nothing of what is ungradable, 'skip' nor of what is to be checked;
        'off' judges nothing.
      ood: 'flag' asks nothing of what is out of distribution, 'off' does not look.
      modality: the kind of the pictures, where the model does not say it; None for photographs, or
        OCT of a model of volumes.
      input: the batch key to fill, of a model of several kinds of pictures.
      missing_eye: 'refuse', or 'allowed' for patients of one photograph.
      batch_size: rows that the model sees at once.
      scores: give the scores behind the probabilities too.
      force: ask the model whatever was found of the pictures.
      key: the secret for hashes of patients in files of devices.
      data_dir: where built data sets lie.
    """

    task: str | None = None
    classes: Sequence[str] | None = None
    template: str | None = None
    level: str = "image"
    merge: str = "max"
    operating_point: str | None = None
    threshold: str | None = None
    prevalence: Sequence[str] | None = None
    quality: str = "flag"
    ood: str = "flag"
    modality: str | None = None
    input: str | None = None
    missing_eye: str = "refuse"
    batch_size: int = 32
    scores: bool = False
    force: bool = False
    key: bytes | None = dataclasses.field(default=None, repr=False)
    data_dir: str | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("level", LEVELS),
            ("merge", MERGES),
            ("quality", rows.QUALITIES),
            ("ood", ("flag", "off")),
            ("missing_eye", ("refuse", "allowed")),
        ):
            if getattr(self, name) not in known:
                raise InputError(
                    f"--{name} is one of {', '.join(known)}, not '{getattr(self, name)}'."
                )
        if self.batch_size < 1:
            raise InputError(f"--batch_size is at least 1, got {self.batch_size}.")
        if self.operating_point is not None and self.threshold is not None:
            raise InputError("Give --operating_point or --threshold, not both.")


@dataclasses.dataclass(frozen=True)
class Request:
    """A model, and all that is needed to ask it about pictures.

    Attributes:
      model: the model.
      options: what was asked for.
      preparer: makes rows of entries.
      scorer: how the model is asked for classes; None where features are wanted.
      point: the operating point, and its name; None for none.
      ask: batch -> scores or features f32[B C], and what the tower pools or None.
    """

    model: Model
    options: Options
    preparer: rows.Preparer
    scorer: Scorer | None
    point: tuple[str, OperatingPoint] | None
    ask: rows.Asked
    prevalence: prevalence.Prevalence | None = None

    @property
    def familiar(self) -> Any:
        """What the training pictures were like, where that is looked at."""
        return self.model.description.familiar if self.options.ood != "off" else None


def predicting(model: Model, options: Options) -> Request:
    """A request for classes.

    Raises:
      InputError: for what the model cannot be asked.
    """
    pooled = options.ood != "off" and model.description.familiar is not None
    asked = scorer(model, options.task, options.classes, options.template, pooled)
    if len(_readers(model)) > 1 and options.input is None:
        raise InputError(
            f"The model sees {sorted(_readers(model))} together: predictions are of one input."
        )
    if asked.decision.task == "regression":
        _refuse_classes(options)
    there = None
    if options.prevalence:
        there = prevalence.parse(options.prevalence, asked)
        asked = prevalence.there(asked, there)
        if options.operating_point is not None:
            raise InputError(
                f"The threshold '{options.operating_point}' was chosen at the shares of training: "
                "leave --prevalence, or give a --threshold for it."
            )
    point = _point(options, asked)
    return Request(model, options, _preparer(model, options), asked, point, asked.ask, there)


def _refuse_classes(options: Options) -> None:
    """Raises InputError for what is asked of a number and is of classes."""
    for name in ("operating_point", "threshold"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name} is of classes, and the model predicts a number.")
    if options.level == "patient" and options.merge != "mean":
        raise InputError("The number of a patient is the mean of both eyes: add --merge=mean.")


def embedding(model: Model, options: Options, layer: str) -> Request:
    """A request for features: 'pooled', of a tower, or 'projected', the unit embedding.

    Raises:
      InputError: for a layer that the model does not have.
    """
    if layer not in METHODS:
        raise InputError(f"--layer is {' or '.join(METHODS)}, not '{layer}'.")
    method = METHODS[layer]
    if not hasattr(model.model, method):
        raise InputError(f"'{model.description.title}' has no {layer} features; try the other.")
    wants = options.ood != "off" and model.description.familiar is not None

    def ask(batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
        found = next(iter(model.outputs(batch, method).values()))
        if not wants or method == "features":
            return found, found if wants else None
        return found, next(iter(model.outputs(batch, "features").values()))

    return Request(model, options, _preparer(model, options), None, None, ask)


def _readers(model: Model) -> dict[str, Any]:
    if model.preprocessing is None:
        raise InputError(f"'{model.description.title}' reads texts and no pictures.")
    return dict(model.preprocessing.readers)


def _preparer(model: Model, options: Options) -> rows.Preparer:
    readers = _readers(model)
    key = options.input or next(iter(readers))
    if key not in readers or (len(readers) > 1 and options.input is None):
        raise InputError(f"The model sees {sorted(readers)}: name one by --input=KEY.")
    reader, own = readers[key], model.description.modality
    if own is not None and options.modality not in (None, own):
        raise InputError(
            f"'{model.description.title}' is a model of '{own}', not of '{options.modality}': "
            "predict with a model of that kind of picture."
        )
    modality = own or options.modality or ("oct" if isinstance(reader, Volume) else "cfp")
    preprocessing = model.preprocessing
    assert preprocessing is not None  # `_readers` has refused
    opener = Opener(reader, modality, options.key, options.data_dir)
    return rows.Preparer(
        preprocessing,
        key,
        opener,
        options.quality,
        model.description.quality,
        options.force,
        isinstance(reader, Eyes),
        options.missing_eye == "allowed",
    )


def _point(options: Options, asked: Scorer) -> tuple[str, OperatingPoint] | None:
    stored = asked.decision.operating_points
    if options.operating_point is not None:
        if options.operating_point not in stored:
            known = f"it stores {', '.join(stored)}" if stored else "it stores none"
            raise InputError(
                f"The model has no operating point '{options.operating_point}': {known}; choose "
                "one on validation records, or give --threshold=CLASS=X, chosen for no purpose."
            )
        return options.operating_point, stored[options.operating_point]
    if options.threshold is None:
        return None
    name, equals, value = options.threshold.rpartition("=")
    if not equals and len(asked.classes) == 2 and asked.decision.task != "multi":
        name = asked.classes[1]
    try:
        number = float(value)
    except ValueError:
        raise InputError(f"--threshold={options.threshold} is no CLASS=NUMBER.") from None
    if name not in asked.classes:
        raise InputError(
            f"--threshold is CLASS=NUMBER of one of {', '.join(asked.classes)}, got "
            f"'{options.threshold}'."
        )
    return "given", OperatingPoint(number, (name,))


def arranged(entries: pa.Table, request: Request) -> pa.Table:
    """Entries with the column `unit`: what belongs to one eye or patient lies together.

    What is of no known patient (or eye) is a unit of its own.

    Raises:
      InputError: for a level of which nothing is known of any entry, or no entry of the modality
        of the model.
    """
    _refuse_modality(entries, request)
    level, both = request.options.level, request.preparer.both_eyes
    count = len(entries)
    if level == "image" and not both:
        return entries.append_column("unit", pa.array(np.arange(count)))
    names = ("patient", "eye") if level == "eye" and not both else ("patient",)
    own = pc.and_(pc.match_substring_regex(entries["place"], _OF_DEVICES), level == "eye")
    known = np.ones(count, bool)
    for name in names:
        filled = pc.not_equal(entries[name], "").to_numpy()
        known &= filled
        stored = both and bool(pc.any(pc.greater_equal(entries["number"], 0)).as_py())
        if not (filled.any() or stored or pc.any(own).as_py()):
            what = "The model sees both eyes, which" if both else f"--level={level}"
            raise InputError(
                f"{what} needs the {name} of each picture, and none is known: name a table with "
                f"such a column, or the column by --column={name}=NAME."
            )
    keys = pc.binary_join_element_wise(*(entries[name] for name in names), "\x1f")
    codes = keys.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    codes[~known] = count + np.flatnonzero(~known)
    # Numbered in the order in which they first appear.
    _, first, back = np.unique(codes, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[back]
    order = np.argsort(place, kind="stable")
    return entries.append_column("unit", pa.array(place)).take(pa.array(order))


def _refuse_modality(entries: pa.Table, request: Request) -> None:
    wanted, stated = request.preparer.opener.modality, pc.unique(entries["modality"]).to_pylist()
    if stated and "" not in stated and wanted not in stated:
        reason = (
            f"the model is for '{wanted}'"
            if request.model.description.modality
            else f"the model does not say what it is for, so that '{wanted}' was expected: name "
            f"the kind that it was trained on by --modality={min(stated)}"
        )
        raise InputError(f"The pictures are of the modality {', '.join(sorted(stated))}: {reason}.")


def notices(request: Request) -> list[str]:
    """What is said of a model before it is asked, a line each."""
    about, asked = request.model.description, request.scorer
    lines = [
        f"model: {about.title}, {request.model.model_hash[:12]}",
        f"licence: {request.model.licence}" + (f" ({about.terms})" if about.terms else ""),
        f"input: {request.preparer.opener.modality} as '{request.preparer.key}'"
        + (f", {about.image_size} pixels" if about.image_size else ""),
    ]
    if asked is not None and asked.decision.task == "regression":
        lines.append(f"a number by {asked.task}: {', '.join(asked.classes)}")
    elif asked is not None:
        lines.append(f"classes by {asked.task}: {', '.join(asked.classes)}")
        if request.point is None:
            lines.append(f"operating point: none; {decision.NO_OPERATING_POINT}")
        else:
            name, point = request.point
            lines.append(
                f"operating point: {name}, {', '.join(point.labels)} >= {point.value:g} "
                f"({point.rule})"
            )
        if request.prevalence is not None:
            pairs = zip(asked.classes, request.prevalence.shares, strict=True)
            told = ", ".join(f"{name} {share:.3g}" for name, share in pairs)
            lines.append(f"prevalence: {told}, in the place of that in training")
        lines.append(f"calibration: {asked.decision.calibration.method}")
    limits = "and those of its training pictures" if about.quality else "only"
    if request.options.quality != "off":
        lines.append(f"quality: rules, not validated on your camera; hard limits {limits}")
    lines.append("research use only, not a medical device")
    return lines

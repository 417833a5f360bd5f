"""Maps of a classifier, if they beat their controls.

    python -m retina_jax.saliency --model=FOLDER --source=PICTURES --masks=MASKS --out=DIR \\
        --positive='mild,moderate'

MASKS has a picture of the same stem for each picture in which something was marked. Maps are made
of those that the model predicts to have one of the classes --positive. docs/saliency.md says what
is compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from absl import flags

from data_pipelines import places
from data_pipelines.errors import InputError
from retina_jax import cli, loading
from retina_jax.prediction import scoring
from retina_jax.saliency import drawing, kept, maps, randomised, study, verdict
from retina_jax.scoring import hashes

_MODEL = flags.DEFINE_string("model", None, "Folder of a model")
_SOURCE = flags.DEFINE_string("source", None, "Folder of pictures")
_MASKS = flags.DEFINE_string("masks", None, "Folder of masks")
_OUT = flags.DEFINE_string("out", None, "Where maps and verdict go")
_POSITIVE = cli.define_list("positive", None, "Classes whose maps are made")
_BITS = flags.DEFINE_integer(
    "bits", None, "Bits of a mask that count; by default all that is not 0"
)
_PATTERN = flags.DEFINE_string(
    "pattern", "", "Tells patients by names of files, such as '(?P<patient>[0-9]+)_.*'; without it "
    "each picture is a patient"
)  # fmt: skip
_MOST = flags.DEFINE_integer("most", 200, "Pictures")
_SHOW = flags.DEFINE_bool("show_anyway", False, "Pictures of maps that do not beat the controls")
_METHOD = flags.DEFINE_enum(
    "method", "gradients", list(maps.METHODS),
    "What changed a score, or where the tower of a ViT looks, whatever the class",
)  # fmt: skip
_REMOVAL = flags.DEFINE_bool(
    "removal", False, "Delete and insert cells in the order of a map too: 84 more passes a picture"
)
_LEAST = 10  # patients


def asked(model: Any, method: str) -> tuple[study.Asked, tuple[str, ...]]:
    """What a study asks a model, and its classes.

    Args:
      model: has a head, or reads texts.
      method: one of `maps.METHODS`.
    """
    scorer = scoring.scorer(model)
    key = next(iter(model.preprocessing.readers))
    score = maps.by_head
    if scorer.prototypes is not None:
        score = maps.by_texts(scorer.prototypes, model.temperature())
    found = study.Asked(
        maps.METHODS[method](model.model, key, score),
        model.variables,
        randomised.drawn(model.model, score),
        lambda batch: scorer.decision.probabilities(scorer.ask(batch)[0]),
        scorer.decision,
        key,
    )
    return found, scorer.classes


def table(
    found: list[study.Finding], told: verdict.Judgement, removed: Mapping[str, Sequence[float]]
) -> str:
    """What is printed."""
    lines = [f"{told.count} pictures; lift is 1 for a map that knows nothing", ""]
    lines.append(f"{'maps':16s} {told.lift:6.2f}  ({told.low:.2f} to {told.high:.2f})")
    for name, (mean, difference, p) in told.controls.items():
        lines.append(f"{name:16s} {mean:6.2f}  maps are better by {difference:+.2f}, p {p:.3f}")
    for step, (mean, similarity) in told.cascade.items():
        lines.append(f"random: {step:14s} lift {mean:.2f}, similarity to the maps {similarity:.2f}")
    lines.append(
        f"Similarity to maps of random weights {told.similarity:.2f}, of different pictures to "
        f"each other {told.chance_similarity:.2f}."
    )
    for name in ("pointing", "energy", "auc", "average_precision"):
        values = [getattr(one.localisation, name) for one in found]
        lines.append(f"{name:16s} {np.nanmean(values):6.3f}")
    for name, (own, random, difference, p) in removed.items():
        lines.append(
            f"{name:18s} {own:.3f}, in a random order {random:.3f} ({difference:+.3f}, p {p:.3f})"
        )
    lines.append(told.sentence or "The maps beat all controls.")
    return "\n".join(lines)


def main(_: list[str]) -> None:
    """Makes maps, compares them with controls, and shows them if they are better."""
    model = loading.load(str(_MODEL.value))
    source, masks, out = (
        places.local(str(flag.value), f"--{flag.name}") for flag in (_SOURCE, _MASKS, _OUT)
    )
    questions, classes = asked(model, _METHOD.value)
    wanted = list(_POSITIVE.value or ())
    unknown = [name for name in wanted if name not in classes]
    if unknown:
        raise InputError(f"--positive names '{unknown[0]}'; the classes are {list(classes)}.")
    if absent := [name for name in wanted if study.normal(name)]:
        raise InputError(
            f"--positive names '{absent[0]}': a finding that is not there has no place."
        )
    positive = {classes.index(name) for name in wanted}
    pictures = study.cases(model, source, masks, _BITS.value, _MOST.value, _PATTERN.value)
    progress = tqdm.tqdm(
        study.findings(questions, pictures, positive),
        desc="maps", total=len(pictures), leave=False,
    )  # fmt: skip
    found = [one for one in progress if one is not None]
    patients = len({one.case.patient for one in found})
    if patients < _LEAST:
        raise InputError(
            f"Of {len(pictures)} pictures with a mask {len(found)}, of {patients} patients, are "
            f"predicted to have one of {wanted} and have a map: {_LEAST} patients are needed to "
            "compare anything."
        )
    told = study.judged(questions, found)
    rows = [
        {"picture": one.case.file.name, "predicted": classes[one.predicted],
         "cells": list(one.cells), "largest": float(one.saliency.max()),
         **dataclasses.asdict(one.localisation)}
        for one in found
    ]  # fmt: skip
    made_of = {"method": _METHOD.value, "weights_hash": hashes.weights_hash(model.variables)}
    about: dict[str, Any] = {
        "model_hash": model.model_hash, **made_of, "with_mask": len(pictures), "bits": _BITS.value,
        "positive": wanted, "pattern": _PATTERN.value, "patients": patients,
        "verdict": dataclasses.asdict(told),
    }  # fmt: skip
    if _REMOVAL.value:
        areas = list(study.removals(questions, found))
        about["removal"] = study.removal_summary(areas, found)
        for row, (own, random) in zip(rows, areas, strict=True):
            row["removal"] = dataclasses.asdict(own)
            row["random_removal"] = dataclasses.asdict(random)
    with places.written(out):
        drawing.write(out, {**about, "rows": rows}, found, told, classes, bool(_SHOW.value))
        written = kept.into_results(out, told, made_of, classes)
    print(table(found, told, about.get("removal", {})))
    print(written)


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "source", "masks", "out", "positive"])
    cli.run(main)

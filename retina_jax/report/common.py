"""Runs that were scored on other records, compared on those that they have in common."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.metrics import comparison
from retina_jax.report import comparisons
from retina_jax.report.records import StageRecord, load
from retina_jax.report.terminal import aligned, number
from retina_jax.scoring import records as files
from retina_jax.scoring.predictions import TEST, Predictions

_HEADER = ("evaluation", "run", "metric", "records", "patients", "difference", "95 % interval", "p",
           "p (Holm)")  # fmt: skip


def lines(workdirs: Sequence[Path], least: float) -> list[str]:
    """A table: each run minus the first one, by the primary metric of each evaluation.

    Args:
      workdirs: the work directories of two runs or more.
      least: the share of the smaller of two test sets that has to be common, in (0, 1].

    Raises:
      InputError: for one run alone, runs without an evaluation in common, fewer common records than
        that, or common records with other labels.
    """
    if len(workdirs) < 2 or not 0 < least <= 1:
        raise InputError(
            "--common compares two runs or more, and --common_share is above 0 and at most 1."
        )
    stages = [_scored(workdir) for workdir in workdirs]
    names = [name for name in stages[0].evaluations
             if any(name in stage.evaluations for stage in stages[1:])]  # fmt: skip
    rows: list[tuple[str, ...]] = [_HEADER]
    notes: list[str] = []
    for name in names:
        found = [(path, *_beside(name, (stages[0], stage), (workdirs[0], path), least))
                 for path, stage in zip(workdirs[1:], stages[1:], strict=True)
                 if name in stage.evaluations]  # fmt: skip
        adjusted = comparison.holm([one.p for _, one, _, _ in found])
        for (path, one, count, groups), p in zip(found, adjusted, strict=True):
            rows.append((
                name, path.name, one.metric or "-", str(count), str(groups),
                number(one.difference), f"{number(one.low)} .. {number(one.high)}",
                number(one.p), number(p),
            ))  # fmt: skip
            notes += [f"{name}, {path.name}: {one.note}"] if one.note else []
    if not names:
        raise InputError(f"No other run has an evaluation of {workdirs[0]}.")
    return [*aligned(rows, (False,) * 3 + (True,) * 6), *notes]


def _scored(workdir: Path) -> StageRecord:
    """The last stage that has evaluations."""
    for stage in reversed(load(workdir).stages):
        if stage.evaluations:
            return stage
    raise InputError(f"{workdir} has no evaluations to compare.")


def _beside(
    name: str, stages: Sequence[StageRecord], paths: Sequence[Path], least: float
) -> tuple[comparisons.Compared, int, int]:
    """The second run minus the first on common records, and how many records and patients."""
    found: list[Predictions] = []
    for stage, path in zip(stages, paths, strict=True):
        file = stage.evaluations[name].get("records_file")
        if not file:
            raise InputError(f"The evaluation '{name}' of {path} has no records to compare.")
        said = files.read(Path(stage.folder) / file)
        found.append(said.where(said.split == TEST))
    every = [set(said.pictures()) for said in found]
    both, smaller = every[0] & every[1], min(map(len, every))
    if len(both) < max(least * smaller, 1):
        raise InputError(
            f"'{name}': {paths[0]} and {paths[1]} share {len(both)} of {smaller} records, less "
            f"than {least:.0%}; --common_share={len(both) / smaller:.2f} compares them on these."
        )
    reference, run = (_only(said, {record for record, _ in both}) for said in found)
    if not np.array_equal(_labels(reference), _labels(run)):
        raise InputError(
            f"'{name}': common records of {paths[0]} and {paths[1]} have other labels or patients."
        )
    compared = comparisons.tested(run, reference)
    return compared, len(both), len(set(reference.group))


def _only(said: Predictions, kept: set[str]) -> Predictions:
    """The rows of these records; a patient is named by the first of them."""
    part = said.where(np.array([str(record) in kept for record in said.record]))
    first: dict[str, str] = {}
    for record, group in zip(part.record, part.group, strict=True):
        first[group] = min(str(record), first.get(group, str(record)))
    named = np.array([first[group] for group in part.group])
    return dataclasses.replace(part, group=named).sorted()


def _labels(said: Predictions) -> np.ndarray:
    """Group and label of each record, once, as text."""
    at = np.unique(said.record, return_index=True)[1]
    return np.array([f"{said.group[i]} {said.labels[i].tolist()}" for i in at])

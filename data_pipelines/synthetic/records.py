"""Records of a synthetic data set, made in one process or in several with the same bytes."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines import processes
from data_pipelines.images import functional
from data_pipelines.synthetic import angiogram, causes, fundus, oct, report

Record = dict[str, Any]

# Records of one patient: both eyes, one report, or reports of both eyes in both languages.
PER_PATIENT = {"eye": 2, "patient": 1, "text": 4}
SPLITS = ("public", "expert", "validation", "test")
# Each split draws its patients from a range of indices of its own.
_RANGE = 100_000_000
_CHUNK = 16


@dataclasses.dataclass(frozen=True)
class SyntheticSpec:
    """What a synthetic data set contains.

    Attributes:
        patients: number of patients of each of ``SPLITS``.
        image_size: side of the square pictures in pixels, at least 32.
        modality: what ``image`` and the captions are: 'cfp', 'ffa', or 'oct' (the foveal B-scan).
        extras: further pictures of the same eye: 'ffa', 'oct' (a volume), or both.
        oct_slices: B-scans in a volume.
        unit: what a record is: 'eye', 'patient' (both eyes and a report) or 'text' (no pictures).
        captioned: splits whose eyes carry captions; elsewhere there are labels only.
        seed: the seed of the population.
    """

    patients: tuple[int, int, int, int]
    image_size: int = 96
    modality: str = "cfp"
    extras: tuple[str, ...] = ()
    oct_slices: int = 8
    unit: str = "eye"
    captioned: tuple[str, ...] = SPLITS
    seed: int = 0


def generate(
    recipe: SyntheticSpec, split: str, executor: concurrent.futures.Executor | None = None
) -> Iterator[Record]:
    """Yield the records of ``split`` in order; the same with any number of workers.

    Args:
        recipe: what to make.
        split: one of ``SPLITS``.
        executor: an executor of ``processes.workers``.
    """
    count = recipe.patients[SPLITS.index(split)]
    tasks = [
        (recipe, split, start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)
    ]
    for made in processes.ordered(_chunk, tasks, executor if len(tasks) > 2 else None):
        yield from made


def _chunk(task: tuple[SyntheticSpec, str, int, int]) -> list[Record]:
    recipe, split, start, stop = task
    return [
        record for index in range(start, stop) for record in patient_records(recipe, split, index)
    ]


def patient_records(recipe: SyntheticSpec, split: str, index: int) -> list[Record]:
    """The records of patient ``index`` of ``split``: two eyes, one patient, or four texts."""
    number = SPLITS.index(split) * _RANGE + index
    patient = causes.sample_patient(recipe.seed, number)
    rng = np.random.default_rng([recipe.seed, number, 1])
    if recipe.unit == "patient":
        return [_patient_record(recipe, patient, rng)]
    if recipe.unit == "text":
        return _text_records(patient, rng)
    captioned = split in recipe.captioned
    return [_eye_record(recipe, patient, eye, rng, captioned) for eye in patient.eyes]


def _eye_record(
    recipe: SyntheticSpec,
    patient: causes.Patient,
    eye: causes.Eye,
    rng: np.random.Generator,
    captioned: bool,
) -> Record:
    english, chinese = (
        report.eye_caption(eye, language, rng, recipe.modality) for language in report.LANGUAGES
    )
    out = {
        "id": f"{patient.identifier}_{eye.side}",
        "image": _picture(recipe, eye),
        "modality": recipe.modality,
        "caption": english if captioned else "",
        "caption_zh": chinese if captioned else "",
        "labels": list(eye.labels),
        "patient": patient.identifier,
        "eye": eye.side,
        "dataset": "synthetic_retina",
        "age": eye.age,
        "sex": eye.sex,
        **_causes(eye),
    }
    if "ffa" in recipe.extras:
        out["ffa"] = jpeg(angiogram.render(eye, recipe.image_size))
    if "oct" in recipe.extras:
        volume = oct.render(eye, recipe.oct_slices, recipe.image_size)
        out["oct"] = png(volume.reshape(-1, recipe.image_size))
        out["oct_slices"] = recipe.oct_slices
    return out


def _picture(recipe: SyntheticSpec, eye: causes.Eye) -> bytes:
    if recipe.modality == "ffa":
        return jpeg(angiogram.render(eye, recipe.image_size))
    if recipe.modality == "oct":
        return jpeg(oct.render(eye, 1, recipe.image_size)[0])
    return jpeg(fundus.render(eye, recipe.image_size))


def _causes(eye: causes.Eye) -> Record:
    return {
        "diagnosis": eye.diagnosis,
        "dr_grade": eye.dr_grade,
        "macular_oedema": eye.macular_oedema,
        "cup_to_disc": eye.cup_to_disc,
        "amd_stage": eye.amd_stage,
        "myopia": eye.myopia,
        "cataract": eye.cataract,
        "subretinal_fluid": int(eye.subretinal_fluid),
        "phase": eye.phase,
    }


def _patient_record(
    recipe: SyntheticSpec, patient: causes.Patient, rng: np.random.Generator
) -> Record:
    english, chinese = (
        report.patient_report(patient, language, rng) for language in report.LANGUAGES
    )
    out = {
        "id": patient.identifier,
        "patient": patient.identifier,
        "dataset": "synthetic_retina",
        "report": english,
        "report_zh": chinese,
        # Of both eyes, without repetition; that of the worse eye first.
        "labels": list(dict.fromkeys(_worse_first(patient))),
        "age": patient.age,
        "sex": patient.sex,
    }
    for side, eye in zip(("left", "right"), patient.eyes, strict=True):
        out[f"{side}_image"] = jpeg(fundus.render(eye, recipe.image_size))
        out[f"{side}_labels"] = list(eye.labels)
        out.update({f"{side}_{key}": value for key, value in _causes(eye).items()})
    return out


def _worse_first(patient: causes.Patient) -> list[str]:
    order = sorted(patient.eyes, key=lambda eye: (eye.diagnosis == "normal", -eye.dr_grade))
    labels = [label for eye in order for label in eye.labels]
    return [label for label in labels if label != "normal"] or ["normal"]


def _text_records(patient: causes.Patient, rng: np.random.Generator) -> list[Record]:
    return [
        {
            "id": f"{patient.identifier}_{language}_{kind}",
            "text": text,
            "language": language,
            "patient": patient.identifier,
            "dataset": "synthetic_retina",
        }
        for language in report.LANGUAGES
        for kind, text in (
            ("patient", report.patient_report(patient, language, rng)),
            ("eye", report.eye_caption(patient.right, language, rng)),
        )
    ]


def jpeg(pixels: np.ndarray) -> bytes:
    """Encode uint8[H, W] or [H, W, 3] as JPEG, quality 90 without chroma subsampling."""
    return functional.encode_image(pixels, "JPEG", quality=90, subsampling=0)


def png(pixels: np.ndarray) -> bytes:
    """Encode uint8[H, W] as PNG; speckle hardly compresses, so little time is spent on it."""
    return functional.encode_image(pixels, compress_level=1)

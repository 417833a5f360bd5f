"""What a reader would write about an eye or a patient, in English or Chinese."""

from __future__ import annotations

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.synthetic import anatomy, words, words_modal
from data_pipelines.synthetic.causes import Eye, Patient
from data_pipelines.synthetic.lesions import KINDS

LANGUAGES = ("en", "zh")
# Vertical cup-to-disc ratios from which the cup reads as enlarged and the rim as thin.
_LARGE_CUP = 0.6
_THIN_RIM = 0.75


def findings(eye: Eye, modality: str = "cfp") -> tuple[str, ...]:
    """Keys of what ``modality`` shows of ``eye``; both languages are written from them.

    Args:
        eye: the causes.
        modality: 'cfp' (keys of ``words.FINDINGS``), 'ffa' or 'oct' (``words_modal.FINDINGS``;
            of a tomogram only what crosses the B-scan through the fovea).
    """
    everywhere = modality != "oct"
    spots = {kind for kind in eye.spots if everywhere or _crosses_fovea(eye.spots[kind])}
    swollen = everywhere or "oedema" in spots
    bleeding = any("haemorrhage" in kind for kind in spots)
    conditions = {
        "blocked": bleeding,
        "venous_beading": eye.dr_grade >= 3,
        f"macular_oedema_{eye.macular_oedema}": eye.macular_oedema > 0 and swollen,
        "subretinal_fluid": eye.subretinal_fluid and swollen,
        "large_cup": eye.cup_to_disc >= _LARGE_CUP,
        "thin_rim": eye.cup_to_disc >= _THIN_RIM,
        "nerve_fibre_defect": eye.nerve_fibre_defect is not None,
        "crescent": eye.crescent > 0,
        "tilted_disc": eye.diagnosis == "pathologic myopia" and abs(eye.tilt) > 0.25,
        "tessellation": eye.diagnosis == "pathologic myopia",
        "narrow_arteries": eye.hypertension,
    }
    present = [kind for kind in KINDS if kind in spots]
    present += [key for key, holds in conditions.items() if holds]
    shown = words.FINDINGS["en"] if modality == "cfp" else words_modal.FINDINGS[modality]["en"]
    return tuple(key for key in present if key in shown)


def _crosses_fovea(lesions: np.ndarray) -> bool:
    near = np.abs(lesions[:, 1]) < 0.8 * lesions[:, 2:4].min(axis=1)
    return bool((near & (np.abs(lesions[:, 0]) < anatomy.HALF_WIDTH)).any())


def eye_caption(eye: Eye, language: str, rng: np.random.Generator, modality: str = "cfp") -> str:
    """One to four sentences on a picture of ``eye``: diagnosis, every finding, quality.

    Args:
        eye: the causes to describe.
        language: 'en' or 'zh'.
        rng: picks among the paraphrases.
        modality: which picture: 'cfp' (says the cup-to-disc ratio too), 'ffa' (says the phase)
            or 'oct'.

    Raises:
        InputError: ``language`` is neither.
    """
    _check(language)
    if modality == "cfp":
        media = words.MEDIA[language][eye.cataract]
        phrases, unremarkable = words.FINDINGS[language], words.UNREMARKABLE[language]
        sentences = words.SENTENCES[language]
    else:
        media = (words_modal.SIGNAL[language][eye.cataract],)
        phrases = words_modal.FINDINGS[modality][language]
        unremarkable = words_modal.UNREMARKABLE[modality][language]
        sentences = words_modal.SENTENCES[modality][language]
    parts = [_finding(eye, phrases[key], key, language, rng) for key in findings(eye, modality)]
    text = _pick(rng, sentences).format(
        side=_pick(rng, words.SIDES[language][eye.side]),
        diagnosis=_diagnosis(eye, language, rng),
        findings=_listing(parts or [_pick(rng, unremarkable)], language),
        cup=_pick(rng, words.CUPS[language]).format(ratio=f"{eye.cup_to_disc:.1f}"),
        media=_pick(rng, media),
        phase=words_modal.PHASES[language][eye.phase],
    )
    return _capitals(text) if language == "en" else text


def patient_report(patient: Patient, language: str, rng: np.random.Generator) -> str:
    """Age and sex, then what ``eye_caption`` says of the right and of the left eye.

    Raises:
        InputError: ``language`` is neither 'en' nor 'zh'.
    """
    _check(language)
    person = _pick(rng, words.PATIENTS[language]).format(
        age=patient.age, sex=_pick(rng, words.SEXES[language][patient.sex])
    )
    parts = [person] + [eye_caption(eye, language, rng) for eye in (patient.right, patient.left)]
    return _capitals(" ".join(parts)) if language == "en" else "".join(parts)


def _check(language: str) -> None:
    if language not in LANGUAGES:
        raise InputError(f"Reports are written in {LANGUAGES}, not in {language!r}: choose one.")


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _listing(parts: list[str], language: str) -> str:
    comma, last = (", ", " and ") if language == "en" else ("、", "及")
    return parts[0] if len(parts) == 1 else comma.join(parts[:-1]) + last + parts[-1]


def _finding(
    eye: Eye, phrases: tuple[str, ...], key: str, language: str, rng: np.random.Generator
) -> str:
    count = len(eye.lesions(key))
    amount = "few" if count <= 3 else "several" if count <= 14 else "many"
    where = "superotemporal" if (eye.nerve_fibre_defect or 0.0) < 0 else "inferotemporal"
    return _pick(rng, phrases).format(
        n=_pick(rng, words.QUANTITIES[language][amount]), where=words.PLACES[language][where]
    )


def _diagnosis(eye: Eye, language: str, rng: np.random.Generator) -> str:
    table = words.DIAGNOSES[language]
    key = eye.labels[0]
    if eye.amd_stage:
        key = eye.amd_form or ("early", "intermediate")[eye.amd_stage - 1]
    out = _pick(rng, table[key])
    joint = " and " if language == "en" else "，合并"
    # Macular oedema is among the findings already.
    for label in eye.labels[1:]:
        if label in table:
            out += joint + _pick(rng, table[label][:1])
    return out


def _capitals(text: str) -> str:
    """Upper case at the start of each sentence."""
    parts = [part[:1].upper() + part[1:] for part in text.split(". ")]
    return ". ".join(parts)

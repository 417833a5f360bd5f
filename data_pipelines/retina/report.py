"""What a reader would write about an eye or a patient, in English or Chinese."""

from __future__ import annotations

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.retina import words
from data_pipelines.retina.causes import Eye, Patient
from data_pipelines.retina.lesions import KINDS

LANGUAGES = ('en', 'zh')
# Vertical cup-to-disc ratios from which the cup reads as enlarged and the rim as thin.
_LARGE_CUP = 0.6
_THIN_RIM = 0.75


def findings(eye: Eye) -> tuple[str, ...]:
    """Keys of ``words.FINDINGS`` that hold for ``eye``; both languages are written from them."""
    out = [kind for kind in KINDS if kind in eye.spots and kind != 'oedema']
    conditions = {
        'venous_beading': eye.dr_grade >= 3,
        f'macular_oedema_{eye.macular_oedema}': eye.macular_oedema > 0,
        'large_cup': eye.cup_to_disc >= _LARGE_CUP,
        'thin_rim': eye.cup_to_disc >= _THIN_RIM,
        'nerve_fibre_defect': eye.nerve_fibre_defect is not None,
        'crescent': eye.crescent > 0,
        'tilted_disc': eye.diagnosis == 'pathologic myopia' and abs(eye.tilt) > 0.25,
        'tessellation': eye.diagnosis == 'pathologic myopia',
        'narrow_arteries': eye.hypertension,
    }
    return tuple(out + [key for key, holds in conditions.items() if holds])


def eye_caption(eye: Eye, language: str, rng: np.random.Generator) -> str:
    """One to four sentences on ``eye``: diagnosis, every finding, cup-to-disc ratio, media.

    Args:
        eye: the causes to describe.
        language: 'en' or 'zh'.
        rng: picks among the paraphrases.

    Raises:
        InputError: ``language`` is neither.
    """
    _check(language)
    comma, last = (', ', ' and ') if language == 'en' else ('、', '及')
    phrases = [_finding(eye, key, language, rng) for key in findings(eye)]
    if not phrases:
        phrases = [_pick(rng, words.UNREMARKABLE[language])]
    listing = phrases[0] if len(phrases) == 1 else comma.join(phrases[:-1]) + last + phrases[-1]
    text = _pick(rng, words.SENTENCES[language]).format(
        side=_pick(rng, words.SIDES[language][eye.side]),
        diagnosis=_diagnosis(eye, language, rng),
        findings=listing,
        cup=_pick(rng, words.CUPS[language]).format(ratio=f'{eye.cup_to_disc:.1f}'),
        media=_pick(rng, words.MEDIA[language][eye.cataract]),
    )
    return _capitals(text) if language == 'en' else text


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
    return _capitals(' '.join(parts)) if language == 'en' else ''.join(parts)


def _check(language: str) -> None:
    if language not in LANGUAGES:
        raise InputError(f'Reports are written in {LANGUAGES}, not in {language!r}: choose one.')


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _finding(eye: Eye, key: str, language: str, rng: np.random.Generator) -> str:
    count = len(eye.lesions(key))
    amount = 'few' if count <= 3 else 'several' if count <= 14 else 'many'
    where = 'superotemporal' if (eye.nerve_fibre_defect or 0.0) < 0 else 'inferotemporal'
    return _pick(rng, words.FINDINGS[language][key]).format(
        n=_pick(rng, words.QUANTITIES[language][amount]), where=words.PLACES[language][where]
    )


def _diagnosis(eye: Eye, language: str, rng: np.random.Generator) -> str:
    table = words.DIAGNOSES[language]
    key = eye.labels[0]
    if eye.amd_stage:
        key = eye.amd_form or ('early', 'intermediate')[eye.amd_stage - 1]
    out = _pick(rng, table[key])
    joint = ' and ' if language == 'en' else '，合并'
    # Macular oedema is among the findings already.
    for label in eye.labels[1:]:
        if label in table:
            out += joint + _pick(rng, table[label][:1])
    return out


def _capitals(text: str) -> str:
    """Upper case at the start of each sentence."""
    parts = [part[:1].upper() + part[1:] for part in text.split('. ')]
    return '. '.join(parts)

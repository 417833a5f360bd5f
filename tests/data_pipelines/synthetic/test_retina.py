"""The procedural retina: its causes, its three kinds of pictures and its reports agree."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from data_pipelines.errors import InputError
from data_pipelines.synthetic import (
    anatomy,
    angiogram,
    causes,
    fundus,
    lesions,
    oct,
    raster,
    report,
)
from data_pipelines.synthetic.lesions import rows


@pytest.fixture(scope="module")
def eyes() -> list[causes.Eye]:
    """Both eyes of 120 patients: every disease in every stage."""
    return [eye for index in range(120) for eye in causes.sample_patient(7, index).eyes]


def plain_eye(side: str = "OD", **changes) -> causes.Eye:
    """A healthy young eye on a steady camera, with ``changes``."""
    eye = next(
        eye
        for index in range(0, 800, 8)
        for eye in causes.sample_patient(3, index).eyes
        if eye.age < 70 and eye.side == side
    )
    camera = causes.Camera(1.0, (0.0, 0.0), 1.0, 2.0, (0.0, 0.0), 0.1, (1.0, 1.0, 1.0), 1.0, 0, 0)
    return dataclasses.replace(eye, **{"camera": camera, "myopia": 0.0, **changes})


def column(x: float, size: int) -> int:
    """Pixel of the unit coordinate ``x`` in a picture of ``size``."""
    return round((x + 1.0) * size / 2 - 0.5)


def test_a_patient_is_a_function_of_seed_and_index():
    first, again, other = (causes.sample_patient(1, index) for index in (4, 4, 12))
    for one, two in zip(first.eyes, again.eyes, strict=True):
        assert np.array_equal(fundus.render(one, 48), fundus.render(two, 48))
        assert np.array_equal(angiogram.render(one, 48), angiogram.render(two, 48))
        assert np.array_equal(oct.render(one, 2, 48), oct.render(two, 2, 48))
    assert not np.array_equal(fundus.render(first.left, 48), fundus.render(other.left, 48))


def test_fellow_eyes_share_causes_and_differ_in_degree():
    patients = [causes.sample_patient(2, index) for index in range(160)]
    milder = 0
    for patient in patients:
        left, right = patient.eyes
        assert (left.side, right.side) == ("OS", "OD")
        assert (left.age, left.sex, left.tone) == (right.age, right.sex, right.tone)
        assert "normal" in (left.diagnosis, right.diagnosis) or left.diagnosis == right.diagnosis
        assert left.disc != right.disc and left.seed != right.seed
        milder += left.diagnosis == right.diagnosis == "diabetic retinopathy" and (
            left.dr_grade != right.dr_grade
        )
    assert milder > 5
    assert {eye.diagnosis for p in patients for eye in p.eyes} == set(causes.DIAGNOSES)


@pytest.mark.parametrize(("side", "sign"), [("OD", 1.0), ("OS", -1.0)])
def test_the_disc_lies_nasally(eyes, side, sign):
    chosen = [e for e in eyes if e.side == side and e.diagnosis == "normal"][:12]
    line = raster.axis(64)
    central = np.hypot(line[:, None], line[None, :]) < 0.76
    for eye in chosen:
        photograph = fundus.render(eye, 64)[..., 1].astype(float)
        angle = angiogram.render(dataclasses.replace(eye, phase="late"), 64).astype(float)
        for picture in (photograph, angle):
            # What stands out from its surroundings, whatever the illumination does.
            field = fundus.field_mask(eye, 64)
            around = ndimage.gaussian_filter(picture, 8) / ndimage.gaussian_filter(field, 8)
            local = np.where(central, ndimage.gaussian_filter(picture, 2) - around, -255)
            assert sign * (np.unravel_index(local.argmax(), local.shape)[1] - 31.5) > 8
    assert len(chosen) >= 8


def test_lesions_grow_with_the_grade():
    grades = range(5)
    counts, bleeding = np.zeros(5), np.zeros(5)
    for grade in grades:
        for seed in range(20):
            spots = lesions.diabetic(np.random.default_rng(seed), grade, 0, (0.63, -0.05))
            counts[grade] += sum(len(v) for k, v in spots.items() if k != "nonperfusion")
            bleeding[grade] += sum(len(v) for k, v in spots.items() if "haemorrhage" in k)
            assert (grade < 4) or any("new_vessels" in kind for kind in spots)
            assert (grade == 4) or not any("new_vessels" in kind for kind in spots)
            assert grade != 1 or set(spots) == {"microaneurysms"}
    assert bleeding[1] == 0 and bleeding[3] > 2 * bleeding[2] > 0
    assert counts[0] == 0 and np.all(np.diff(counts[:4]) > 0) and counts[4] > counts[2]


def test_lesions_of_higher_grades_change_more_of_the_photograph():
    changed = []
    for grade in range(1, 4):
        spots = lesions.diabetic(np.random.default_rng(0), grade, 0, (0.63, -0.05))
        eye = plain_eye(dr_grade=min(grade, 2), spots=spots)
        healthy = fundus.render(dataclasses.replace(eye, spots={}), 96).astype(float)
        changed.append(np.abs(fundus.render(eye, 96) - healthy).mean())
    assert 0.02 < changed[0] < changed[1] < changed[2]


def test_the_cup_grows_with_the_cup_to_disc_ratio():
    size, pale = 256, []
    for ratio in (0.3, 0.5, 0.7, 0.9):
        eye = plain_eye(cup_to_disc=ratio, tilt=0.0)
        x, y = eye.camera.view.grid(size)
        inside = fundus.disc_distance(eye, x, y) < 1.0
        cup = fundus.cup_distance(eye, x, y) < 1.0
        height = np.ptp(np.argwhere(cup)[:, 0]) / np.ptp(np.argwhere(inside)[:, 0])
        assert height == pytest.approx(ratio, abs=0.08)
        pale.append((fundus.render(eye, size)[..., 2][inside] > 130).mean())
    assert np.all(np.diff(pale) > 0.05), pale


@pytest.mark.parametrize("side", ["OD", "OS"])
def test_a_druse_is_in_the_same_place_in_every_modality(side):
    size, place = 128, (0.25, 0.0)
    spots = {"drusen": rows(np.asarray([place]), 0.05)}
    eye, healthy = plain_eye(side, spots=spots, phase="late"), plain_eye(side, phase="late")
    sign = 1 if side == "OD" else -1
    for module in (fundus, angiogram):
        gain = module.render(eye, size).astype(float) - module.render(healthy, size)
        gain = gain.reshape(size, size, -1)[..., -1]
        at = np.unravel_index(gain.argmax(), gain.shape)
        assert abs(at[1] - column(sign * place[0], size)) <= 3 and abs(at[0] - size / 2) <= 3
    surfaces = anatomy.surfaces(eye, 8, size)
    height = surfaces.bruch - surfaces.rpe
    at = np.unravel_index(height.argmax(), height.shape)
    assert at[0] == 4 and abs(at[1] - column(place[0] / anatomy.HALF_WIDTH, size)) <= 1
    assert 0.03 < height.max() < 0.2
    change = np.abs(oct.render(eye, 8, size).astype(float) - oct.render(healthy, 8, size))
    profile = change[4].mean(axis=0)
    assert abs(profile.argmax() - column(sign * place[0] / anatomy.HALF_WIDTH, size)) <= 6
    assert change[0].mean() < 0.2 * change[4].mean()


@pytest.mark.parametrize("size", [32, 33, 96, 256])
def test_every_size(eyes, size):
    for eye in eyes[:8]:
        picture = fundus.render(eye, size)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        assert picture[0, 0].max() == 0 and picture[size // 2, size // 2].max() > 40
        grey = angiogram.render(eye, size)
        assert grey.shape == (size, size) and grey.dtype == np.uint8 and grey.std() > 2
    volume = oct.render(eyes[0], 3, size)
    assert volume.shape == (3, size, size) and volume.dtype == np.uint8


def test_geometry_does_not_depend_on_the_size(eyes):
    for eye in eyes[:16]:
        small = fundus.render(eye, 64).astype(float)
        large = fundus.render(eye, 256).astype(float).reshape(64, 4, 64, 4, 3).mean((1, 3))
        assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.97


def test_the_phases_of_an_angiogram():
    arterial, venous, late = (
        angiogram.render(plain_eye(phase=phase), 128).astype(float) for phase in causes.PHASES
    )
    assert arterial.mean() < venous.mean()
    assert venous.std() > late.std()
    middle, ring = slice(61, 67), slice(40, 48)
    assert venous[middle, middle].mean() < 0.6 * venous[middle, ring].mean()


def test_new_vessels_leak_and_blood_blocks():
    # Nasally above the disc there is little else.
    spots = {"new_vessels_elsewhere": rows(np.asarray([[-0.5, -0.1]]), 0.12)}
    box = (slice(50, 64), slice(25, 39))
    brightness = [
        angiogram.render(plain_eye(spots=spots, phase=phase), 128)[box].mean()
        for phase in causes.PHASES
    ]
    assert brightness[0] < brightness[1] < brightness[2]
    blood = {"preretinal_haemorrhage": rows(np.asarray([[-0.5, -0.1]]), 0.12)}
    bare = angiogram.render(plain_eye(phase="venous"), 128)[box].mean()
    assert angiogram.render(plain_eye(spots=blood, phase="venous"), 128)[box].min() < 0.3 * bare


def thickness(eye: causes.Eye) -> tuple[float, float, float, float]:
    """Of the retina at the fovea, of the nerve fibres, of the choroid; sagging of the bed (mm)."""
    s = anatomy.surfaces(eye, 8, 64)
    fibres = (s.rnfl - s.ilm).mean()
    sag = s.bruch[4, 32] - 0.5 * (s.bruch[4, 0] + s.bruch[4, -1])
    return (s.rpe - s.ilm)[4, 32], fibres, (s.choroid - s.bruch).mean(), sag


def test_the_tomogram_shows_what_disease_does():
    healthy = thickness(plain_eye())
    assert 0.12 < healthy[0] < 0.26
    glaucoma = thickness(plain_eye(cup_to_disc=0.9))
    assert glaucoma[1] < 0.6 * healthy[1] and glaucoma[0] == pytest.approx(healthy[0], abs=0.02)
    pool = {"oedema": rows(np.asarray([[0.0, 0.0]]), 0.2)}
    assert thickness(plain_eye(spots=pool, macular_oedema=2))[0] > healthy[0] + 0.1
    myopia = thickness(plain_eye(myopia=-16.0))
    assert myopia[2] < 0.5 * healthy[2] and myopia[3] > healthy[3] + 0.2
    clear, cloudy = (oct.render(plain_eye(cataract=grade), 2, 64).mean() for grade in (0, 3))
    assert cloudy < 0.7 * clear


def test_surfaces_are_in_order(eyes):
    names = ("ilm", "rnfl", "gcl", "ipl", "inl", "opl", "elm", "ez", "rpe", "bruch", "choroid")
    for eye in eyes[:80]:
        surfaces = anatomy.surfaces(eye, 5, 48)
        stack = np.stack([getattr(surfaces, name) for name in names])
        assert np.diff(stack, axis=0).min() > -1e-6, eye.labels


# What stands in a report when, and only when, the cause is there.
WORDS = {"microaneurysms": ("microaneurysm", "微血管瘤"),
         "haemorrhages": ("blot haemorrhage", "点片状出血"),
         "flame_haemorrhages": ("flame", "火焰状"), "hard_exudates": ("exudate", "渗出"),
         "cotton_wool_spots": ("cotton wool", "棉绒斑"),
         "new_vessels_disc": ("NVD", "视盘新生血管"),
         "new_vessels_elsewhere": ("NVE", "视网膜新生血管"),
         "preretinal_haemorrhage": ("reretinal haemorrhage", "视网膜前出血"),
         "drusen": ("drusen", "玻璃膜疣"), "pigment": ("pigment clumping", "色素"),
         "geographic_atrophy": ("eographic atrophy", "地图样萎缩"),
         "choroidal_neovascularisation": ("choroidal neovascular", "脉络膜新生血管"),
         "subretinal_haemorrhage": ("ubretinal haemorrhage", "视网膜下出血"),
         "disc_haemorrhage": ("disc haemorrhage", "视盘线状出血"),
         "patchy_atrophy": ("patchy", "斑片状")}  # fmt: skip
TRAITS = {("macular oedema", "黄斑水肿"): lambda eye: eye.macular_oedema > 0,
          ("cup", "视杯"): lambda eye: eye.cup_to_disc >= 0.6,
          ("arteriolar", "动脉"): lambda eye: eye.hypertension,
          ("nerve fibre", "神经纤维"): lambda eye: eye.nerve_fibre_defect is not None,
          ("peripapillary", "视盘旁萎缩"): lambda eye: eye.crescent > 0,
          ("tessellated", "豹纹状"): lambda eye: eye.diagnosis == "pathologic myopia",
          ("lens opacity", "晶状体混浊"): lambda eye: eye.cataract > 0}  # fmt: skip


def test_reports_state_what_is_there_and_nothing_else(eyes):
    rng = np.random.default_rng(0)
    for eye in eyes:
        english = report.eye_caption(eye, "en", rng).lower()
        # The name of a diagnosis may hold the word for a finding.
        for name in ("cup-to-disc", "glaucomatous cupping", "neovascular age"):
            english = english.replace(name, "")
        chinese = report.eye_caption(eye, "zh", rng)
        expected = {pair: kind in eye.spots for kind, pair in WORDS.items()}
        expected |= {pair: bool(holds(eye)) for pair, holds in TRAITS.items()}
        for (word, characters), present in expected.items():
            assert (word.lower() in english) == present, english
            assert (characters in chinese) == present, chinese
        assert ("left" in english) == (eye.side == "OS") == ("左" in chinese)


def test_reports_give_the_diagnosis_and_the_ratio(eyes):
    rng = np.random.default_rng(1)
    names = {
        "glaucoma": "glaucom", "pathologic myopia": "myopi", "cataract": "cataract",
        "mild diabetic retinopathy": "mild", "severe diabetic retinopathy": "severe",
    }  # fmt: skip
    for eye in eyes:
        text = report.eye_caption(eye, "en", rng)
        assert f"{eye.cup_to_disc:.1f}" in text
        assert names.get(eye.labels[0], "") in text.lower()
        assert f"{eye.cup_to_disc:.1f}" in report.eye_caption(eye, "zh", rng)


def test_captions_vary_and_are_chosen_by_the_generator(eyes):
    texts = [report.eye_caption(eyes[0], "en", np.random.default_rng(seed)) for seed in range(30)]
    assert len(set(texts)) > 15
    assert texts[0] == report.eye_caption(eyes[0], "en", np.random.default_rng(0))


def test_patient_reports_hold_both_eyes():
    patient = causes.sample_patient(0, 3)
    english = report.patient_report(patient, "en", np.random.default_rng(0))
    assert str(patient.age) in english and "ight eye" in english and "eft eye" in english
    chinese = report.patient_report(patient, "zh", np.random.default_rng(0))
    assert f"{patient.age}岁" in chinese and "右" in chinese and "左" in chinese


def test_captions_of_the_other_modalities(eyes):
    rng = np.random.default_rng(2)
    for eye in eyes:
        angiography = report.eye_caption(eye, "en", rng, "ffa").lower()
        assert eye.phase in angiography
        assert ("non-perfusion" in angiography) == ("nonperfusion" in eye.spots)
        tomography = report.eye_caption(eye, "en", rng, "oct").lower()
        assert "microaneurysm" not in tomography and "phase" not in tomography
        assert ("posterior bowing" in tomography or "curved eye wall" in tomography) == (
            eye.diagnosis == "pathologic myopia"
        )


def test_an_unknown_language_is_refused(eyes):
    with pytest.raises(InputError, match="'fr'"):
        report.eye_caption(eyes[0], "fr", np.random.default_rng(0))

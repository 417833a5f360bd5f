"""Hidden causes: who the patient is and what is wrong with each eye. No pixels here."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from data_pipelines.synthetic import lesions, raster, vessels

DIAGNOSES = ("normal", "diabetic retinopathy", "glaucoma", "age related macular degeneration",
             "pathologic myopia", "cataract")  # fmt: skip
# How principal diseases follow each other over patient indices; diabetes comes twice because it
# is divided into four grades, and the fellow eyes that escaped disease add to 'normal'.
_ROTATION = (0, 1, 2, 3, 4, 5, 1, 0)
DR_LABELS = ("normal", "mild diabetic retinopathy", "moderate diabetic retinopathy",
             "severe diabetic retinopathy", "proliferative diabetic retinopathy")  # fmt: skip
PHASES = ("arterial", "venous", "late")
# Skin-to-choroid colour of the fundus, from dark orange-red to pale tan.
_TONES = ((0.76, 0.38, 0.11), (0.80, 0.45, 0.15), (0.76, 0.34, 0.17), (0.82, 0.56, 0.36),
          (0.72, 0.46, 0.34))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Camera:
    """One exposure: framing, light and optics. Lengths in unit coordinates."""

    zoom: float
    offset: tuple[float, float]
    radius: float
    crop: float
    gradient: tuple[float, float]
    vignette: float
    cast: tuple[float, ...]  # of red, green and blue
    exposure: float
    defocus: float
    noise: float
    glow: float = 0.0

    @property
    def view(self) -> raster.View:
        """The mapping from anatomical to image coordinates."""
        return raster.View(self.zoom, self.offset)


@dataclasses.dataclass(frozen=True)
class Eye:
    """Everything that the pictures and the report of one eye are made from.

    Attributes:
        side: 'OD' or 'OS'; all geometry is that of a right eye, rendering mirrors the left.
        age, sex: the age in years and the sex of the patient; sex is 'female' or 'male'.
        diagnosis: the coarse class, one of ``DIAGNOSES``.
        labels: class names, the principal one first.
        dr_grade: 0-4. macular_oedema: 0 none, 1 sparing the centre, 2 involving it (diabetic).
        cup_to_disc: vertical ratio. amd_stage: 0-3; amd_form: '', 'atrophic' or 'neovascular'.
        myopia: spherical equivalent in dioptres (negative is myopic).
        cataract: 0-3. hypertension: whether arterioles are narrowed.
        subretinal_fluid: whether fluid lifts the macula, as OCT shows.
        disc: centre of the optic disc; disc_radii: half width and half height.
        tilt: angle of the disc in radians; crescent: width of peripapillary atrophy (0: none).
        nerve_fibre_defect: angle at the disc of a wedge defect, or None.
        spots: lesions by kind, see ``lesions``.
        phase: the phase of the angiogram, one of ``PHASES``. tone: colour of the fundus.
        seed: the number from which textures, vessels and noise of the eye are drawn.
    """

    side: str
    age: int
    sex: str
    diagnosis: str
    labels: tuple[str, ...]
    dr_grade: int
    macular_oedema: int
    cup_to_disc: float
    amd_stage: int
    amd_form: str
    myopia: float
    cataract: int
    hypertension: bool
    subretinal_fluid: bool
    disc: tuple[float, float]
    disc_radii: tuple[float, float]
    tilt: float
    crescent: float
    nerve_fibre_defect: float | None
    spots: lesions.Lesions
    phase: str
    tone: tuple[float, float, float]
    camera: Camera
    seed: int

    def rng(self, purpose: int) -> np.random.Generator:
        """An independent generator for one purpose (a small number) of this eye."""
        return np.random.default_rng([self.seed, purpose])

    def lesions(self, kind: str) -> np.ndarray:
        """Rows float32[N, 6] of one kind, N = 0 if the eye has none."""
        return self.spots.get(kind, np.zeros((0, 6), np.float32))

    @property
    def trunk(self) -> tuple[float, float]:
        """Where the vessels emerge: on the disc, pushed to the nasal side by a large cup."""
        return (self.disc[0] + 0.45 * self.cup_to_disc * self.disc_radii[0], self.disc[1])

    @functools.cached_property
    def veins(self) -> vessels.VesselTree:
        """The venous tree."""
        beading = 0.30 if self.dr_grade >= 3 else 0.0
        return vessels.grow(self.rng(1), self.trunk, 0.026, 0.25, beading)

    @functools.cached_property
    def arteries(self) -> vessels.VesselTree:
        """The arterial tree; narrow in hypertension."""
        width = 0.011 if self.hypertension else 0.018
        return vessels.grow(self.rng(2), self.trunk, width, 0.15 + 0.25 * self.hypertension)

    @functools.cached_property
    def new_vessels(self) -> np.ndarray:
        """Paths of the tufts of new vessels, float32[M, P, 2]."""
        both = [self.lesions("new_vessels_disc"), self.lesions("new_vessels_elsewhere")]
        return vessels.tufts(self.rng(3), np.concatenate(both))


@dataclasses.dataclass(frozen=True)
class Patient:
    """A person: both eyes share age, sex, principal disease and the colour of the fundus."""

    identifier: str
    age: int
    sex: str
    left: Eye
    right: Eye

    @property
    def eyes(self) -> tuple[Eye, Eye]:
        """Left, right: the order of the batch key ``eyes``."""
        return (self.left, self.right)


_AGES = {"normal": (45, 16), "diabetic retinopathy": (58, 10), "glaucoma": (63, 11),
         "age related macular degeneration": (75, 7), "pathologic myopia": (52, 13),
         "cataract": (71, 8)}  # fmt: skip


def sample_patient(seed: int, index: int) -> Patient:
    """Draw patient ``index`` of the population ``seed``; diseases rotate with the index."""
    rng = np.random.default_rng([seed, index])
    disease = DIAGNOSES[_ROTATION[index % len(_ROTATION)]]
    mean, spread = _AGES[disease]
    age = int(np.clip(rng.normal(mean, spread), 18, 94))
    sex = ("female", "male")[int(rng.integers(2))]
    severity = rng.random()
    # Which eye is better, and whether it escaped the disease altogether.
    better = int(rng.integers(2))
    spared = disease not in ("normal", "pathologic myopia") and rng.random() < 0.12
    shared = {
        "age": age,
        "sex": sex,
        "tone": _tone(rng, age),
        "hypertension": bool(age > 50 and rng.random() < 0.12),
        "refraction": float(rng.normal(-0.5, 1.8)),
        "nuclear": age > 64 and rng.random() < 0.25,
    }
    eyes = []
    for position, side in enumerate(("OS", "OD")):
        milder = position == better
        own = "normal" if spared and milder else disease
        grade = severity - (rng.uniform(0.0, 0.35) if milder else 0.0)
        eyes.append(_eye(rng, side, own, max(grade, 0.0), shared))
    return Patient(f"p{index:08d}", age, sex, left=eyes[0], right=eyes[1])


def _tone(rng: np.random.Generator, age: int) -> tuple[float, float, float]:
    mix = rng.dirichlet(np.full(len(_TONES), 0.6))
    red, green, blue = (mix @ np.asarray(_TONES)).tolist()
    return red, green, blue * (1.0 - 0.003 * (age - 40))


def _eye(rng: np.random.Generator, side: str, disease: str, severity: float, shared: dict) -> Eye:
    """One eye of a patient with ``disease`` of ``severity`` in [0, 1]."""
    disc = (float(rng.normal(0.63, 0.03)), float(rng.normal(-0.05, 0.025)))
    radius = float(rng.normal(0.122, 0.009))
    state = {
        "dr_grade": 0,
        "macular_oedema": 0,
        "amd_stage": 0,
        "amd_form": "",
        "cataract": 0,
        "cup_to_disc": float(np.clip(rng.normal(0.32, 0.08), 0.12, 0.5)),
        "myopia": shared["refraction"] + float(rng.normal(0.0, 0.3)),
        "tilt": float(rng.normal(0.0, 0.08)),
        "crescent": 0.0,
        "nerve_fibre_defect": None,
        "disc_radii": (radius, radius * float(rng.uniform(1.04, 1.16))),
        "hypertension": shared["hypertension"] and disease != "normal",
        "subretinal_fluid": False,
    }
    spots: lesions.Lesions = {}
    if disease == "diabetic retinopathy":
        spots = _diabetes(rng, state, severity, disc)
    elif disease == "glaucoma":
        spots = _glaucoma(rng, state, severity, disc)
    elif disease == "age related macular degeneration":
        spots = _macular_degeneration(rng, state, severity)
    elif disease == "pathologic myopia":
        spots = _pathologic_myopia(rng, state, severity, disc, radius)
    elif disease == "cataract":
        state["cataract"] = 1 + int(min(severity, 0.99) * 3)
    if disease not in ("normal", "cataract") and shared["nuclear"] and rng.random() < 0.8:
        state["cataract"] = 1
    return Eye(
        side=side,
        age=shared["age"],
        sex=shared["sex"],
        diagnosis=disease,
        labels=_labels(disease, state),
        disc=disc,
        spots=spots,
        phase=PHASES[int(rng.choice(3, p=[0.25, 0.45, 0.30]))],
        tone=shared["tone"],
        camera=_camera(rng),
        seed=int(rng.integers(2**62)),
        **state,
    )


def _diabetes(rng, state: dict, severity: float, disc: tuple[float, float]) -> lesions.Lesions:
    grade = 1 + int(min(severity, 0.99) * 4)
    # With oedema come exudates, which mild disease by definition does not have.
    if rng.random() < (0.0, 0.0, 0.35, 0.5, 0.45)[grade]:
        state["macular_oedema"] = int(rng.integers(1, 3))
        state["subretinal_fluid"] = bool(rng.random() < 0.3)
    state["dr_grade"] = grade
    return lesions.diabetic(rng, grade, state["macular_oedema"], disc)


def _glaucoma(rng, state: dict, severity: float, disc: tuple[float, float]) -> lesions.Lesions:
    ratio = float(np.clip(0.62 + 0.33 * severity + rng.normal(0.0, 0.02), 0.6, 0.95))
    state["cup_to_disc"] = ratio
    if rng.random() < 0.25 + 0.5 * severity:
        state["nerve_fibre_defect"] = float(rng.choice([-1.0, 1.0]) * rng.uniform(1.9, 2.5))
    if rng.random() < 0.4:
        state["crescent"] = float(rng.uniform(0.02, 0.05))
    if rng.random() < 0.18:
        return lesions.disc_haemorrhage(rng, disc, state["disc_radii"][0])
    return {}


def _macular_degeneration(rng, state: dict, severity: float) -> lesions.Lesions:
    stage = 1 + int(min(severity, 0.99) * 3)
    state["amd_stage"] = stage
    if stage == 3:
        state["amd_form"] = ("atrophic", "neovascular")[int(rng.integers(2))]
        state["subretinal_fluid"] = state["amd_form"] == "neovascular"
    return lesions.macular_degeneration(rng, stage, state["amd_form"])


def _pathologic_myopia(
    rng, state: dict, severity: float, disc: tuple[float, float], radius: float
) -> lesions.Lesions:
    state["myopia"] = float(-7.0 - 11.0 * severity + rng.normal(0.0, 0.7))
    state["tilt"] = float(rng.normal(0.0, 0.30))
    state["disc_radii"] = (radius * float(rng.uniform(0.72, 0.88)), radius * 1.15)
    state["crescent"] = float(0.06 + 0.11 * severity + rng.uniform(0.0, 0.03))
    count = int(rng.integers(0, 2 + int(4 * severity)))
    return lesions.myopic_atrophy(rng, count, disc)


def _labels(disease: str, state: dict) -> tuple[str, ...]:
    first = DR_LABELS[state["dr_grade"]] if state["dr_grade"] else disease
    labels = [first]
    if state["hypertension"]:
        labels.append("hypertensive retinopathy")
    if state["cataract"] and disease != "cataract":
        labels.append("cataract")
    if state["macular_oedema"]:
        labels.append("diabetic macular edema")
    return tuple(labels)


def _camera(rng: np.random.Generator) -> Camera:
    return Camera(
        zoom=float(rng.uniform(0.94, 1.08)),
        offset=(float(rng.uniform(-0.12, 0.02)), float(rng.normal(0.0, 0.03))),
        radius=float(rng.uniform(0.95, 1.0)),
        crop=float(rng.uniform(0.78, 0.9)) if rng.random() < 0.25 else 2.0,
        gradient=(float(rng.normal(0.0, 0.11)), float(rng.normal(0.0, 0.11))),
        vignette=float(rng.uniform(0.15, 0.6)),
        cast=tuple(rng.normal(1.0, 0.035, 3).tolist()),
        exposure=float(rng.uniform(0.86, 1.12)),
        defocus=float(rng.choice([0.0, 0.004, 0.008], p=[0.5, 0.35, 0.15])),
        noise=float(rng.uniform(0.006, 0.018)),
        glow=float(rng.uniform(0.2, 0.8)) if rng.random() < 0.3 else 0.0,
    )

"""Maps of pictures that have masks, the same maps of controls, and what they come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tqdm

from data_pipelines.builders import lookup
from data_pipelines.errors import InputError
from data_pipelines.images import placement
from retina_jax.decision import Decision
from retina_jax.saliency import maps, randomised, removal, scores, verdict

_PAIRS = 50  # of different pictures, for what similarity is by chance


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a study asks a model.

    Attributes:
      explain: makes its maps.
      variables: those of the model.
      random: (seed, batch) -> its variables before any training, or those that a score needs.
      probabilities: batch -> f[B C].
      decision: how it decides, by its probabilities.
      key: what its tower is named by, and reads.
    """

    explain: maps.Explainer
    variables: Mapping[str, Any]
    random: Callable[[int, Mapping[str, np.ndarray]], Mapping[str, Any]]
    probabilities: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    decision: Decision
    key: str

    def predicted(self, case: Case, positive: set[int]) -> int | None:
        """Which of the classes it decides for, as `retina-jax predict` does; the likeliest one."""
        found = self.probabilities(case.batch)
        called = set(np.flatnonzero(self.decision.decide(found)[0]).tolist()) & positive
        return max(called, key=lambda k: found[0, k], default=None)


@dataclasses.dataclass(frozen=True)
class Case:
    """One picture, as it came and as a model sees it.

    Attributes:
      file: the picture.
      patient: what is independent.
      batch: the input of one row.
      canvas: u8[h w 3], the same for people.
      mask: bool[H W], of the picture as it came.
      way: the placements from that to the canvas.
    """

    file: Path
    patient: str
    batch: Mapping[str, np.ndarray]
    canvas: np.ndarray
    mask: np.ndarray
    way: tuple[placement.Placement, ...]

    def back(self, saliency: np.ndarray) -> np.ndarray:
        """A map f[h w] of the canvas on the pixels f32[H W] of the picture as it came."""
        return placement.back(saliency, self.way)

    def seen(self, values: np.ndarray) -> np.ndarray:
        """The part that the model sees of what has a value for each pixel [H W]."""
        return placement.seen(self.way).cut(values)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A case, the class that was predicted, and the map of its score f[h w] on the canvas.

    What is located is that map on the pixels of the picture that the model sees.
    """

    case: Case
    predicted: int
    saliency: np.ndarray
    cells: tuple[int, ...]
    localisation: scores.Localisation


def explained(
    explain: maps.Explainer, variables: Mapping[str, Any], case: Case, wanted: int
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The map f[h w] of the class `wanted`, and its cells."""
    (saliency,), _ = explain(variables, case.batch, jnp.array([wanted], jnp.int32))
    cells = np.asarray(saliency)
    return maps.enlarged(cells, *case.canvas.shape[:2]), cells.shape


def findings(asked: Asked, cases: Sequence[Case], positive: set[int]) -> Iterator[Finding | None]:
    """A finding for each case that is predicted to have one of the classes, else None."""
    for case in cases:
        predicted = asked.predicted(case, positive)
        if predicted is None:
            yield None
            continue
        saliency, cells = explained(asked.explain, asked.variables, case, predicted)
        shown = case.seen(case.back(saliency))
        if not shown.max() > 0:
            yield None
            continue
        located = scores.localisation(shown, case.seen(case.mask))
        yield Finding(case, predicted, saliency, cells, located)


def controls(found: Sequence[Finding], random_lifts: np.ndarray) -> dict[str, np.ndarray]:
    """Lifts f[N] of each control of `verdict.CONTROLS`.

    Args:
      found: findings, all of one canvas. The spot is in the middle of what the model sees.
      random_lifts: f[N], those of random weights.
    """
    marks = [one.case.seen(one.case.mask) for one in found]
    middle = np.array([scores.lift(maps.centre(*mask.shape), mask) for mask in marks])
    # A map that is the same everywhere has a lift of 1.
    prior = middle if middle.mean() > 1 else np.ones(len(found))
    borders = [lift(maps.edges(one.case.canvas), one.case) for one in found]
    others = verdict.mean_of_others([scores.unit(one.saliency) for one in found])
    mean = [lift(other, one.case) for other, one in zip(others, found, strict=True)]
    lifts = {"random_weights": random_lifts, "prior": prior, "edges": borders, "mean_map": mean}
    return {name: np.asarray(values, float) for name, values in lifts.items()}


def cascade(
    asked: Asked, found: Sequence[Finding], seeds: int = randomised.SEEDS
) -> dict[str, tuple[np.ndarray, float]]:
    """Maps of the same classes as more and more of the model is random, from the head downwards.

    Returns:
      Step of `randomised.STEPS` -> the lift of each picture f[N], and the similarity of the maps
      to those of the model; means over the seeds.
    """
    lifts = {step: np.zeros((seeds, len(found))) for step in randomised.STEPS}
    alike = {step: np.zeros((seeds, len(found))) for step in randomised.STEPS}
    for seed in tqdm.trange(seeds, desc="random weights", leave=False):
        random = asked.random(seed, found[0].case.batch)
        for step, share in randomised.STEPS.items():
            variables = randomised.from_the_head(asked.variables, random, asked.key, share)
            for number, one in enumerate(found):
                saliency, _ = explained(asked.explain, variables, one.case, one.predicted)
                lifts[step][seed, number] = lift(saliency, one.case)
                alike[step][seed, number] = scores.similarity(one.saliency, saliency)
    return {step: (lifts[step].mean(axis=0), float(alike[step].mean())) for step in lifts}


def judged(asked: Asked, found: Sequence[Finding]) -> verdict.Judgement:
    """The verdict on maps, after all controls."""
    steps = cascade(asked, found)
    lifts = controls(found, steps[randomised.ALL][0])
    told = {step: (float(np.mean(values)), alike) for step, (values, alike) in steps.items()}
    own = np.array([one.localisation.lift for one in found])
    return verdict.judge(own, lifts, _patients(found), told, chance_similarity(found))


def _patients(found: Sequence[Finding]) -> np.ndarray:
    return np.array([one.case.patient for one in found])


def removals(
    asked: Asked, found: Sequence[Finding]
) -> Iterator[tuple[removal.Areas, removal.Areas]]:
    """Of each finding the areas in the order of its map, and in a random order."""
    for number, one in enumerate(found):

        def ask(pictures: np.ndarray, one: Finding = one) -> np.ndarray:
            return asked.probabilities({asked.key: pictures})[:, one.predicted]

        orders = removal.ranks_of(one.saliency), removal.random_ranks(number)
        own, random = (removal.areas(one.case.canvas, order, ask) for order in orders)
        yield own, random


def removal_summary(
    areas: Sequence[tuple[removal.Areas, removal.Areas]], found: Sequence[Finding]
) -> dict[str, tuple[float, float, float, float]]:
    """Kind of area -> (mean of the maps, mean of a random order, the difference, its p)."""
    summary = {}
    for kind in ("deletion", "deletion_relative", "insertion"):
        own, random = (np.array([getattr(pair[i], kind) for pair in areas]) for i in (0, 1))
        mean, difference, p = verdict.against(own, random, _patients(found))
        summary[kind] = (float(np.mean(own)), mean, difference, p)
    return summary


def lift(saliency: np.ndarray, case: Case) -> float:
    """That of a map f[h w] of the canvas; 1 where it is 0 everywhere, which says nothing."""
    shown = case.seen(case.back(saliency))
    return scores.lift(shown, case.seen(case.mask)) if shown.max() > 0 else 1.0


def chance_similarity(found: Sequence[Finding], seed: int = 0) -> float:
    """The mean similarity of maps of different pictures, of 50 pairs drawn."""
    rng = np.random.default_rng(seed)
    pairs = [rng.choice(len(found), 2, replace=False) for _ in range(_PAIRS)]
    return float(
        np.mean([scores.similarity(found[a].saliency, found[b].saliency) for a, b in pairs])
    )


def normal(name: str) -> bool:
    """Whether a class is that nothing was found, of which a map would show nothing."""
    words = name.lower().split()
    if words[:2] in (["normal", "tension"], ["normal", "pressure"]):  # a glaucoma
        return False
    return words[0] in ("no", "normal", "healthy", "without") if words else False


def cases(
    model: Any, source: Path, masks: Path, bits: int | None, most: int, pattern: str = ""
) -> list[Case]:
    """Pictures with something in the part of their mask that the model sees.

    Args:
      model: what will be asked.
      source, masks: folders whose files have the same stems.
      bits: those of a mask that count, or None for all.
      most: pictures.
      pattern: what tells the patient of a file by its stem, in the group 'patient'; each picture is
        a patient where it is '' or does not fit.

    Raises:
      InputError: if there is none, a mask has another size than its picture, or the model does not
        read one picture at a time.
    """
    stems = {path.stem: path for path in sorted(masks.iterdir()) if not path.name.startswith(".")}
    found, named = [], lookup.compiled(pattern, {"patient"})
    files = [path for path in sorted(source.iterdir()) if path.stem in stems]
    if pattern and files and not any(named.fullmatch(path.stem) for path in files):
        raise InputError(f"--pattern fits no name of {source}, such as '{files[0].stem}'.")
    for path in tqdm.tqdm(files, desc="pictures", leave=False):
        if len(found) == most:
            break
        mask = mask_of(stems[path.stem], bits)
        if not mask.any():
            continue
        data = path.read_bytes()
        modality = model.description.modality or "cfp"  # what `preprocess` takes it for
        way = model.preprocessing.way(data, modality=modality)
        if mask.shape != way[0].before:
            raise InputError(
                f"The mask {stems[path.stem]} has {mask.shape} pixels and its picture "
                f"{way[0].before}."
            )
        (canvas,) = (batch := model.preprocess(data)).values()
        told = named.fullmatch(path.stem) if pattern else None
        patient = (told and told["patient"]) or path.stem
        case = Case(path, patient, batch, np.asarray(canvas[0]), mask, way)
        if case.seen(mask).any():
            found.append(case)
    if not found:
        raise InputError(f"No picture of {source} has a mask in {masks} with anything in it.")
    return found


def mask_of(path: Path, bits: int | None) -> np.ndarray:
    """bool[H W] of a picture of a mask: what is not 0, or has one of the bits.

    Raises:
      InputError: if it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            values = np.asarray(
                image if image.mode in ("1", "P", "I", "I;16") else image.convert("L")
            )
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"The mask {path} cannot be read ({error}).") from None
    values = values.astype(np.int64)
    return values != 0 if bits is None else (values & bits) != 0

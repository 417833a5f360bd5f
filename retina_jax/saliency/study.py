"""Maps of pictures that have masks, the same maps of controls, and what they come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.images import functional, preparation
from data_pipelines.images.single import Preprocessing
from data_pipelines.transforms import pictures
from retina_jax.saliency import maps, scores, verdict

SEEDS = 5  # of random weights
_PAIRS = 50  # of different pictures, for what similarity is by chance
_COVERED = 16  # of 255: a pixel of the canvas that a mask touches by so much is in it
Explained = Callable[[Mapping[str, Any], Mapping[str, np.ndarray], np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One picture as a model sees it.

    Attributes:
      name: the name of its file.
      patient: what is independent.
      batch: the input of one row.
      picture: u8[H W 3], the same for people.
      mask: bool[H W].
    """

    name: str
    patient: str
    batch: Mapping[str, np.ndarray]
    picture: np.ndarray
    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Finding:
    """A case, the class that was predicted, its probability, and the map of that score f[H W]."""

    case: Case
    predicted: int
    saliency: np.ndarray
    cells: tuple[int, ...]
    localisation: scores.Localisation


def on_canvas(mask: np.ndarray, data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """A mask bool[H W] of a picture, where the model sees the picture.

    Raises:
      InputError: if the mask has another size than the picture, or the model does not read
        single pictures.
    """
    (reader,) = preprocessing.readers.values()
    if not isinstance(reader, pictures.Decode):
        raise InputError("Maps are made of models that read one picture at a time.")
    image = functional.decode_image(data)
    if mask.shape != image.shape[:2]:
        raise InputError(f"The mask has {mask.shape} pixels and its picture {image.shape[:2]}.")
    grown = np.repeat(np.asarray(mask, np.uint8)[..., None] * 255, 3, axis=-1)
    prepared = preprocessing.preparation
    if prepared is not None:
        cut = prepared.crop == "field_of_view"
        whole = preparation.Box(0, 0, *image.shape[:2])
        box = preparation.field_of_view(image) if cut else whole
        grown = preparation.placed(grown, box, prepared)
    return pictures.fitted(grown, reader.size, reader.fit, reader.short_side)[..., 0] > _COVERED


def explained(
    explain: Explained, variables: Mapping[str, Any], case: Case, wanted: int | None = None
) -> tuple[int, np.ndarray, tuple[int, ...]]:
    """The class that is likeliest, or `wanted`, the map of its score f[H W], and its cells."""
    chosen = np.zeros(1, np.int32)
    if wanted is None:
        _, found = explain(variables, case.batch, chosen)
        wanted = int(np.argmax(np.asarray(found)[0]))
    chosen[0] = wanted
    (saliency,), _ = explain(variables, case.batch, chosen)
    cells = np.asarray(saliency)
    return wanted, maps.enlarged(cells, *case.mask.shape), cells.shape


def findings(
    explain: Explained, variables: Mapping[str, Any], cases: Sequence[Case], positive: set[int]
) -> Iterator[Finding | None]:
    """A finding for each case that is predicted to have one of the classes, else None."""
    for case in cases:
        predicted, saliency, cells = explained(explain, variables, case)
        if predicted not in positive or not saliency.max() > 0:
            yield None
            continue
        located = scores.localisation(saliency, case.mask)
        yield Finding(case, predicted, saliency, cells, located)


def controls(
    found: Sequence[Finding], explain: Explained, random: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, np.ndarray], float]:
    """Lifts f[N] of each control of `verdict.CONTROLS`, and the similarity to random weights.

    Args:
      found: findings, all of one canvas.
      explain: as of the model.
      random: variables of the model with random weights.
    """
    drawn, alike = [], []
    for one in found:
        lifts = []
        for variables in random:
            _, saliency, _ = explained(explain, variables, one.case, one.predicted)
            alike.append(scores.similarity(one.saliency, saliency))
            lifts.append(_lift(saliency, one.case.mask))
        drawn.append(np.mean(lifts))
    spot = maps.centre(*found[0].saliency.shape)
    middle = np.array([_lift(spot, one.case.mask) for one in found])
    # A map that is the same everywhere has a lift of 1.
    prior = middle if middle.mean() > 1 else np.ones(len(found))
    borders = [_lift(maps.edges(one.case.picture), one.case.mask) for one in found]
    others = verdict.mean_of_others([scores.unit(one.saliency) for one in found])
    mean = [_lift(other, one.case.mask) for other, one in zip(others, found, strict=True)]
    lifts = {"random_weights": drawn, "prior": prior, "edges": borders, "mean_map": mean}
    return {name: np.asarray(values, float) for name, values in lifts.items()}, float(
        np.mean(alike)
    )


def _lift(saliency: np.ndarray, mask: np.ndarray) -> float:
    """1 for a map of zeros, which says nothing."""
    return scores.lift(saliency, mask) if saliency.max() > 0 else 1.0


def chance_similarity(found: Sequence[Finding], seed: int = 0) -> float:
    """The mean similarity of maps of different pictures, of 50 pairs drawn."""
    rng = np.random.default_rng(seed)
    pairs = [rng.choice(len(found), 2, replace=False) for _ in range(_PAIRS)]
    return float(
        np.mean([scores.similarity(found[a].saliency, found[b].saliency) for a, b in pairs])
    )


def random_variables(model: Any, case: Case, number: int = SEEDS) -> list[Any]:
    """Variables of the model before any training, of so many seeds."""
    init = jax.jit(model.init)
    return [init(jax.random.key(seed), dict(case.batch)) for seed in range(number)]


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

"""Few records drawn again and again: which ones, and figures that are means over the repeats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.evals.encoder import with_interval
from retina_jax.evals.metrics_table import METRICS
from retina_jax.types import Score


@dataclasses.dataclass(frozen=True)
class Repeat:
    """The scored records of one repeat.

    Attributes:
      labels: int[N].
      scores: f[N C].
      patients: str[N]; a record of an unknown patient has a name of its own, and the same one in
        all repeats.
    """

    labels: np.ndarray
    scores: np.ndarray
    patients: np.ndarray


def check_shots(
    owner: str, shots: Sequence[int | float], classes: int, repeats: int, quantity: bool = False
) -> None:
    """Raises InputError for shots that are no counts or shares, one class, or no repeats.

    Args:
      owner: who asks.
      shots: records of each class, or shares of them.
      classes: the number of classes.
      repeats: how often they are drawn.
      quantity: whether records have a quantity in the place of a class: shots are shares of all.
    """
    for shot in shots:
        whole = isinstance(shot, int) and not isinstance(shot, bool)
        if not (whole and shot > 0) and not (isinstance(shot, float) and 0 < shot <= 1):
            raise InputError(
                f"{owner}: shots are records of each class (1, 5, 10) or shares of them (0.8), "
                f"but one is {shot!r}."
            )
        if whole and quantity:
            raise InputError(f"{owner}: shots of a quantity are shares of its records, not {shot}.")
    if not shots or classes < (1 if quantity else 2) or repeats < 1:
        raise InputError(f"{owner} needs shots, two classes and one repeat or more.")


def named(shot: int | float) -> str:
    """'5_shots', or '80_percent' for 0.8."""
    if isinstance(shot, float):
        return f"{100 * shot:g}_percent".replace(".", "_")
    return "1_shot" if shot == 1 else f"{shot}_shots"


def held_out(
    labels: np.ndarray, patients: np.ndarray, part: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sets about one in `part` patients apart, with classes in about their shares.

    Args:
      labels: int[N].
      patients: str[N].
      part: 5 for a fifth.
      seed: the seed of the draw.

    Returns:
      (rows int[n] that stay, rows int[m] that are apart), of different patients.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # a second that --help can spare

    splitter = StratifiedGroupKFold(part, shuffle=True, random_state=seed)
    try:
        if len(set(patients)) < part:
            raise ValueError("there are fewer patients than parts.")
        return next(iter(splitter.split(labels, labels, patients)))
    except ValueError as error:
        raise InputError(
            f"One in {part} of {len(set(patients))} patients cannot be set apart: {error}"
        ) from None


def draw(
    labels: np.ndarray,
    patients: np.ndarray,
    shot: int | float,
    seed: Sequence[int],
    classes: int,
    at_most: bool = False,
) -> np.ndarray:
    """Rows int[n] of a few records of each class, of as many patients as there are.

    A class's records are shuffled, and a second one of a patient waits until all its patients gave
    one. The same seed gives the records of fewer shots among those of more.

    Args:
      labels: int[N].
      patients: str[N].
      shot: records of each class, or the share of them, rounded down but at least one.
      seed: the seed of the order.
      classes: number of classes.
      at_most: whether a class may have fewer records, or none.

    Raises:
      InputError: a class has fewer records than `shot`, and that is not allowed.
    """
    rng = np.random.default_rng(list(seed))
    shuffled = rng.permutation(len(labels))
    chosen = []
    for number in range(classes):
        rows = shuffled[labels[shuffled] == number]
        wanted = max(1, int(shot * len(rows) + 1e-9)) if isinstance(shot, float) else shot
        if len(rows) < wanted and not at_most:
            raise InputError(
                f"Class {number} has {len(rows)} records to draw {wanted} from; ask for fewer "
                "shots, or give more records."
            )
        seen: dict[str, int] = {}
        turns = []
        for name in patients[rows]:
            turns.append(seen.setdefault(name, 0))
            seen[name] += 1
        chosen.append(rows[np.argsort(turns, kind="stable")][:wanted])
    return np.concatenate(chosen)


def mean_scores(
    repeats: Sequence[Repeat], metrics: Sequence[str], decimals: int | None = None
) -> dict[str, Score]:
    """Means of figures over repeats.

    The interval resamples patients, all records of one in all repeats together; the deviation is
    that over repeats.

    Args:
      repeats: what was scored.
      metrics: keys of METRICS.
      decimals: round each repeat's figure, and their mean, as FLAIR and KeepFIT do (3); None for
        none.
    """
    labels, scores, patients = (
        np.concatenate([getattr(repeat, name) for repeat in repeats])
        for name in ("labels", "scores", "patients")
    )
    numbers = np.repeat(np.arange(len(repeats)), [len(repeat.labels) for repeat in repeats])
    found = {}
    for name in metrics:
        figure = METRICS[name]
        each = partial(_each, figure.of, len(repeats), decimals)

        def mean(*arrays: np.ndarray, each: Callable = each) -> float:
            return _rounded(float(np.mean(each(*arrays))), decimals)

        of_repeats = each(labels, scores, numbers)
        chances = [figure.chance(repeat.labels, repeat.scores.shape[1]) for repeat in repeats]
        known = [chance for chance in chances if chance is not None]
        score = with_interval(mean, labels, scores, numbers, patients=patients)
        found[name] = dataclasses.replace(
            score,
            chance=float(np.mean(known)) if len(known) == len(chances) else None,
            count=round(len(labels) / len(repeats)),
            deviation=float(np.std(of_repeats, ddof=1)) if len(repeats) > 1 else None,
        )
    return found


def _each(
    of: Callable[[np.ndarray, np.ndarray], float],
    repeats: int,
    decimals: int | None,
    labels: np.ndarray,
    scores: np.ndarray,
    numbers: np.ndarray,
) -> list[float]:
    """A figure of the rows of each repeat, whose numbers int[N] say which it is."""
    parts = (numbers == i for i in range(repeats))
    return [_rounded(of(labels[mine], scores[mine]), decimals) for mine in parts]


def _rounded(value: float, decimals: int | None) -> float:
    return value if decimals is None else round(value, decimals)

"""Few records drawn again and again: which ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import InputError


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

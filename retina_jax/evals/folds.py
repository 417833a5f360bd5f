"""Cross-validation over patients: who is held out when."""

from __future__ import annotations

import numpy as np

from data_pipelines.errors import InputError

Fold = tuple[np.ndarray, np.ndarray]


def by_patient(
    owner: str, labels: np.ndarray, patients: np.ndarray, folds: int, seed: int = 0
) -> list[Fold]:
    """Divides records so that each patient is held out once, with all of its records.

    Args:
      owner: who asks, 'A linear probe', for the sentence of an error.
      labels: int[N], whose classes have about their shares in each fold; of 0 / 1 [N C] and of
        quantities f[N] only the number of records counts.
      patients: str[N].
      folds: the number of folds.
      seed: the seed of the draw.

    Returns:
      (rows int[n] to fit on, rows int[m] that are held out), fold by fold.

    Raises:
      InputError: there are fewer patients, or records of a class, than folds.
    """
    # A second that --help can spare.
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    classes = labels.ndim == 1 and labels.dtype.kind in "iu"
    try:
        if len(set(patients)) < folds:  # older scikit-learn makes empty folds of it
            raise ValueError("there are fewer patients than folds.")
        kind = StratifiedGroupKFold if classes else GroupKFold
        splitter = kind(folds, shuffle=True, random_state=seed)
        return list(splitter.split(labels, labels, patients))
    except ValueError as error:
        raise InputError(
            f"{owner} cannot cross-validate {len(labels)} records of {len(set(patients))} patients "
            f"in {folds} folds: {error}"
        ) from None

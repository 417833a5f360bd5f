"""Probabilities for a population in which classes are as frequent as its user says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.decision import Decision
from retina_jax.metrics import calibration
from retina_jax.prediction.scoring import Scorer


@dataclasses.dataclass(frozen=True)
class Prevalence:
    """A change of shares (Saerens et al. 2002): p_k times its share there over that in training.

    Attributes:
      shares: the share of each class or label there.
      trained: the share of each in training.
      several: whether these are labels, each of which a record has or has not.
    """

    shares: tuple[float, ...]
    trained: tuple[float, ...]
    several: bool

    def of(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities f32[N C] there, of those of the model f32[N C]."""
        found = np.asarray(probabilities, np.float64)
        there, trained = np.array(self.shares), np.array(self.trained)
        if not self.several:
            return calibration.prior_corrected(found, there, trained).astype(np.float32)
        pairs = np.stack([1 - found, found], axis=-1)
        both = [np.stack([1 - share, share], axis=-1) for share in (there, trained)]
        changed = [
            calibration.prior_corrected(pairs[:, k], both[0][k], both[1][k])[:, 1]
            for k in range(len(there))
        ]
        return np.stack(changed, axis=1).astype(np.float32)


def parse(given: Sequence[str], asked: Scorer) -> Prevalence:
    """That of 'CLASS=SHARE' for some of the classes of a model.

    What is left of classes that exclude each other goes to those that are not named, in proportion
    to their shares in training; a label that is not named keeps its share.

    Raises:
      InputError: for a class that is none or shares that are none, or a model that says nothing of
        its training, or whose tasks side by side each have classes.
    """
    decision = asked.decision
    several = decision.task == "multi"
    usable = len(decision.prior) == len(asked.classes) and min(decision.prior) > 0
    if not usable or decision.parts or decision.task == "regression" or decision.thresholds:
        raise InputError(
            "--prevalence needs the shares of classes in training, of one task by a head without "
            "thresholds of its own, and the model does not state these."
        )
    named: dict[str, float] = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            named[name] = float(value)
        except ValueError:
            named[name] = float("nan")
        if name not in asked.classes or not 0 < named[name] < 1:
            raise InputError(
                f"--prevalence is CLASS=SHARE, a share between 0 and 1 of one of "
                f"{', '.join(asked.classes)}, got '{text}'."
            )
    own = dict(zip(asked.classes, decision.prior, strict=True))
    if several:
        shares = [named.get(name, own[name]) for name in asked.classes]
        return Prevalence(tuple(shares), decision.prior, True)
    others = sum(own[name] for name in asked.classes if name not in named)
    left = 1 - sum(named.values())
    if (others and left <= 0) or (not others and abs(left) > 1e-3):
        raise InputError(
            f"The shares of --prevalence add up to {sum(named.values()):g}; of all classes they "
            "add up to 1, and of some to less."
        )
    shares = [named.get(name, own[name] * left / (others or 1)) for name in asked.classes]
    return Prevalence(tuple(shares), decision.prior, False)


def there(asked: Scorer, prevalence: Prevalence) -> Scorer:
    """The scorer whose decisions are those for that population; 'balanced' ones stay the same."""
    decision: Decision = dataclasses.replace(asked.decision, prior=prevalence.shares)
    return dataclasses.replace(asked, decision=decision)

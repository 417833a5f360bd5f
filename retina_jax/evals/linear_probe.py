"""Linear probing: logistic or ridge regression on frozen features."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, ClassVar

import numpy as np

from data_pipelines.errors import InputError
from retina_jax.adapters import linear_probe, plane, ridge
from retina_jax.evals.frozen_probes import FrozenProbe, Said

_RETFOUND_GREEN = {"C": 1.0, "balanced": False, "max_iter": 20000, "standardize": True}
PROTOCOLS = ("grouped", "flair", "retfound_green")
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe(FrozenProbe):
    """A linear probe of features before the projection, not normalised.

    Of 'eyes', patients, the features are those of the left and of the right eye. Each of several
    labels has a regression of its own, and a quantity a ridge regression whose penalty is chosen by
    cross-validation over patients (`adapters.ridge`).

    Attributes:
      protocol: 'grouped': features are standardised, the penalty is chosen by cross-validation over
        patients and `decision` corrects for how frequent classes are
        (`adapters.linear_probe.fit_by_groups`); 'flair', its linear probe, which weighs classes and
        has one penalty for features of every scale; or 'retfound_green': standardised, C = 1.
      C: inverse strength of the L2 penalty of 'flair' (published: 0.316).
      standardize: bring features to zero mean and unit variance of the training part first, with
        'flair', which does not.
    """

    name: ClassVar[str] = "linear_probe"
    kinds: ClassVar[tuple[str, ...]] = ("label", "labels", "target")

    protocol: str = "grouped"
    C: float = 0.316
    standardize: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.protocol not in PROTOCOLS:
            raise InputError(
                f"linear_probe: 'protocol' is one of {PROTOCOLS}, not '{self.protocol}'."
            )
        if self.protocol != "flair" and (self.standardize or self.C != 0.316):
            raise InputError("linear_probe: 'C' and 'standardize' are options of protocol='flair'.")

    def _fit(
        self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray
    ) -> linear_probe.FittedProbe | ridge.FittedRidge:
        if self.labels == "target":
            return ridge.fit_by_groups(features, labels, groups, seed=self.seed)
        options: dict[str, Any] = {"classes": len(self.classes)}
        if self.protocol == "grouped":
            options["seed"] = self.seed
            probe = linear_probe.fit_by_groups(features, labels, groups, **options)
            if self.decision == "plain":
                probe = dataclasses.replace(probe, shares=None)
        else:
            probe = linear_probe.fit(features, labels, **options, **self._options())
        if not probe.converged:
            _logger.warning(
                "A linear probe did not converge: its features may be too small for this protocol; "
                "protocol='grouped' standardises them."
            )
        if probe.skipped_folds:
            _logger.warning(
                "%d folds missed a class and had no part in the choice of a penalty.",
                probe.skipped_folds,
            )
        return probe

    def _scores(self, probe: Any, features: np.ndarray, trained: np.ndarray) -> Said:
        """As the probe itself decides, which knows the shares of its classes."""
        del trained
        likely = None if self.labels == "target" else probe.predict_proba(features)
        return probe.scores(features), likely

    def _placed(self, features: np.ndarray) -> plane.Placed | None:
        return None if self.labels == "target" else plane.placed(features)

    def _protocol(self) -> dict[str, Any]:
        return {"name": self.protocol, "options": self._options()}

    def _options(self) -> dict[str, Any]:
        """What beside the features decides of a fit, as records name it."""
        if self.labels == "target":
            return {}
        if self.protocol == "grouped":
            return {"decision": self.decision}
        flair = {"C": self.C, "standardize": self.standardize}
        return flair if self.protocol == "flair" else _RETFOUND_GREEN

"""Whether probabilities mean what they say, and how to make them.

Labels are int[N], 0 or 1, and probabilities f[N] of 1, unless a function says otherwise. What is
not defined is NaN; nothing raises or warns for what is in the data.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

_CLIP = 1e-6  # the least distance of a probability from 0 and 1 before its logit
_STEEPEST = 20.0  # a slope beyond is what separable labels run off to
LEAST_GROUPS, LEAST_OF_CLASS = 50, 10


def bins(count: int) -> int:
    """The number of bins for so many records: 15 from 1,000 on, and fewer below."""
    return 15 if count >= 1000 else min(15, max(5, count // 50))


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, count: int | None = None, mass: bool = False
) -> float:
    """Mean distance of the mean probability of a bin from the share of 1 in it, by records.

    It is biased upwards, so that it says little without `null_error`.

    Args:
      labels, probabilities: [N].
      count: number of bins; None for `bins`.
      mass: bins of equal numbers of records in the order of p, not of equal width on [0, 1].
    """
    labels, found = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    if not found.size or np.isnan(found).any():
        return float("nan")
    count = bins(len(found)) if count is None else count
    if mass:
        parts = np.array_split(np.argsort(found, kind="stable"), count)
        gaps = [abs(labels[rows].sum() - found[rows].sum()) for rows in parts]
        return float(np.sum(gaps) / len(found))
    which = _bin_of(found, count)
    gaps = np.bincount(which, labels, count) - np.bincount(which, found, count)
    return float(np.abs(gaps).sum() / len(found))


def top_label_error(
    labels: np.ndarray, probabilities: np.ndarray, count: int | None = None
) -> float:  # fmt: skip
    """Calibration error of the largest of the probabilities f[N C] against being right."""
    found = np.asarray(probabilities, np.float64)
    right = found.argmax(axis=1) == np.asarray(labels) if found.size else np.zeros(0)
    return expected_calibration_error(right, found.max(axis=1, initial=-np.inf), count)


def classwise_errors(
    labels: np.ndarray, probabilities: np.ndarray, count: int | None = None
) -> np.ndarray:
    """Calibration error f64[C] of each class against the rest, of probabilities f[N C]."""
    found, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    columns = enumerate(found.T)
    return np.array([expected_calibration_error(labels == k, p, count) for k, p in columns])


def null_error(
    probabilities: np.ndarray, count: int | None = None, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """What the calibration error would be if the probabilities f[N] were right.

    Returns:
      Mean and 95th percentile over labels that are drawn from them.
    """
    found = np.asarray(probabilities, np.float64)
    if not found.size or np.isnan(found).any():
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    errors = [
        expected_calibration_error(rng.random(len(found)) < found, found, count)
        for _ in range(draws)
    ]
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def decomposition(
    labels: np.ndarray, probabilities: np.ndarray, count: int | None = None
) -> dict[str, float]:
    """The Brier score as a sum (Stephenson, Coelho and Jolliffe 2008).

    Returns:
      'reliability' - 'resolution' + 'uncertainty' + 'within_variance' - 'within_covariance'.
    """
    truth, found = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    names = ("reliability", "resolution", "uncertainty", "within_variance", "within_covariance")
    if not found.size or np.isnan(found).any():
        return dict.fromkeys(names, float("nan"))
    count = bins(len(found)) if count is None else count
    which = _bin_of(found, count)
    size = np.maximum(np.bincount(which, minlength=count), 1)
    mean_truth = np.bincount(which, truth, count) / size
    mean_found = np.bincount(which, found, count) / size
    rest_truth, rest_found = truth - mean_truth[which], found - mean_found[which]
    base = truth.mean()
    values = (
        np.square(mean_found - mean_truth)[which].mean(),
        np.square(mean_truth[which] - base).mean(),
        base * (1 - base),
        np.square(rest_found).mean(),
        2 * (rest_truth * rest_found).mean(),
    )
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def slope(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the labels' logit over that of the probabilities, fitted together.

    (1, 0) is perfect; a slope below 1 says that they are too sure. NaN where one class is absent,
    and where the labels are separable, which has no slope.
    """
    labels, x = np.asarray(labels), _logit(probabilities)
    if len(np.unique(labels)) != 2 or np.isnan(x).any() or np.ptp(x) == 0:
        return float("nan"), float("nan")
    found = _newton(np.stack([x, np.ones_like(x)], axis=1), labels, np.zeros(len(x)))
    if found is None or abs(found[0]) > _STEEPEST:
        return float("nan"), float("nan")
    return float(found[0]), float(found[1])


def in_the_large(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """What has to be added to the logits so that as many are predicted as there are; 0 is right."""
    labels, x = np.asarray(labels), _logit(probabilities)
    if len(np.unique(labels)) != 2 or np.isnan(x).any():
        return float("nan")
    found = _newton(np.ones((len(x), 1)), labels, x)
    return float("nan") if found is None else float(found[0])


def observed_over_expected(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Records with 1 over the sum of the probabilities."""
    expected = float(np.sum(np.asarray(probabilities, np.float64)))
    return float(np.sum(labels)) / expected if expected > 0 else float("nan")


def curve(
    labels: np.ndarray, probabilities: np.ndarray, count: int = 10
) -> list[dict[str, float]]:  # fmt: skip
    """Points of a reliability diagram: bins of equal numbers of records.

    Returns:
      A dict a bin: 'predicted' and 'observed' means, 'low' and 'high' of the exact interval of the
      observed share, and 'count'.
    """
    from retina_jax.metrics.bootstrap import clopper_pearson

    labels, found = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    points: list[dict[str, float]] = []
    for rows in np.array_split(np.argsort(found, kind="stable"), count):
        if rows.size:
            low, high = clopper_pearson(int(labels[rows].sum()), len(rows))
            means = float(found[rows].mean()), float(labels[rows].mean())
            points.append({"predicted": means[0], "observed": means[1], "low": low, "high": high,
                           "count": len(rows)})  # fmt: skip
    return points


@dataclasses.dataclass(frozen=True)
class Temperature:
    """What logits are divided by.

    Attributes:
      value: the temperature; 1 leaves them as they are.
      nll_before, nll_after: mean negative log likelihood of the records, in nats.
      count: number of records that it is fitted on.
    """

    value: float
    nll_before: float
    nll_after: float
    count: int


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> Temperature:
    """The temperature T with the least negative log likelihood of softmax(logits / T).

    It never changes which logit is the largest (Guo et al. 2017). T is sought in [e^-4, e^4].

    Args:
      logits: f[N C]; for cosine similarities, times their scale.
      labels: int[N] in [0, C), of validation records, not of those that train or test.

    Returns:
      NaN where no record has a label inside and finite logits; others are left out.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    known = np.isfinite(logits).all(axis=1) & (labels >= 0) & (labels < logits.shape[1])
    logits, labels = logits[known], labels[known]
    if not labels.size:
        return Temperature(float("nan"), float("nan"), float("nan"), 0)

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature))[
            np.arange(len(labels)), labels
        ].mean())  # fmt: skip

    found: Any = minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9})
    return Temperature(float(np.exp(found.x)), loss(0.0), float(found.fun), len(labels))


def enough_for_temperature(labels: np.ndarray, groups: np.ndarray, classes: int) -> str | None:
    """Why labels int[N] of groups [N] are too few to fit a temperature; None if they are not."""
    groups, labels = np.asarray(groups), np.asarray(labels)
    count = len(np.unique(groups))
    of_class = [len(np.unique(groups[labels == k])) for k in range(classes)]
    if count < LEAST_GROUPS or min(of_class, default=0) < LEAST_OF_CLASS:
        return (
            f"A temperature needs {LEAST_GROUPS} validation patients and {LEAST_OF_CLASS} of each "
            f"class; there are {count}, of the rarest class {min(of_class, default=0)}."
        )
    return None


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log softmax f64[N C] of logits f[N C]."""
    from scipy.special import log_softmax as of_rows

    return of_rows(np.asarray(logits, np.float64), axis=-1)


def prior_corrected(
    probabilities: np.ndarray, prior: np.ndarray, training_prior: np.ndarray
) -> np.ndarray:
    """Probabilities f64[N C] for a population where classes are as frequent as `prior` says.

    Args:
      probabilities: f[N C] or f[C], of a model that was trained with other frequencies.
      prior, training_prior: f[C], there and in training; classes without training keep 0.
    """
    training = np.asarray(training_prior, np.float64)
    change = np.divide(prior, training, out=np.zeros_like(training), where=training > 0)
    found = np.asarray(probabilities, np.float64) * change
    total = found.sum(axis=-1, keepdims=True)
    return np.divide(found, total, out=np.full_like(found, np.nan), where=total > 0)


def _bin_of(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Bins of equal width on [0, 1], closed on the right; the first one has 0 too."""
    return np.clip(np.searchsorted(np.linspace(0, 1, count + 1), probabilities) - 1, 0, count - 1)


def _logit(probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(probabilities, np.float64), _CLIP, 1 - _CLIP)
    return np.log(p / (1 - p))


def _newton(x: np.ndarray, labels: np.ndarray, offset: np.ndarray) -> np.ndarray | None:
    """Coefficients of a logistic regression without penalty; None where it does not converge."""
    from scipy.special import expit

    beta = np.zeros(x.shape[1])
    for _ in range(100):
        p = expit(x @ beta + offset)
        information = x.T @ (x * (p * (1 - p))[:, None])
        if np.linalg.cond(information) > 1e14:
            return None
        step = np.linalg.solve(information, x.T @ (labels - p))
        # A step too long overshoots, and with separable labels there is no end.
        beta = beta + step * min(1.0, 5 / max(np.abs(step).max(), 1e-300))
        if np.abs(step).max() < 1e-12:
            return beta
        if np.abs(beta).max() > 1e3:
            return None
    return None

"""Every figure is a number or NaN, whatever the records are."""

import warnings

import numpy as np
import pytest

from retina_jax.metrics import (
    binary,
    bootstrap,
    calibration,
    classification,
    decisions,
    delong,
    multilabel,
    operating_point,
    ordinal,
    regression,
    weighted,
)

pytestmark = pytest.mark.fast

BAD = {
    "one class": (np.zeros(6, int), np.linspace(0, 1, 6)),
    "no records": (np.zeros(0, int), np.zeros(0)),
    "NaN scores": (np.array([0, 1, 1]), np.array([0.1, np.nan, 0.3])),
    "constant": (np.array([0, 1, 1]), np.full(3, 0.5)),
    "label outside": (np.array([0, 7, -1]), np.array([0.2, 0.3, 0.4])),
    "one record": (np.array([1]), np.array([0.7])),
}


@pytest.mark.parametrize("classes", [2, 3, 60])
@pytest.mark.parametrize("name", BAD)
def test_nothing_raises_or_warns(name, classes):
    """Whatever the records are, each figure is a number or NaN."""
    labels, scores = BAD[name]
    matrix = np.stack([scores] * classes, axis=-1) / classes
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        calls = matrix.argmax(axis=1) if len(scores) else labels
        values = [
            *(
                f(labels, calls)
                for f in (classification.accuracy, classification.balanced_accuracy)
            ),
            classification.macro_f1(labels, calls, classes),
            classification.kappa(labels, calls, classes),
            classification.quadratic_kappa(labels, calls, classes),
            classification.matthews(labels, calls, classes),
            classification.auc(labels, matrix),
            classification.one_versus_one_auc(labels, matrix[:, :5]),
            classification.log_loss(labels, matrix),
            classification.brier_multiclass(labels, matrix),
            classification.top_k_accuracy(labels, matrix, 2),
            classification.tied_tops(matrix),
            ordinal.mean_absolute_error(labels, calls),
            calibration.top_label_error(labels, matrix),
            *calibration.classwise_errors(labels, matrix),
            calibration.fit_temperature(matrix, labels).value,
            *regression.figures(labels, scores).values(),
        ]
        values += [f(labels, scores) for f in (
            binary.auc, binary.average_precision, binary.auprc_trapezoid, binary.brier,
            binary.brier_skill, binary.log_loss,
            calibration.expected_calibration_error, calibration.in_the_large,
            calibration.observed_over_expected, classification.f1_at_best_threshold,
        )]  # fmt: skip
        values += [binary.partial_auc(labels, scores, 0.2), *calibration.slope(labels, scores)]
        values += [*calibration.null_error(scores, draws=3)]
        values += [decisions.net_benefit(labels, scores, 0.3)]
        values += [*calibration.decomposition(labels, scores).values()]
        values.append(decisions.risk_coverage(scores, labels != 0)[1])
        values += [*delong.areas(labels, scores)[1].ravel()]
        threshold = operating_point.choose(labels, scores, "youden").value
        values.append(0.0 if np.isposinf(threshold) else threshold)  # that calls nothing
        several = np.stack([labels, 1 - labels], axis=1)
        values += [f(several, matrix[:, :2] > 0.2) for f in (
            multilabel.macro_f1, multilabel.micro_f1, multilabel.samples_f1,
            multilabel.exact_match, multilabel.hamming_loss)]  # fmt: skip
        if len(labels):
            ends = bootstrap.Resampling(np.arange(len(labels)), 50).interval(
                lambda w: weighted.auc(labels, scores, w)
            )
            values += [ends.low, ends.high]
    assert not np.isinf(np.array(values, np.float64)).any()


def test_a_class_that_no_record_is_of_is_the_rarest():
    """A temperature is not fitted where one of the classes cannot be seen to be too sure."""
    labels, groups = np.repeat([0, 1, 3], 40), np.arange(120)
    assert "of the rarest class 0" in (calibration.enough_for_temperature(labels, groups, 4) or "")
    assert calibration.enough_for_temperature(labels % 3, groups, 2) is None

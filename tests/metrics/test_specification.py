"""Figures at values that were worked out by hand or by another library, as one table."""

import functools
import itertools

import numpy as np
import pytest

from retina_jax.classifier_task import Recipe, Task
from retina_jax.losses import classification as supervised
from retina_jax.metrics import (
    binary,
    bootstrap,
    calibration,
    classification,
    comparison,
    decisions,
    delong,
    levels,
    multilabel,
    operating_point,
    ordinal,
    regression,
    subgroups,
    weighted,
)
from retina_jax.train.layer_decay import layers_above

pytestmark = pytest.mark.fast

Y1 = np.array([1, 1, 1, 0, 0, 0, 0, 0])
S1 = np.array([0.9, 0.6, 0.3, 0.8, 0.6, 0.4, 0.2, 0.1])
B1 = np.array([0.7, 0.8, 0.6, 0.5, 0.65, 0.3, 0.2, 0.1])
AT = binary.at_threshold(Y1, S1, 0.5)
Y2 = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
P2 = np.array([[7, 2, 1], [5, 3, 2], [2, 6, 2], [6, 2, 2], [2, 7, 1], [5, 4, 1], [1, 8, 1],
               [1, 3, 6], [3, 5, 2], [2, 2, 6]]) / 10  # fmt: skip
C2 = P2.argmax(axis=1)
AUC2 = classification.auc_per_class(Y2, P2)
AP2 = classification.average_precision_per_label(Y2[:, None] == np.arange(3), P2)
COUNTS2 = weighted.confusion(Y2, C2, 3, weighted.ones(10))
Y3 = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]])
S3 = np.array([[9, 2, 4], [1, 8, 3], [6, 4, 5], [7, 3, 2], [8, 5, 1]]) / 10
C3 = (S3 >= 0.5).astype(int)
ODIR = multilabel.odir_challenge(Y3, S3)
Y4, C4 = np.array([0, 0, 1, 2, 4, 4]), np.array([0, 1, 1, 2, 4, 2])
P4 = np.array([[0.35, 0.05, 0.10, 0.20, 0.30]])
E5 = regression.figures(np.array([250, 300, 410, 520]), np.array([270, 290, 400, 560]))
Y7 = np.array([0, 0, 1, 0, 1, 1, 1, 0, 1, 1])
P7 = np.array([0.05, 0.15, 0.15, 0.35, 0.35, 0.55, 0.65, 0.75, 0.85, 0.95])
PARTS7 = calibration.decomposition(Y7, P7, 5)
LOGITS = np.array([[4.0, 0.0]] * 4)
T = calibration.fit_temperature(LOGITS, np.array([0, 0, 0, 1]))
AREAS, COVARIANCE = delong.areas(Y1, np.stack([S1, B1]))
CLUSTERED = delong.areas(Y1, np.stack([S1, B1]), np.array([0, 1, 2, 0, 1, 3, 3, 4]))[1]
RISK = decisions.risk_coverage(np.array([0.95, 0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 0, 1]))
THREE = np.array([0.2, 0.6, 0.7])
TASK = Task("single", ("a", "b", "c"), (60, 30, 10), 100, {}, "cfp", 64)
recipe = functools.partial(Recipe, data="", tower={})
LIKELY, FIRST = np.log(np.array([[0.7, 0.2, 0.1]])), np.array([[1.0, 0, 0]])
BELOW = layers_above({("patch_embedding",): (1,), ("blocks", "in"): (4,), ("head",): (1,)})


def chosen(rule):
    point = operating_point.choose(Y1, S1, rule)
    at = binary.at_threshold(Y1, S1, point.value)
    return point.value, at.sensitivity, at.specificity


TABLE = {
    "levels": ([levels.merged(THREE, way) for way in levels.WAYS], [0.5, 0.7, 0.488874, 0.904]),
    "auroc": (binary.auc(Y1, S1), 0.7),
    "average precision": (binary.average_precision(Y1, S1), 0.666667),
    "auprc trapezoid": (binary.auprc_trapezoid(Y1, S1), 0.65),
    "confusion": (AT.confusion, [[3, 2], [1, 2]]),
    "sensitivity, specificity": ((AT.sensitivity, AT.specificity), (0.666667, 0.6)),
    "predictive values": ((AT.ppv, AT.npv), (0.5, 0.75)),
    "at prevalence .05": (
        binary.predictive_values(AT.sensitivity, AT.specificity, 0.05), (0.080645, 0.971591)),
    "accuracies": ((AT.accuracy, AT.balanced_accuracy), (0.625, 0.633333)),
    "f1, mcc, kappa": ((AT.f1, AT.matthews, AT.kappa), (0.571429, 0.258199, 0.25)),
    "brier": (binary.brier(Y1, S1), 0.23375),
    "log loss": (binary.log_loss(Y1, S1), 0.648152),
    "partial auroc": (binary.partial_auc(Y1, S1, 0.2), 0.629630),
    "chance f1": (binary.chance_f1(0.375), 0.545455),
    "brier skill": (binary.brier_skill(Y1, S1), 0.002667),
    "specificity>=.8": (chosen("specificity>=.8"), (0.9, 0.333333, 1)),
    "sensitivity>=.9": (chosen("sensitivity>=.9"), (0.3, 1, 0.4)),
    "youden": (chosen("youden"), (0.3, 1, 0.4)),
    "fixed": (operating_point.choose(Y1, S1, "fixed:.5").value, 0.5),
    "predictions": (C2, [0, 0, 1, 0, 1, 0, 1, 2, 1, 2]),
    "confusion of three": (COUNTS2[0], [[3, 1, 0], [1, 2, 0], [0, 1, 2]]),
    "accuracy of three": (classification.accuracy(Y2, C2), 0.7),
    "balanced accuracy": (classification.balanced_accuracy(Y2, C2), 0.694444),
    "adjusted": (classification.adjusted_balanced_accuracy(Y2, C2, 3), 0.541667),
    "macro f1": (classification.macro_f1(Y2, C2, 3), 0.707143),
    "weighted f1": (np.average(weighted.f1(COUNTS2)[0], weights=[4, 3, 3]), 0.711429),
    "precision": (weighted.precision(COUNTS2)[0], (0.75, 0.5, 1)),
    "recall": (weighted.recall(COUNTS2)[0], (0.75, 0.666667, 0.666667)),
    "f1": (weighted.f1(COUNTS2)[0], (0.75, 0.571429, 0.8)),
    "one versus rest": (AUC2, (0.854167, 0.904762, 0.928571)),
    "macro auroc": (classification.auc(Y2, P2), 0.895833),
    "weighted auroc": (np.average(AUC2, weights=[4, 3, 3]), 0.891667),
    "one versus one": (classification.one_versus_one_auc(Y2, P2), 0.898148),
    "average precisions": (AP2, (0.8125, 0.866667, 0.833333)),
    "macro average precision": (AP2.mean(), 0.8375),
    "log loss of three": (classification.log_loss(Y2, P2), 0.729728),
    "brier of three": (classification.brier_multiclass(Y2, P2), 0.41),
    "top 2": (classification.top_k_accuracy(Y2, P2, 2), 0.8),
    "kappas": ([classification.kappa(Y2, C2, 3, power) for power in (0, 2, 1)],
               (0.545455, 0.761905, 0.651163)),
    "auroc of labels": (classification.auc_per_label(Y3, S3), (0.833333, 0.833333, 0.75)),
    "macro of labels": (classification.auc_per_label(Y3, S3).mean(), 0.805556),
    "micro auroc": (multilabel.micro_auc(Y3, S3), 0.870370),
    "ap of labels": (classification.average_precision_per_label(Y3, S3), (0.916667, 0.833333, 0.5)),
    "micro ap": (multilabel.micro_average_precision(Y3, S3), 0.855556),
    "f1 of labels": (multilabel.f1_per_label(Y3, C3), (0.857143, 0.5, 0)),
    "macro, micro, samples f1": (
        [f(Y3, C3) for f in (multilabel.macro_f1, multilabel.micro_f1, multilabel.samples_f1)],
        (0.452381, 0.615385, 0.566667)),
    "exact match": (multilabel.exact_match(Y3, C3), 0.2),
    "hamming": (multilabel.hamming_loss(Y3, C3), 0.333333),
    "odir": (list(ODIR.values()), (0.571429, 0.8, 0.870370, 0.747266)),
    "quadratic kappa": (classification.quadratic_kappa(Y4, C4, 5), 0.810127),
    "grades moved up": (classification.quadratic_kappa(
        np.searchsorted([0, 1, 2, 4], Y4), np.searchsorted([0, 1, 2, 4], C4), 4), 0.866667),
    "mae of grades": (ordinal.mean_absolute_error(Y4, C4), 0.5),
    "within one": (ordinal.within_one(Y4, C4), 0.833333),
    "referable": (classification.confusion_matrix(Y4 >= 2, C4 >= 2, 2), [[3, 0], [0, 3]]),
    "at least 2": (ordinal.at_least(P4, 2), [0.6]),
    "expected grade": (ordinal.expected_grade(P4), [2.05]),
    "decoders": ([int(ordinal.decode(P4, way)[0]) for way in ordinal.DECODERS], (0, 2, 2)),
    "regression": ([E5[k] for k in E5], (20, 23.452079, 15, 10, 24.494897, -38.010, 58.010,
                                         0.949309, 0.986230, 1, 0.977273)),
    "weighted auroc of draws": (
        weighted.auc(Y1, S1, np.array([[2.0, 0, 1, 1, 1, 0, 1, 2]])), [0.866667]),
    "clopper-pearson": ([*bootstrap.clopper_pearson(10, 10), *bootstrap.clopper_pearson(9, 10)],
                        (0.691503, 1, 0.554984, 0.997471)),
    "wilson": (bootstrap.wilson(9, 10), (0.595850, 0.982124)),
    "delong areas": (AREAS, (0.7, 0.933333)),
    "v10": (delong.components(Y1, S1)[0], (1, 0.7, 0.4)),
    "v01": (delong.components(Y1, S1)[1], (0.333333, 0.5, 0.666667, 1, 1)),
    "delong covariance": (COVARIANCE, [[0.0477778, 0.0133333], [0.0133333, 0.0088889]]),
    "delong difference": (
        delong.difference(Y1, S1, B1), (-0.233333, 0.173205, -1.347151, 0.177932)),
    "logit interval": (delong.interval(0.7, COVARIANCE[0, 0]), (0.232766, 0.947218)),
    "clustered": (CLUSTERED, [[0.029563, 0.013022], [0.013022, 0.007437]]),
    "clustered difference": (
        CLUSTERED[0, 0] + CLUSTERED[1, 1] - 2 * CLUSTERED[0, 1], 0.010956),
    "mcnemar": (comparison.mcnemar(np.arange(7) < 1, np.arange(7) >= 1), 0.125),
    "corrected t": (comparison.corrected_resampled_t([0.02, 0.03, -0.01, 0.04, 0.02], 80, 20),
                    (1.593638, 0.186240)),
    "naive t": (comparison.corrected_resampled_t([0.02, 0.03, -0.01, 0.04, 0.02], 80, 0),
                (2.390457, 0.075130)),
    "holm": (comparison.holm([0.010, 0.040, 0.030, 0.200]), (0.04, 0.09, 0.09, 0.20)),
    "ece": ([calibration.expected_calibration_error(Y7, P7, 5),
             calibration.expected_calibration_error(Y7, P7, 10),
             calibration.expected_calibration_error(Y7, P7, 5, mass=True)], (0.2, 0.28, 0.24)),
    "brier, skill": ((binary.brier(Y7, P7), binary.brier_skill(Y7, P7)), (0.2205, 0.08125)),
    "decomposition": (list(PARTS7.values()), (0.048833, 0.073333, 0.24, 0.001667, -0.003333)),
    "slope": (calibration.slope(Y7, P7), (0.669484, 0.597256)),
    "in the large": (calibration.in_the_large(Y7, P7), 0.755881),
    "observed / expected": (calibration.observed_over_expected(Y7, P7), 1.25),
    "top label": (calibration.top_label_error(Y2, P2, 5), 0.09),
    "classwise": (calibration.classwise_errors(Y2, P2, 5), (0.12, 0.22, 0.10)),
    "temperature": ((T.value, T.nll_before, T.nll_after), (3.640957, 1.018150, 0.562335)),
    "prior": (calibration.prior_corrected(np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.3, 0.1]),
                                          np.full(3, 1 / 3)), (0.731707, 0.219512, 0.048780)),
    "net benefit": ([decisions.net_benefit(Y7, P7, t) for t in (0.1, 0.3, 0.5)],
                    (0.566667, 0.414286, 0.3)),
    "acting on all": ([p["all"] for p in decisions.decision_curve(Y7, P7, (0.1, 0.3, 0.5))],
                      (0.555556, 0.428571, 0.2)),
    "equalised odds": ([subgroups.equalised_odds_difference([0.75, 0.25], [0.25, 0], mean)
                        for mean in (False, True)], (0.5, 0.375)),
    "equity scaled": (subgroups.equity_scaled(0.8, [0.9, 0.7]), 0.666667),
    "risk": (RISK[0], (0, 0, 0.333333, 0.25, 0.4)),
    "risk over coverage": (RISK[1], 0.196667),
    "layer decay": (0.65 ** np.array([BELOW[("patch_embedding",)], *BELOW[("blocks", "in")],
                                      BELOW[("head",)]]),
                    (0.116029, 0.178506, 0.274625, 0.4225, 0.65, 1)),
    "class weights": ([TASK.weighting(recipe(imbalance=way))["class_weights"]
                       for way in ("balanced", "sqrt", "class_balanced")],
                      [(0.555556, 1.111111, 3.333333), (0.616814, 0.872307, 1.510879),
                       (0.401302, 0.698145, 1.900553)]),
    "smoothed": (supervised.softmax(LIKELY, FIRST, (3,), smoothing=0.1)[0], [[0.463297]]),
    "focal": (supervised.softmax(LIKELY, FIRST, (3,), focal=2)[0], [[0.032101]]),
    "focal of labels": (
        supervised.sigmoid(np.log(np.array([[7 / 3, 3 / 7]])), np.array([[1.0, 0]]), focal=2)[0],
        [[0.032101, 0.032101]]),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_value(name):
    found, expected = TABLE[name]
    # Limits of agreement are given with three decimals, and covariances with six or seven.
    tolerance = 5e-4 if name == "regression" else 6e-7
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


def drawn(groups, statistic, *arrays):
    """The values of a statistic over all equally likely resamples of groups, with their counts."""
    names = sorted(set(groups))
    values = []
    for chosen_ones in itertools.product(names, repeat=len(names)):
        rows = np.concatenate([np.flatnonzero(np.array(groups) == name) for name in chosen_ones])
        values.append(statistic(*(array[rows] for array in arrays)))
    return np.array(values)


PATIENTS = [0, 0, 1, 1, 2]
RIGHT = np.array([1.0, 1, 1, 0, 0])
OTHER = np.array([1.0, 0, 1, 0, 1])


def test_resamples_are_those_of_whole_patients():
    """Every resample of three patients, by enumeration and by drawing."""
    exact = drawn(PATIENTS, np.mean, RIGHT)
    values, counts = np.unique(exact.round(6), return_counts=True)
    np.testing.assert_allclose(values, [0, 0.25, 0.4, 0.5, 0.6, 0.666667, 0.8, 0.833333, 1])
    assert counts.tolist() == [1, 3, 3, 4, 6, 3, 3, 3, 1]
    np.testing.assert_allclose(exact.mean(), 0.572222, atol=5e-7)
    np.testing.assert_allclose(np.quantile(exact, [0.025, 0.975]), [0.1625, 0.891667], atol=5e-7)
    resampling = bootstrap.Resampling(np.array(PATIENTS), 20000)
    found = resampling.replicates(lambda w: weighted.mean(RIGHT, w))
    kinds, often = np.unique(found.round(6), return_counts=True)
    np.testing.assert_allclose(kinds, values)
    np.testing.assert_allclose(often / 20000, counts / 27, atol=0.01)
    interval = bootstrap.interval(
        np.mean, RIGHT, groups=np.array(PATIENTS), level=0.8, method="percentile", resamples=20000
    )
    assert (interval.low, interval.high) == pytest.approx((0.25, 0.833333), abs=1e-6)


def test_one_resample_serves_both_models():
    exact = drawn(PATIENTS, lambda a, b: np.mean(a) - np.mean(b), RIGHT, OTHER)
    values, counts = np.unique(exact.round(6), return_counts=True)
    expected = [-1, -0.5, -0.25, -0.2, 0, 0.166667, 0.2, 0.333333, 0.5]
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert counts.tolist() == [1, 3, 3, 3, 7, 3, 3, 3, 1]
    assert comparison.p_value(exact) == 1
    found = comparison.paired(
        lambda w: weighted.mean(RIGHT, w), lambda w: weighted.mean(OTHER, w), np.array(PATIENTS)
    )
    assert found.difference == pytest.approx(0) and found.p == 1
    assert found.interval.low < 0 < found.interval.high


def test_records_twice_leave_the_clustered_variance():
    twice = [np.concatenate([x, x]) for x in (Y1, S1, np.arange(8))]
    assert delong.areas(*twice)[1][0, 0] == pytest.approx(COVARIANCE[0, 0], abs=5e-8)
    assert delong.areas(*twice[:2])[1][0, 0] == pytest.approx(0.0199, abs=5e-5)


def test_edges_have_an_interval():
    groups = np.array([f"p{i}" for i in range(30)])
    labels = np.arange(30) % 2
    resampling = bootstrap.Resampling(groups)
    perfect = resampling.interval(
        lambda w: weighted.auc(labels, labels, w), edge=("rank", [15, 20])
    )
    assert (perfect.low, perfect.high, perfect.method) == (0.8, 1.0, "rule of three")
    # A kappa of 0 is that of a constant answer, and no edge.
    for constant, ends in ((0.0, (0.0, 0.0)), (1.0, (0.8, 1.0))):
        kappa = resampling.interval(lambda w, c=constant: np.full(len(w), c), edge=("signed", [15]))
        assert (kappa.low, kappa.high) == ends
    right = bootstrap.Resampling(groups[:10]).interval(
        lambda w: weighted.mean(np.ones(10), w), edge=("proportion", [10])
    )
    assert (right.low, right.method) == (pytest.approx(0.691503, abs=5e-7), "exact")
    both = resampling.interval(lambda w: np.ones(len(w)), edge=("proportion", [10, 20]))
    # No shares of a smaller mean let all of both succeed once in 40 times.
    first = np.linspace(0.025 ** (1 / 10), 1, 100_001)
    second = np.minimum(1, (0.025 / first**10) ** (1 / 20))
    assert both.low == pytest.approx(((first + second) / 2).min(), abs=1e-6) and both.high == 1
    equal = resampling.interval(lambda w: np.ones(len(w)), edge=("proportion", [25] * 4))
    assert equal.low == pytest.approx(bootstrap.clopper_pearson(100, 100)[0])
    constant = bootstrap.Resampling(groups).interval(lambda w: np.full(len(w), 0.3))
    assert constant.method == "percentile" and constant.low == 0.3 and constant.reason


def test_bca_is_that_of_scipy():
    from scipy import stats

    x = np.random.default_rng(1).lognormal(size=40)
    theirs = stats.bootstrap(
        (x,), np.mean, method="BCa", n_resamples=20000, rng=np.random.default_rng(0)
    ).confidence_interval
    ours = bootstrap.interval(np.mean, x, resamples=20000)
    assert ours.method == "bca"
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    plain = bootstrap.interval(np.mean, x, resamples=20000, method="percentile")
    assert ours.high > plain.high + 0.05  # of a skewed mean


def test_undefined_resamples_are_counted():
    labels = np.array([1] + [0] * 40)
    found = bootstrap.Resampling(np.arange(41)).interval(
        lambda w: weighted.auc(labels, np.linspace(1, 0, 41), w)
    )
    assert 0.3 < found.undefined / found.resamples < 0.45
    nothing = bootstrap.Resampling(np.arange(9)).interval(
        lambda w: weighted.auc(np.zeros(9, int), np.arange(9), w)
    )
    assert np.isnan(nothing.low) and "undefined in more than half" in nothing.reason


def test_a_threshold_needs_the_records_for_it():
    truth, scores = np.array([1, 1, 0, 0, 0], bool), np.array([0.9, 0.2, 0.2, 0.1, np.nan])
    assert operating_point.rates(truth, scores, 0.2) == (1.0, 0.5)
    assert operating_point.rates(truth[:2], scores[:2], 0.9) == (0.5, None)
    few = operating_point.choose(Y1, S1, "specificity>=.95")
    assert np.isnan(few.value) and "needs 20 negative validation" in few.reason
    alone = operating_point.choose(np.ones(5), S1[:5], "youden")
    assert np.isnan(alone.value) and alone.reason == "No validation record is negative."
    assert (few.positives, few.negatives) == (3, 5)


def test_a_flipped_half_changes_the_challenge():
    """The official script calls what is above .5, and two scores are exactly that."""
    kappa = classification.kappa(np.ravel(Y3), np.ravel(C3), 2)
    accuracy = classification.accuracy(np.ravel(Y3), np.ravel(C3))
    np.testing.assert_allclose([kappa, accuracy], [0.324324, 0.666667], atol=5e-7)
    assert np.mean([kappa, accuracy, ODIR["auc"]]) == pytest.approx(0.620454, abs=5e-7)
    assert multilabel.micro_f1(Y3, S3 > 0.5) == pytest.approx(0.727273, abs=5e-7)


def test_suppression_leaves_nothing_to_subtract():
    sizes = {"F": subgroups.Size(60, 30, 40), "M": subgroups.Size(50, 20, 30),
             "unknown": subgroups.Size(19, 9, 12)}  # fmt: skip
    assert subgroups.suppressed(sizes, "any") == {"unknown", "M"}
    sizes["F"] = subgroups.Size(60, 4, 56)
    assert subgroups.suppressed(sizes, "sensitivity") == {"unknown", "F"}
    assert subgroups.suppressed({"F": sizes["F"]}, "specificity") == set()


def test_age_bands():
    found = subgroups.age_bands(np.array([39, 40, 59.9, 75, 1, np.nan]))
    assert found.tolist() == ["<40", "40-59", "40-59", ">=75", "unknown", "unknown"]


@pytest.mark.parametrize("names", [
    ["<40", "40-59", "60-74", ">=75", "unknown"],
    ["<5", "5-9", "10-14", ">=100", "unknown"],
    ["camera 2", "camera 9", "camera 10", "site", "unknown", ""],
    ["1", "1.5", "2", "10", "F", "M"],
])  # fmt: skip
def test_subgroups_stand_in_the_order_of_the_numbers_in_their_names(names):
    found = subgroups.sizes(np.array(names[::-1]), np.zeros(len(names)), np.arange(len(names)))
    assert list(found) == [name for name in names if name]


def test_a_gap_without_meaning_is_expected_to_be_there():
    rng = np.random.default_rng(0)
    labels, sex = rng.integers(0, 2, 120), rng.choice(["F", "M", ""], 120)
    scores = labels + rng.normal(size=120)
    groups = np.arange(120) // 2
    figure = lambda w: weighted.auc(labels, scores, w)  # noqa: E731
    gap = subgroups.expected_gap(figure, sex, groups, ["F", "M"], draws=50)
    assert 0.02 < gap < 0.3
    ends = subgroups.spread_interval(
        figure, sex, ["F", "M"], bootstrap.Resampling(groups, resamples=200)
    )
    values = {name: figure((sex == name)[None] * 1.0)[0] for name in ("F", "M")}
    found = subgroups.spread(values)
    assert ends["worst"][0] < found.worst < ends["worst"][1] and found.gap < ends["gap"][1]
    assert found.ratio == pytest.approx(min(values.values()) / max(values.values()))


def test_the_error_of_perfect_probabilities_is_in_its_null_band():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(60):
        p = rng.beta(2, 2, 300)
        labels = rng.random(300) < p
        limit = calibration.null_error(p, 15, draws=60, seed=trial)[1]
        inside += calibration.expected_calibration_error(labels, p, 15) <= limit
    assert inside >= 52
    p = rng.beta(2, 2, 300)
    assert calibration.null_error(p, 15)[0] == pytest.approx(0.073, abs=0.01)

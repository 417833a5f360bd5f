"""The bootstrap interval: its width, its groups, its speed and its undefined resamples."""

import time

import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.metrics import bootstrap, classification, small_samples, weighted

pytestmark = pytest.mark.fast


def ends(*arrays, **options):
    """The two ends of an interval of percentiles, unless it is to be another."""
    found = bootstrap.interval(*arrays, **{"method": "percentile", **options})
    return found.low, found.high


def test_width_of_the_interval_of_a_mean():
    x = np.random.default_rng(0).normal(size=400)
    low, high = ends(np.mean, x, resamples=2000)
    error = 1.96 * x.std() / np.sqrt(len(x))
    assert low == pytest.approx(x.mean() - error, abs=0.15 * error)
    assert high == pytest.approx(x.mean() + error, abs=0.15 * error)
    narrower = ends(np.mean, x, level=0.5)
    assert low < narrower[0] < narrower[1] < high


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        low, high = ends(np.mean, rng.normal(size=60), resamples=200, seed=trial)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 100 <= 0.99


def test_copies_of_a_patient_do_not_narrow_the_interval():
    x = np.random.default_rng(2).normal(size=50)
    patients = np.array([f"p{i}" for i in range(50)])
    once = ends(np.mean, x)
    tenfold, groups = np.repeat(x, 10), np.repeat(patients, 10)
    grouped = ends(np.mean, tenfold, groups=groups)
    single = ends(np.mean, tenfold)
    widths = [high - low for low, high in (once, grouped, single)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
    assert widths[2] < 0.5 * widths[1]


def test_records_of_a_group_stay_together_and_arrays_stay_aligned():
    groups = np.array([3, 1, 3, 1, 2])
    seen = []

    def record(a, b):
        seen.append(sorted(a))
        assert (b == a * 10).all()
        return 0.0

    ends(record, groups, groups * 10, groups=groups, resamples=50)
    sizes = {1: 2, 2: 1, 3: 2}
    for rows in seen:
        drawn = [rows.count(group) / size for group, size in sizes.items()]
        assert all(value == int(value) for value in drawn) and sum(drawn) == 3


def test_same_seed_same_interval():
    x = np.random.default_rng(3).normal(size=30)
    assert ends(np.mean, x, seed=4) == ends(np.mean, x, seed=4)
    assert ends(np.mean, x, seed=4) != ends(np.mean, x, seed=5)


def test_resamples_without_a_class_are_left_out_unless_they_are_most():
    labels, scores = np.array([1] + [0] * 40), np.linspace(1, 0, 41)
    low, high = ends(classification.auc, labels, scores)  # 37 % miss the one case
    assert 0.9 < low <= high <= 1
    nothing = ends(classification.auc, np.zeros(9, int), scores[:9], resamples=50)
    assert np.isnan(nothing).all()


def test_above_so_many_groups_percentiles_are_taken_without_trying_more(monkeypatch):
    monkeypatch.setattr(bootstrap, "MOST_GROUPS", 20)
    x = np.random.default_rng(6).normal(size=21)
    for count, method in ((20, "bca"), (21, "percentile")):
        found = bootstrap.interval(np.mean, x[:count], resamples=200)
        assert (found.method, found.reason) == (method, None)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((100, 100), ()),
        ((99, 100), ("few events",)),
        ((10, 10), ("few events",)),
        ((9, 11), ("few events", "too few")),
        ((9, 91), ("few events", "too few")),
        ((10, 9), ("few events", "too few")),
        ((2, 3), ("few events", "too few")),
        ((2, 2), ("few events", "too few", "no value")),
    ],
)
def test_tags_begin_at_100_records_10_and_20_and_5_patients(sides, expected):
    """One record a patient, with what is looked for and without."""
    having = np.arange(sum(sides)) < sides[0]
    assert small_samples.tags([having, ~having], np.arange(sum(sides))) == expected


def test_twenty_patients_have_an_interval_where_no_class_asks_for_more():
    assert small_samples.tags([], np.arange(20)) == ()
    assert small_samples.tags([], np.arange(19)) == ("too few",)


def test_two_thousand_resamples_of_600_records_take_less_than_a_second():
    rng = np.random.default_rng(5)
    labels, scores = rng.integers(0, 5, 600), rng.normal(size=(600, 5))
    start = time.process_time()
    groups = bootstrap.Resampling(rng.integers(0, 300, 600))
    groups.interval(lambda w: weighted.auc(labels == 1, scores[:, 1], w))
    assert time.process_time() - start < 1


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="one length"):
        ends(np.mean, np.zeros(3), groups=np.zeros(4))
    with pytest.raises(InputError, match="above 0"):
        ends(np.mean, np.zeros(0))

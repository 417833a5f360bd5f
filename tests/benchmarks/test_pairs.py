"""Paired differences of runs: of the same patients, seed by seed."""

import json

import numpy as np
import pytest
from evaluated_runs import evaluated
from sklearn.metrics import roc_auc_score

from benchmarks import pairs

pytestmark = pytest.mark.fast


def found(values, patients):
    return pairs.Found(np.asarray(values, float), (), np.mean, np.asarray(patients))


def test_a_difference_that_every_patient_has_is_sure_though_patients_differ():
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{i}" for i in range(40)], 2)
    hits = np.repeat(rng.uniform(0, 0.8, 40), 2)
    first, second = ([found(hits + more + 0.01 * seed, patients) for seed in range(3)]
                     for more in (0.0, 0.1))  # fmt: skip
    line = pairs.compare(first, second)
    assert line["difference"] == pytest.approx(0.1) and line["of_seeds"] == pytest.approx([0.1] * 3)
    assert line["low"] == pytest.approx(0.1) and line["high"] == pytest.approx(0.1)
    assert line["first"] == pytest.approx([hits.mean() + 0.01 * seed for seed in range(3)])
    assert (line["records"], line["patients"]) == (80, 40)
    unpaired = pairs.compare(first, [found(rng.permutation(hits), patients)] * 3)
    assert unpaired["low"] < -0.03 and unpaired["high"] > 0.0


def test_a_figure_is_the_mean_over_folds_of_the_same_records():
    rng = np.random.default_rng(1)
    labels, numbers = rng.integers(0, 2, 60), np.arange(60) % 3
    scores = labels + rng.normal(size=60)
    each = [roc_auc_score(labels[numbers == i], scores[numbers == i]) for i in range(3)]
    statistic = pairs.mean_over_folds("auc")
    assert statistic(scores, labels, numbers) == pytest.approx(np.mean(each))
    assert pairs.mean_over_folds("r2")(labels * 1.0, labels * 1.0, numbers) == 1.0
    patients = np.array([f"p{i}" for i in range(60)])
    one = pairs.Found(scores, (labels, numbers), statistic, patients)
    other = one._replace(shared=(1 - labels, numbers))
    with pytest.raises(ValueError, match="the same records"):
        pairs.compare([one], [other])


def test_retrieval_is_compared_query_by_query():
    """Of the same records; a patient whom nobody named is one of its own."""

    class Evaluator:
        def __init__(self, better):
            self.better = better

        def per_query(self, state):
            figures = {"recall_at_1": np.full(4, 0.5) + self.better, "rank": np.full(4, 2.0)}
            return {
                "image_to_text": (figures, np.array(list("abcd")), np.array(["p", "p", "", ""]))
            }

    one, two = (pairs.retrieved(Evaluator(better), state=None) for better in (0.0, 0.25))
    assert set(one) == {"image_to_text_recall_at_1", "image_to_text_rank"}
    line = pairs.compare(*([run["image_to_text_recall_at_1"]] for run in (one, two)))
    assert (line["difference"], line["records"], line["patients"]) == (0.25, 4, 3)
    found = two["image_to_text_rank"]
    with pytest.raises(ValueError, match="the same records"):
        pairs.compare([found], [found._replace(shared=(np.array(list("abce")),))])


@pytest.mark.parametrize(("task", "metric"), [("ordinal", "quadratic_kappa"),
                                              ("multi-label", "auc")])  # fmt: skip
def test_what_runs_wrote_of_records_is_compared_over_seeds(task, metric, tmp_path, capsys):
    for seed in range(2):
        for name, signal in (("plain", 0.5), ("better", 3.0)):
            evaluated(tmp_path / f"{name}{seed}", signal, task=task, seed=seed, validation=40)
    folders = (",".join(str(tmp_path / f"{name}{seed}") for seed in range(2))
               for name in ("plain", "better"))  # fmt: skip
    first, second = folders
    pairs.main([f"--first={first}", f"--second={second}", f"--records=probe:{metric}"])
    line = json.loads(capsys.readouterr().out)
    assert line["figure"] == f"probe/{metric}" and line["records"] == 120
    for side, name in (("first", "plain"), ("second", "better")):
        for seed, value in enumerate(line[side]):
            scores = json.loads((tmp_path / f"{name}{seed}/results.json").read_text())["scores"]
            (told,) = [row["value"] for row in scores if row["metric"] == metric]
            assert value == pytest.approx(told)
    assert 0 < line["low"] < line["difference"] < line["high"]

"""Few-shot evaluation: which records are drawn, what methods see, how figures are made."""

import numpy as np
import pytest
from evaluated_runs import Rows
from scipy.special import log_softmax
from sklearn.metrics import balanced_accuracy_score

from data_pipelines.errors import InputError
from retina_jax.adapters import tip_adapter
from retina_jax.build import build
from retina_jax.evals import EVALUATORS, few_shot_splits, fewshot
from retina_jax.metrics import classification
from retina_jax.scoring import figures, predictions

CLASSES = ("normal", "glaucoma", "cataract")
SCALE = 9.0  # of the model in conftest.py
PROMPTS = {"template": "A photograph of {}", "length": 9}


def make(encoder, words, **options):
    spec = {"name": "fewshot", "classes": CLASSES, **PROMPTS, **options}
    return build(EVALUATORS, spec, encoder=encoder, tokenizer=words)


def separable(pictures, number, seed, prefix=""):
    """Pictures whose brightest channel is their class, two of each patient if these have names."""
    rows = pictures(number, seed=seed)
    for i, row in enumerate(rows):
        row["image"] = row["image"] * 0.1 + np.eye(3, dtype=np.float32)[row["label"]] * 3
        row["patient"] = f"{prefix}{i // 6}-{i % 3}" if prefix else ""
    return rows


def test_every_method_learns_from_few_records(encoder, tools, words, pictures):
    train, test = (tools.data(separable(pictures, n, seed)) for n, seed in ((30, 1), (33, 2)))
    evaluator = make(encoder, words, train=train, test=test, shots=(1, 5), repeats=2)
    scores = evaluator.run(tools.state()).scores
    names = [f"{m}_{s}" for m in fewshot.METHODS for s in ("1_shot", "5_shots")]
    assert set(scores) == {f"{f}_{n}" for f in ("balanced_accuracy", "auc") for n in names}
    for name in ("linear_probe_5_shots", "tip_adapter_5_shots", "tip_adapter_f_5_shots"):
        score = scores[f"balanced_accuracy_{name}"]
        assert score.value == 1.0 and score.chance == pytest.approx(1 / 3)
        assert score.count == 33 and score.deviation == 0.0
    adapted = scores["balanced_accuracy_clip_adapter_5_shots"]
    assert adapted.low <= adapted.value <= adapted.high


@pytest.mark.parametrize("official", [False, True])
def test_adapters_see_unit_embeddings_prompts_and_the_models_scale(
    encoder, tools, words, pictures, official
):
    """KeepFIT's Tip-Adapter, worked out from the drawn records."""
    train, test = separable(pictures, 18, 1), separable(pictures, 9, 2)
    data = {"train": tools.data(train), "test": tools.data(test)}
    options = {"methods": ("tip_adapter",), "shots": (2,), "repeats": 1, "official": official}
    scores = make(encoder, words, **data, **options).run(tools.state()).scores
    labels = np.array([row["label"] for row in train])
    alone = np.array([f"row {i}" for i in range(18)])
    drawn = few_shot_splits.draw(labels, alone, 2, (0, 0), 3)
    assert sorted(labels[drawn]) == [0, 0, 1, 1, 2, 2]
    prototypes = np.stack([tools.text(words, f"A photograph of {c}", 9) for c in CLASSES])
    x, keys = (tools.unit(tools.features(rows)) for rows in (test, [train[i] for i in drawn]))
    affinity = np.exp(-5 * (1 - x @ keys.T)) @ np.eye(3)[labels[drawn]]
    logits = (100 if official else SCALE) * x @ prototypes.T + affinity
    truth = np.array([row["label"] for row in test])
    expected = balanced_accuracy_score(truth, logits.argmax(axis=1))
    assert scores["balanced_accuracy_tip_adapter_2_shots"].value == pytest.approx(expected)
    assert scores["auc_tip_adapter_2_shots"].value == pytest.approx(
        classification.auc(truth, log_softmax(logits, axis=1)), abs=1e-6
    )


def test_what_reaches_the_adapters(encoder, tools, words, pictures, monkeypatch):
    seen = []
    fitted = tip_adapter.fit
    monkeypatch.setattr(tip_adapter, "fit", lambda *a, **k: seen.append((a, k)) or fitted(*a, **k))
    data = {"train": tools.data(separable(pictures, 30, 1))}
    options = {"methods": ("tip_adapter", "tip_adapter_f"), "shots": (1, 2), "repeats": 2}
    make(encoder, words, **data, **options, seed=3).run(tools.state())
    assert [len(arguments[1]) for arguments, _ in seen] == [3, 3, 6, 6] * 2
    assert [k["train_keys"] for _, k in seen] == [False, True] * 4
    assert [k["seed"] for _, k in seen] == [3] * 4 + [4] * 4
    assert all(arguments[3] == SCALE for arguments, _ in seen)
    one, two = seen[0][0][0], seen[2][0][0]
    for row in one:  # the record of one shot is among those of two
        assert (np.abs(two - row).max(axis=1) < 1e-6).any()
    assert np.abs(seen[0][0][0] - seen[4][0][0]).max() > 1e-6  # other records each time


def test_records_are_drawn_of_different_patients_first():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    patients = np.array(["a", "a", "a", "b", "c", "d", "d", "d"])
    for seed in range(20):
        two = few_shot_splits.draw(labels, patients, 2, (seed,), 2)
        assert sorted(patients[two]) == ["a", "b", "c", "d"]
        three = few_shot_splits.draw(labels, patients, 3, (seed,), 2)
        assert sorted(patients[three]) == ["a", "a", "b", "c", "d", "d"]
    everyone = {
        tuple(sorted(few_shot_splits.draw(labels, patients, 2, (s,), 2))) for s in range(20)
    }
    assert len(everyone) > 3
    assert len(few_shot_splits.draw(labels, patients, 1.0, (0,), 2)) == 8
    assert len(few_shot_splits.draw(labels[:6], patients[:6], 4, (0,), 3, at_most=True)) == 4 + 2
    # 2.4 of each, rounded down.
    assert len(few_shot_splits.draw(labels, patients, 0.6, (0,), 2)) == 4


def test_some_patients_are_set_apart_in_each_repeat(encoder, tools, words, pictures, monkeypatch):
    rows = separable(pictures, 90, 1, prefix="p")
    drawn, apart = [], []
    held_out, draw = few_shot_splits.held_out, few_shot_splits.draw

    def remember(labels, patients, part, seed):
        stays, tested = held_out(labels, patients, part, seed)
        apart.append((set(patients[stays]), set(patients[tested])))
        return stays, tested

    def seen(labels, patients, *rest):
        chosen = draw(labels, patients, *rest)
        drawn.append(set(patients[chosen]))
        return chosen

    monkeypatch.setattr(few_shot_splits, "held_out", remember)
    monkeypatch.setattr(few_shot_splits, "draw", seen)
    options = {"methods": ("linear_probe",), "shots": (3, 1.0), "repeats": 3}
    scores = make(encoder, words, train=tools.data(rows), **options).run(tools.state()).scores
    metrics = ("balanced_accuracy_linear_probe", "auc_linear_probe")
    assert set(scores) == {f"{f}_{s}" for f in metrics for s in ("3_shots", "100_percent")}
    assert len({tuple(sorted(tested)) for _, tested in apart}) == 3
    for number, (stays, tested) in enumerate(apart):
        assert not stays & tested and len(tested) == 9  # a fifth of 45
        assert all(few <= stays for few in drawn[2 * number : 2 * number + 2])
    assert drawn[1] == apart[0][0] and len(drawn[0]) == 9
    assert scores["auc_linear_probe_100_percent"].count == 18


def means_of(values, metric, decimals=None):
    """Figures of repeats whose balanced accuracy is these values, of 40 records of two classes."""
    parts = []
    for number, value in enumerate(values):
        answers = np.repeat([0, 1], 20)
        wrong = np.arange(40).reshape(2, 20).T.ravel()[: round(40 * (1 - value))]
        answers[wrong] = 1 - answers[wrong]
        source = Rows({"id": f"r{i:02d}", "patient": f"p{i}"} for i in range(40))
        about = {"classes": ["a", "b"], "metrics": [metric], "decimals": decimals}
        labels = np.repeat([0, 1], 20)
        parts.append(
            predictions.of_records(source, labels, np.eye(2)[answers], about, repeat=number)
        )
    return figures.scores(predictions.joined(parts))[metric]


def test_a_figure_is_the_mean_over_repeats_with_their_deviation():
    score = means_of([1.0, 0.5, 0.625], "balanced_accuracy")
    assert score.value == pytest.approx(17 / 24) and score.count == 40 and score.chance == 0.5
    assert score.deviation == pytest.approx(np.std([1.0, 0.5, 0.625], ddof=1))
    assert score.low < score.value < score.high and score.method == "bca-patient"


def test_a_patient_is_resampled_with_all_its_repeats():
    """Five repeats of one answer say no more than one."""
    once, often = (means_of([0.75] * n, "accuracy") for n in (1, 5))
    assert (often.low, often.high) == (once.low, once.high) and once.low < once.high


def test_figures_are_rounded_in_each_repeat_as_published():
    values = [0.625, 0.875, 0.875]
    figure, rounded = (means_of(values, "accuracy", decimals) for decimals in (None, 1))
    assert figure.value == pytest.approx(0.79167, abs=1e-5)
    assert rounded.value == 0.8  # of 0.6, 0.9 and 0.9
    assert rounded.deviation == pytest.approx(np.std([0.6, 0.9, 0.9], ddof=1))


@pytest.mark.parametrize(("options", "sentence"),
                         [({"shots": (0,)}, "one is 0"), ({"shots": (1.5,)}, "one is 1.5"),
                          ({"shots": (True,)}, "numbers, got .True"),
                          ({"repeats": 0}, "one repeat or more"),
                          ({"methods": ("prompting",)}, "no method 'prompting'"),
                          ({"template": None}, "give 'template' and 'length'"),
                          ({"template": "a photograph"}, "template needs a {}"),
                          ({"mode": "descriptions"}, "'mode' is one of"),
                          ({"metrics": ("recall",)}, "no metric 'recall'"),
                          ({"metrics": ("f1",)},
                           "'f1' is of two classes, but there are 3")])  # fmt: skip
def test_options_that_cannot_be_are_refused(encoder, words, options, sentence):
    with pytest.raises(InputError, match=sentence):
        make(encoder, words, train=None, **options)


def test_records_that_are_not_there_are_missed(encoder, tools, words, pictures):
    train = tools.data(separable(pictures, 9, 1))
    with pytest.raises(InputError, match="Class 0 has 3 records to draw 4 from"):
        make(encoder, words, train=train, test=train, shots=(4,)).run(tools.state())
    with pytest.raises(InputError, match="One in 10 of 9 patients cannot be set apart"):
        make(encoder, words, train=train, test_part=10).run(tools.state())
    rows = separable(pictures, 12, 1, prefix="p")
    with pytest.raises(InputError, match="Few-shot learning's train and test share 6 patients"):
        make(encoder, words, train=tools.data(rows), test=tools.data(rows)).run(tools.state())

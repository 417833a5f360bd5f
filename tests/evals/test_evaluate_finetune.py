"""Fine-tuning: what is trained, on which records, what is kept and what is scored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.evals import EVALUATORS, finetune

CLASSES = ("a", "b", "c")
QUICK = {"steps": 60, "checks": 3, "batch_size": 8, "augment": (), "learning_rates": (0.03,)}


def make(encoder, **options):
    spec = {"name": "finetune", "classes": CLASSES, **QUICK, **options}
    return build(EVALUATORS, spec, encoder=encoder)


def alike(pictures, number, seed, prefix=""):
    """Pictures whose classes lie along a direction that the pre-trained map nearly loses."""
    rows = pictures(number, seed=seed)
    for i, row in enumerate(rows):
        row["image"] = row["image"] * 0.3
        row["image"][..., 0] += 2.0 * row["label"]
        row["patient"] = f"{prefix}{i}" if prefix else ""
    return rows


def blind(tools):
    """A pre-trained model whose features hardly depend on the channel that tells the classes."""
    kernel = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    kernel[0] *= 1e-3
    return tools.state(kernel=kernel)


def test_the_tower_is_trained_and_the_given_one_is_not_touched(encoder, tools, pictures):
    """A probe of these features cannot tell the classes; a tower that moves can."""
    train, validation, test = (
        tools.data(alike(pictures, n, s)) for n, s in ((30, 1), (15, 2), (33, 3))
    )
    state = jax.tree.map(jnp.asarray, blind(tools))  # on the devices, where steps give memory away
    before = jax.tree.map(np.array, (state.params, state.model_state))
    data = {"train": train, "validation": validation, "test": test}
    found = make(encoder, **data, metrics=("accuracy", "quadratic_kappa")).run(state).scores
    assert set(found) == {"accuracy_100_percent", "quadratic_kappa_100_percent"}
    assert found["accuracy_100_percent"].value > 0.9 and found["accuracy_100_percent"].count == 33
    kappa = found["quadratic_kappa_100_percent"]
    assert kappa.chance == 0 and kappa.low <= kappa.value <= kappa.high
    rules = (("model/.*", {"frozen": True}), (".*", {}))
    frozen = make(encoder, **data, rules=rules).run(state).scores
    assert frozen["balanced_accuracy_100_percent"].value < 0.8
    for old, new in zip(
        jax.tree.leaves(before), jax.tree.leaves((state.params, state.model_state)), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def recorded(monkeypatch):
    """(checks, kept states) of the trainings that follow."""
    checks, kept = [], []
    value, best = finetune._Trainer._value, finetune._Trainer.best

    def seen(self, state, data, *rest):
        head = np.array(state.params["head"]["kernel"])
        checks.append((value(self, state, data, *rest), head, [r["id"] for r in data.source]))
        return checks[-1][0]

    def chosen(self, rows, *rest):
        kept.append((rows, best(self, rows, *rest)))
        return kept[-1][1]

    monkeypatch.setattr(finetune._Trainer, "_value", seen)
    monkeypatch.setattr(finetune._Trainer, "best", chosen)
    return checks, kept


def test_what_is_best_on_validation_is_kept(encoder, tools, pictures, monkeypatch):
    """Over all rates and checks; the rate that breaks everything comes last."""
    checks, kept = recorded(monkeypatch)
    train, validation, test = (
        tools.data(alike(pictures, n, s)) for n, s in ((30, 1), (15, 2), (9, 3))
    )
    data = {"train": train, "validation": validation, "test": test}
    make(encoder, **data, learning_rates=(0.03, 30.0)).run(tools.state())
    values = [value for value, *_ in checks]
    assert len(values) == 6 and len(set(values)) > 1
    best = values.index(max(values))
    assert best < 5 and {tuple(ids) for *_, ids in checks} == {tuple(map(str, range(15)))}
    np.testing.assert_array_equal(kept[0][1].params["head"]["kernel"], checks[best][1])


@pytest.mark.parametrize("shot", [2, 1.0])
def test_records_to_choose_on_are_of_other_patients(encoder, tools, pictures, monkeypatch, shot):
    """As many as are trained on, or a fifth of all; other ones in each repeat."""
    checks, kept = recorded(monkeypatch)
    rows = alike(pictures, 45, 1, prefix="p")
    for row in rows:  # two records of each patient
        row["patient"] = f"p{int(row['id']) % 15}-{row['label']}"
    test = tools.data(alike(pictures, 9, 3, prefix="q"))
    options = {"shots": (shot,), "repeats": 2, "steps": 2, "checks": 1}
    found = make(encoder, train=tools.data(rows), test=test, **options).run(tools.state()).scores
    name = "2_shots" if shot == 2 else "100_percent"
    assert set(found) == {f"balanced_accuracy_{name}", f"auc_{name}"}
    assert found[f"auc_{name}"].deviation is not None
    parts = []
    for (chosen, _), (*_, ids) in zip(kept, checks, strict=True):
        fitted = {rows[int(i)]["patient"] for i in chosen}
        validated = {rows[int(i)]["patient"] for i in ids}
        assert not fitted & validated
        assert (len(chosen), len(ids)) == ((6, 6) if shot == 2 else (36, 9))
        parts.append((tuple(sorted(chosen)), tuple(sorted(ids))))
    assert parts[0] != parts[1]


def test_training_pictures_are_augmented_and_scored_ones_are_not(
    encoder, tools, pictures, monkeypatch
):
    """The transforms of the records come first, then the random ones."""
    seen = []
    stream = finetune.pipelines.Stream
    monkeypatch.setattr(
        finetune.pipelines, "Stream", lambda *a, **k: seen.append(a) or stream(*a, **k)
    )
    train = tools.data(alike(pictures, 9, 1))
    augment = ({"name": "random_flip"}, {"name": "color_jitter", "probability": 0.0})
    with pytest.raises(InputError):  # these pictures are no bytes of 0 .. 255
        make(encoder, train=train, validation=train, test=train, augment=augment).run(tools.state())
    names = [type(transform).__name__ for transform in seen[0][1]]
    assert names == ["RandomFlip", "ColorJitter"] and seen[0][2] == 8


@pytest.mark.parametrize(("options", "sentence"),
                         [({"checks": 61}, "'checks' between 1 and 'steps'"),
                          ({"learning_rates": ()}, "needs a learning rate"),
                          ({"shots": (0,)}, "one is 0"), ({"metrics": ("f1",)}, "of two classes"),
                          ({"batch_size": 0}, "batch of 0 does not divide")])  # fmt: skip
def test_options_that_cannot_be_are_refused(encoder, options, sentence):
    with pytest.raises(InputError, match=sentence):
        make(encoder, train=None, test=None, **options)


def test_patients_in_two_parts_and_towers_that_are_not_there_are_refused(encoder, tools, pictures):
    train = tools.data(alike(pictures, 12, 1, prefix="p"))
    with pytest.raises(InputError, match="Fine-tuning's train and test share 12 patients"):
        make(encoder, train=train, test=train).run(tools.state())
    other = tools.data(alike(pictures, 9, 2, prefix="q"))
    with pytest.raises(InputError, match="Fine-tuning's train and validation share 12 patients"):
        make(encoder, train=train, validation=train, test=other).run(tools.state())
    with pytest.raises(InputError, match="Fine-tuning's validation and test share 9 patients"):
        make(encoder, train=train, validation=other, test=other).run(tools.state())


def test_a_quantity_is_learned_across_folds_in_its_own_unit(encoder, tools, pictures):
    """Of records along the direction that the pre-trained map nearly loses, 300 away from zero."""
    rows = alike(pictures, 40, 1, prefix="p")
    for row in rows:
        row["image"][..., 0] = np.float32(row["image"][..., 0] * 3)
        row["target"] = np.float32(300 + 50 * row["image"][0, 0, 0])
        row["patient"] = f"p{int(row['id']) % 20}"
    options = {"labels": "target", "classes": ("thickness",), "metrics": ("r2",)}
    evaluator = make(encoder, train=tools.data(rows), folds=4, **options)
    found = evaluator.run(blind(tools))
    score, said = found.scores["r2_100_percent"], found.predictions
    assert score.value > 0.8 and score.count == 40 and score.chance == 0
    assert dict(zip(said.record, said.labels, strict=True)) == {
        str(row["id"]): row["target"] for row in rows
    }
    patients = [set(said.group[said.fold == fold]) for fold in range(4)]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 20
    assert np.corrcoef(said.labels, said.scores[:, 0])[0, 1] > 0.9
    assert abs(said.scores.mean() - said.labels.mean()) < 20  # micrometres, not deviations


def test_of_errors_the_least_is_chosen(encoder, tools, pictures, monkeypatch):
    rows = alike(pictures, 40, 1, prefix="p")
    for row in rows:
        row["target"] = np.float32(300 + 50 * row["image"][0, 0, 0])
    options = {"labels": "target", "classes": ("thickness",), "metrics": ("mae",)}
    made = make(encoder, train=tools.data(rows), folds=2, **options)
    errors = iter([9.0, 2.0, 5.0] * 2)
    kept, trainer = [], finetune._Trainer
    monkeypatch.setattr(finetune.METRICS["mae"].__class__, "of", lambda *_: next(errors))
    best = trainer.best
    monkeypatch.setattr(trainer, "best", lambda *given: kept.append(best(*given)) or kept[-1])
    made.run(blind(tools))
    assert [int(state.step) for state in kept] == [40, 40]  # the second of three checks


@pytest.mark.parametrize(("options", "sentence"),
                         [({"labels": "labels"}, "one of"),
                          ({"labels": "target", "shots": (2,)}, "shares of its")])  # fmt: skip
def test_targets_that_cannot_be_are_refused(encoder, options, sentence):
    given = {"classes": ("thickness",), "metrics": ("r2",), **options}
    with pytest.raises(InputError, match=sentence):
        make(encoder, train=None, **given)

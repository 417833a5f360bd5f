"""A classifier from a data set and a start: what is made of them, and what a run leaves."""

import dataclasses
import functools
import json
import re
import shutil
import types
from pathlib import Path

import folders
import jax
import numpy as np
import pytest
from runs import SmokeRun

import retina_jax
from data_pipelines.errors import InputError
from data_pipelines.images import single
from retina_jax import classifier, classifier_task, experiment, exporting
from retina_jax.adapters import linear_probe, ridge
from retina_jax.evals.encoder import bootstrap_groups
from retina_jax.metrics import comparison
from retina_jax.prediction import scoring
from retina_jax.scoring import beside
from retina_jax.train import loop, optimizer

GRADES = ("no diabetic retinopathy", "mild non-proliferative diabetic retinopathy",
          "proliferative diabetic retinopathy")  # fmt: skip


@pytest.fixture(scope="module")
def made():
    """The smoke run, built and not trained."""
    (stage,) = experiment.build_all(retina_jax.get_config("classifier:smoke"), Path("unused"))
    return stage


def test_step_0_is_the_probe(made, monkeypatch):
    """Before any step the head's scores are those of the probe that was folded into it."""
    # Of random features the most careful one would be chosen, which says the same of all records.
    monkeypatch.setattr(linear_probe, "_PENALTIES", np.array([1.0]))
    state = loop.fresh_state(made, loop.abstract_state(made))
    probed = made.warm_start.probes["head"]
    found = probed.encoder.encode_dataset_methods(
        state, probed.data, ("features", "classify"), ["image"], ["label"]
    )
    features, labels = found["features"]["image"], found["features"]["label"]
    groups = bootstrap_groups(probed.data.source.column("patient"))
    probe = linear_probe.fit_by_groups(features, labels, groups, classes=6)
    shares = jax.nn.softmax(np.float64(found["classify"]["logits"]))
    np.testing.assert_allclose(shares, probe.predict_proba(features), atol=1e-5)
    assert len(labels) == 48 and np.ptp(shares, axis=0).min() > 1e-3
    again = loop.fresh_state(made, loop.abstract_state(made))
    np.testing.assert_array_equal(again.params["head"]["kernel"], state.params["head"]["kernel"])


def test_a_run_ends_with_its_best_checkpoint_and_a_finished_one_is_left(smoke_run, tmp_path, made):
    run: SmokeRun = smoke_run("classifier")
    rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    best = made.settings.keep.best
    values = {row["step"]: row[best] for row in rows if best in row}
    assert list(values) == [2, 4] and not any("eval/test/auc" in row for row in rows)
    results = json.loads((run.workdir / "results.json").read_text())
    assert results["step"] == max(values, key=values.__getitem__)
    assert {row["evaluator"] for row in results["scores"]} == {"validation", "test"}
    assert "  probe of the stream 'records'" in run.stderr
    # As if it had been meant to be longer, was not better in its last evaluation, and was killed
    # before it wrote its results.
    copy = shutil.copytree(run.workdir, tmp_path / "run")
    values[4] = min(values.values())
    rows = [{**row, best: values[row["step"]]} if best in row else row for row in rows]
    (copy / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (copy / "results.json").unlink()
    keep = dataclasses.replace(made.settings.keep, patience=1)
    settings = dataclasses.replace(made.settings, keep=keep)
    loop.train(dataclasses.replace(made, settings=settings, total=400), copy)
    again = json.loads((copy / "results.json").read_text())
    assert again["step"] == results["step"] and again["scores"] == results["scores"]
    assert len((copy / "metrics.jsonl").read_text().splitlines()) == len(rows)


class Records:
    """A split of a data set as `sources.load` returns it."""

    pictures = ("image",)

    def __init__(self, labels, split="train", datasets=()):
        self.labels, self.split, self.datasets = labels, split, datasets
        self.fields = ("labels", *self.pictures, *(["dataset"] if datasets else ()))

    def __len__(self):
        return len(self.labels)

    def __repr__(self):
        return f"clinic/mine:{self.split}"

    def __getitem__(self, row):
        return {"image": single.encoded(np.zeros((20, 40, 3), np.uint8))}

    def column(self, field):
        known = {"labels": self.labels, "dataset": self.datasets}
        return list(known.get(field, [""] * len(self)))


def task_of(monkeypatch, train, validation=None, test=None, datasets=(), **options):
    """The task of three splits of labels, and of the data sets that they are from."""
    splits = {"train": train, "validation": validation or train, "test": test or train}
    monkeypatch.setattr(
        classifier_task.sources, "load",
        lambda name, split, data_dir, where=None: Records(splits[split], split, datasets),
    )  # fmt: skip
    recipe = classifier_task.Recipe(data="clinic/mine", tower={"name": "resnet"}, **options)
    return classifier_task.Task.of(recipe, None)


@pytest.mark.fast
def test_the_task_is_what_the_labels_are(monkeypatch):
    single = task_of(monkeypatch, [["b"], ["a"], ["B "], []])
    assert (single.kind, single.classes, single.counts) == ("single", ("a", "b"), (1, 2))
    assert single.where == {"labels": ("a", "b")} and single.side == 40 and single.records == 3
    several = task_of(monkeypatch, [["a", "b"], ["b"], ["c"]])
    assert (several.kind, several.key) == ("multi", "labels") and not several.where
    graded = task_of(monkeypatch, [[name] for name in reversed(GRADES)])
    assert (graded.kind, graded.classes) == ("ordinal", GRADES)
    chosen = task_of(monkeypatch, [["c"], ["a"], ["b"], ["B"]], classes=("c", "A"))
    assert chosen.classes == ("c", "A") and chosen.records == 2


@pytest.mark.fast
def test_data_without_single_pictures_are_a_sentence(monkeypatch):
    monkeypatch.setattr(Records, "pictures", ("left_image", "right_image"))
    with pytest.raises(InputError, match="no field 'image'.*left_image, right_image. Prepare it"):
        task_of(monkeypatch, [["a"], ["b"]])


@pytest.mark.fast
def test_a_name_of_two_data_sets_is_told_to_be_one_class(monkeypatch, caplog):
    def tell(*datasets):
        caplog.clear()
        task_of(monkeypatch, [["normal"], ["cataract"], ["Normal"]], datasets=datasets)
        return caplog.text

    assert tell("odir", "odir", "odir") == tell("odir", "kermany_oct", "odir") == ""
    assert tell("odir", "odir", "") == tell() == ""
    said = tell("odir", "odir", "kermany_oct")
    assert "'normal' is one class of clinic/mine:train" in said and "cataract" not in said
    assert "kermany_oct and odir" in said and "--config.where.dataset=" in said


@pytest.mark.fast
@pytest.mark.parametrize(("train", "validation", "chosen", "unjudged"), [
    ([["a"], ["b"], ["c"]], [["a"], ["b"], ["c"]], "auc", ()),
    ([["a"], ["b"], ["c"]], [["a"], ["b"], []], "balanced_accuracy", ("c",)),
    ([["a", "b"], ["b"], ["c"]], [["a"], ["a", "b"]], "auc", ("a", "c")),
    ([[name] for name in GRADES], [[name] for name in GRADES[:2]], "quadratic_kappa", GRADES[2:]),
])  # fmt: skip
def test_a_step_is_chosen_by_a_figure_that_validation_records_have(
    monkeypatch, caplog, train, validation, chosen, unjudged
):
    """The area under the curve of a class that no record is of is not defined."""
    task = task_of(monkeypatch, train, validation)
    assert task.unjudged == unjudged
    recipe = classifier_task.Recipe(data="clinic/mine", tower={"name": "resnet"})
    assert classifier._Run(recipe, task, None, None)._chosen_by() == chosen
    told = chosen != "quadratic_kappa" and unjudged
    assert ("none, or every one, has" in caplog.text) == bool(told)


@pytest.mark.fast
@pytest.mark.parametrize(("labels", "options", "sentence"), [
    (([],), {}, "train has no records after its selection"),
    (([["a"], ["a"]],), {}, "a classifier tells two or more apart"),
    (([["a"], ["b"]], None, [["a"]]), {}, "test has 1 records with the classes \\['a'\\]"),
    (([["a"], ["b"]], [["a"], ["c"]]), {}, "validation has the class 'c', which no record of"),
    (([["a"], ["b"]],), {"classes": ("a", "b", "c")}, "has the class 'c', so it cannot be learned"),
    (([["a"], ["b"], ["c"]],), {"task": "ordinal"}, "The order of the classes a, b, c is not"),
])  # fmt: skip
def test_data_without_a_task_are_a_sentence(monkeypatch, labels, options, sentence):
    with pytest.raises(InputError, match=sentence):
        task_of(monkeypatch, *labels, **options)


@pytest.mark.fast
def test_a_number_is_a_task_where_it_is_named(monkeypatch):
    column = ["250", 300.5, "", "410"]
    found = task_of(monkeypatch, column, ["1", "2"], ["3", "4"], task="regression",
                    classes=("central thickness in µm",))  # fmt: skip
    assert (found.kind, found.key, found.records) == ("regression", "target", 3)
    assert found.classes == ("central thickness in µm",) and not found.where
    known = [250, 300.5, 410]
    assert (found.mean, found.scale) == pytest.approx((np.mean(known), np.std(known)))
    assert found.ban == {"mode": "exact", "field": "labels", "words": ("",)}
    assert not task_of(monkeypatch, ["1", "2"], task="regression").ban
    with pytest.raises(InputError, match="test has 2 records with 1 values of 'labels'"):
        task_of(monkeypatch, column, None, ["7", "7.0"], task="regression")
    with pytest.raises(InputError, match="'mixup' are not for the task 'regression'"):
        task_of(monkeypatch, column, task="regression", imbalance="sqrt")
    with pytest.raises(InputError, match="one name in 'classes', not 2"):
        task_of(monkeypatch, column, task="regression", classes=("a", "b"))


def test_a_number_is_learned_standardised_and_told_in_its_unit(monkeypatch):
    """From the first step to the export, by a head that begins as a ridge regression."""
    given = {**retina_jax.get_config("classifier:smoke"), "task": "regression", "labels": "myopia",
             "classes": ("refraction",)}  # fmt: skip
    monkeypatch.setattr(ridge, "_PENALTIES", np.array([1.0]))
    (stage,) = experiment.build_all(given, Path("unused"))
    objective = stage.settings.objectives["regression"]
    assert stage.settings.keep.best == "eval/validation/r2" and "frozen_probe" not in given
    state = loop.fresh_state(stage, loop.abstract_state(stage))
    probed = stage.warm_start.probes["head"]
    found = probed.encoder.encode_dataset_methods(
        state, probed.data, ("features", "classify"), ["image"], ["target"]
    )
    features, values = found["features"]["image"], found["features"]["target"]
    groups = bootstrap_groups(probed.data.source.column("patient"))
    wanted = ridge.fit_by_groups(features, values, groups).scores(features)
    logits = found["classify"]["logits"]
    np.testing.assert_allclose(logits * objective["scale"] + objective["mean"], wanted, atol=1e-3)
    assert np.std(wanted) > 0.01 and abs(np.mean(logits)) < 0.1
    said = stage.evaluators["test"].run(state)
    assert set(said.scores) == {"r2", "mae"} and said.predictions.about["task"] == "regression"
    test = said.predictions.of("")
    error = np.abs(test.labels - test.scores[:, 0]).mean()
    assert said.scores["mae"].value == pytest.approx(error)
    known = test.labels  # what a constant answer has at best
    constant = min(np.abs(known - value).mean() for value in known)
    assert said.scores["mae"].chance == pytest.approx(constant)
    assert np.ptp(test.labels) > 1  # dioptres
    # The folder's head answers as the run's evaluators do.
    variables = {"params": jax.tree.map(np.asarray, dict(state.params))}
    trained = types.SimpleNamespace(objective=objective)
    decision, moved = exporting._in_its_unit(trained, variables)
    head = moved["params"]["head"]
    assert decision.task == "regression"
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], wanted, atol=1e-3)


@pytest.mark.fast
def test_weights_and_shares_of_classes():
    """Their values are in tests/metrics/test_specification.py."""
    task = classifier_task.Task("single", ("a", "b", "c"), (60, 30, 10), 100, {}, "cfp", 64)
    recipe = functools.partial(classifier_task.Recipe, data="", tower={})
    for drawn in ("none", "sampler"):
        assert task.weighting(recipe(imbalance=drawn)) == {}
    adjusted = task.weighting(recipe(imbalance="logit_adjust"))
    assert adjusted == {"shares": pytest.approx((0.6, 0.3, 0.1))}
    assert task.prior(recipe()) == pytest.approx((0.6, 0.3, 0.1))
    for drawn in ("balanced", "sampler", "logit_adjust"):
        assert task.prior(recipe(imbalance=drawn)) == pytest.approx((1 / 3,) * 3)
    # As beta nears 1, the effective number nears the number.
    near = task.weighting(recipe(imbalance="class_balanced", beta=1 - 1e-9))["class_weights"]
    np.testing.assert_allclose(near, np.array([1 / 60, 1 / 30, 1 / 10]) / 0.05, rtol=1e-5)
    for imbalance in ("balanced", "class_balanced", "logit_adjust", "sampler"):
        several = dataclasses.replace(task, kind="multi")
        with pytest.raises(InputError, match="a record without any is one too: leave 'imbalance'"):
            several.weighting(recipe(imbalance=imbalance))
    with pytest.raises(InputError, match="'beta' is at least 0 and less than 1, not 1.0"):
        recipe(beta=1.0)
    with pytest.raises(InputError, match="'imbalance', 'focal', 'smoothing' and 'mixup' are not"):
        recipe(task="regression", focal=2.0)
    seen = classifier_task.seen_prior((6, 2, 1, 3), 8, (2, 2), False)
    assert seen == pytest.approx((0.75, 0.25, 0.25, 0.75))


@pytest.mark.fast
def test_what_is_given_takes_the_place_of_what_is_made():
    made = {"total": {"epochs": 50}, "optimization": {"optimizer": {"name": "adamw", "b1": 1}}}
    given = {"total": {"steps": 3}, "optimization": {"optimizer": {"name": "sgd"}, "ema": None}}
    found = classifier.merged(made, given)
    assert found == {"total": {"steps": 3}, "optimization": {"optimizer": {"name": "sgd"},
                                                              "ema": None}}  # fmt: skip
    found = classifier.merged(made, {"optimization": {"optimizer": {"b2": 2}}})
    assert found["optimization"]["optimizer"] == {"name": "adamw", "b1": 1, "b2": 2}
    with pytest.raises(InputError, match="has no option 'dat_dir'. It accepts: data, init"):
        classifier.settings({"data": "clinic/mine", "dat_dir": "x"})
    with pytest.raises(InputError, match="name one of them, e.g. --config.init=FOLDER"):
        classifier.settings({"data": "clinic/mine"})


def test_a_converted_model_is_the_start_and_is_judged_beside(tmp_path, monkeypatch):
    """Its tower and pixels, rates that fall towards its input, its own probe and zero-shot."""
    folders.write(tmp_path, model={**folders.dual(), "mean": (0.5,) * 3, "std": (0.25,) * 3})
    smoke = retina_jax.get_config("classifier:smoke")
    smoke = {**smoke, "tower": None, "init": str(tmp_path / "model"), "imbalance": "sqrt"}
    (stage,) = experiment.build_all(smoke, tmp_path / "run")
    model, origin = stage.settings.model, stage.settings.restore_from["image"]
    assert model["tower"] == folders.VIT and tuple(model["mean"]) == (0.5,) * 3
    assert set(origin.ignore) == {"text", "image_projection", "text_projection", "logit_scale"}
    assert set(stage.evaluators) == {"validation", "test", "frozen_probe", "zero_shot"}
    assert set(stage.settings.at_end) == {"test", "frozen_probe", "zero_shot"}
    rules = stage.settings.optimization.rules
    chosen = optimizer.assign(stage.shapes.params, rules)
    assert rules[int(chosen["image"]["blocks"]["mlp"]["in"]["kernel"])][1] == {"layer_decay": 0.75}
    assert rules[int(chosen["head"]["kernel"])][1] == {"learning_rate": 10.0}
    assert rules[int(chosen["head"]["bias"])][1]["decay"] is False
    weights = stage.settings.objectives["classification"]["class_weights"]
    assert np.mean(weights) == pytest.approx(1)
    # Of the start: whatever the state is that is trained.
    first = stage.evaluators["zero_shot"].run(None)
    assert first is stage.evaluators["zero_shot"].run(None) and first.scores["auc"].count == 48
    said = first.predictions
    alike = dataclasses.replace(said, scores=np.eye(6)[said.labels])
    few = beside.sentence(alike, said, ("test", "zero_shot"))
    assert few.startswith("'test' and 'zero_shot' are not compared on validation records. A comp")
    for fewest in ("LEAST_GROUPS", "LEAST_OF_CLASS"):
        monkeypatch.setattr(comparison, fewest, 1)
    better = beside.sentence(alike, said, ("test", "zero_shot"))
    assert re.match(r"On 16 validation records 'test' has balanced accuracy \+0\.\d+ .*"
                    "so training made it better there", better)  # fmt: skip
    same = beside.sentence(said, said, ("test", "zero_shot"))
    assert "it is not shown that training made it better" in same
    assert beside.sentence(said, said.where(said.split == "test"), ("", "")) == ""


@pytest.mark.fast
def test_without_evaluators_nothing_chooses_and_all_else_stays():
    config = retina_jax.get_config("classifier:smoke")
    usual, bare = (classifier.settings({**config, **more}) for more in ({}, {"evaluators": {}}))
    assert usual["evaluators"] and not bare["evaluators"] and not bare["at_end"]
    assert "best" not in bare["keep"] and bare["streams"] == usual["streams"]


def test_a_start_without_statistics_has_none_to_keep(tmp_path):
    """Of a tower that normalises over groups of features."""
    tower = {"name": "resnet", "depth": 18, "width": 16, "norm": "group"}
    model = {"name": "tower", "key": "image", "tower": tower}
    folders.write(tmp_path, model=model, classes=(), tokenizer=None, text_length=None)
    smoke = {**retina_jax.get_config("classifier:smoke"), "tower": None}
    (stage,) = experiment.build_all({**smoke, "init": str(tmp_path / "model")}, tmp_path / "run")
    assert "batch_stats" not in stage.shapes.model_state
    assert stage.settings.optimization.rules[0][1] == {"layer_decay": 0.95, "decay": False}


@pytest.mark.parametrize("mode", ["replace", "define"])
def test_the_start_is_asked_beside_as_it_answers_by_itself(tmp_path, mode):
    """By its own descriptions of classes, padded and mirrored as its folder says."""
    (made,) = experiment.build_all(retina_jax.get_config("classifier:smoke"), tmp_path / "first")
    classes = made.evaluators["test"].classes
    described = {classes[1]: ("a large cup", "a photograph of large cup of left eye")}
    folders.write(tmp_path, model=folders.dual(pool="flair"), padding="longest", text_length=12,
                  test_time_flip=True, knowledge=described, mode=mode)  # fmt: skip
    smoke = {**retina_jax.get_config("classifier:smoke"), "tower": None}
    (stage,) = experiment.build_all({**smoke, "init": str(tmp_path / "model")}, tmp_path / "run")
    beside_it = stage.evaluators["zero_shot"]
    loaded = retina_jax.load(tmp_path / "model")
    prompts = beside_it.evaluator.prototypes(beside_it.read())
    own = scoring.by_texts(loaded, classes)
    np.testing.assert_allclose(prompts, own.prototypes, atol=1e-6)
    picture = next(iter(beside_it.evaluator.data.batches()))["image"][:1]
    expected = loaded.embed({"image": picture})["image"]
    found = beside_it.encoder.encode_batch(beside_it.read(), {"image": picture}, "embed")
    np.testing.assert_allclose(found["image"], expected, atol=1e-6)

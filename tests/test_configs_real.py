"""The configs `real`: what they name is in the tables of the real data, and their parts fit."""

import shutil
from math import nan
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import bert_vocabulary, whole_config

from data_pipelines import prepare
from data_pipelines.builders import graded, table
from data_pipelines.text.texts import plain
from data_pipelines.transforms import TRANSFORMS
from retina_jax import experiment, starts
from retina_jax.evaluation_presets import PROBED
from retina_jax.train import optimizer

SETS = ("odir", "idrid", "kermany_oct")
STAGES = whole_config("real", "classifier").to_dict()["stages"]
CLASSIFIER = STAGES["classifier"]
SYSTEMS = ("flair", "keepfit", "mmretinal_v2", "contrastive_generative", "contrastive")
QUICK = ("mmretinal_v2", "contrastive_generative")


@pytest.fixture(scope="module")
def labels(retina_data: Path) -> dict[str, set[str]]:
    """Data set -> its labels and its grades of retinopathy."""
    found: dict[str, set[str]] = {}
    for name in SETS:
        read = table.read(retina_data / name / "manifest.csv", {})
        for entry in table.listing(read, dataset=name, modality="cfp").entries:
            words = [*entry.fields["labels"], *graded.keyword_list(entry.fields["caption"])]
            grade = graded.retinopathy_grade(words)
            found.setdefault(name, set()).update(map(plain, (*entry.fields["labels"], grade)))
    return found


def test_every_class_is_a_label_of_its_data_set(labels: dict[str, set[str]]) -> None:
    transform = CLASSIFIER["streams"]["public"]["transforms"][-1]
    parts = CLASSIFIER["objectives"]["classification"]["parts"]
    assert sum(parts) == len(transform["classes"]) == CLASSIFIER["model"]["classes"] == 14
    found = {name for classes in transform["classes"]
             for name in ((classes,) if isinstance(classes, str) else classes)}  # fmt: skip
    for dataset, label in (name.split("/") for name in found):
        assert label in labels[dataset], label


def test_a_normal_eye_of_odir_has_grade_0_and_no_disease() -> None:
    """Were its grade missing, all graded eyes of ODIR-5K would have retinopathy."""
    spec = dict(CLASSIFIER["streams"]["public"]["transforms"][-1])
    label = TRANSFORMS[spec.pop("name")](**spec)
    eye = {"dataset": "odir", "labels": ["normal"], "dr_grade": ""}
    np.testing.assert_array_equal(label.map(eye)["labels"], [1, *[0] * 4, 1, *[0] * 4, *[nan] * 4])
    graded_eye = {"dataset": "odir", "labels": ["diabetic retinopathy"],
                  "dr_grade": "mild diabetic retinopathy"}  # fmt: skip
    np.testing.assert_array_equal(label.map(graded_eye)["labels"], [0, 1, *[0] * 8, *[nan] * 4])


def test_every_class_that_is_probed_is_a_label(labels: dict[str, set[str]]) -> None:
    probes = {name: one for name, one in CLASSIFIER["evaluators"].items() if "_probe" in name}
    assert len(probes) == 4
    for name, probe in probes.items():
        train, test = probe["train"], probe["test"]
        assert train["where"] == test["where"] and train["split"] != test["split"]
        there = labels[test["where"]["dataset"]]
        for synonyms in PROBED[name.removesuffix("_probe")]:
            assert set(synonyms) <= there


def test_a_head_is_asked_for_the_classes_of_its_part() -> None:
    """What names a class in training names it where the head is scored, in the same order."""
    trained = CLASSIFIER["streams"]["public"]["transforms"][-1]["classes"]
    heads = {name: one for name, one in CLASSIFIER["evaluators"].items() if "_head" in name}
    assert set(heads) == {"grades_head", "odir_head", "oct_head"}
    for name, head in heads.items():
        own = trained[head["first"] : head["first"] + len(head["classes"])]
        for scored, learned in zip(head["classes"], own, strict=True):
            one = learned if isinstance(learned, str) else learned[0]
            words = scored.replace("non-proliferative ", "") if name == "grades_head" else scored
            assert (
                one.split("/")[1] == words and one.split("/")[0] == head["data"]["where"]["dataset"]
            )


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_starts_from_the_classifier_and_packages(system: str) -> None:
    stages = whole_config("real", system).to_dict()["stages"]
    assert list(stages) == ["classifier", system] and stages["classifier"] == CLASSIFIER
    begun = stages[system]["restore_from"]
    assert begun["image"]["stage"] == "classifier" and begun["text"]["path"] == "package:minilm"
    assert stages[system]["model"]["towers"]["image"] == CLASSIFIER["model"]["tower"]


@pytest.mark.parametrize("system", ("keepfit", "mmretinal_v2"))
def test_a_normal_fundus_is_no_positive_of_a_normal_scan(system: str) -> None:
    stage = whole_config("real", system).to_dict()["stages"][system]
    spec = dict(stage["streams"]["public"]["transforms"][-1])
    group = TRANSFORMS[spec.pop("name")](**spec)
    fundus, scan = (
        group.map({"modality": modality, "category": "normal"})["group"]
        for modality in ("cfp", "oct")
    )
    assert fundus != scan


@pytest.mark.parametrize("system", SYSTEMS)
def test_words_are_masked_where_they_are_reconstructed(system: str) -> None:
    stage = whole_config("real", system).to_dict()["stages"][system]
    named = [spec["name"] for one in stage["streams"].values() for spec in one["transforms"]]
    rebuilt = [spec["name"] for spec in stage["objectives"].values()]
    assert ("mask_tokens" in named) == ("masked_language" in rebuilt)
    assert ("reconstruction" in stage["evaluators"]) == ("masked_image" in rebuilt)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, retina_data: Path) -> Path:
    """The first pictures of each set, prepared as the config says."""
    folder = tmp_path_factory.mktemp("real")
    for name in SETS:
        lines = (retina_data / name / "manifest.csv").read_text("utf-8").splitlines()
        header, rows = lines[0], lines[1:401:4]
        (folder / "source" / name / "images").mkdir(parents=True)
        (folder / "source" / name / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
        for row in rows:
            file = row.split(",")[0]
            shutil.copy(retina_data / name / file, folder / "source" / name / file)
    prepare.main([
        "--dataset=manifest", "--name=retina", f"--source={folder / 'source'}", "--size=32",
        "--csv=*/manifest.csv", "--dr_grade=caption,labels", f"--data_dir={folder}",
    ])  # fmt: skip
    bert_vocabulary(folder / "vocab.txt")
    return folder


@pytest.mark.parametrize(
    "system", [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in SYSTEMS]
)
def test_all_parts_of_a_system_fit_the_data(system: str, prepared: Path) -> None:
    """From random weights, since the packages may be absent; nothing is compiled."""
    stage = starts.scratch(whole_config("real", system).to_dict()["stages"][system])
    stage = {key: value for key, value in stage.items() if key != "restore_from"}
    stage["model"]["towers"]["text"]["depth"] = 1
    vocabulary = {"name": "wordpiece", "vocab": str(prepared / "vocab.txt")}
    given = {**stage, "tokenizer": vocabulary, "data_dir": str(prepared)}
    (made,) = experiment.build_all(given, prepared / "run")
    assert made.examples == 32 and made.total == 250
    assert set(made.evaluators) == set(stage["evaluators"])
    chosen = optimizer.assign(made.shapes.params, stage["optimization"]["rules"])
    image, text = chosen["image"], chosen["text"]
    rules = [options for _, options in stage["optimization"]["rules"]]
    assert rules[int(image["stem_conv"]["kernel"])] == {"frozen": True}
    assert rules[int(image["block4"]["bn0"]["scale"])] == {"frozen": True}
    learned = {"learning_rate": 1 / 3, "stored_statistics": True}
    assert rules[int(image["block5"]["bn0"]["scale"])] == learned
    assert {rules[int(i)].get("frozen") for i in jax.tree.leaves(text)} == {True}

"""Evaluation on trained records is refused by what a run says that it was trained on."""

import json
import logging
import shutil

import pytest
from runs import whole_config

from data_pipelines.errors import InputError
from retina_jax import experiment, trained
from retina_jax.convert import model_folder


@pytest.fixture
def leaky(smoke_run, tmp_path):
    """The directory of a run whose record says that it was trained on the test records too."""
    workdir = shutil.copytree(smoke_run("flair").workdir, tmp_path / "leaky")
    stored = json.loads((workdir / "config.json").read_text())
    stored["resolved"]["streams"]["public"]["split"] = "public+test"
    (workdir / "config.json").write_text(json.dumps(stored))
    return workdir


def test_an_evaluation_of_a_run_that_was_trained_on_its_records(leaky):
    with pytest.raises(InputError, match="scored on training data.*smoke:public.test"):
        experiment.build_all(whole_config("flair"), leaky)


@pytest.mark.parametrize("way", ["a run", "a run that started from it", "a model made of it"])
def test_a_run_that_starts_from_one_that_was_trained_on_the_test_records(leaky, way, tmp_path):
    place = leaky
    if way == "a run that started from it":
        place = shutil.copytree(leaky, tmp_path / "between")
        stored = json.loads((place / "config.json").read_text())
        stored["resolved"]["streams"]["public"]["split"] = "public"
        origin = {"take": ["image"], "path": str(leaky)}
        stored["resolved"]["restore_from"] = {"": origin}
        (place / "config.json").write_text(json.dumps(stored))
    if way == "a model made of it":
        place = tmp_path / "model"
        place.mkdir()
        (place / model_folder.WEIGHTS).touch()
        about = {"format": model_folder.FORMAT, "version": model_folder.VERSION}
        about["source"] = {"trained": trained.behind(leaky).specs}
        (place / model_folder.CONFIG).write_text(json.dumps(about))
    given = whole_config("flair")
    given.restore_from = {"take": ("image", "text"), "path": str(place)}
    with pytest.raises(InputError, match="scored on training data"):
        experiment.build_all(given, tmp_path / "new")


@pytest.mark.fast
def test_of_published_weights_it_is_not_known_what_they_saw(tmp_path):
    published = tmp_path / "published"
    published.mkdir()
    (published / model_folder.WEIGHTS).touch()
    about = {"format": model_folder.FORMAT, "version": model_folder.VERSION, "licence": "MIT"}
    (published / model_folder.CONFIG).write_text(json.dumps(about))
    streams = {"public": {"dataset": "synthetic_retina/smoke", "split": "public"}}
    resolved = {"restore_from": {}, "streams": streams}
    told = trained.about(tmp_path, {}, {"test": "no"}, resolved, None)
    assert told["seen_test_set"] == {"test": "no"} and told["licence"] is None
    resolved["restore_from"] = {"": {"path": str(published), "stage": None}}
    told = trained.about(tmp_path, {}, {"a": "no", "b": "yes"}, resolved, None)
    assert told["seen_test_set"] == {"a": "unknown", "b": "yes"} and told["licence"] == "MIT"
    assert told["pretraining_sets"] == ["synthetic_retina/smoke"] and told["model_hash"] is None
    assert told["source"] == {"": "published"}


def test_what_is_not_here_cannot_be_compared_and_that_is_said(leaky, caplog):
    stored = json.loads((leaky / "config.json").read_text())
    stored["resolved"]["streams"]["public"]["dataset"] = "manifest/elsewhere"
    (leaky / "config.json").write_text(json.dumps(stored))
    with caplog.at_level(logging.WARNING):
        experiment.build_all(whole_config("flair"), leaky)
    assert "trained on manifest/elsewhere:public+test, which is not here" in caplog.text

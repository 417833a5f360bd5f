"""MLflow and Weights & Biases, played by modules that note what they are given."""

import contextlib
import sys
from types import SimpleNamespace

import pytest
from evaluated_runs import line, run, score

from retina_jax.report import __main__ as command

pytestmark = pytest.mark.fast


class Noted(list):
    """Calls in their order."""

    def of(self, name, value=None):
        """A function that is noted with its arguments."""

        def call(*arguments, **options):
            self.append((name, *arguments, *options.values()))
            return value

        return call


def mlflow(noted):
    """What is used of MLflow."""
    running = contextlib.nullcontext()
    return SimpleNamespace(
        set_experiment=noted.of("set_experiment"), start_run=noted.of("start_run", running),
        log_metrics=noted.of("log_metrics"), log_artifact=noted.of("log_artifact"),
    )  # fmt: skip


def wandb(noted):
    """What is used of Weights & Biases."""
    running = SimpleNamespace(log=noted.of("log"), log_artifact=noted.of("log_artifact"))
    kept = SimpleNamespace(add_file=noted.of("add_file"))
    return SimpleNamespace(init=noted.of("init", contextlib.nullcontext(running)),
                           Artifact=noted.of("Artifact", kept))  # fmt: skip


@pytest.fixture
def stages(tmp_path):
    """A run of two stages, one of which has scores."""
    path = tmp_path / "r"
    run(path / "text", [line(1)], name="text")
    scores = [score("auc", 0.75), score("f1 (drusen)", 0.5), score("kappa", None)]
    run(path / "vision", [line(2)], scores, name="a run")
    return path


def test_mlflow_has_the_scores_and_both_files(stages, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", mlflow(noted := Noted()))
    assert command.main([str(stages), "--mlflow=clinic"]) == 0
    names = ("text", "vision")
    assert noted == [
        ("set_experiment", "clinic"), ("start_run", "a run"),
        ("log_metrics", {"vision/zeroshot/auc": 0.75, "vision/zeroshot/f1 _drusen_": 0.5}),
        *(("log_artifact", str(stages / name / "results.json"), name) for name in names),
        ("log_artifact", str(stages / "report.html"), None),
    ]  # fmt: skip


def test_wandb_has_the_scores_and_both_files(stages, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb(noted := Noted()))
    assert command.main([str(stages), "--wandb"]) == 0
    assert noted[0] == ("init", "retina_jax", "a run", "evaluation")
    assert noted[1][1]["vision/zeroshot/auc"] == 0.75 and len(noted[1][1]) == 2
    assert noted[2] == ("Artifact", "report-a_run", "report")
    assert noted[3:6] == [
        ("add_file", str(stages / name), name)
        for name in ("text/results.json", "vision/results.json", "report.html")
    ]
    assert [name for name, *_ in noted[6:]] == ["log_artifact"]


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_package_that_is_not_there_is_one_sentence(stages, monkeypatch, capsys, tracker):
    monkeypatch.setitem(sys.modules, tracker, None)
    assert command.main([str(stages), f"--{tracker}"]) == 2
    assert f"not installed: pip install {tracker}\n" in capsys.readouterr().err
    assert not (stages / "report.html").exists()


def test_what_a_server_says_is_one_sentence_and_the_page_is_there(stages, monkeypatch, capsys):
    away = SimpleNamespace(set_experiment=lambda name: 1 / 0)
    monkeypatch.setitem(sys.modules, "mlflow", away)
    assert command.main([str(stages), "--mlflow"]) == 2
    said = capsys.readouterr().err
    assert "mlflow did not take it: ZeroDivisionError" in said and said.count("\n") == 1
    assert (stages / "report.html").exists()
    assert command.main([str(stages), str(stages / "text"), "--mlflow"]) == 2
    assert "one WORKDIR" in capsys.readouterr().err

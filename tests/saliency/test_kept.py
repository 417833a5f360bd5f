"""The verdict of a study in the results of the run that it is of."""

import json
import shutil

import numpy as np
import pytest
from evaluated_runs import evaluated, page_of

from data_pipelines.errors import InputError
from retina_jax.saliency import kept, verdict
from retina_jax.scoring import records

pytestmark = pytest.mark.fast

MADE_OF = {"method": "gradients", "weights_hash": "a" * 64}
CLASSES = ("healthy", "refer")


@pytest.fixture
def told():
    """A verdict that passes."""
    controls = {name: np.ones(30) for name in verdict.CONTROLS}
    cascade = {"three quarters": (1.0, 0.1), "all": (1.0, float("nan"))}
    return verdict.judge(np.linspace(2, 3, 30), controls, np.arange(30), cascade, 0.5)


@pytest.fixture
def run(tmp_path):
    """A run whose results are of those weights, and of another model that has the same classes."""
    path = shutil.copytree(evaluated(tmp_path / "drawn", 1.2), tmp_path / "run")
    results = json.loads((path / "results.json").read_text())
    results["provenance"] = {"model": {"weights_hash": "a" * 64}}
    results["evaluations"]["start"] = {"classes": list(CLASSES)}
    (path / "results.json").write_text(json.dumps(results))
    config = {"evaluators": {"probe": {"of": None}, "start": {"of": "package:other"}}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "maps").mkdir()
    return path


def test_a_verdict_is_said_of_each_evaluation_of_the_model_and_its_classes(run, told):
    before = page_of(run)
    assert kept.into_results(run / "maps", told, MADE_OF, CLASSES).endswith("of probe.")
    found = json.loads((run / "results.json").read_text())["evaluations"]
    said = found["probe"]["saliency_control"]
    assert said["passes"] is True and said["folder"] == "maps" and "start" in found
    assert said["controls"]["edges"] == list(told.controls["edges"]) and said["count"] == 30
    assert said["cascade"]["all"] == [1.0, None]  # JSON has no number for it
    assert said | MADE_OF == said and "saliency_control" not in found["start"]
    assert records.differences(run) == []  # figures follow from the records as before
    assert page_of(run) == before


def test_results_of_other_weights_or_classes_have_no_verdict(run, told, tmp_path):
    before = (run / "results.json").read_text()
    other = {**MADE_OF, "weights_hash": "b" * 64}
    assert "is of other weights" in kept.into_results(run / "maps", told, other, CLASSES)
    assert "no evaluation of these" in kept.into_results(run / "maps", told, MADE_OF, ("a", "b"))
    assert (run / "results.json").read_text() == before
    assert kept.into_results(tmp_path / "maps", told, MADE_OF, CLASSES) == ""  # in no run
    (run / "results.json").write_text("[")
    with pytest.raises(InputError, match=r"results.json and what lies beside it cannot be read"):
        kept.into_results(run / "maps", told, MADE_OF, CLASSES)

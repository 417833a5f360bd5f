"""The checklist and the model card of a page: whose they are, and what nobody knows."""

import json
import re

import pytest
from evaluated_runs import evaluated, model_of, page_of

from data_pipelines.errors import InputError
from retina_jax import report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two classes."""
    return evaluated(tmp_path_factory.mktemp("runs") / "clinic", 1.2, count=120, validation=60)


@pytest.fixture
def model(run, tmp_path):
    """The folder of a model that was made of it."""
    return model_of(run, tmp_path / "grader")


def known(page: str, item: str) -> str:
    """What the page says of an item of the checklist, without its tags."""
    row = page[page.index(f"{item} · ") :]
    return " ".join(re.sub("<[^>]+>", " ", row[: row.index("</tr>")]).split())


def test_a_run_knows_what_it_has_measured_and_says_who_knows_the_rest(run, tmp_path):
    page = page_of(run)
    assert "120 records of " in known(page, "21") and known(page, "21").endswith("per_class")
    assert "auc" in known(page, "23a") and known(page, "23a").endswith("results.json: scores")
    assert known(page, "16-19").endswith("author")
    assert known(page, "13") == "13 · class imbalance told by a converted model"
    assert "retina-jax convert" in page and "<summary>Model card" not in page


def test_the_model_adds_its_card_and_what_it_decides(run, model, tmp_path):
    page = page_of(run, model=model)
    assert "0.750, 0.250" in known(page, "13") and "author" in known(page, "15")
    card = page[page.index("<summary>Model card") :]
    assert "<h3>A &lt;b&gt;grader</h3>" in card and "1,234 parameters" in card
    assert 'retina_jax.load("grader")'.replace('"', "&#34;") in card and "```" not in card
    assert "<li>Licence: MIT</li>" in card and "brightness" not in card
    (model / "quality.json").write_text('{"brightness": [0.1, 0.9]}')
    page = page_of(run, model=model)
    assert "<li>brightness: 0.1 to 0.9</li>" in page and "limits of brightness" in known(
        page, "27a"
    )
    about = json.loads((model / "config.json").read_text())
    for name in ("licence", "decision", "ignored", "classes"):  # of an older version
        del about[name]
    (model / "config.json").write_text(json.dumps(about))
    report.write([run], tmp_path / "page.html", model=model)
    del about["weights"]
    (model / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="is damaged: it has no 'weights'"):
        report.write([run], tmp_path / "page.html", model=model)


def test_a_model_of_another_run_is_refused(run, model, tmp_path):
    about = json.loads((model / "config.json").read_text())
    about["evaluated"][0]["value"] += 1e-6
    (model / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"grader has other results than .*clinic: name the"):
        report.write([run], tmp_path / "page.html", model=model)
    about["evaluated"] = []
    (model / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="was converted before its run was evaluated"):
        report.write([run], tmp_path / "page.html", model=model)
    with pytest.raises(InputError, match="is no folder of a model"):
        report.write([run], tmp_path / "page.html", model=tmp_path)
    assert not (tmp_path / "page.html").exists()

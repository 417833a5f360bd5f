"""Pictures of a page: both eyes, and maps only of a study that beat its controls."""

import json
import re
import shutil
from types import SimpleNamespace

import evaluated_runs
import numpy as np
import pytest
from evaluated_runs import evaluated, page_of
from picture_files import encode
from PIL import Image

from data_pipelines.errors import InputError
from retina_jax import report
from retina_jax.evals.retrieval import Retrieval
from retina_jax.saliency import verdict
from retina_jax.scoring import examples, thumbnails

pytestmark = pytest.mark.fast


def plain(colour):
    return encode(Image.new("RGB", (60, 60), colour))


def test_both_eyes_are_shown_the_left_one_first_and_a_missing_one_is_black():
    record = {"left_image": plain("red"), "right_image": plain("lime"), "report": "two eyes"}
    data = SimpleNamespace(source=[record, {**record, "left_image": b""}])
    gallery = Retrieval(None, data, image="eyes", caption="report", right="scan")
    both, one = (gallery._card("eyes", row).image for row in range(2))
    assert both.shape == one.shape == (128, 256, 3)
    assert both[64, 64].tolist() == [255, 0, 0] and both[64, 192].tolist() == [0, 255, 0]
    assert not one[:, :128].any() and one[64, 192].tolist() == [0, 255, 0]
    np.testing.assert_array_equal(thumbnails.of_record(record), both)


def test_pictures_of_an_earlier_evaluation_go(tmp_path):
    run = evaluated(tmp_path / "run", 1.2)
    (kept, *_) = (run / examples.FOLDER).iterdir()
    (run / examples.FOLDER / "0123456789.jpg").write_bytes(b"of other errors")
    examples.keep_only(run, {kept.name})
    assert list((run / examples.FOLDER).iterdir()) == [kept]


def study(run, lifts):
    """What a study leaves beside a run: maps of these lifts, and controls of lift 1."""
    folder = run / "maps of the run"
    folder.mkdir()
    values = np.array(lifts)
    names = [f"SECRET_{k}" for k in range(len(values))]
    controls = {name: np.ones(len(values)) for name in verdict.CONTROLS}
    cascade = {"three quarters": (1.0, 0.1), "all": (1.0, 0.1)}
    told = verdict.judge(values, controls, np.array(names), cascade, 0.5)
    rows = [{"picture": f"{name}.jpg", "predicted": "severe", "lift": lift, "cells": [7, 7],
             "largest": 0.25} for name, lift in zip(names, lifts, strict=True)]  # fmt: skip
    about = {"model_hash": "abcdef0123456789", "verdict": vars(told), "rows": rows}
    (folder / "saliency.json").write_text(json.dumps(about))
    for name in names:
        (folder / f"{name}.png").write_bytes(plain("blue"))
    return told


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("runs") / "run", 1.2)


def test_maps_are_shown_where_they_beat_all_controls(run, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    assert study(path, [2.0 + 0.01 * k for k in range(30)]).passes
    text = page_of(path)
    assert text.count("areas that changed the score of severe") == 6
    assert "Lift 2.290; largest value 0.25; 7 × 7 cells." in text
    assert "Lift 2.000;" in text  # the worst of them too
    assert "a spot in the middle" in text and "SECRET" not in text
    heads = ("Errors to look at", "Areas that changed the score", "Records", "All figures")
    places = [re.search(rf"<h\d>{head}</h\d>", text).start() for head in heads]
    assert places == sorted(places)


def test_maps_of_a_run_that_classifies_nothing_have_a_section(tmp_path):
    path = evaluated_runs.run(tmp_path / "run", scores=[evaluated_runs.score()])
    study(path, [0.9 + 0.01 * k for k in range(20)])
    assert "<h2>Areas that changed the score</h2>" in page_of(path)


def test_a_page_that_is_too_large_has_no_pictures(run, tmp_path, monkeypatch, caplog):
    path = shutil.copytree(run, tmp_path / "run")
    assert "<img " in page_of(path) and not caplog.messages
    size = len(page_of(path).encode())
    monkeypatch.setattr(report.page, "_MANY_BYTES", size - 1)
    assert "<img " in page_of(path) and "much to send" in caplog.text
    monkeypatch.setattr(report.page, "_MOST_BYTES", size - 1)
    assert "<img " not in page_of(path) and "so it has no pictures" in caplog.text


def test_of_maps_that_do_not_the_sentence_is_shown(run, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    told = study(path, [0.9 + 0.01 * k for k in range(20)])
    text = page_of(path)
    assert not told.passes and told.sentence in text
    assert "areas that changed the score of" not in text and "0.995" in text and "−0.005" in text
    (path / "maps of the run" / "saliency.json").write_text("{}")
    with pytest.raises(InputError, match=r"saliency.json is no whole study of maps"):
        page_of(path)

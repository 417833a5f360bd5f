"""Maps of features: who is where, told by more than colour, and whose records no one can tell."""

import re

import numpy as np
import pytest
from evaluated_runs import evaluated, page_of, placed

from retina_jax.report import embedding_map
from retina_jax.scoring import records as files

pytestmark = pytest.mark.fast


def section(path):
    """What the page has of maps."""
    text = page_of(path)
    start = text.find("<h2>Maps of features")
    return text[start : text.index("</section>", start)] if start > 0 else ""


def kinds(drawing):
    """Colours and shapes of the points, and how many there are of each."""
    marks = re.findall(r'<path class="(\w+ s\d)" transform="[^"]+" d="([^"]+)"', drawing)
    return {mark: marks.count(mark) for mark in marks}


def test_classes_have_a_colour_a_shape_and_their_numbers(tmp_path):
    path = placed(tmp_path / "r", task="ordinal", count=120, validation=60)
    text = section(path)
    found = files.read(path / "records" / "probe.parquet").of("")
    drawing = re.search(r'role="img" aria-label="([^"]+)">(<svg.*?</svg>)', text, re.DOTALL)
    counts = [int((found.labels == k).sum()) for k in range(4)]
    points = kinds(drawing[2])
    assert sorted(points.values()) == sorted(counts) and len({kind for kind, _ in points}) == 4
    assert len({shape for _, shape in points}) == 4
    assert kinds(text[text.index('class="legend"') :]).keys() == points.keys()
    assert "direction 1: 0.250 of the variance" in drawing[2] and "0.125 of" in drawing[2]
    mean = found.places[found.labels == 2].astype(np.float64).mean(axis=0)
    assert f"moderate: {counts[2]}, mean ({mean[0]:.4g}, {mean[1]:.3f})" in drawing[1]
    table = text[text.index("<table") :]
    assert re.findall(r'data-head="records"><span class="value">(\d+)', table) == [
        str(n) for n in counts]  # fmt: skip
    assert "prove nothing" in text and "SECRET" not in text and "test1" not in text
    assert not any(name[:10] in text for name in found.images)


def test_six_hundred_points_are_drawn_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_map, "MOST_POINTS", 50)
    text = section(placed(tmp_path / "r", count=120))
    assert sum(kinds(text[: text.index('class="legend"')]).values()) == 50
    assert "50 of 120, drawn at random (seed 0)" in text


def test_many_classes_are_the_most_frequent_and_others(tmp_path):
    names = tuple(f"class {k}" for k in range(9))
    text = section(placed(tmp_path / "r", task="ordinal", count=90, classes=names))
    assert len(kinds(text[: text.index('class="legend"')])) == 6 and "4 others, " in text
    assert text.count("<th scope=row") == 9


def test_records_of_several_labels_are_groups_of_their_own(tmp_path):
    text = section(placed(tmp_path / "r", task="multi-label", count=90))
    for name in ("drusen alone, ", "none of these, ", "several of these, "):
        assert name in text


def test_one_place_of_all_and_none_at_all(tmp_path):
    same = np.zeros((120, 2), np.float32)
    assert section(placed(tmp_path / "same", same, count=120)).count("<figure") == 1
    assert section(evaluated(tmp_path / "none", count=120)) == ""

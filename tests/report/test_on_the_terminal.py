"""What the report prints in the place of a page: subgroups."""

from pathlib import Path

import numpy as np
from evaluated_runs import Rows, picture, written

from retina_jax.report import __main__ as command
from retina_jax.scoring import predictions


def scored(path: Path, signal: float) -> Path:
    """A run whose evaluation tells two classes apart as well as `signal` says."""
    rng = np.random.default_rng(1)
    labels, shared = rng.integers(0, 2, 120), rng.normal(size=120)
    scores = np.stack([0 * labels, signal * labels + shared], axis=1)
    rows = Rows({"id": f"r{i}", "patient": f"p{i}", "image": picture("one"),
                 "camera": "a" if i < 70 else "b" if i < 110 else "rare"}
                for i in range(120))  # fmt: skip
    about = {"classes": ["a", "b"], "metrics": ["auc", "accuracy"], "task": "binary",
             "primary": "auc"}  # fmt: skip
    found = predictions.of_records(rows, labels, scores, about).grouped(["camera"])
    return written(path, predictions.joined([found]))


def test_subgroups_are_printed_and_small_ones_only_named(tmp_path, capsys):
    place = scored(tmp_path / "a", 1.5)
    assert command.main([str(place), "--subgroup=camera"]) == 0
    lines = {line.split()[2]: line.split() for line in capsys.readouterr().out.splitlines()[2:5]}
    assert lines["rare"][3:] == lines["b"][3:] == ["too", "few", "-", "-"]
    assert lines["a"][-1] == "70" and 0.5 < float(lines["a"][3]) <= 1
    assert command.main([str(place), "--subgroup=site"]) == 2
    assert "by camera" in capsys.readouterr().err

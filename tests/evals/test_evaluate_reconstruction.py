"""Errors of hidden patches with their chance, and the pictures of the page."""

from types import SimpleNamespace

import numpy as np
import pytest
from evaluated_runs import Rows

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.evals import EVALUATORS
from retina_jax.report import page
from retina_jax.train import writer

rng = np.random.default_rng(0)
COUNT = 9
MADE = {
    "error": rng.uniform(0.01, 0.03, COUNT).astype(np.float32),
    "error_of_mean": rng.uniform(0.1, 0.3, COUNT).astype(np.float32),
    **{
        name: rng.integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
        for name in ("given", "visible", "reconstructed")
    },
}


def evaluated(asked=None, **options):
    def encode_dataset(state, data, method, inputs):
        (asked if asked is not None else {}).update(method=method, inputs=tuple(inputs))
        return MADE

    source = Rows({"id": str(i), "patient": f"p{i // 2}"} for i in range(COUNT))
    spec = {"name": "reconstruction", "data": SimpleNamespace(source=source), **options}
    return build(EVALUATORS, spec, encoder=SimpleNamespace(encode_dataset=encode_dataset)).run(
        state=None
    )


def test_the_error_and_what_the_mean_colour_would_score():
    asked = {}
    score = evaluated(asked).scores["squared_error"]
    assert asked == {"method": "reconstruct", "inputs": ("image", "text", "text_mask")}
    assert score.value == pytest.approx(MADE["error"].mean())
    assert score.chance == pytest.approx(MADE["error_of_mean"].mean())
    assert score.low < score.value < score.high and score.count == COUNT
    evaluated(asked, inputs=("image",))
    assert asked["inputs"] == ("image",)


def test_examples_are_given_visible_and_reconstructed_of_the_same_record():
    gallery = evaluated(examples=3).gallery
    assert len(gallery) == 3
    for (query, (visible, made)), record in zip(gallery, (0, 4, 8), strict=True):
        np.testing.assert_array_equal(query.image, MADE["given"][record])
        np.testing.assert_array_equal(visible.image, MADE["visible"][record])
        np.testing.assert_array_equal(made.image, MADE["reconstructed"][record])
        assert f"{MADE['error'][record]:.4f}" in made.text
        assert visible.score is None and made.correct is None


def test_the_page_shows_pictures_without_calling_them_wrong(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    writer.write_results(workdir, "skku", 3, {"reconstruction": evaluated(examples=2)})
    text = page.write([workdir], tmp_path / "page.html").read_text()
    section = text[text.index("<h2>Examples of reconstruction</h2>") :]
    section = section[: section.index("Provenance")]
    assert section.count('<img src="data:image/jpeg') == 6
    for words in ("what the encoder sees", "reconstructed, squared error", "<span>1</span>"):
        assert words in section
    assert "✗ wrong" not in section and "nan" not in section.lower()


def test_other_options_are_refused():
    with pytest.raises(InputError, match="has no option 'example'"):
        evaluated(example=1)

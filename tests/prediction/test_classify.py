"""One picture that is asked about alone is refused as it is among many."""

import folders
import pytest
from prediction.asked import CLASSIFIER

import retina_jax
from data_pipelines.errors import InputError


def test_a_picture_alone_is_of_the_modality_that_the_model_is_for(photographs, tmp_path):
    folders.write(tmp_path, **{**CLASSIFIER, "modality": "oct"})
    loaded = retina_jax.load(tmp_path / "model")
    asked = []
    object.__setattr__(loaded, "preprocessing", lambda _, **about: asked.append(about))
    loaded.preprocess(photographs / "0.png")
    loaded.preprocess(photographs / "0.png", modality="cfp", eye="OD")
    assert asked == [{"modality": "oct"}, {"modality": "cfp", "eye": "OD"}]


def test_an_ungradable_picture_is_classified_only_by_force(photographs, tmp_path):
    about = folders.write(tmp_path, **CLASSIFIER)
    loaded = retina_jax.load(tmp_path / "model")
    assert set(loaded.classify(photographs / "0.png")) == set(about.classes)
    with pytest.raises(InputError, match=r"ungradable \(blank\).*force=True"):
        loaded.classify(photographs / "black.png")
    assert set(loaded.classify(photographs / "black.png", force=True)) == set(about.classes)

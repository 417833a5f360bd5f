"""One picture that is asked about alone is refused as it is among many."""

import folders
import pytest
from prediction.asked import CLASSIFIER

import retina_jax
from data_pipelines.errors import InputError


def test_an_ungradable_picture_is_classified_only_by_force(photographs, tmp_path):
    about = folders.write(tmp_path, **CLASSIFIER)
    loaded = retina_jax.load(tmp_path / "model")
    assert set(loaded.classify(photographs / "0.png")) == set(about.classes)
    with pytest.raises(InputError, match=r"ungradable \(blank\).*force=True"):
        loaded.classify(photographs / "black.png")
    assert set(loaded.classify(photographs / "black.png", force=True)) == set(about.classes)

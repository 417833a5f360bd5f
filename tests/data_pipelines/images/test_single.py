"""Pictures of a user pass the transforms of a data set, one case at a time."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import InputError
from data_pipelines.images import single
from data_pipelines.images.preparation import Preparation
from data_pipelines.transforms import CanonicalLaterality, Decode, Volume

pytestmark = pytest.mark.fast
PHOTOGRAPH = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture
def jpeg(tmp_path):
    path = tmp_path / "photograph.jpg"
    Image.fromarray(PHOTOGRAPH).save(path)
    return path


def test_paths_bytes_and_pixels_give_what_the_pipeline_gives(jpeg):
    made = single.Preprocessing((Decode(16),))
    expected = Decode(16).map({"image": jpeg.read_bytes()})["image"]
    for given in (jpeg, str(jpeg), jpeg.read_bytes(), np.asarray(Image.open(jpeg))):
        batch = made(given)
        assert set(batch) == {"image"}
        np.testing.assert_array_equal(batch["image"], expected[None])


def test_photographs_are_prepared_as_the_data_set_was():
    dark = np.zeros((80, 120, 3), np.uint8)
    yy, xx = np.mgrid[:80, :120]
    dark[(yy - 40) ** 2 + (xx - 50) ** 2 < 30**2] = (180, 90, 40)
    prepared = single.Preprocessing((Decode(32),), Preparation(size=64, format="png"))
    seen = prepared(dark)["image"][0, ..., 0]
    assert seen[16, 1] > 90 and seen[1, 16] > 90  # the field fills the square
    assert single.Preprocessing((Decode(32),))(dark)["image"][0, 10, 1, 0] < 20
    scan = prepared(dark, modality="oct")["image"][0, ..., 0]
    assert scan[16, 1] < 20  # of B-scans nothing is cut away


def test_volumes_sides_and_several_inputs():
    both = CanonicalLaterality(source=("image", "oct"))
    made = single.Preprocessing((Decode(16), Volume(slices=2, size=8), both))
    volume = np.random.default_rng(0).integers(0, 256, (4, 20, 24), np.uint8)
    right = made({"image": PHOTOGRAPH, "oct": volume}, eye="OD")
    left = made({"image": PHOTOGRAPH, "oct": list(volume)}, eye="OS")
    assert right["oct"].shape == (1, 2, 8, 8, 1) and right["image"].shape == (1, 16, 16, 3)
    for key in ("image", "oct"):
        np.testing.assert_array_equal(left[key], np.flip(right[key], axis=3 if key == "oct" else 2))
    alone = made({"oct": volume}, eye="OS")
    assert set(alone) == {"oct"}
    np.testing.assert_array_equal(alone["oct"], left["oct"])
    for given, sentence in ((volume, "give some of them by name"), ({}, r"not \[\]"),
                            ({"text": "a"}, r"not \['text'\]")):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            made(given, eye="OD")
    with pytest.raises(InputError, match="Say which eye it is"):
        made({"image": PHOTOGRAPH})


def test_a_file_of_several_pages_is_a_volume(tmp_path):
    made = single.Preprocessing((Volume(slices=3, size=8),))
    volume = np.random.default_rng(0).integers(0, 256, (4, 20, 24), np.uint8)
    for values in (volume, volume.astype(np.uint16) << 4):
        pages = [Image.fromarray(page) for page in values]
        pages[0].save(tmp_path / "v.tif", save_all=True, append_images=pages[1:])
        np.testing.assert_array_equal(made(tmp_path / "v.tif")["oct"], made(volume)["oct"])


@pytest.mark.parametrize(("given", "sentence"),
                         [("nowhere.jpg", "cannot be read"),
                          (np.zeros((4, 4, 3), np.float32),
                           r"are uint8 \[H W 3\] or \[H W\], got float32"),
                          (np.zeros((4, 4, 4), np.uint8), "are uint8"), (7, "not int"),
                          (b"no picture", "picture")])  # fmt: skip
def test_what_is_no_picture_is_a_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence):
        single.Preprocessing((Decode(16),))(given)

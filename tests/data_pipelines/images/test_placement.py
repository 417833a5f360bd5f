"""What a model sees is brought back to the pixels that it was made of."""

import numpy as np
import pytest

from data_pipelines.errors import InputError
from data_pipelines.images import placement, single
from data_pipelines.images.preparation import Preparation
from data_pipelines.transforms import CanonicalLaterality, Decode, Eyes, ForegroundCrop

pytestmark = pytest.mark.fast
SPOT = (70, 118)  # row and column, off the middle on both axes


def photograph(height: int = 130, width: int = 200) -> np.ndarray:
    """A field with a dark border, wider on the left, and a round spot, greenest at its middle."""
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3), np.uint8)
    image[(y - 62) ** 2 + (x - 108) ** 2 < 58**2] = (180, 60, 40)
    spot = 190 * np.exp(-((y - SPOT[0]) ** 2 + (x - SPOT[1]) ** 2) / (2 * 6**2))
    image[..., 1] += spot.astype(np.uint8)
    return image


PREPARED = Preparation(size=96, format="png")
LEFT = CanonicalLaterality()
WAYS = {
    "canvas": ((Decode(64),), None),
    "a small picture on a large canvas": ((Decode(300),), None),
    "squash": ((Decode(64, fit="squash"),), None),
    "crop": ((Decode(64, fit="crop"),), None),
    "crop of a larger one": ((Decode(56, fit="crop", short_side=64),), None),
    "short": ((Decode(64, fit="short"),), None),
    "field and square": ((Decode(64),), PREPARED),
    "field, no square": ((Decode(64),), Preparation(size=90, pad="none", format="png")),
    "no field": ((Decode(64),), Preparation(size=96, crop="none", format="png")),
    "left eye": ((Decode(64), LEFT), PREPARED),
    "left eye on a canvas": ((Decode(64), LEFT), None),
    "field of what is decoded": ((Decode(128), ForegroundCrop(64), LEFT), None),
    "crop of that": ((Decode(128), ForegroundCrop(64, fit="crop", border="li")), None),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("tall", [False, True])
def test_a_spot_comes_back_to_its_pixel(name: str, tall: bool) -> None:
    """By the picture that the model sees, taken as a map: its brightest green is the spot."""
    image, spot = photograph(), SPOT
    if tall:
        image, spot = np.ascontiguousarray(image.swapaxes(0, 1)), SPOT[::-1]
    transforms, prepared = WAYS[name]
    made = single.Preprocessing(transforms, prepared)
    seen = made(image, eye="OS")["image"][0]
    way = made.way(image, eye="OS")
    values = placement.back(seen[..., 1].astype(float), way)
    assert values.shape == image.shape[:2]
    found = np.unravel_index(values.argmax(), values.shape)
    assert np.abs(np.subtract(found, spot)).max() <= 2  # a pixel of the canvas is up to 3.1
    box = placement.seen(way)
    inside = np.zeros(values.shape, bool)
    box.cut(inside)[:] = True
    assert inside[spot] and not values[~inside].any()
    assert np.corrcoef(values[inside], image[inside, 1])[0, 1] > 0.95


def test_what_is_not_resized_comes_back_as_it_is() -> None:
    image = np.random.default_rng(0).integers(1, 256, (48, 40, 3), np.uint8)
    made = single.Preprocessing((Decode(48), LEFT))
    for eye in ("OD", "OS"):
        seen = made(image, eye=eye)["image"][0]
        values = placement.back(seen[..., 1], made.way(image, eye=eye))
        np.testing.assert_array_equal(values, image[..., 1])


def test_one_pixel_and_one_row() -> None:
    for shape in ((1, 1, 3), (1, 40, 3), (37, 1, 3)):
        image = np.full(shape, 200, np.uint8)
        for fit in ("canvas", "squash", "crop"):
            made = single.Preprocessing((Decode(8, fit=fit),))
            values = placement.back(made(image)["image"][0, ..., 0], made.way(image))
            assert values.shape == shape[:2] and values.max() == pytest.approx(200)


def test_a_way_is_of_one_picture() -> None:
    with pytest.raises(InputError, match="one picture at a time"):
        single.Preprocessing((Eyes(16),)).way(photograph())

"""Several pictures of a case as one array."""

import numpy as np
import pytest
from picture_files import encode
from PIL import Image

from data_pipelines import batch
from data_pipelines.errors import InputError
from data_pipelines.transforms import CasePictures

pytestmark = pytest.mark.fast


def png(grey: int) -> bytes:
    return encode(Image.new("L", (6, 4), grey))


def case(count: int) -> dict:
    return {"images": [png(20 * i) for i in range(count)], "caption": ""}


def test_many_pictures_are_thinned_out_evenly() -> None:
    made = CasePictures(count=3, size=4, fit="squash").map(case(9))
    assert made["images"].shape == (3, 4, 4, 3) and made["images"].dtype == np.uint8
    assert made["images"][:, 0, 0, 0].tolist() == [0, 80, 160]
    assert made["images_mask"].tolist() == [True] * 3
    assert all(batch.fits(key, made[key]) for key in ("images", "images_mask"))


def test_free_places_repeat_the_first_and_are_marked() -> None:
    made = CasePictures(count=4, size=4, fit="squash").map({"images": case(3)["images"][1:]})
    assert made["images"][:, 0, 0, 0].tolist() == [20, 40, 20, 20]
    assert made["images_mask"].tolist() == [True, True, False, False]


def test_what_is_no_case_is_refused() -> None:
    with pytest.raises(InputError, match="'images' is empty"):
        CasePictures(count=2, size=4).map({"images": []})
    with pytest.raises(InputError, match="'count' is at least 1"):
        CasePictures(count=0, size=4)
    with pytest.raises(InputError, match="'fit' is canvas"):
        CasePictures(count=1, size=4, fit="stretch")

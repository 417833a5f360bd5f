"""What released code does to pictures: sampling without a filter, and Li's threshold."""

import numpy as np
import pytest
from picture_files import encode

from data_pipelines import transforms as T
from data_pipelines.errors import InputError
from data_pipelines.images import functional, released

pytestmark = pytest.mark.fast


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(3, 4), (5, 20), (16, 9), (7, 11)])
def test_sampling_is_pytorchs_bilinear_interpolation(size: tuple[int, int]) -> None:
    """By its formula: place (i + 0.5) scale - 0.5, no less than 0, and the next pixel."""
    image = picture(7, 11)
    found = released.bilinear(image, *size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = max((i + 0.5) * 7 / size[0] - 0.5, 0)
            x = max((j + 0.5) * 11 / size[1] - 0.5, 0)
            corners = [
                (1 - abs(y - row)) * (1 - abs(x - column)) * image[min(row, 6), min(column, 10)]
                for row in (int(y), int(y) + 1) for column in (int(x), int(x) + 1)
            ]  # fmt: skip
            np.testing.assert_allclose(found[i, j], sum(corners), atol=0.5 + 1e-9)


def test_decoding_can_do_without_antialiasing() -> None:
    """Stripes of one pixel become grey with a filter, and stay black and white without."""
    stripes = np.zeros((90, 60, 3), np.uint8)
    stripes[::2] = 255
    record = {"image": encode(stripes)}
    smooth, sharp = (T.Decode(30, antialias=a).map(record)["image"] for a in (True, False))
    assert smooth.shape == sharp.shape == (30, 30, 3)
    assert smooth[5:25, 2:18].std() < 20 and sharp[5:25, 2:18].std() > 100
    assert not smooth[:, 20:].any() and not sharp[:, 20:].any()  # the content lies left
    squashed = T.Decode(30, fit="squash", antialias=False).map(record)["image"]
    np.testing.assert_array_equal(squashed, released.bilinear(stripes, 30, 30))
    with pytest.raises(InputError, match="only canvas and squash can do without"):
        T.Decode(30, fit="crop", antialias=False)


# The red of torch.nn.functional.interpolate(mode="bilinear", antialias=...) by PyTorch 1.13.
RED = {
    False: [[78.76, 93.41, 89.39, 173.36, 137.34, 143.99],
            [171.2, 155.97, 143.41, 125.51, 134.28, 113.72],
            [114.3, 90.53, 66.76, 61.66, 75.22, 88.78],
            [100.07, 153.09, 118.11, 149.8, 176.16, 69.18]],
    True: [[98.3, 122.43, 114.12, 129.84, 150.28, 149.73],
           [123.57, 138.09, 127.47, 130.26, 154.55, 125.8],
           [126.75, 140.6, 143.08, 124.49, 106.32, 96.98],
           [103.96, 134.77, 120.85, 131.56, 138.58, 87.45]],
}  # fmt: skip


@pytest.mark.parametrize("antialias", [False, True])
def test_decoding_resizes_as_pytorch_does(antialias: bool) -> None:
    """With a filter and without; 9 x 13 on a canvas of 6 is 4 x 6."""
    row, column, colour = np.ogrid[:9, :13, :3]
    values = (37 * row + 91 * column + 53 * colour + 7 * row * column) % 256
    record = {"image": encode(values.astype(np.uint8))}
    found = T.Decode(6, antialias=antialias).map(record)["image"]
    rounding = 1.1 if antialias else 0.51  # after each axis, or once
    np.testing.assert_allclose(found[:4, :, 0], RED[antialias], atol=rounding)
    assert not found[4:].any()


def test_jpegs_are_not_scaled_while_they_are_decoded() -> None:
    """Decoding at half the size would be a filter."""
    data = encode(picture(256, 256), "JPEG", quality=95)
    whole = functional.decode_image(data)
    found = T.Decode(16, antialias=False).map({"image": data})["image"]
    np.testing.assert_array_equal(found, released.bilinear(whole, 16, 16))


@pytest.mark.parametrize("seed", range(5))
def test_lis_threshold_has_the_least_cross_entropy(seed: int) -> None:
    """Of all thresholds, with grey values counted from the darkest one."""
    generator = np.random.default_rng(seed)
    dark, light = generator.normal(60, 10, 3000), generator.normal(170, 20, 2000)
    grey = np.clip(np.concatenate([dark, light]), 0, 255).astype(np.uint8).reshape(-1, 1)
    values = grey.astype(float).ravel() - grey.min()

    def entropy(threshold: float) -> float:
        parts = values[values <= threshold], values[values > threshold]
        return -sum(part.sum() * np.log(part.mean()) for part in parts)

    least = min(map(entropy, np.arange(20, values.max() - 20)))
    assert entropy(released.li_threshold(grey) - grey.min()) == pytest.approx(least, rel=1e-9)


def test_lis_threshold_is_scikit_images() -> None:
    filters = pytest.importorskip("skimage.filters")
    for seed in range(4):
        grey = np.sort(picture(40, 40, seed)[..., 0] // (seed + 1), axis=0)
        grey[: 10 * seed] //= 8
        assert released.li_threshold(grey) == pytest.approx(filters.threshold_li(grey), abs=1e-6)
    assert released.li_threshold(np.full((3, 3), 7, np.uint8)) == 7


def disc(dim: int) -> np.ndarray:
    """A field of view that is bright left of column 130, and a label of a camera in a corner."""
    y, x = np.mgrid[:120, :200]
    inside = (y - 60) ** 2 + (x - 110) ** 2 < 45**2
    red = np.where(inside, np.where(x < 130, 250, dim), 2)
    red[2:6, 2:20] = 250
    return np.stack([red, red // 2, red // 4], -1).astype(np.uint8)


def test_lis_field_is_the_largest_red_part() -> None:
    box = released.li_field(disc(60))
    assert (box.top, box.left, box.height, box.width) == (16, 66, 89, 89)
    assert released.li_field(disc(30)).width == 64  # it cuts off what is dim beside what is bright
    whole = released.li_field(np.zeros((9, 12, 3), np.uint8))
    assert (whole.top, whole.left, whole.height, whole.width) == (0, 0, 9, 12)


def test_the_crop_can_take_lis_field() -> None:
    image = disc(30)
    by_li, by_contour = (
        T.ForegroundCrop(40, fit="squash", border=border).map({"image": image})["image"]
        for border in ("li", "steepest")
    )
    inside = released.li_field(image).cut(image)
    np.testing.assert_array_equal(by_li, functional.resize(np.ascontiguousarray(inside), 40, 40))
    assert np.abs(by_li.astype(int) - by_contour).mean() > 10
    with pytest.raises(InputError, match="'border' is one of steepest, li, got 'otsu'"):
        T.ForegroundCrop(8, border="otsu")

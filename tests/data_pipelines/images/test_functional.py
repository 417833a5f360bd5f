"""Pictures and texts as pure functions."""

import zlib

import numpy as np
import pytest
from picture_files import encode

from data_pipelines.errors import InputError
from data_pipelines.images import decoding, functional


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
def test_decode_gives_rgb_of_the_right_place(picture: np.ndarray, kind: str) -> None:
    decoded = functional.decode_image(encode(picture, kind))
    assert decoded.shape == picture.shape and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - picture).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("keep", [0.5, 0.98])
def test_truncated_pictures_are_refused(kind: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)
    data = encode(noise, kind)
    with pytest.raises(InputError, match="truncated"):
        functional.decode_image(data[: int(keep * len(data))])


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="not a readable picture"):
        functional.decode_image(data)


def test_absurd_sizes_are_refused_by_the_header() -> None:
    png = bytearray(encode(np.zeros((4, 4, 3), np.uint8), "PNG"))
    png[16:24] = (30000).to_bytes(4, "big") * 2
    # The header carries a checksum.
    png[29:33] = zlib.crc32(bytes(png[12:29])).to_bytes(4, "big")
    with pytest.raises(InputError, match="30000 x 30000|exceeds limit"):
        functional.decode_image(bytes(png))
    jpeg = bytearray(encode(np.zeros((16, 16, 3), np.uint8), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = (60000).to_bytes(2, "big") * 2
    with pytest.raises(InputError, match="60000 x 60000"):
        functional.decode_image(bytes(jpeg))


def test_grey_of_16_bits_keeps_its_range() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, 0)
    decoded = functional.decode_image(encode(ramp))
    assert decoded[0, 0, 0] == 0 and decoded[0, -1, 0] == 255
    assert abs(int(decoded[0, 32, 0]) - 130) < 3


def test_scaled_decoding_is_never_smaller_than_asked() -> None:
    big = np.full((800, 1000, 3), 120, np.uint8)
    half = functional.decode_image(encode(big, "JPEG"), (300, 300))
    assert half.shape[0] >= 300 and half.shape[1] < 1000
    assert functional.decode_image(encode(big, "JPEG"), (0, 300)).shape[1] >= 300
    assert functional.decode_image(encode(big, "JPEG")).shape == big.shape
    assert functional.decode_image(encode(big, "JPEG"), (0, 0)).shape == big.shape
    # 5/8 would do, and take longer.
    assert functional.decode_image(encode(big, "JPEG"), (500, 500)).shape == big.shape


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_size_is_read_from_the_header(picture: np.ndarray, kind: str) -> None:
    data = encode(picture, kind)
    assert decoding.size(data) == decoding.size(data[:-9]) == (60, 80)
    with pytest.raises(InputError, match="not a readable picture"):
        decoding.size(data[:4])


@pytest.mark.parametrize(
    ("height", "width", "size", "content"),
    [(400, 320, 512, (512, 409)), (320, 400, 512, (409, 512)), (77, 100, 64, (49, 64)),
     (90, 90, 64, (64, 64)), (1, 500, 32, (1, 32))],
)  # fmt: skip
def test_canvas_keeps_proportions_top_left(
    height: int, width: int, size: int, content: tuple[int, int]
) -> None:
    result = functional.canvas(np.full((height, width, 3), 200, np.uint8), size)
    assert result.shape == (size, size, 3)
    assert (result[: content[0], : content[1]] == 200).all()
    assert not result[content[0] :].any() and not result[:, content[1] :].any()


def test_canvas_long_side_is_exact_for_every_size() -> None:
    for long in range(100, 1000, 7):
        assert functional.canvas(np.full((long, 50, 3), 9, np.uint8), 96)[-1, 0, 0] == 9


def test_resize_antialiases() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = functional.resize(stripes, 8, 8)
    assert np.abs(small.astype(int) - 127).max() < 16


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("library", ["fast", "PIL"])
@pytest.mark.parametrize("size", [(20, 33), (224, 224), (7, 7), (61, 300), (1, 1)])
def test_resize_is_the_exact_filter_rounded(
    picture: np.ndarray, method: str, library: str, size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Every pixel within one step of the separable filter in floats, by whichever library."""
    if library == "PIL":
        monkeypatch.setattr(functional, "cykooz_resizer", None)
    expected = picture.astype(float)
    for axis, after in enumerate(size):
        weights = filter_weights(picture.shape[axis], after, method)
        expected = np.moveaxis(np.tensordot(weights, expected, (1, axis)), 0, axis)
    resized = functional.resize(picture, *size, method)
    assert resized.shape == (*size, 3) and resized.dtype == np.uint8
    # Where the cubic filter overshoots, values are cut after each of the two passes.
    inside = (expected > 2) & (expected < 253)
    assert inside.mean() > 0.5
    assert np.abs(resized - np.clip(expected, 0, 255))[inside].max() < 1.5
    view = np.asfortranarray(picture)[::-1]
    np.testing.assert_array_equal(
        functional.resize(view, *size, method),
        functional.resize(np.ascontiguousarray(view), *size, method),
    )


def filter_weights(before: int, after: int, method: str) -> np.ndarray:
    """float [after, before]: the kernel about each target pixel, stretched when it shrinks."""

    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        if method == "bilinear":
            return np.clip(1 - x, 0, None)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    scale = before / after
    centres = (np.arange(after) + 0.5) * scale
    weights = kernel((np.arange(before) + 0.5 - centres[:, None]) / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)


SHAPES = [(60, 80), (512, 512), (30, 300), (300, 30), (7, 5), (1, 40)]
BOXES = [((0.5, 1.0), (3 / 4, 4 / 3)), ((0.9, 1.0), (3 / 4, 4 / 3)), ((0.02, 0.2), (0.3, 1 / 0.3))]


def torchvision_box(
    height: int, width: int, rng: np.random.Generator, scale: tuple, ratio: tuple
) -> tuple[int, int, int, int]:
    """RandomResizedCrop.get_params, written down from its description with numpy's draws."""
    for _ in range(10):
        target = height * width * rng.uniform(scale[0], scale[1])
        aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w, h = int(round(np.sqrt(target * aspect))), int(round(np.sqrt(target / aspect)))
        if 0 < w <= width and 0 < h <= height:
            i = rng.integers(0, height - h, endpoint=True)
            j = rng.integers(0, width - w, endpoint=True)
            return i, j, h, w
    if width / height < min(ratio):
        w = width
        h = int(round(w / min(ratio)))
    elif width / height > max(ratio):
        h = height
        w = int(round(h * max(ratio)))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("area", "ratio"), BOXES)
def test_crop_boxes_are_torchvisions(shape: tuple, area: tuple, ratio: tuple) -> None:
    for seed in range(150):
        ours = functional.crop_box(*shape, np.random.default_rng(seed), area=area, ratio=ratio)
        assert ours == torchvision_box(*shape, np.random.default_rng(seed), area, ratio)
        top, left, height, width = ours
        assert 0 <= top <= shape[0] - height and 0 <= left <= shape[1] - width
        assert height > 0 and width > 0


def timm_box(
    height: int, width: int, rng: np.random.Generator, area: tuple, aspect: tuple
) -> tuple[int, int, int, int] | None:
    """RandomErasing._erase for one box, written down from its description with numpy's draws."""
    for _ in range(10):
        target = rng.uniform(area[0], area[1]) * height * width
        ratio = np.exp(rng.uniform(np.log(aspect[0]), np.log(aspect[1])))
        h, w = int(round(np.sqrt(target * ratio))), int(round(np.sqrt(target / ratio)))
        if w < width and h < height:
            top = rng.integers(0, height - h, endpoint=True)
            return top, rng.integers(0, width - w, endpoint=True), h, w
    return None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("area", [(0.02, 1 / 3), (0.8, 1.0)])
def test_erased_boxes_are_timms(shape: tuple, area: tuple) -> None:
    ratio, none = (0.3, 1 / 0.3), 0
    for seed in range(150):
        ours = functional.erase_box(*shape, np.random.default_rng(seed), area=area, ratio=ratio)
        assert ours == timm_box(*shape, np.random.default_rng(seed), area, ratio)
        none += ours is None
    assert none == 150 or shape != (1, 40), "no box is lower than one row"
    assert none == 0 or shape != (512, 512) or area[1] == 1


def test_boxes_keep_their_place_at_another_size() -> None:
    assert functional.scale_box((6, 8, 30, 40), (60, 80), (120, 160, 3)) == (12, 16, 60, 80)
    assert functional.scale_box((6, 8, 30, 40), (60, 80), (60, 80, 3)) == (6, 8, 30, 40)
    assert functional.scale_box((59, 79, 1, 1), (60, 80), (3, 4, 1)) == (2, 3, 1, 1)


def test_fill_paints_the_box_only(picture: np.ndarray) -> None:
    before = picture.copy()
    result = functional.fill(picture, (10, 20, 5, 7), (1, 2, 3))
    assert (result[10:15, 20:27] == [1, 2, 3]).all() and (picture == before).all()
    assert (result != picture).any(-1).sum() == 35
    assert functional.fill(picture, None, (1, 2, 3)) is picture


def test_noise_has_its_strength_and_stays_in_range() -> None:
    grey = np.full((50, 50, 3), 128, np.uint8)
    noisy = functional.add_noise(grey, 10.0, np.random.default_rng(0))
    assert noisy.dtype == np.uint8 and abs(noisy.std() - 10) < 0.3
    assert abs(noisy.mean() - 128) < 0.5
    white = functional.add_noise(np.full((50, 50), 255, np.uint8), 10.0, np.random.default_rng(0))
    assert white.max() == 255 and white.min() > 200, "values beyond the range do not wrap around"


def test_flip_is_its_own_inverse(picture: np.ndarray) -> None:
    assert (functional.flip(picture)[:, 0] == picture[:, -1]).all()
    assert (functional.flip(functional.flip(picture)) == picture).all()


def test_affine_turns_counter_clockwise_about_the_centre() -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[18:23, 34:39] = 255  # to the right of the centre
    turned = functional.affine(image, 90, 1.0)
    y, x = np.argwhere(turned[..., 0] > 128).mean(0)
    assert abs(x - 20) < 0.6 and abs(y - 4) < 0.6, "right goes up when turned counter-clockwise"
    shrunk = functional.affine(image, 0, 0.5)
    assert abs(np.argwhere(shrunk[..., 0] > 128).mean(0)[1] - 28) < 0.6
    assert shrunk[0].max() == 0


def test_affine_shifts_down_and_right() -> None:
    image = np.zeros((40, 80, 1), np.uint8)
    image[10, 20] = 255
    moved = functional.affine(image, 0, 1.0, (0.25, 0.5))
    assert moved.shape == image.shape and np.argwhere(moved[..., 0] > 128).tolist() == [[20, 60]]
    turned = functional.affine(image, 180, 1.0, (0.25, 0.0))
    assert np.argwhere(turned[..., 0] > 128).tolist() == [[39, 59]], "the shift comes last"


def test_affine_identity(picture: np.ndarray) -> None:
    assert (functional.affine(picture, 0, 1.0) == picture).all()


def test_jitter_does_what_its_names_say(picture: np.ndarray) -> None:
    bright = functional.colour_jitter(picture, {"brightness": 1.2})
    assert bright.mean() > picture.mean()
    flat = functional.colour_jitter(picture, {"contrast": 0.5})
    assert flat.std() < picture.std() and abs(flat.mean() - picture.mean()) < 3
    grey = functional.colour_jitter(picture, {"saturation": 0.0})
    assert np.ptp(grey, axis=-1).max() == 0
    assert (functional.colour_jitter(picture, {"brightness": 1.0}) == picture).all()


@pytest.mark.parametrize(("patches", "visible"), [(196, 49), (16, 1), (5, 4)])
def test_patches_are_hidden_uniformly(patches: int, visible: int) -> None:
    masks = np.stack([functional.mask_patches(patches, visible, np.random.default_rng(seed))
                      for seed in range(800)])  # fmt: skip
    assert masks.dtype == bool and (masks.sum(1) == patches - visible).all()
    spread = 5 * np.sqrt(visible / patches * (1 - visible / patches) / 800)
    assert np.abs((~masks).mean(0) - visible / patches).max() < spread

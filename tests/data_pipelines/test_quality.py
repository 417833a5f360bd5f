"""Figures of pictures whose values are known, and the states that their limits give."""

import math

import numpy as np
import pytest
from picture_files import encode
from scipy import ndimage

from data_pipelines import quality

pytestmark = pytest.mark.fast
ROWS, COLUMNS = np.mgrid[:256, :256]
DISC = np.hypot(ROWS - 127.5, COLUMNS - 127.5) <= 110
TEXTURE = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(256, 256)), 1.5)
GREEN = np.where(DISC, 120 + 20 * TEXTURE / TEXTURE.std(), 0)
INSIDE = quality.inner(DISC)


def photograph(green=GREEN, red=60, blue=-60):
    channels = [np.where(green > 0, green + shift, 0) for shift in (red, 0, blue)]
    return np.clip(np.dstack(channels), 0, 255).astype(np.uint8)


def state(image, **options):
    found = quality.judge(image, **options)
    return found.state, found.reasons


def test_blur_makes_less_sharp():
    found = [
        quality.sharpness(ndimage.gaussian_filter(GREEN, sigma) if sigma else GREEN, INSIDE)
        for sigma in (0, 1, 2, 4)
    ]
    np.testing.assert_allclose(found, [0.3346, 0.1693, 0.0504, 0.0065], atol=5e-5)
    assert math.isnan(quality.sharpness(np.full((256, 256), 9.0), INSIDE))


def test_a_ramp_makes_less_even():
    assert DISC.mean() == pytest.approx(0.5802, abs=5e-5)
    assert quality.evenness(GREEN, DISC) == pytest.approx(0.0283, abs=5e-5)
    ramp = 0.4 + 0.6 * COLUMNS / 256
    assert quality.evenness(GREEN * ramp, DISC) == pytest.approx(0.1623, abs=5e-5)


def test_a_photograph_is_judged_by_its_field_at_any_size():
    found = quality.judge(np.repeat(np.repeat(photograph(), 3, axis=0), 3, axis=1))
    assert (found.state, found.reasons) == ("ok", ())
    figures = found.figures
    assert figures["fov_found"] == 1 and figures["fov_share"] == pytest.approx(1, abs=0.03)
    assert figures["size_px"] == pytest.approx(660, abs=8)
    assert figures["brightness"] == pytest.approx(120, abs=1.5)
    assert figures["red_blue"] == pytest.approx(120, abs=3) and figures["saturated"] < 0.01
    small = quality.judge(photograph())
    assert (small.state, small.reasons) == ("check", ("few_pixels",))
    assert small.figures["brightness"] == pytest.approx(figures["brightness"], abs=1.5)


@pytest.mark.parametrize(("image", "reason"), [
    (np.zeros((256, 256, 3), np.uint8), "blank"),
    (np.full((256, 256, 3), 200, np.uint8), "blank"),
    (photograph(GREEN * 0.1, 6, -6), "brightness"),
    (photograph(np.where(DISC, 120, 0)), "low_contrast"),
    (photograph(GREEN + 90 * DISC), "saturated"),
    (photograph()[::2, ::2], "few_pixels"),
    (np.where(DISC[..., None] & (COLUMNS[..., None] < 90), photograph(), 0), "no_field"),
])  # fmt: skip
def test_what_nobody_could_judge_is_ungradable(image, reason):
    found, reasons = state(image.astype(np.uint8))
    assert found == "ungradable" and reason in reasons


def test_colours_and_borders_are_asked_of_colour_photographs_only():
    grey = np.repeat(np.repeat(photograph(GREEN, 0, 0), 2, axis=0), 2, axis=1)
    assert state(grey) == ("check", ("not_colour_fundus",))
    assert state(grey, modality="ffa") == ("ok", ())
    borderless = np.clip(100 + 5 * np.dstack([TEXTURE / TEXTURE.std()] * 3), 0, 255)
    borderless = np.repeat(np.repeat(borderless.astype(np.uint8), 2, axis=0), 2, axis=1)
    assert state(borderless, modality="ffa") == ("ok", ())
    assert "no_field" in state(borderless)[1]


def test_limits_of_training_pictures_make_others_a_check():
    rng = np.random.default_rng(0)
    figures = [{"contrast": x, "sharpness": math.nan, "size_px": 99.0} for x in rng.random(1000)]
    limits = quality.limits(figures)
    assert set(limits) == {"contrast"}
    np.testing.assert_allclose(limits["contrast"], (0.01, 0.99), atol=0.01)
    image = np.repeat(np.repeat(photograph(), 2, axis=0), 2, axis=1)
    sharp = quality.judge(image).figures["sharpness"]
    assert state(image, limits={"sharpness": (sharp / 2, 2 * sharp), "unknown": (0, 0)})[0] == "ok"
    found = state(image, limits={"sharpness": (2 * sharp, 3 * sharp), "dark": (-1, 0.0)})
    assert found == ("check", ("low_sharpness",))


def test_a_bscan_needs_a_band():
    rng = np.random.default_rng(0)
    scan = rng.integers(20, 60, (200, 300)).astype(np.uint8)
    found = quality.judge(np.dstack([scan] * 3), "oct")
    assert (found.state, found.reasons) == ("ungradable", ("no_band",))
    scan[80:110] += 150
    scan[:, :45] = 255
    found = quality.judge(np.dstack([scan] * 3), "oct")
    assert found.state == "ok" and found.figures["white_wedge"] == pytest.approx(0.15)
    assert found.figures["band_found"] == 1 and "fov_found" not in found.figures


def test_a_file_is_judged_by_its_own_pixels():
    large = np.repeat(np.repeat(photograph(), 10, axis=0), 10, axis=1)
    found = quality.of_bytes(encode(large, "JPEG"))
    assert found.state == "ok" and found.figures["size_px"] == pytest.approx(2200, abs=30)

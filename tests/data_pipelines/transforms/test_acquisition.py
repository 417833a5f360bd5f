"""What a device does to a picture: by hand, in bytes, by the generator given, shared by pairs."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from data_pipelines import transforms as T
from data_pipelines.errors import InputError
from retina_jax import inputs, presets
from retina_jax.build import build

pytestmark = pytest.mark.fast
Record = dict[str, Any]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


PICTURE = rng(7).integers(40, 200, (24, 32, 3), dtype=np.uint8)
VOLUME = rng(8).integers(40, 200, (3, 24, 32, 1), dtype=np.uint8)
EYES = np.stack([PICTURE, PICTURE[::-1]])
ALL = [
    (T.RandomGamma, PICTURE), (T.RandomGamma, VOLUME), (T.RandomGamma, EYES),
    (T.GaussianBlur, PICTURE), (T.GaussianBlur, VOLUME), (T.GaussianBlur, EYES),
    (T.ColorCast, PICTURE), (T.ColorCast, EYES),
    (T.SpeckleNoise, PICTURE), (T.SpeckleNoise, VOLUME), (T.SpeckleNoise, EYES),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "array"), ALL)
def test_bytes_come_back_changed_as_the_generator_says(kind: Any, array: np.ndarray) -> None:
    transform, record = kind(1.0, source="x"), {"x": array.copy(), "other": 1}
    found = [transform.random_map(record, rng(seed)) for seed in (1, 1, 2)]
    first, again, another = (made["x"] for made in found)
    assert first.dtype == np.uint8 and first.shape == array.shape and found[0]["other"] == 1
    assert np.array_equal(first, again) and not np.array_equal(first, another)
    assert not np.array_equal(first, array) and np.array_equal(record["x"], array)
    assert np.array_equal(kind(0.0, source="x").random_map(record, rng())["x"], array)


@pytest.mark.parametrize("kind", [T.RandomGamma, T.GaussianBlur, T.ColorCast])
def test_pairs_and_eyes_share_a_draw_or_have_their_own(kind: Any) -> None:
    record = {"x": PICTURE, "y": PICTURE, "eyes": np.stack([PICTURE, PICTURE])}
    for share in (True, False):
        found = kind(1.0, source=("x", "y", "eyes"), share=share).random_map(record, rng(3))
        parts = [found["x"], found["y"], *found["eyes"]]
        same = [np.array_equal(parts[0], other) for other in parts[1:]]
        assert same == [share] * 3


def test_gamma_is_a_power_of_the_brightness() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
    found = T.RandomGamma(1.0, (2.0, 2.0)).random_map({"image": ramp}, rng())["image"]
    assert np.array_equal(found, np.rint(255 * (ramp / 255.0) ** 2))
    powers = []
    for seed in range(200):
        made = T.RandomGamma(1.0, (0.5, 2.0)).random_map({"image": ramp}, rng(seed))["image"]
        powers.append(np.log(made[8, 0, 0] / 255) / np.log(128 / 255))
    assert 0.49 < min(powers) < 0.6 and 1.7 < max(powers) < 2.02
    assert np.median(powers) == pytest.approx(1.0, abs=0.15)  # the middle of a log scale


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_blur_is_a_gaussian_in_pixels(sigma: float) -> None:
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[16:25, 16:25] = 255
    found = T.GaussianBlur(1.0, (sigma, sigma)).random_map({"image": dot}, rng())["image"]
    expected = ndimage.gaussian_filter(dot[..., 0].astype(float), sigma)
    assert np.abs(found[..., 0] - expected).max() < 12  # PIL's is three means over boxes


def test_b_scans_are_blurred_each_by_itself() -> None:
    volume = np.zeros((3, 16, 16, 1), np.uint8)
    volume[1] = 200
    found = T.GaussianBlur(1.0, (2.0, 2.0), source="oct").random_map({"oct": volume}, rng())
    assert np.array_equal(found["oct"], volume)


def test_a_cast_is_one_gain_for_each_channel_and_leaves_black() -> None:
    flat = np.full((8, 8, 3), 100, np.uint8)
    flat[0] = 0
    gains = []
    for seed in range(50):
        found = T.ColorCast(1.0, 0.2).random_map({"image": flat}, rng(seed))["image"]
        assert found[0].max() == 0 and (found[1:] == found[1, 0]).all()
        gains.append(found[1, 0] / 100)
    spread = np.ptp(gains, axis=0)
    assert 0.8 <= np.min(gains) and np.max(gains) <= 1.2 and spread.min() > 0.3
    assert abs(np.corrcoef(np.array(gains).T)[0, 1]) < 0.4  # channels are independent


def test_speckle_is_multiplicative_and_keeps_greys_grey() -> None:
    """Its deviation grows with brightness, and black stays black."""
    picture = np.zeros((64, 90, 3), np.uint8)
    picture[:, 30:60], picture[:, 60:] = 50, 100
    found = T.SpeckleNoise(1.0, (0.2, 0.2), source="x").random_map({"x": picture}, rng())["x"]
    assert found[:, :30].max() == 0
    for columns, level in ((slice(30, 60), 50), (slice(60, 90), 100)):
        assert found[:, columns].std() == pytest.approx(0.2 * level, rel=0.1)
        assert found[:, columns].mean() == pytest.approx(level, rel=0.03)
    assert (found == found[..., :1]).all()


def test_speckle_of_two_fields_has_one_strength_and_its_own_noise() -> None:
    record = {"x": np.full((64, 64, 3), 100, np.uint8), "y": np.full((64, 64, 3), 100, np.uint8)}
    found = T.SpeckleNoise(1.0, (0.0, 0.3), source=("x", "y")).random_map(record, rng(5))
    assert not np.array_equal(found["x"], found["y"])
    assert found["x"].std() == pytest.approx(found["y"].std(), rel=0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: T.RandomGamma(gamma=(0.0, 1.0)), "random_gamma: 'gamma'"),
        (lambda: T.GaussianBlur(sigma=(2.0, 1.0)), "gaussian_blur: 'sigma'"),
        (lambda: T.ColorCast(strength=1.5), "color_cast: 'strength'"),
        (lambda: T.SpeckleNoise(strength=(0.0, 2.0)), "speckle_noise: 'strength'"),
        (lambda: T.SpeckleNoise(2.0), "0..1"),
        (lambda: T.RandomGamma(source=()), "one field or several"),
        (lambda: T.ColorCast(1.0, source="oct").random_map({"oct": VOLUME}, rng()), "is grey"),
    ],
)
def test_options_are_checked(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def transform(**spec: Any) -> Any:
    return inputs._transform(spec, None)


def test_where_changes_the_records_that_it_names_and_no_others() -> None:
    some = transform(name="random_gamma", probability=1.0, where={"modality": ("oct", "ffa")})
    assert pickle.loads(pickle.dumps(some)) == some
    for modality, changed in (("oct", True), (" FFA", True), ("cfp", False)):
        found = some.random_map({"image": PICTURE, "modality": modality}, rng())
        assert np.array_equal(found["image"], PICTURE) != changed
    both = {"modality": "oct", "findings": "edema"}
    several = transform(name="random_gamma", probability=1.0, where=both)
    for findings, changed in ((["edema", "drusen"], True), (["drusen"], False), ([], False)):
        record = {"image": PICTURE, "modality": "oct", "findings": findings}
        found = several.random_map(record, rng())
        assert np.array_equal(found["image"], PICTURE) != changed
    with pytest.raises(InputError, match="There is no field 'modality'"):
        some.random_map({"image": PICTURE}, rng())


def test_where_is_for_random_transforms() -> None:
    with pytest.raises(InputError, match="'decode' has a 'where'.*random transforms alone"):
        transform(name="decode", size=8, where={"modality": "oct"})
    with pytest.raises(InputError, match="is {field: values}"):
        transform(name="random_gamma", where="oct")


@pytest.mark.parametrize(
    ("specs", "array"),
    [
        (presets.fundus_augmentation("x"), PICTURE),
        (presets.fundus_augmentation("x"), EYES),
        (presets.oct_augmentation("x"), VOLUME),
        (presets.oct_augmentation("x"), PICTURE),
    ],
)
def test_presets_are_chains_of_bytes(specs: Any, array: np.ndarray) -> None:
    chain = [build(T.TRANSFORMS, spec) for spec in specs]
    changed = 0
    for seed in range(8):
        record, generator = {"x": array}, rng(seed)
        for step in chain:
            record = step.random_map(record, generator)
        assert record["x"].dtype == np.uint8 and record["x"].shape == array.shape
        changed += not np.array_equal(record["x"], array)
    assert changed >= 6


def test_presets_of_a_mixed_stream_and_without_mirrors() -> None:
    mixed = (
        *presets.fundus_augmentation(where={"modality": "cfp"}),
        *presets.oct_augmentation("image", where={"modality": "oct"}),
    )
    made = [transform(**spec) for spec in mixed]
    record = {"image": PICTURE, "modality": "ffa", "eye": ""}
    for step in made:
        record = step.random_map(record, None)  # nothing is drawn
    assert np.array_equal(record["image"], PICTURE)
    names = [spec["name"] for spec in presets.oct_augmentation(mirror=False)]
    assert "random_flip" not in names and "color_cast" not in names and "speckle_noise" in names

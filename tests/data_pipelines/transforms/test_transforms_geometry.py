"""Fields that belong together move together, and a mirror keeps right and left apart."""

from typing import Any

import numpy as np
import pytest

from data_pipelines import transforms as T
from data_pipelines.errors import InputError

pytestmark = pytest.mark.fast

Record = dict[str, Any]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def marked(y: int, x: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A dim picture with a bright 5 x 5 mark around (y, x)."""
    picture = np.full((height, width, 3), 20, np.uint8)
    picture[y - 2 : y + 3, x - 2 : x + 3] = 255
    return picture


def mark(picture: np.ndarray) -> tuple[float, float]:
    """The centre of the mark, in parts of the height and the width; NaN where it was cut away."""
    picture = picture.max(0) if picture.ndim == 4 else picture
    weight = np.maximum(picture[..., 0].astype(float) - 60, 0)
    rows, columns = np.indices(weight.shape) + 0.5
    with np.errstate(invalid="ignore"):
        return tuple(
            np.divide((weight * axis).sum() / size, weight.sum())
            for axis, size in ((rows, len(weight)), (columns, weight.shape[1]))
        )


def volume(y: int = 30, x: int = 20, slices: int = 3) -> np.ndarray:
    """B-scan i has the mark and the background 20 + i."""
    stack = np.stack([marked(y, x)[..., :1]] * slices)
    return np.where(stack == 255, 255, stack + np.arange(slices)[:, None, None, None]).astype(
        np.uint8
    )


GEOMETRY = [T.RandomResizedCrop(48, (0.7, 1.0), source=("image", "ffa")),
            T.RandomResizedCrop(None, (0.7, 1.0), source=("image", "ffa")),
            T.RandomAffine(1.0, 15, (0.8, 1.2), 0.1, source=("image", "ffa")),
            T.RandomFlip(0.5, source=("image", "ffa"))]  # fmt: skip


@pytest.mark.parametrize("transform", GEOMETRY, ids=lambda t: f"{type(t).__name__}-{t.source}")
def test_named_fields_share_one_draw(transform: Any) -> None:
    # The second picture is twice as large: the same place is at the same part of its sides.
    record = {"image": marked(24, 30), "ffa": np.kron(marked(24, 30), np.ones((2, 2, 1), np.uint8))}
    places = []
    for seed in range(12):
        result = transform.random_map(record, rng(seed))
        first, second = mark(result["image"]), mark(result["ffa"])
        np.testing.assert_allclose(first, second, atol=0.02)
        places.append(first)
    assert np.ptp(np.array(places), 0).max() > 0.05, "the mark must move"


@pytest.mark.parametrize("transform", [
    T.RandomResizedCrop(48, (0.5, 1.0), source="eyes"), T.RandomAffine(1.0, 15, source="eyes"),
    T.RandomCrop(30, source="eyes"),
    T.ColorJitter(1.0, 0.5, 0.5, 0.5, source="eyes"),
], ids=lambda t: type(t).__name__)  # fmt: skip
def test_eyes_share_a_draw_unless_told_otherwise(transform: Any) -> None:
    record = {"eyes": np.stack([marked(24, 30)] * 2)}
    for seed in range(5):
        left, right = transform.random_map(record, rng(seed))["eyes"]
        assert (left == right).all()
    alone = type(transform)(**{**vars(transform), "share": False})
    left, right = alone.random_map(record, rng(0))["eyes"]
    assert (left != right).any()


def test_a_crop_without_resizing_reaches_every_place() -> None:
    rows, columns = np.indices((7, 9), np.uint8)
    record = {"image": np.stack([rows, columns, columns], -1)}
    corners = []
    for seed in range(300):
        cut = T.RandomCrop(5).random_map(record, rng(seed))["image"]
        top, left = cut[0, 0, :2]
        assert (cut == record["image"][top : top + 5, left : left + 5]).all()
        assert cut.shape == (5, 5, 3)
        corners.append((int(top), int(left)))
    counts = [corners.count((top, left)) for top in range(3) for left in range(5)]
    assert sum(counts) == 300 and 8 <= min(counts) and max(counts) <= 40
    assert T.RandomCrop(7).random_map(record, rng())["image"].shape == (7, 7, 3)
    with pytest.raises(InputError, match="7 x 9 pixels has no square of 8"):
        T.RandomCrop(8).random_map(record, rng())


def test_a_crop_keeps_the_size_it_is_not_given() -> None:
    record = {"image": marked(24, 30), "oct": volume()}
    cut = T.RandomResizedCrop(None, (0.5, 0.6), source="oct").random_map(record, rng())["oct"]
    assert cut.shape == (3, 60, 80, 1) and (cut != record["oct"]).any()
    assert T.RandomResizedCrop(32).random_map(record, rng())["image"].shape == (32, 32, 3)
    assert T.RandomResizedCrop(32, source="oct").random_map(record, rng())["oct"].shape == (
        3,
        32,
        32,
        1,
    )


@pytest.mark.parametrize("transform", [
    T.RandomResizedCrop(None, (0.6, 0.8), source="oct"),
    T.RandomAffine(1.0, 10, (0.8, 1.2), 0.2, source="oct"),
    T.ColorJitter(1.0, 0.5, 0.5, source="oct"),
], ids=lambda t: type(t).__name__)  # fmt: skip
def test_b_scans_always_share_a_draw(transform: Any) -> None:
    same = np.repeat(volume()[:1], 4, 0)
    for share in (True, False):
        changed = type(transform)(**{**vars(transform), "share": share})
        result = changed.random_map({"oct": same}, rng(1))["oct"]
        assert result.shape == same.shape and (result == result[:1]).all()
        assert (result != same).any()


def test_contrast_of_a_volume_is_about_the_mean_of_all_b_scans() -> None:
    two = np.concatenate([np.full((1, 8, 8, 1), 50), np.full((1, 8, 8, 1), 150)]).astype(np.uint8)
    jitter = T.ColorJitter(1.0, 0.0, 1.0, source="oct")
    values = np.array([jitter.random_map({"oct": two}, rng(seed))["oct"][:, 0, 0, 0]
                       for seed in range(9)], int)  # fmt: skip
    assert (np.abs(values.sum(1) - 200) <= 2).all() and len(set(values[:, 0])) > 3


@pytest.mark.parametrize("cls", [T.RandomResizedCrop, T.RandomCrop, T.RandomAffine])
def test_depth_is_not_height(cls: type) -> None:
    record = {"image": marked(24, 30), "oct": volume()}
    size = {} if cls is T.RandomAffine else {"size": 32}
    with pytest.raises(InputError, match="not the same direction"):
        cls(**size, source=("image", "oct")).random_map(record, rng())
    cls(**size, source=("image", "oct"), share=False).random_map(record, rng())


def test_shift_moves_by_parts_of_the_sides() -> None:
    still = {"degrees": 0, "scale": (1.0, 1.0), "shift": 0.2}
    places = np.array([mark(T.RandomAffine(1.0, **still).random_map({"image": marked(30, 40)},
                            rng(s))["image"]) for s in range(60)])  # fmt: skip
    middle = np.array(mark(marked(30, 40)))
    assert np.abs(places - middle).max() <= 0.2 + 0.01
    assert (np.ptp(places, 0) > 0.3).all(), "down, up, left and right"


def eye_record(eye: str = "OD") -> Record:
    return {"image": marked(24, 60), "oct": volume(30, 60), "eye": eye, "id": "a"}


def test_a_mirror_takes_fundus_volume_and_side_along() -> None:
    flip = T.RandomFlip(1.0, ("image", "oct"))
    result = flip.random_map(eye_record(), rng())
    assert result["eye"] == "OS"
    for name in ("image", "oct"):
        before, after = mark(eye_record()[name]), mark(result[name])
        assert after[0] == pytest.approx(before[0]) and after[1] == pytest.approx(1 - before[1])
    assert (result["oct"][:, 0, 0, 0] == [20, 21, 22]).all(), "the order of B-scans stays"
    twice = flip.random_map(result, rng())
    assert all(np.array_equal(twice[name], value) for name, value in eye_record().items())
    assert flip.random_map(eye_record(""), rng())["eye"] == ""
    kept = T.RandomFlip(1.0, swap_sides=False).random_map(eye_record(), rng())
    assert kept["eye"] == "OD" and mark(kept["image"])[1] < 0.5
    with pytest.raises(InputError, match="'OD', 'OS' or ''"):
        flip.random_map(eye_record("left"), rng())


def patient() -> Record:
    """Left disc to the left, right disc to the right; the right eye is brighter."""
    return {"eyes": np.stack([marked(24, 20), np.maximum(marked(24, 60), 40)]),
            "eye_mask": np.array([True, False]), "left_labels": ["normal"],
            "right_labels": ["glaucoma"], "left_only": 1,
            "report": "right eye: glaucoma"}  # fmt: skip


def test_mirrored_eyes_change_places() -> None:
    before = patient()
    result = T.RandomFlip(1.0, "eyes").random_map(before, rng())
    left, right = result["eyes"]
    assert mark(left)[1] < 0.5 < mark(right)[1], "each slot looks like its side"
    assert left.min() == 40 and right.min() == 20, "the right eye went to the left slot"
    assert (result["eyes"][0] == before["eyes"][1][:, ::-1]).all()
    assert result["eye_mask"].tolist() == [False, True]
    assert result["left_labels"] == ["glaucoma"] and result["right_labels"] == ["normal"]
    assert result["left_only"] == 1 and result["report"] == before["report"]
    assert before["eye_mask"].tolist() == [True, False], "a transform must not change its record"
    kept = T.RandomFlip(1.0, "eyes", swap_sides=False).random_map(before, rng())
    assert (kept["eyes"] == before["eyes"][:, :, ::-1]).all()
    assert kept["eye_mask"].tolist() == [True, False] and kept["left_labels"] == ["normal"]


def test_flips_of_each_eye_are_ret_clips() -> None:
    flip = T.RandomFlip(0.5, "eyes", share=False)
    seen = set()
    for seed in range(40):
        before = patient()
        result = flip.random_map(before, rng(seed))
        mirrored = (result["eyes"] != before["eyes"]).any(axis=(1, 2, 3))
        for slot, turned in enumerate(mirrored):
            expected = before["eyes"][slot][:, ::-1] if turned else before["eyes"][slot]
            assert (result["eyes"][slot] == expected).all(), "slots stay"
        assert result["eye_mask"].tolist() == [True, False]
        seen.add(tuple(mirrored.tolist()))
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_vertical_scans_are_mirrored_across_their_b_scans() -> None:
    record = {**eye_record(), "direction": "vertical"}
    for transform, eye in (
        (T.RandomFlip(1.0, ("image", "oct"), scan="direction"), "OD"),
        (T.CanonicalLaterality(("image", "oct"), scan="direction"), "OS"),
    ):
        now = {**record, "eye": eye}
        apply = getattr(transform, "map", None) or (lambda r, t=transform: t.random_map(r, rng()))
        result = apply(now)
        assert (result["oct"] == record["oct"][::-1]).all()
        assert mark(result["image"])[1] < 0.5
        horizontal = apply({**now, "direction": "horizontal"})["oct"]
        assert (horizontal == record["oct"][:, :, ::-1]).all()
        with pytest.raises(InputError, match="'direction' is 'radial'"):
            apply({**now, "direction": "radial"})


def test_canonical_laterality_makes_right_eyes() -> None:
    canonical = T.CanonicalLaterality(("image", "oct"))
    right = canonical.map(eye_record("OD"))
    assert all(np.array_equal(right[name], value) for name, value in eye_record("OD").items())
    left = canonical.map(eye_record("OS"))
    assert left["eye"] == "OD" and (left["image"] == eye_record()["image"][:, ::-1]).all()
    assert (left["oct"] == eye_record()["oct"][:, :, ::-1]).all()
    again = canonical.map(left)
    assert (again["image"] == left["image"]).all(), "doing it twice is doing it once"
    # A mirrored right eye is a left one, and comes back.
    flipped = T.RandomFlip(1.0, ("image", "oct")).random_map(eye_record("OD"), rng())
    assert (canonical.map(flipped)["image"] == eye_record()["image"]).all()


def test_an_unknown_side_is_never_guessed() -> None:
    with pytest.raises(InputError, match="does not say which eye"):
        T.CanonicalLaterality().map(eye_record(""))
    kept = T.CanonicalLaterality(unknown="keep").map(eye_record(""))
    assert kept["eye"] == "" and (kept["image"] == eye_record()["image"]).all()
    with pytest.raises(InputError, match="got 'left'"):
        T.CanonicalLaterality(unknown="keep").map(eye_record("left"))
    with pytest.raises(InputError, match="fields of one eye"):
        T.CanonicalLaterality("eyes").map({**patient(), "eye": "OS"})
    with pytest.raises(InputError, match="refuse or keep"):
        T.CanonicalLaterality(unknown="guess")


def test_floats_can_be_mirrored() -> None:
    record = {**eye_record("OS"), "oct": volume(30, 60).astype(np.float32)}
    result = T.CanonicalLaterality("oct").map(record)["oct"]
    assert result.dtype == np.float32 and (result == record["oct"][:, :, ::-1]).all()


@pytest.mark.parametrize(
    ("build", "words"),
    [(lambda: T.RandomResizedCrop(0), "at least 1 pixel"),
     (lambda: T.RandomCrop(0), "at least 1 pixel"),
     (lambda: T.RandomResizedCrop(8, (0.0, 1.0)), "'area'"),
     (lambda: T.RandomResizedCrop(8, (0.9, 0.5)), "'area'"),
     (lambda: T.RandomResizedCrop(8, (0.5, 1.5)), "'area'"),
     (lambda: T.RandomResizedCrop(8, ratio=(1.0, 0.5)), "'ratio'"),
     (lambda: T.RandomResizedCrop(8, (0.5,)), "'area'"),
     (lambda: T.RandomAffine(degrees=-5), "'degrees'"),
     (lambda: T.RandomAffine(shift=1.5), "'shift'"),
     (lambda: T.RandomAffine(scale=(0, 1)), "'scale'"),
     (lambda: T.RandomFlip(2), "0..1"),
     (lambda: T.RandomFlip(source=()), "one field or several different"),
     (lambda: T.RandomFlip(source=("image", "image")), "one field or several different"),
     (lambda: T.ColorJitter(brightness=1.5), "'brightness'"),
     (lambda: T.GaussianNoise(strength=(0.2, 0.1)), "'strength'"),
     (lambda: T.RandomErasing(area=(0.5, 0.1)), "'area'"),
     (lambda: T.RandomErasing(colour=(0, 0, 256)), "'colour'"),
     (lambda: T.ForegroundCrop(0), "at least 1 pixel"),
     (lambda: T.Eyes(8, fit="stretch"), "eyes: 'fit'"),
     (lambda: T.MaskPatches(4, 0.9), "at least one patch"),
     (lambda: T.MaskPatches(4, 1.0), "between 0 and 1"),
     (lambda: T.Prompt(mode="prepend"), "replace, append, define")],
)  # fmt: skip
def test_options_are_checked(build: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build()

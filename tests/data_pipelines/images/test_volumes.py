"""OCT volumes: which B-scans, which size, which range of values."""

from pathlib import Path

import numpy as np
import pytest
from picture_files import encode

from data_pipelines import transforms as T
from data_pipelines.errors import InputError
from data_pipelines.images import functional, volumes
from data_pipelines.records import sources
from data_pipelines.synthetic import causes, oct

pytestmark = pytest.mark.fast


def steps(slices: int, height: int = 12, width: int = 10) -> np.ndarray:
    """B-scan i has the value 10 i, brighter in its last column."""
    volume = np.full((slices, height, width), 0, np.uint8) + 10 * np.arange(slices)[:, None, None]
    volume[..., -1] += 5
    return volume.astype(np.uint8)


@pytest.mark.parametrize(
    ("stored", "wanted", "select", "expected"),
    [(49, 3, "uniform", [0, 24, 48]), (5, 5, "uniform", [0, 1, 2, 3, 4]), (9, 1, "uniform", [4]),
     (2, 4, "uniform", [0, 0, 1, 1]), (49, 3, "centre", [23, 24, 25]), (4, 4, "centre", range(4)),
     (8, 1, "centre", [3])],
)  # fmt: skip
def test_b_scans_are_chosen(stored: int, wanted: int, select: str, expected: list[int]) -> None:
    assert volumes.choose(stored, wanted, select).tolist() == list(expected)


def test_choosing_keeps_order_and_ends() -> None:
    for stored in range(1, 60):
        for wanted in range(2, 40):
            chosen = volumes.choose(stored, wanted, "uniform")
            assert len(chosen) == wanted and chosen[0] == 0 and chosen[-1] == stored - 1
            assert (np.diff(chosen) >= 0).all() and np.ptp(np.diff(chosen)) <= 1
    with pytest.raises(InputError, match="3 B-scans, fewer than the 4"):
        volumes.choose(3, 4, "centre")


@pytest.mark.parametrize("form", ["picture", "list", "array"])
def test_stored_forms_give_the_same_volume(form: str) -> None:
    stored = steps(7)
    record = {"oct": encode(stored.reshape(-1, 10)), "oct_slices": 7}
    if form != "picture":
        record = {"oct": [encode(scan) for scan in stored]}
    if form == "array":
        record["oct"] = np.array(record["oct"], object)
    result = T.Volume(4, (12, 10), normalize="none").map(record)["oct"]
    assert result.dtype == np.uint8 and result.shape == (4, 12, 10, 1)
    assert (result[..., 0] == stored[[0, 2, 4, 6]]).all()


def test_colours_become_grey_and_scans_of_any_size_fit() -> None:
    colour = np.zeros((8, 6, 3), np.uint8) + np.uint8([200, 100, 50])
    record = {"oct": [encode(colour), encode(np.full((16, 30), 90, np.uint8))]}
    result = T.Volume(2, 8, normalize="none").map(record)["oct"]
    assert (result[0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()
    assert result.shape == (2, 8, 8, 1) and (result[1] == 90).all()


def test_resizing_antialiases_each_b_scan_alone() -> None:
    stripes = np.zeros((3, 64, 64, 1), np.uint8)
    stripes[1, :, ::2] = 255
    small = volumes.resize(stripes, 8, 16)
    assert small.shape == (3, 8, 16, 1) and not small[[0, 2]].any()
    assert np.abs(small[1].astype(int) - 127).max() < 16


def test_stretch_clips_at_percentiles_and_fills_the_range() -> None:
    rng = np.random.default_rng(0)
    volume = np.clip(rng.normal(100, 10, (4, 50, 50, 1)), 60, 140).astype(np.uint8)
    volume[0, 0, :3] = 255
    low, high = np.percentile(volume, (0.5, 99.5))
    expected = np.rint(255 * np.clip((volume - low) / (high - low), 0, 1))
    assert (volumes.stretch(volume) == expected).all()
    flat = np.full((2, 4, 4, 1), 7, np.uint8)
    assert not volumes.stretch(flat).any() and not volumes.standardize(flat).any()


def test_bytes_lose_nothing_but_rounding() -> None:
    eye = causes.sample_patient(0, 3).right
    volume = oct.render(eye, 6, 64)[..., None]
    low, high = np.percentile(volume, (0.5, 99.5))
    clipped = np.clip(volume, low, high).astype(np.float64)
    exact = (clipped - clipped.mean()) / clipped.std()
    from_bytes = volumes.standardize(volumes.stretch(volume))
    assert from_bytes.dtype == np.float32
    step = (high - low) / 255 / clipped.std()
    # Half a step of rounding, and what it does to the mean and the deviation.
    assert np.abs(from_bytes - exact).max() < 0.7 * step
    assert abs(from_bytes.mean()) < 1e-4 and abs(from_bytes.std() - 1) < 1e-4


def test_standardize_is_for_volumes() -> None:
    volume = steps(3)[..., None]
    result = T.Standardize().map({"oct": volume})["oct"]
    assert result.dtype == np.float32 and result.shape == volume.shape
    np.testing.assert_allclose(result, (volume - volume.mean()) / volume.std(), rtol=1e-5)
    with pytest.raises(InputError, match="no OCT volume"):
        T.Standardize("image").map({"image": np.zeros((4, 4, 3), np.uint8)})


@pytest.mark.parametrize(
    ("options", "words"),
    [({"select": "middle"}, "uniform or centre"), ({"normalize": "zscore"}, "stretch or none"),
     ({"slices": 0}, "at least 1"), ({"size": (4, 4, 4)}, "one or two numbers")],
)  # fmt: skip
def test_options_are_checked(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        T.Volume(**{"slices": 2, "size": 8, **options})


@pytest.mark.parametrize(
    ("record", "words"),
    [({"oct": b"", "oct_slices": 4}, "not a readable picture"),
     ({"oct": []}, "leave out records without a scan"),
     ({"oct": np.zeros((2, 4, 4))}, "list of pictures"), ({"oct": "scan.png"}, "list of pictures"),
     ({"oct": encode(np.zeros((10, 4), np.uint8)), "oct_slices": 4}, "10 rows does not hold 4"),
     ({"oct": encode(np.zeros((8, 4), np.uint8)), "oct_slices": 0}, "does not hold 0"),
     ({"oct": encode(np.zeros((8, 4), np.uint8))}, "no field 'oct_slices'")],
)  # fmt: skip
def test_what_is_no_volume_is_named(record: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        T.Volume(2, 8).map(record)


def test_embedded_volumes_are_read(data_folder: Path) -> None:
    source = sources.load("synthetic_retina/smoke_multimodal", "expert", data_folder)
    result = T.Volume(2, 16).map(source[0])["oct"]
    assert result.shape == (2, 16, 16, 1) and result.min() == 0 and result.max() == 255


def test_real_b_scans_make_a_stack(retina_data: Path) -> None:
    folder = retina_data / "kermany_oct"
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    scans = [path.read_bytes() for path in files[:3]]
    result = T.Volume(5, (64, 96)).map({"oct": scans})["oct"]
    assert result.shape == (5, 64, 96, 1) and result.std() > 20
    first = volumes.grey(functional.decode_image(scans[0]))
    assert np.corrcoef(volumes.resize(first[None], 64, 96).ravel(), result[0].ravel())[0, 1] > 0.98

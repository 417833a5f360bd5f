"""Pictures and volumes as they are found in folders, and what is stored of them."""

import os
import pathlib
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from data_pipelines.builders import pictures, staging
from data_pipelines.builders.entries import Entry, Listing, Ref, Unusable
from data_pipelines.images import decoding, functional, preparation
from data_pipelines.images.preparation import Preparation

RECIPE = staging.StagingOptions("", {}, (), ())


def scans(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (number, 12, 16), dtype=np.uint8)


def decoded(made: pictures.Made) -> np.ndarray:
    return np.stack([functional.decode_image(data)[..., 0] for data in made.value])


def volume(root: pathlib.Path, *names: str, slices: int | None = None) -> pictures.Made:
    recipe = staging.StagingOptions("", {}, (), (), slices=slices)
    return pictures.volume([Ref(name) for name in names], root.resolve(), recipe, "cfp")


def write_folder(root: pathlib.Path, array: np.ndarray) -> None:
    (root / "v").mkdir()
    for i, scan in enumerate(array, 1):  # without leading zeros: 10 must not follow 1
        Image.fromarray(scan).save(root / "v" / f"scan_{i}.png")
    (root / "v" / "notes.txt").write_text("no B-scan")


def write_pages(root: pathlib.Path, array: np.ndarray) -> None:
    first, *others = (Image.fromarray(scan) for scan in array)
    first.save(root / "v.tif", save_all=True, append_images=others)


@pytest.mark.parametrize("form", ["folder", "pages", "array", "list"])
def test_every_form_of_a_volume_gives_the_same_scans(tmp_path: pathlib.Path, form: str) -> None:
    array = scans(11)
    names = ["v"]
    if form == "folder":
        write_folder(tmp_path, array)
    elif form == "pages":
        write_pages(tmp_path, array)
        names = ["v.tif"]
    elif form == "array":
        np.save(tmp_path / "v.npy", array)
        names = ["v.npy"]
    else:
        write_folder(tmp_path, array)
        names = [f"v/scan_{i}.png" for i in range(1, 12)]
    assert np.array_equal(decoded(volume(tmp_path, *names)), array)
    chosen = volume(tmp_path, *names, slices=3)
    assert np.array_equal(decoded(chosen), array[[1, 5, 9]])
    assert chosen.digests == volume(tmp_path, *names).digests, "of the files, not of the choice"


@pytest.mark.parametrize(("stored", "expected"),
                         [(np.array([0, 255, 256, 65535], np.uint16), [0, 0, 1, 255]),
                          (np.array([0, 0.5, 0.8, np.nan], np.float32), [0, 128, 204, 0]),
                          (np.array([-10, 0, 90, np.inf], np.float32),
                           [0, 26, 255, 26])])  # fmt: skip
def test_depths(tmp_path: pathlib.Path, stored: np.ndarray, expected: list[int]) -> None:
    np.save(tmp_path / "v.npy", stored.reshape(1, 1, 4))
    assert decoded(volume(tmp_path, "v.npy")).ravel().tolist() == expected


@pytest.fixture
def staged(tmp_path: pathlib.Path) -> Callable[..., tuple[list[staging.RecordStatus], list]]:
    """Stages pairs of a photograph and the volumes of the folder; facts, and [T H W] of each."""

    def run(*volumes: str) -> tuple[list[staging.RecordStatus], list[np.ndarray]]:
        recipe = staging.StagingOptions(str(tmp_path), {"oct": "volume"}, (), ())
        found = tuple(Entry(i, {"oct": (Ref(name),)}, {}) for i, name in enumerate(volumes, 1))
        stage = staging.Stage(Listing(found), recipe, tmp_path / "stage")
        stage.folder.mkdir()
        facts = stage.fill(workers=1)
        kept = [fact for fact in facts if fact.place >= 0]
        records = [record["oct"] for _, record in stage.records(kept)]
        return facts, [np.stack([functional.decode_image(b)[..., 0] for b in r]) for r in records]

    return run


def test_oct_is_scaled_by_one_range_of_the_data_set(
    tmp_path: pathlib.Path, staged: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "CHUNK", 1)
    read: list[str] = []
    make = staging.make
    monkeypatch.setattr(staging, "make", lambda e, r: read.append(e.name) or make(e, r))
    full = np.linspace(0, 4095, 60).astype(np.uint16).reshape(3, 4, 5)
    np.save(tmp_path / "full.npy", full)
    np.save(tmp_path / "dim.npy", full // 5)
    np.save(tmp_path / "unit.npy", full / 4095)
    np.save(tmp_path / "bytes.npy", (full >> 4).astype(np.uint8))
    (tmp_path / "folder").mkdir()
    for i, scan in enumerate(full // 3):  # every B-scan uses other bits
        Image.fromarray(scan * (i > 0)).save(tmp_path / "folder" / f"{i}.png")
    names = ["full.npy", "dim.npy", "unit.npy", "bytes.npy", "folder"]
    facts, (whole, dim, unit, plain, folder) = staged(*names)
    assert np.array_equal(whole, full >> 4) and np.array_equal(dim, full // 5 >> 4)
    assert np.array_equal(folder[1:], full[1:] // 3 >> 4)
    assert np.array_equal(unit, np.rint(full / 4095 * 255)) and np.array_equal(plain, full >> 4)
    # Only what was scaled otherwise is read again.
    assert read == [*names, "dim.npy", "folder"]
    assert [fact.scale for fact in facts] == [(0, 4095), (0, 4095), (), (), (0, 4095)]


def test_a_single_bscan_is_scaled_like_the_others(tmp_path: pathlib.Path) -> None:
    Image.fromarray(np.full((9, 9), 1000, np.uint16)).save(tmp_path / "b.png")
    recipe = staging.StagingOptions("", {}, (), (), scale=(0.0, 65535.0))
    made = pictures.one([Ref("b.png")], tmp_path.resolve(), recipe, "oct")
    assert functional.decode_image(made.value).max() == 1000 >> 8 == made.brightest
    # A photograph keeps its bytes, and its own range.
    made = pictures.one([Ref("b.png")], tmp_path.resolve(), recipe, "cfp")
    assert made.value == (tmp_path / "b.png").read_bytes() and made.brightest == 1000 >> 2


def test_one_broken_volume_is_named_and_ends_nothing(
    tmp_path: pathlib.Path, staged: Callable
) -> None:
    pages = [Image.fromarray(scan) for scan in scans(5)]
    pages[0].save(tmp_path / "whole.tif", save_all=True, append_images=pages[1:])
    data = (tmp_path / "whole.tif").read_bytes()
    (first,) = struct.unpack_from("<I", data, 4)
    rational = bytearray(data)
    struct.pack_into("<H", rational, first + 2 + 2, 5)  # the type of ImageWidth
    (tmp_path / "rational.tif").write_bytes(rational)
    # Behind the first page PIL finds no list, or one that names no size.
    for cut in range(first + 20, first + 140, 20):
        (tmp_path / f"cut{cut}.tif").write_bytes(data[:cut])
    broken = sorted(path.name for path in tmp_path.glob("*[0-9l].tif"))
    facts, volumes = staged("whole.tif", *broken, "missing.tif")
    assert len(volumes) == 1 and len(facts) == len(broken) + 2
    for fact in facts[1:-1]:
        assert fact.reason == "picture not readable" and fact.detail.startswith(fact.name)
    assert facts[-1].reason == "file not readable" and "missing.tif" in facts[-1].detail


def test_broken_volumes_have_a_reason(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "flat.npy", np.zeros((3, 4), np.uint8))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "flat.npy").read_bytes()[:40])
    (tmp_path / "mixed").mkdir()
    for i, size in enumerate((5, 6)):
        Image.new("L", (size, size)).save(tmp_path / "mixed" / f"{i}.png")
    (tmp_path / "out").symlink_to("/etc")
    for name, reason in (
        ("empty", "no B-scans"),
        ("flat.npy", "volume not readable"),
        ("objects.npy", "volume not readable"),
        ("cut.npy", "volume not readable"),
        ("mixed", "B-scans of several sizes"),
        ("out", "link out of the folder, see --follow_links"),
    ):
        with pytest.raises(Unusable) as error:
            volume(tmp_path, name)
        assert error.value.reason == reason and "\n" not in str(error.value)


class _Payload:
    """Pickled, it makes a folder where it is loaded."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self._path,)


def test_an_array_cannot_run_code(tmp_path: pathlib.Path) -> None:
    payload = np.array([_Payload(str(tmp_path / "ran"))], object)
    np.save(tmp_path / "v.npy", payload, allow_pickle=True)
    with pytest.raises(Unusable, match="not an .npy array"):
        volume(tmp_path, "v.npy")
    assert not (tmp_path / "ran").exists()


def test_a_folder_does_not_lead_out_by_a_link(tmp_path: pathlib.Path) -> None:
    Image.new("L", (5, 5)).save(tmp_path / "secret.png")
    (tmp_path / "root" / "v").mkdir(parents=True)
    (tmp_path / "root" / "v" / "0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(Unusable, match="link out"):
        volume(tmp_path / "root", "v")


def test_a_missing_picture_is_empty_and_a_whole_one_keeps_its_bytes(
    tmp_path: pathlib.Path, jpeg: bytes
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg)
    root = tmp_path.resolve()
    assert pictures.one([], root, RECIPE, "cfp").value == b""
    made = pictures.one([Ref("a.jpg")], root, RECIPE, "cfp")
    assert made.value == jpeg and made.crop == (0, 0, 60, 80)
    assert made.digests == (preparation.digest(jpeg),)
    both = pictures.many([Ref("a.jpg"), Ref("a.jpg")], root, RECIPE, "cfp")
    assert both.value == [jpeg, jpeg] and both.perceptual == made.perceptual * 2


def test_only_photographs_are_cropped(tmp_path: pathlib.Path) -> None:
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[10:50, 20:60] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    recipe = staging.StagingOptions("", {}, (), (), preparation=Preparation(size=90))
    made = {m: pictures.one([Ref("a.png")], tmp_path.resolve(), recipe, m) for m in ("cfp", "oct")}
    assert made["oct"].crop == (0, 0, 60, 90) and made["cfp"].crop == (10, 20, 40, 40)
    assert decoding.size(made["oct"].value) == (90, 90)
    assert decoding.size(made["cfp"].value) == (40, 40)
    assert pictures.crop_field("left_image") == "left_crop"

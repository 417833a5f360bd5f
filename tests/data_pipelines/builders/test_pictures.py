"""Pictures and volumes as they are found in folders, and what is stored of them."""

import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from data_pipelines.builders import pictures, staging
from data_pipelines.builders.entries import Ref, Unusable
from data_pipelines.images import functional, preparation
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
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    recipe = staging.StagingOptions("", {}, (), (), preparation=Preparation(size=90))
    made = {m: pictures.one([Ref("a.png")], tmp_path.resolve(), recipe, m) for m in ("cfp", "oct")}
    assert made["oct"].crop == (0, 0, 60, 90) and made["cfp"].crop == (10, 20, 40, 40)
    assert functional.image_size(made["oct"].value) == (90, 90)
    assert functional.image_size(made["cfp"].value) == (40, 40)
    assert pictures.crop_field("left_image") == "left_crop"

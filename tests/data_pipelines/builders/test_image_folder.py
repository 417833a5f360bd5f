"""Folders that are classes, volumes alone, and what names of files look like on other systems."""

import pathlib
import unicodedata
from typing import Any

import corpora
import numpy as np
import pytest
from PIL import Image

from data_pipelines import build
from data_pipelines.builders import image_folder, lookup, pictures
from data_pipelines.builders.entries import Listing
from data_pipelines.errors import InputError

pytestmark = pytest.mark.fast


def listed(folder: pathlib.Path, **options: Any) -> Listing:
    return build.list_corpus("folder", "own", {"source": str(folder), **options}).rows


def fields(listing: Listing, *names: str) -> dict[str, tuple]:
    """Returns {path: values of these fields}."""
    return {e.name: tuple(e.fields.get(name, "") for name in names) for e in listing.entries}


def test_a_build_of_classes(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for split in ("train", "Val"):
        for label in ("Macular_Hole", "normal"):
            for i in range(2):
                corpora.picture(folder / split / label / f"{split}-{i}_left.JPG")
    bare = folder / "train" / "normal" / "no ending"
    corpora.picture(bare)
    left = ("._a.jpg", ".DS_Store", "readme.txt", "no picture")
    for name in left:
        (folder / "train" / "normal" / name).write_bytes(b"\0\5\x16\7")
    text = build.build(
        "folder", "own", str(tmp_path), source=str(folder), processes=1,
        pattern=r"(?P<patient>\w+-\d)_(?P<eye>left|right)|no ending",
    )  # fmt: skip
    found = corpora.records("folder", tmp_path)
    assert {name: len(rows) for name, rows in found.items()} == {"train": 5, "validation": 4}
    rows = {row["id"].split("#")[0]: row for rows in found.values() for row in rows}
    row = rows["Val/Macular_Hole/Val-1_left.JPG"]
    assert (row["patient"], row["eye"], row["labels"]) == ("Val-1", "OS", ["macular hole"])
    assert rows["train/normal/no ending"]["patient"] == ""
    assert "2 files that are hidden or left by systems are ignored: 1 .DS_Store, 1 ._*" in text
    assert "2 classes: normal 5, macular hole 4" in text
    assert "not read: 1 no ending, 1 .txt" in text


def test_classes_without_splits_and_names_of_codes(folder: pathlib.Path) -> None:
    for path in ("0/a.png", "1/b.PNG", "c.png"):
        corpora.picture(folder / path)
    with pytest.raises(InputError, match=r"look like codes \(0, 1\).*--label_names"):
        listed(folder)
    found = fields(listed(folder, label_names="icdr5"), "labels", "split", "modality")
    assert found == {"0/a.png": (["no diabetic retinopathy"], "", "cfp"),
                     "1/b.PNG": (["mild diabetic retinopathy"], "", "cfp"),
                     "c.png": ([], "", "cfp")}  # fmt: skip
    one = listed(folder, label_names="icdr5", modality="oct")
    assert {entry.fields["modality"] for entry in one.entries} == {"oct"}


def test_folders_that_are_not_understood_are_refused(folder: pathlib.Path) -> None:
    corpora.picture(folder / "site" / "drusen" / "p1_a.png")
    with pytest.raises(InputError, match="lies deeper than CLASS/a.jpg.*splits train.*--pattern"):
        listed(folder)
    pattern = "(?P<patient>[^/]+)/(?P<label>[^/]+)/.*"
    (entry,) = listed(folder, pattern=pattern).entries
    assert (entry.fields["patient"], entry.fields["labels"]) == ("site", ["drusen"])
    found = listed(folder / "site", pattern=r"(?P<patient>p\d)_.")
    assert fields(found, "patient", "labels") == {"drusen/p1_a.png": ("p1", ["drusen"])}
    with pytest.raises(InputError, match="1 x name does not match the pattern"):
        listed(folder / "site", pattern=r"(?P<patient>q\d)_.")
    corpora.picture(folder / "train" / "x" / "a.png")
    with pytest.raises(InputError, match="train are splits and site are not"):
        listed(folder)
    for pattern in ("(", "p", "(?P<age>.*)"):
        with pytest.raises(InputError, match="--pattern"):
            listed(folder, pattern=pattern)
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="no image in"):
        listed(folder / "empty")


@pytest.mark.parametrize("name", ["None", "NA", "null", "nan"])
def test_a_class_may_be_called_as_nothing_is(folder: pathlib.Path, name: str) -> None:
    for path in (f"{name}/NA_left.png", "drusen/p1_right.png"):
        corpora.picture(folder / path)
    found = fields(listed(folder, pattern="(?P<patient>.+)_(?P<eye>left|right)"),
                   "labels", "patient", "eye")  # fmt: skip
    assert found == {f"{name}/NA_left.png": ([name.lower()], "", "OS"),
                     "drusen/p1_right.png": (["drusen"], "p1", "OD")}  # fmt: skip
    by_path = listed(folder, pattern="(?P<label>[^/]+)/.*")
    assert fields(by_path, "labels")[f"{name}/NA_left.png"] == ([name.lower()],)
    named = fields(listed(folder, label_names=f"{name}:healthy"), "labels")
    assert named[f"{name}/NA_left.png"] == (["healthy"],)


def test_what_is_hidden_is_called_what_it_is(folder: pathlib.Path) -> None:
    names = ("drusen/a.png", "drusen/.a.png.swp", ".git/config", ".git/x/y", "drusen/._a.png",
             "__MACOSX/drusen/._a.png", "Thumbs.db")  # fmt: skip
    for name in names:
        corpora.picture(folder / name)
    (told,) = listed(folder).remarks  # each file is counted once
    assert told.startswith("6 files")
    for part in ("2 .git/", "1 .a.png.swp", "1 ._*", "1 __MACOSX/", "1 Thumbs.db"):
        assert part in told


def test_a_split_alone_is_kept_and_others_are_missed(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for i in range(12):
        corpora.picture(folder / "Testing_Set" / "drusen" / f"{i}.png")
    text = build.build("folder", "own", str(tmp_path), source=str(folder), processes=1)
    found = corpora.records("folder", tmp_path)
    assert {name: len(rows) for name, rows in found.items()} == {"test": 12}
    assert "only split that is named is 'test'" in text and "no train, validation" in text
    assert listed(folder / "Testing_Set").entries[0].fields["split"] == "", "the way out"


def test_volumes_alone(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    scans = rng.integers(0, 255, (3, 20, 16), dtype=np.uint8)
    for label in ("amd", "normal"):
        (folder / "train" / label).mkdir(parents=True)
        np.save(folder / "train" / label / "a.npy", scans)
        # A file whose name has no ending, as DICOM of many archives.
        (folder / "train" / label / "a.npy").rename(folder / "train" / label / "bare")
    first, *rest = [Image.fromarray(scan) for scan in scans]
    (folder / "test" / "amd").mkdir(parents=True)
    first.save(folder / "test" / "amd" / "pages.TIFF", save_all=True, append_images=rest)
    found = corpora.built("folder", folder, tmp_path, slices=2)
    assert {name: len(rows) for name, rows in found.items()} == {"train": 2, "test": 1}
    rows = [row for rows in found.values() for row in rows]
    assert all(len(row["oct"]) == 2 and row["modality"] == "oct" for row in rows)
    assert sorted(row["labels"][0] for row in rows) == ["amd", "amd", "normal"]


def test_stacks_of_scans(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for label in ("amd", "normal"):
        for i in range(12):
            corpora.picture(folder / label / "eye 1" / f"scan_{i}.png")
            (folder / label / "eye 1" / f"._scan_{i}.png").write_bytes(b"x")
    with pytest.raises(InputError, match="lies deeper"):
        listed(folder)
    corpora.picture(folder / "loose.png")
    rows = listed(folder, unit="volume")
    assert [row.image for row in rows.skipped] == ["loose.png"]
    assert any(remark.startswith("2 folders of pictures are volumes") for remark in rows.remarks)
    assert fields(rows, "labels", "modality") == {"amd/eye 1": (["amd"], "oct"),
                                                  "normal/eye 1": (["normal"], "oct")}  # fmt: skip
    assert any("'amd/eye 1' of 12 B-scans" in remark for remark in rows.remarks)
    assert any("24 files that are hidden or left" in remark for remark in rows.remarks)
    found = corpora.built("folder", folder, tmp_path, unit="volume")
    assert all(len(row["oct"]) == 12 for rows in found.values() for row in rows)


@pytest.mark.parametrize(
    ("name", "start", "kind"),
    [
        ("a.JPEG", b"", "picture"), ("a", b"\xff\xd8\xff", "picture"),
        ("a.1", b"\x89PNG", "picture"), ("a", b"\0" * 128 + b"DICM", "volume"),
        ("a.VOL", b"", "volume"), ("a", b"HSF-OCT-103", "volume"),
        ("a.xml", b"<x><HEDX>", "volume"), ("a.xml", b"<annotation>", ""), ("a.txt", b"BM", ""),
        ("a", b"", ""),
    ],
)  # fmt: skip
def test_kinds_of_files(tmp_path: pathlib.Path, name: str, start: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(start)
    assert pictures.kind(tmp_path / name) == kind


def test_links_out_are_followed_where_that_is_asked_for(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    corpora.picture(tmp_path / "store" / "a.png")
    corpora.picture(tmp_path / "store" / "b.png")
    (folder / "file").mkdir(parents=True)
    (folder / "file" / "a.png").symlink_to(tmp_path / "store" / "a.png")
    with pytest.raises(InputError, match="1 x link out of the folder, see --follow_links"):
        corpora.built("folder", folder, tmp_path / "refused")
    (folder / "drusen").symlink_to(tmp_path / "store")
    with pytest.raises(InputError, match="drusen is a link out .* by --follow_links"):
        listed(folder)
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "store")
    found = corpora.built("folder", folder, tmp_path / "data", follow_links=True)
    names = {row["id"].split("#")[0] for rows in found.values() for row in rows}
    assert names == {"file/a.png", "drusen/a.png", "drusen/b.png"}


NFC, NFD = (unicodedata.normalize(form, "Müller_OD") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("named", "stored"),
    [
        (f"{NFC}.png", f"{NFD}.png"), (f"{NFD}.png", f"{NFC}.png"),
        (f"x/{NFC}.png", f"X/{NFD}.PNG"),
        ("10_left", "10_left.jpeg"), ("10.left", "10.left.JPG"), ("UPPER.PNG", "upper.png"),
        ("a.jpg", "a.png"), ("a.jpg", "a"),
    ],
)  # fmt: skip
def test_names_are_found_as_they_are_on_disk(folder: pathlib.Path, named: str, stored: str) -> None:
    corpora.picture(folder / stored)
    corpora.write_csv(folder / "manifest.csv", [["image"], [named], ["10_lift.png"]])
    rows = build.list_corpus("manifest", "own", {"source": str(folder)}).rows
    assert [entry.name for entry in rows.entries] == [stored]
    (missing,) = rows.skipped
    assert missing.reason == "no such file" and missing.image == "10_lift.png"
    if stored == "10_left.jpeg":
        assert "did you mean '10_left.jpeg'" in missing.detail


def test_two_files_that_differ_in_case_only_are_not_guessed(folder: pathlib.Path) -> None:
    for name in ("a.png", "A.png", "b.jpg", "b.png"):
        corpora.picture(folder / name)
    found = lookup.Folder(folder)
    assert found.find("a.PNG") is None and found.find("b") is None
    assert found.find("A.png") == "A.png"


def test_the_builder_has_the_name_of_its_option() -> None:
    assert image_folder.ImageFolder.name == "folder"

"""Files found by name: capitals, preferred folders, the nearest of several, hidden ones."""

import os
import pathlib

import pytest

from data_pipelines.builders import tree
from data_pipelines.builders.entries import Unusable
from data_pipelines.errors import InputError

pytestmark = pytest.mark.fast


def indexed(folder: pathlib.Path, *names: str) -> tree.FileTree:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return tree.index(folder)


def test_cells_mean_files_whatever_their_case_and_suffix(tmp_path: pathlib.Path) -> None:
    files = indexed(tmp_path, "A/Im1.JPG", "A/v1.2.png", "A/other.txt")
    for cell in ("im1.jpg", "Im1", "IM1.JPG", "images\\im1.jpg", "sub/im1.png"):
        assert files.picture(cell, (), "t.csv") == "A/Im1.JPG", cell
    assert files.picture("v1.2", (), "t.csv") == "A/v1.2.png"
    for cell in ("other", "other.txt", "im", ""):
        with pytest.raises(Unusable, match="There is no picture"):
            files.picture(cell, (), "t.csv")


def test_preferred_folders_come_before_near_ones(tmp_path: pathlib.Path) -> None:
    files = indexed(tmp_path, "x/small/1.png", "y/Large/1.png", "z/1.png")
    assert files.picture("1", ("large", "small"), "x/t.csv") == "y/Large/1.png"
    assert files.picture("1", ("absent", "small"), "y/t.csv") == "x/small/1.png"
    assert files.picture("1", (), "z/deep/t.csv") == "z/1.png"
    with pytest.raises(Unusable, match="below a folder absent"):
        files.picture("1", ("absent",), "x/t.csv")
    with pytest.raises(Unusable) as caught:
        files.picture("1", (), "t.csv")
    assert caught.value.reason == "several pictures of this name"


def test_hidden_files_are_not_of_the_corpus(tmp_path: pathlib.Path) -> None:
    files = indexed(tmp_path, "2.png", "10.png", "a.csv", "__MACOSX/a.csv", "__MACOSX/2.png",
                    "._2.png", ".git/2.png")  # fmt: skip
    assert files.pictures() == ["2.png", "10.png"] and files.table(["b.csv", "A.CSV"]) == "a.csv"
    assert files.pictures(("a",)) == [] and files.table(["b.csv"]) is None
    with pytest.raises(InputError, match="holds 2 tables 'a.csv'"):
        indexed(tmp_path, "deep/a.csv").table(["a.csv"])


def test_a_name_that_is_no_text_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / os.fsdecode(b"retina\xff")).mkdir()
    (tmp_path / os.fsdecode(b"retina\xff") / "1.png").write_bytes(b"x")
    with pytest.raises(InputError, match="cannot be written as text"):
        tree.index(tmp_path)


@pytest.mark.parametrize(("path", "part"),
                         [("OCT2017 /train/CNV/x.jpeg", "train"), ("test/val/x.png", "validation"),
                          ("Training/x.png", "train"), ("trained/x.png", ""), ("x.png", ""),
                          ("test.png", "")])  # fmt: skip
def test_the_nearest_folder_names_the_part(path: str, part: str) -> None:
    assert tree.part(path) == part

"""Reading tables that people have made, and refusing what leads out of their folder."""

from __future__ import annotations

import pathlib

import pytest

from data_pipelines.builders import entries, table
from data_pipelines.errors import InputError


def read(folder: pathlib.Path, content: str | bytes, **chosen: str) -> table.Table:
    path = folder / "manifest.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return table.read(path, chosen)


@pytest.mark.parametrize(
    "content",
    [
        "image,caption\na.jpg,one\nb.jpg,two\n",
        "\ufeffimage,caption\r\na.jpg,one\r\nb.jpg,two\r\n",
        "image;caption\na.jpg;one\n\nb.jpg;two",
        "image\tcaption\na.jpg\tone\nb.jpg\ttwo\n",
        ' image , caption \n a.jpg ,"one"\nb.jpg, two\n',
    ],
)
def test_dialects(tmp_path: pathlib.Path, content: str) -> None:
    found = read(tmp_path, content)
    assert found.header == ("image", "caption")
    assert [cells for _, cells in found.rows] == [("a.jpg", "one"), ("b.jpg", "two")]
    assert found.columns == {"image": "image", "caption": "caption"}


def test_rows_are_numbered_as_in_a_spreadsheet(tmp_path: pathlib.Path) -> None:
    found = read(tmp_path, 'image,caption\na.jpg,"two\nlines"\n\nb.jpg,x\n')
    assert [number for number, _ in found.rows] == [2, 4]


@pytest.mark.parametrize(
    ("header", "columns", "extra"),
    [
        ("Image_ID,en_caption,cn_caption",
         {"image": "Image_ID", "caption": "en_caption", "caption_zh": "cn_caption"}, ()),
        ("file,label,label_id,Patient ID", {"image": "file", "labels": "label",
                                            "patient": "Patient ID"}, ("label_id",)),
        ("path,categories,atributes",
         {"image": "path", "labels": "categories", "attributes": "atributes"}, ()),
        ("report,image,caption", {"image": "image", "caption": "caption"}, ("report",)),
    ],
)  # fmt: skip
def test_aliases(
    tmp_path: pathlib.Path, header: str, columns: dict[str, str], extra: tuple[str, ...]
) -> None:
    found = read(tmp_path, header + "\n")
    assert found.columns == columns and found.extra == extra


def test_a_column_can_be_chosen(tmp_path: pathlib.Path) -> None:
    found = read(tmp_path, "image,caption,keywords\n", caption="keywords")
    assert found.columns["caption"] == "keywords" and found.extra == ("caption",)


@pytest.mark.parametrize(
    ("content", "chosen", "words"),
    [
        ("picture,caption\n", {}, "No column names the image.*picture, caption"),
        ("image,keyword\n", {"caption": "keywords"}, "no column .keywords.*mean .keyword.[?]"),
        ("image,text\n", {"capton": "text"}, "no field 'capton'"),
        ("image,a,a\n", {}, "'a' comes more than once"),
        ("", {}, "header .* is empty"),
        ("image\ncaf\xe9\n".encode("latin-1"), {}, "not UTF-8.*0xe9"),
        ('image,caption\na.jpg,"open\n', {}, "broken at line"),
    ],
)  # fmt: skip
def test_broken_tables_are_one_sentence(
    tmp_path: pathlib.Path, content: str | bytes, chosen: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError, match=words) as error:
        read(tmp_path, content, **chosen)
    assert "\n" not in str(error.value)


def test_no_table(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        table.read(tmp_path / "absent.csv", {})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../x.jpg", "climbs"), ("a/../../x.jpg", "climbs"), ("..\\x.jpg", "climbs"),
        ("/etc/hostname", "absolute"), ("C:\\x.jpg", "absolute"), ("out/x.jpg", "link out"),
        ("link.jpg", "link out"), ("a\0b.jpg", "cannot be followed"), ("loop", "followed|link"),
    ],
)  # fmt: skip
def test_paths_stay_inside(tmp_path: pathlib.Path, name: str, words: str) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (tmp_path / "x.jpg").write_bytes(b"x")
    (folder / "out").symlink_to(tmp_path)
    (folder / "link.jpg").symlink_to(tmp_path / "x.jpg")
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises((InputError, OSError), match=words):
        entries.confine(name, folder.resolve()).read_bytes()


def test_paths_inside_are_found(tmp_path: pathlib.Path) -> None:
    root = tmp_path.resolve()
    (root / "images").mkdir()
    (root / "link.jpg").symlink_to(root / "images" / "a.jpg")
    expected = root / "images" / "a.jpg"
    for name in ("images/a.jpg", "images\\a.jpg", "./images/a.jpg", "link.jpg"):
        assert entries.confine(name, root) == expected


@pytest.mark.parametrize(
    ("text", "separator", "expected"),
    [
        ("Glaucoma", "", ["glaucoma"]),
        ("a; b |c", "", ["a", "b", "c"]),
        ("a+b", "", ["a+b"]),
        ("a+b+A", "+", ["a", "b"]),
        ("['no DR', \"macula's edema\"]", "", ["no dr", "macula's edema"]),
        ("", "", []),
    ],
)
def test_labels(text: str, separator: str, expected: list[str]) -> None:
    assert table.labels(text, separator) == expected

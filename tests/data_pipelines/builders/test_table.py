"""Reading tables that people have made, and refusing what leads out of their folder."""

import datetime
import os
import pathlib
import sys
import zipfile
from collections.abc import Callable

import openpyxl
import pytest

from data_pipelines import build
from data_pipelines.builders import entries, labels, lookup, table, workbook
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
        "sep=;\nimage;caption\na.jpg;one\nb.jpg;two\n",
        '\ufeff"sep=|"\r\nimage|caption\r\na.jpg|one\r\nb.jpg|two\r\n',
        ' image , caption \n a.jpg ,"one"\nb.jpg, two\n',
        "image,caption\ra.jpg,one\rb.jpg,two\r",
        "image\tcaption\r\na.jpg\tone\r\nb.jpg\ttwo\r\n".encode("utf-16"),
        b"\xfe\xff" + "image,caption\na.jpg,one\nb.jpg,two\n".encode("utf-16-be"),
    ],
)
def test_dialects(tmp_path: pathlib.Path, content: str | bytes) -> None:
    found = read(tmp_path, content)
    assert found.header == ("image", "caption")
    assert [cells for _, cells in found.rows] == [("a.jpg", "one"), ("b.jpg", "two")]
    assert found.rows[0][0] == 2, "as Excel numbers them, which hides the line 'sep=;'"
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
        ("image,caption\na.jpg," + "x" * 200_000, {}, "broken at line 2: field larger"),
        (b"\xff\xfei\x00m", {}, "not UTF-8"),
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


def test_a_hint_that_is_no_text_can_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "eye-of-p7\udcff.jpg").write_bytes(b"")
    (tmp_path / "b.jpg").write_bytes(b"")
    (tmp_path / "manifest.csv").write_text("image\neye-of-p7e.jpg\nb.jpg\n")
    skipped = build.list_corpus("manifest", "own", {"source": str(tmp_path)}).rows.skipped
    assert [row.detail.encode() for row in skipped] == [
        b"There is no 'eye-of-p7e.jpg'; did you mean 'eye-of-p7\\udcff.jpg'?"
    ]


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "x.jpg", "in/x.jpg", "in//x.jpg", "./in/./x.jpg", "in\\x.jpg", "in/x.jpg/", "in", "in/", "",
        ".", "in/.", "in/..", "../x.jpg", "in/../x.jpg", "out/x.jpg", "out/deep/x.jpg", "out",
        "file.jpg", "in/file.jpg", "beside.jpg", "beside/x.jpg", "in/up/x.jpg", "gone.jpg",
        "gone/x.jpg", "x.jpg/y", "loop", "loop/x.jpg", "/etc/hostname", "//etc/hostname", "C:x.jpg",
        "C:/x.jpg", "in/C:x.jpg", "C:", "a\0b", "in/a\0b", "a\0b/x.jpg", "in/x\n.jpg", "in/x.",
        "in/\udcff.jpg", "x" * 300, "in/" * 2000 + "x.jpg", "./" * 2000 + "x.jpg",
    ],
)  # fmt: skip
def test_many_files_are_found_as_each_alone(
    tmp_path: pathlib.Path, name: str, follow_links: bool
) -> None:
    root = tmp_path / "root"
    for path in ("x.jpg", "in/x.jpg", "in/C:x.jpg", "in/x\n.jpg", "in/x.", "../deep/x.jpg",
                 "../x.jpg"):  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    for link, target in {"out": "..", "file.jpg": "../x.jpg", "in/file.jpg": "../../x.jpg",
                         "beside.jpg": "in/x.jpg", "beside": "in", "in/up": "..",
                         "loop": "loop"}.items():  # fmt: skip
        (root / link).symlink_to(target)

    def told(find: Callable[[], tuple[object, os.stat_result]]) -> tuple[str, str]:
        try:
            path, found = find()
        except (OSError, ValueError) as error:
            refused = isinstance(error, entries.Unusable)
            return "Unusable" if refused else "absent", str(error) if refused else ""
        return str(path), f"{found.st_ino} {found.st_size}"

    def alone() -> tuple[object, os.stat_result]:
        path = entries.confine(name, root, follow_links)
        return path, path.stat()

    place = entries.Place(root, follow_links)
    assert told(lambda: place.find(name)) == told(lambda: place.find(name)) == told(alone)


def test_paths_inside_are_found(tmp_path: pathlib.Path) -> None:
    root = tmp_path.resolve()
    (root / "images").mkdir()
    (root / "link.jpg").symlink_to(root / "images" / "a.jpg")
    expected = root / "images" / "a.jpg"
    for name in ("images/a.jpg", "images\\a.jpg", "./images/a.jpg", "link.jpg"):
        assert entries.confine(name, root) == expected


@pytest.mark.parametrize(("text", "separator", "expected"),
                         [("Glaucoma", "", ["glaucoma"]), ("a; b |c", "", ["a", "b", "c"]),
                          ("a+b", "", ["a+b"]), ("a+b+A", "+", ["a", "b"]),
                          ("['no DR', \"macula's edema\"]", "", ["no dr", "macula's edema"]),
                          ("", "", []), ("['']", "", []), ("[]", "", []), ("nan", "", []),
                          ("[nan]", "", []), ("['a;b', 'it\\'s', 3]", "", ["a;b", "it's", "3"]),
                          ("[broken", "", ["[broken"]), ("[broken]", "", ["[broken]"]),
                          ("[['nested']]", "", ["[['nested']]"]),
                          ("[print('x')]", "", ["[print('x')]"]),
                          ("['\\ud800', '\\d']", "", ["?", "\\d"]),
                          ("[" + "-" * 50_000 + "1]", "",
                           ["[" + "-" * 50_000 + "1]"])])  # fmt: skip
def test_labels(text: str, separator: str, expected: list[str]) -> None:
    assert labels.split(text, separator) == expected


def rows(folder: pathlib.Path, content: str) -> entries.Listing:
    return table.listing(read(folder, content), dataset="own", modality="cfp")


def test_columns_without_a_name_are_left_out(tmp_path: pathlib.Path) -> None:
    found = rows(tmp_path, ",image,caption,age,,,\n0,a.jpg,one,3,,,\n1,b.jpg,two,,\n")
    assert [e.fields["age"] for e in found.entries] == ["3"] and found.extra == ("age",)
    assert [(row.number, row.reason) for row in found.skipped] == [(3, "wrong number of cells")]


def test_blank_cells_beyond_the_header_count_for_nothing(tmp_path: pathlib.Path) -> None:
    found = rows(tmp_path, "image,caption\na.jpg,one,, \nb.jpg,two,x\n")
    assert [e.fields["caption"] for e in found.entries] == ["one"] and len(found.skipped) == 1


def test_columns_of_similar_names_are_all_kept(tmp_path: pathlib.Path) -> None:
    found = rows(tmp_path, "image,a b,a_b,crop,csv_crop\nx.jpg,1,2,3,4\n")
    assert found.extra == ("a_b", "a_b_2", "csv_crop", "csv_crop_2")
    assert [found.entries[0].fields[name] for name in found.extra] == ["1", "2", "3", "4"]


def test_several_tables_are_numbered_on(tmp_path: pathlib.Path) -> None:
    first = rows(tmp_path, "image,a\nx.jpg,1\n,2\n")
    second = rows(tmp_path, "image,b\ny.jpg\nz.jpg,3\n")
    found = table.joined([("1.csv", first), ("2.csv", second)])
    assert [(e.number, e.name) for e in found.entries] == [(2, "x.jpg"), (6, "z.jpg")]
    assert [(s.number, s.detail) for s in found.skipped] == [
        (3, "line 3 of 1.csv"),
        (5, "line 2 of 2.csv: 1 where the header has 2"),
    ]
    assert found.extra == ("a", "b")


def test_workbook(tmp_path: pathlib.Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["Image_ID", "cn_caption", None, "day"])
    book.active.append([7, " 裂孔 ", None, datetime.datetime(2020, 1, 2)])
    book.active.append([])
    book.active.append([1.5, True])
    book.save(tmp_path / "a.XLSX")
    found = table.read(tmp_path / "a.XLSX", {})
    assert found.header == ("Image_ID", "cn_caption", "", "day")
    assert tuple(found.rows) == ((2, ("7", "裂孔", "", "2020-01-02")), (4, ("1.5", "True", "", "")))


def test_the_size_that_a_sheet_claims_is_not_believed(tmp_path: pathlib.Path) -> None:
    book = openpyxl.Workbook()
    for row in (["image", "caption"], ["a.jpg", "one"], ["b.jpg", "two"]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "a.xlsx") as file:
        members = {name: file.read(name) for name in file.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    assert b'"A1:B3"' in members[sheet]
    members[sheet] = members[sheet].replace(b'"A1:B3"', b'"A1:A2"')
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    assert [cells for _, cells in table.read(tmp_path / "a.xlsx", {}).rows] == [
        ("a.jpg", "one"),
        ("b.jpg", "two"),
    ]


def test_broken_workbooks_are_one_sentence(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.xlsx"
    with pytest.raises(InputError, match="cannot be read"):
        table.read(path, {})
    path.write_bytes(b"image,caption\n")
    with pytest.raises(InputError, match="no readable workbook"):
        table.read(path, {})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("xl/workbook.xml", "<a>")
    with pytest.raises(InputError, match="no readable workbook"):
        table.read(path, {})
    monkeypatch.setattr(workbook, "MAX_BYTES", 2)
    with pytest.raises(InputError, match="unpacks to 3 bytes"):
        table.read(path, {})
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"pip install 'retina_jax\[excel\]'"):
        table.read(path, {})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Set A/x.jpg", "Set A/x.jpg"), ("set a//X.JPG", "Set A/x.jpg"),
        (".\\SET A\\x.jpg", "Set A/x.jpg"), ("Set A/x%20#&.jpg", "Set A/x%20#&.jpg"),
        ("Set A/x .jpg", None), ("two/A.png", "two/A.png"), ("two/a.PNG", None), ("gone", None),
        ("Set A/x.jpg/y", None), ("../secret", None), ("out/secret", None), ("", None),
        ("/Set A/x.jpg", None), ("a\0", None),
    ],
)  # fmt: skip
def test_files_are_found_whatever_their_case(
    tmp_path: pathlib.Path, name: str, expected: str | None
) -> None:
    root = tmp_path / "root"
    for path in ("Set A/x.jpg", "Set A/x%20#&.jpg", "two/A.png", "two/a.png", "../secret"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    (root / "out").symlink_to(tmp_path)
    assert lookup.Folder(root).find(name) == expected

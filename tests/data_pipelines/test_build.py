"""The command that builds data sets, on folders made for the test and on real ones."""

import collections
import csv
import pathlib
import shutil

import corpora
import numpy as np
import pytest
import simplejpeg

from data_pipelines import build
from data_pipelines.images import decoding, functional

HEADER = ["file", "label", "caption", "caption_zh", "patient", "eye", "modality", "age"]


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def jpeg(seed: int) -> bytes:
    return simplejpeg.encode_jpeg(noise(seed), 90)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """40 good rows of 20 patients, and one of each broken kind."""
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    (tmp_path / "x.jpg").write_bytes(jpeg(0))
    (source / "images" / "out.jpg").symlink_to(tmp_path / "x.jpg")
    (source / "images" / "cut.jpg").write_bytes(jpeg(1)[:-200])
    (source / "images" / "text.jpg").write_text("no picture")
    rows = []
    for i in range(40):
        (source / "images" / f"{i}.jpg").write_bytes(jpeg(100 + i))
        rows.append([f"images/{i}.jpg", "Glaucoma;Cataract" if i % 2 else "", "cup, large",
                     "杯盘比大", f"p{i // 2}", ("OD", "left")[i % 2], "CFP", str(i)])  # fmt: skip
    bad = ["images/out.jpg", "../x.jpg", str(tmp_path / "x.jpg"), "images/cut.jpg",
           "images/text.jpg", "images/absent.jpg", ""]  # fmt: skip
    rows += [[name, "glaucoma", "", "", "q", "", "", ""] for name in bad]
    rows.append(["images/1.jpg", "too short"])
    with open(source / "manifest.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, lineterminator="\r\n").writerows([HEADER, *rows])
    return source


def run(folder: pathlib.Path, data_dir: pathlib.Path, *options: str) -> int:
    return build.main(["--dataset=manifest", "--name=own", f"--source={folder}",
                       f"--data_dir={data_dir}", *options])  # fmt: skip


def test_rows_in_are_rows_out_and_rows_skipped(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path / "data") == 0
    output = capsys.readouterr().out
    assert output.rstrip().endswith("manifest/own") and "48 rows read" in output
    assert "40 kept" in output and "8 skipped" in output
    for line in (
        "2 path leaves the folder",
        "1 link out of the folder, see --follow_links",
        "2 picture not readable",
        "1 no such file",
        "1 no image named",
        "1 wrong number of cells",
    ):
        assert line in output
    place = tmp_path / "data" / "manifest" / "own" / "1.1.0"
    with open(place / "skipped.csv", encoding="utf-8", newline="") as file:
        skipped = list(csv.DictReader(file))
    assert [int(row["number"]) for row in skipped] == list(range(42, 50))
    assert "truncated" in skipped[3]["detail"] and skipped[1]["image"] == "../x.jpg"
    records = corpora.records("manifest", tmp_path / "data")
    assert sum(map(len, records.values())) == 40
    assert not any(path.name.startswith(".building") for path in (tmp_path / "data").iterdir())


def test_records_have_every_field(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert run(folder, tmp_path / "data") == 0
    records = corpora.records("manifest", tmp_path / "data")
    assert len(corpora.homes(records)) == 20
    by_age = {int(r["age"]): r for rows in records.values() for r in rows}
    record = by_age[7]
    assert record["id"] == "images/7.jpg#9" and record["image"] == jpeg(107)
    assert record["labels"] == ["glaucoma", "cataract"] and by_age[8]["labels"] == []
    assert record["caption"] == "cup, large" and record["caption_zh"] == "杯盘比大"
    assert (record["patient"], record["eye"], by_age[8]["eye"]) == ("p3", "OS", "OD")
    assert (record["modality"], record["dataset"]) == ("cfp", "own")


def test_building_again(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = tmp_path / "data"
    assert run(folder, data_dir) == 0 == run(folder, data_dir)
    assert "built already" in capsys.readouterr().out
    (folder / "images" / "0.jpg").write_bytes(b"gone")
    assert run(folder, data_dir) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(folder, data_dir, "--overwrite") == 0
    assert "39 kept" in capsys.readouterr().out
    assert sum(map(len, corpora.records("manifest", data_dir).values())) == 39


@pytest.mark.parametrize(("options", "words"),
                         [(["--column", "caption=keywords"], "no column 'keywords'"),
                          (["--column", "caption"], "FIELD=COLUMN"),
                          (["--csv=other.csv"], "There is no file other.csv"),
                          (["--csv=../other.csv"], "Give files inside"),
                          (["--max_side=0"], "max_side"), (["--name=../up"], "data set's name"),
                          (["--source=nowhere"], "does not exist"),
                          (["--dataset=oddir"], "no builder 'oddir'"),
                          (["--dataset=synthetic_retina", "--name=own"], "no config 'own'"),
                          (["--dataset=synthetic_retina", "--name=smoke"],
                           "takes no --source")])  # fmt: skip
def test_mistakes_are_one_sentence(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str],
    options: list[str], words: str,
) -> None:  # fmt: skip
    assert run(folder, tmp_path / "data", *options) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "data").exists()


def test_nothing_usable(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "manifest.csv").write_text("image\na.jpg\nb.jpg\n")
    assert run(source, tmp_path / "data") == 2
    assert "2 x no such file" in capsys.readouterr().err
    assert build.main(["--dataset=manifest", "--name=own"]) == 2
    assert "needs --source" in capsys.readouterr().err


def test_embedded_data_sets_are_built_by_name(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset=synthetic_retina", "--name=smoke", f"--data_dir={tmp_path}"]
    assert build.main(arguments) == 0
    assert "32 in split expert" in capsys.readouterr().out
    assert build.main(arguments) == 0 and "built already" in capsys.readouterr().out


def test_a_column_names_the_data_set_of_a_row(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A manifest that joins several sets keeps their names, to balance by them."""
    assert run(folder, tmp_path / "data", "--column", "dataset=age") == 0
    records = corpora.records("manifest", tmp_path / "data")
    names = {r["dataset"] for rows in records.values() for r in rows}
    assert names == {str(i) for i in range(40)}


def test_max_side_is_applied(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert run(folder, tmp_path / "data", "--max_side=15") == 0
    records = corpora.records("manifest", tmp_path / "data")
    sizes = {decoding.size(record["image"]) for rows in records.values() for record in rows}
    assert sizes == {(10, 15)}


@pytest.mark.parametrize(("name", "rows"), [("odir", 100), ("idrid", 422), ("kermany_oct", 100)])
def test_real_folders(
    retina_data: pathlib.Path, tmp_path: pathlib.Path, name: str, rows: int
) -> None:
    """The first rows of real sets; pictures are linked inside a copy of the folder's table."""
    source = tmp_path / name
    (source / "images").mkdir(parents=True)
    with open(retina_data / name / "manifest.csv", encoding="utf-8-sig", newline="") as file:
        table = list(csv.reader(file))[: rows + 1]
    for cells in table[1:]:
        shutil.copy(retina_data / name / cells[0], source / cells[0])
    corpora.write_csv(source / "manifest.csv", table)
    arguments = ["--dataset=manifest", f"--name={name}", f"--source={source}",
                 f"--data_dir={tmp_path / 'data'}", "--label_separator=+"]  # fmt: skip
    assert build.main(arguments) == 0
    records = corpora.records("manifest", tmp_path / "data", name)
    assert sum(map(len, records.values())) == rows
    homes, pictures = collections.defaultdict(set), collections.defaultdict(set)
    for split, part in records.items():
        for record in part:
            homes[record["patient"] or record["id"]].add(split)
            pictures[record["image"]].add(split)
            assert functional.decode_image(record["image"]).ndim == 3
    assert all(len(splits) == 1 for splits in [*homes.values(), *pictures.values()])
    if name == "odir":
        assert any(record["caption_zh"] for part in records.values() for record in part)
    if name == "idrid":
        assert len(pictures) < rows, "this set has byte-identical pictures"

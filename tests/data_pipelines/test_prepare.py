"""Photographs prepared once: as a data set, and as a folder that becomes the same data set."""

import csv
import io
import json
import pathlib

import corpora
import numpy as np
import pytest
from PIL import Image

from data_pipelines import build, prepare
from data_pipelines.images import decoding, preparation
from data_pipelines.records import storage

HEIGHT, WIDTH, RADIUS = 120, 200, 50


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """30 photographs of a lit disc, off centre on black; the last file is none."""
    source = tmp_path / "source"
    source.mkdir()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    random = np.random.default_rng(0)
    rows = [["file", "label", "patient", "eye", "age"]]
    for i in range(30):
        inside = (y - 60) ** 2 + (x - 70) ** 2 < RADIUS**2
        pixels = np.where(inside[..., None], random.integers(90, 220, (HEIGHT, WIDTH, 3)), 0)
        smooth = Image.fromarray(pixels.astype(np.uint8)).resize((WIDTH, HEIGHT))
        smooth.save(source / f"{i}.png")
        rows.append(
            [
                f"{i}.png",
                "drusen; amd" if i % 2 else "",
                f"p{i // 2}",
                "OD" if i % 2 else "OS",
                str(i),
            ]
        )
    (source / "30.png").write_bytes(b"no picture")
    rows.append(["30.png", "", "q", "", ""])
    corpora.write_csv(source / "manifest.csv", rows)
    return source


def run(folder: pathlib.Path, *options: str) -> int:
    return prepare.main(["--dataset=manifest", f"--source={folder}", "--processes=1", *options])


def records(data: pathlib.Path) -> dict[str, dict]:
    found = corpora.records("manifest", data, "default")
    return {row["age"]: {**row, "split": split} for split, rows in found.items() for row in rows}


def tree(folder: pathlib.Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_data_set_of_prepared_pictures(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    assert run(folder, "--size=48", f"--data_dir={data}") == 0
    assert "1 picture not readable" in capsys.readouterr().out
    found = records(data)
    assert len(found) == 30
    for age, record in found.items():
        assert decoding.size(record["image"]) == (48, 48)
        top, left, height, width = record["crop"].tolist()
        assert abs(top - 10) <= 2 and abs(left - 20) <= 2 and abs(height - 100) <= 4
        assert abs(width - 100) <= 4
        original = (folder / f"{age}.png").read_bytes()
        assert record["digests"] == [preparation.digest(original)] and record["perceptual"][0]
    stored = preparation.of_dataset("manifest/default", data)
    assert stored["size"] == 48 and stored["crop"] == "field_of_view" and stored["libraries"]


def test_a_folder_is_the_same_each_time_and_can_be_built(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    first, again, data = tmp_path / "first", tmp_path / "again", tmp_path / "data"
    assert run(folder, "--size=48", f"--output={first}") == 0
    assert (prepare.main(["--dataset=manifest", f"--source={folder}", "--processes=2", "--size=48",
                          f"--output={again}"]) == 0)  # fmt: skip
    assert tree(first) == tree(again) and len(tree(first)) == 30 + 4
    assert build.main(["--dataset=manifest", f"--source={first}", f"--data_dir={data}"]) == 0
    assert run(folder, "--size=48", f"--data_dir={tmp_path / 'direct'}") == 0
    built, direct = records(data), records(tmp_path / "direct")
    for age, record in direct.items():
        same = ("image", "labels", "patient", "eye", "split", "perceptual")
        assert {k: built[age][k] for k in same} == {k: record[k] for k in same}
        assert built[age]["csv_digests"] == record["digests"][0]
        assert built[age]["csv_crop"].split() == [str(n) for n in record["crop"]]
    assert preparation.of_dataset("manifest/default", data)["size"] == 48
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_was_prepared_before_is_still_cropped_and_padded(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the corpus, in all of its folders alike, or, which is told, not in all."""

    def built(name: str, source: pathlib.Path, *options: str) -> dict | None:
        data = f"--data_dir={tmp_path / name}"
        assert build.main(["--dataset=manifest", f"--source={source}", data, *options]) == 0
        return preparation.of_dataset("manifest/default", tmp_path / name)

    sets = tmp_path / "sets"
    sets.mkdir()
    assert run(folder, "--size=48", f"--output={sets / 'a'}") == 0
    smaller = built("smaller", sets / "a", "--max_side=32")
    assert smaller is not None
    assert {smaller[k] for k in ("crop", "pad")} == {"field_of_view", "square"}
    assert smaller["size"] == 32
    larger = built("larger", sets / "a", "--max_side=90")
    assert larger is not None and larger["size"] == 48
    table = "--csv=*/manifest.csv"
    assert (alone := built("alone", sets, table)) is not None and alone["size"] == 48
    assert run(folder, "--size=40", f"--output={sets / 'b'}") == 0
    capsys.readouterr()
    assert built("both", sets, table) is None
    assert "pictures in a, b were prepared before" in capsys.readouterr().out


def test_the_preparation_is_part_of_what_a_data_set_is(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    assert run(folder, "--size=48", f"--data_dir={data}") == 0
    assert run(folder, "--size=32", f"--data_dir={data}") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(folder, "--size=32", f"--data_dir={data}", "--overwrite") == 0
    assert preparation.of_dataset("manifest/default", data)["size"] == 32


def test_scans_are_not_cropped(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert (run(folder, "--size=100", "--pad=none", "--modality=oct", "--format=png",
                f"--data_dir={tmp_path / 'data'}") == 0)  # fmt: skip
    record = records(tmp_path / "data")["3"]
    assert decoding.size(record["image"]) == (60, 100)
    assert record["crop"].tolist() == [0, 0, HEIGHT, WIDTH]
    assert record["image"][:4] == b"\x89PNG"


@pytest.mark.parametrize(("options", "words"),
                         [(["--size=0"], "size of 1 pixel"),
                          (["--quality=101"], "quality of 1..100"),
                          (["--dataset=synthetic_retina", "--name=smoke", "--output=OUT"],
                           "nothing to prepare"),
                          (["--output=SOURCE"], "exists"),
                          (["--output=SOURCE", "--overwrite"], "would replace the source"),
                          (["--slices=3"], "takes no 'slices'")])  # fmt: skip
def test_mistakes_are_one_sentence(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str],
    options: list[str], words: str,
) -> None:  # fmt: skip
    options = [
        o.replace("OUT", str(tmp_path / "out")).replace("SOURCE", str(folder)) for o in options
    ]
    before = tree(folder)
    assert run(folder, f"--data_dir={tmp_path / 'data'}", *options) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert tree(folder) == before


def test_patients_and_their_missing_eyes_become_files(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (folder / "4.png").write_bytes(b"no picture")  # so its patient is left out
    rows = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if not row.startswith("0.png")]
    (folder / "manifest.csv").write_text("\n".join(kept), encoding="utf-8")
    out = tmp_path / "out"
    assert run(folder, "--unit=patient", "--size=32", f"--output={out}") == 0
    with open(out / "manifest.csv", encoding="utf-8", newline="") as file:
        found = {row["patient"]: row for row in csv.DictReader(file)}
    assert len(found) == 14 and "p2" not in found
    assert found["p0"]["left_image"] == "" and found["p0"]["right_image"]
    with Image.open(io.BytesIO((out / found["p1"]["left_image"]).read_bytes())) as picture:
        assert picture.size == (32, 32)
    assert found["p1"]["labels"] == "drusen; amd" and found["p1"]["left_labels"] == ""
    assert json.loads((out / preparation.FILE).read_text())["size"] == 32
    assert storage.find("manifest/default", out) is None

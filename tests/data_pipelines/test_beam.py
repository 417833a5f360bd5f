"""A pipeline of Apache Beam makes the records that one machine makes, in the same order."""

import importlib.util
import pathlib
import sys

import corpora
import numpy as np
import pytest
from PIL import Image

from data_pipelines import prepare
from data_pipelines.builders import staging
from data_pipelines.records import storage

beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="Apache Beam is not installed: [beam]"
)
NAME = "fundus_oct/own"


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Pictures with volumes, two of them of other bits than the rest; one picture is none."""
    source = tmp_path / "source"
    source.mkdir()
    random = np.random.default_rng(0)
    rows = [["fundus", "oct", "patient", "label", "age"]]
    for i in range(12):
        pixels = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(source / f"{i}.png")
        volume = random.integers(0, 4095 if i in (3, 8) else 1023, (2, 6, 5)).astype(np.uint16)
        np.save(source / f"{i}.npy", volume)
        rows.append([f"{i}.png", f"{i}.npy", f"p{i // 2}", "drusen;amd" if i % 2 else "", str(i)])
    (source / "5.png").write_bytes(b"no picture")
    corpora.write_csv(source / "pairs.csv", rows)
    return source


def run(folder: pathlib.Path, data: pathlib.Path, *options: str) -> int:
    return prepare.main(["--dataset=fundus_oct", "--name=own", f"--source={folder}",
                         "--size=8", f"--data_dir={data}", *options])  # fmt: skip


@beam
def test_the_same_records_in_the_same_order_and_the_same_account(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(staging, "CHUNK", 4)
    monkeypatch.chdir(folder.parent)
    assert run(pathlib.Path(folder.name), tmp_path / "one", "--processes=1") == 0
    told = capsys.readouterr().out
    assert "1 skipped" in told and "0 to 4095 became 0 to 255" in told
    assert run(pathlib.Path(folder.name), tmp_path / "beam", "--beam") == 0
    by_beam = capsys.readouterr().out
    assert by_beam.replace(str(tmp_path / "beam"), str(tmp_path / "one")) == told
    one, other = (corpora.records("fundus_oct", tmp_path / n) for n in ("one", "beam"))
    assert list(one) == list(other) and sum(map(len, one.values())) == 11
    for split in one:
        np.testing.assert_equal(other[split], one[split])
    files, others = ([path.name for path in sorted(storage.find(NAME, tmp_path / n).iterdir())]
                     for n in ("one", "beam"))  # fmt: skip
    assert files == others
    for name in ("skipped.csv", "build.json", "preparation.json"):
        first, second = (storage.find(NAME, tmp_path / n) / name for n in ("one", "beam"))
        assert first.read_bytes() == second.read_bytes()
    assert not list((tmp_path / "beam").glob(".*")), "nothing stays beside the data set"


@beam
def test_chunks_of_an_interrupted_build_are_used(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(staging, "CHUNK", 4)
    asked: list[int] = []
    write = staging._write_chunk
    monkeypatch.setattr(staging, "_write_chunk", lambda task: asked.append(task[1]) or write(task))
    transform = staging.Stage.transform
    monkeypatch.setattr(staging.Stage, "transform", lambda *_: 1 / 0)
    assert run(folder, tmp_path / "data", "--beam") == 2
    error = capsys.readouterr().err
    assert error == "prepare: The pipeline of --beam failed: division by zero.\n"
    made = sorted(asked)
    assert set(made) == {0, 1, 2}, "all are made, and those of other bits once more"
    monkeypatch.setattr(staging.Stage, "transform", transform)
    assert run(folder, tmp_path / "data", "--beam") == 0
    assert sorted(asked) == made, "none is made again"


@beam
@pytest.mark.parametrize(
    ("given", "said"),
    [("DirectRunner", "'DirectRunner' is no option"), ("--runner=Nowhere", "Nowhere"),
     ("--runner='x", "No closing quotation")],
)  # fmt: skip
def test_options_that_are_none(
    folder: pathlib.Path, tmp_path: pathlib.Path, given: str, said: str, capsys
) -> None:
    assert run(folder, tmp_path / "data", f"--beam={given}") == 2
    error = capsys.readouterr().err
    assert said in error and "--beam='--runner=" in error and error.count("\n") == 1


def test_without_apache_beam_the_extra_is_named(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert run(folder, tmp_path / "data", "--beam") == 2
    said = "prepare: --beam needs Apache Beam: pip install 'retina_jax[beam]'.\n"
    assert capsys.readouterr().err == said
    assert run(folder, tmp_path / "data", "--beam", "--processes=2") == 2
    assert "--processes are those of this machine" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()

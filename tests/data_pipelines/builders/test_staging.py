"""An interrupted build goes on; its result does not depend on how often, or by how many, it ran."""

import itertools
import json
import pathlib
import signal
import subprocess
import sys
import time

import corpora
import numpy as np
import pytest
import simplejpeg

from data_pipelines import build, places
from data_pipelines.builders import entries, pictures, staging
from data_pipelines.errors import InputError
from data_pipelines.records import storage

ROWS = 6 * staging.CHUNK + 5
OPTIONS = ["--dataset=manifest", "--name=own"]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """More rows than a few chunks hold; every 50th names no picture."""
    source = tmp_path / "source"
    source.mkdir()
    random = np.random.default_rng(0)
    rows = [["file", "patient", "label"]]
    for i in range(ROWS):
        if i % 50 != 7:
            pixels = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
            (source / f"{i}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, 90))
        rows.append([f"{i}.jpg", f"p{i}", "normal"])
    corpora.write_csv(source / "manifest.csv", rows)
    return source


def run(folder: pathlib.Path, data: pathlib.Path, *options: str) -> int:
    return build.main([*OPTIONS, f"--source={folder}", f"--data_dir={data}", *options])


def content(data: pathlib.Path) -> dict[str, bytes]:
    place = storage.find("manifest/own", data)
    return {
        path.name: path.read_bytes()
        for path in sorted(place.iterdir())
        if "array_record" in path.name
    }


def test_the_number_of_processes_does_not_change_a_byte(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for number in (1, 2):
        assert run(folder, tmp_path / f"data{number}", f"--processes={number}") == 0
    assert content(tmp_path / "data1") == content(tmp_path / "data2") != {}


def test_a_killed_build_goes_on_with_what_is_missing(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    slow = (
        "import sys, time\nfrom data_pipelines import build\nfrom data_pipelines.builders import "
        "staging\nmake = staging.make\n"
        "staging.make = lambda *a: (time.sleep(0.02), make(*a))[1]\n"
        "build.main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", slow, *OPTIONS, f"--source={folder}", f"--data_dir={data}",
               "--processes=1"]  # fmt: skip
    child = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while len(done := list(data.glob(".staging-*/*/*.json"))) < 2:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert storage.find("manifest/own", data) is None
    made = []
    monkeypatch.setattr(
        staging,
        "make",
        lambda entry, recipe, make=staging.make: (made.append(entry.number), make(entry, recipe))[
            1
        ],
    )
    assert run(folder, data, "--processes=1") == 0
    finished = len(done) * staging.CHUNK
    assert 0 < len(made) <= ROWS - finished and min(made) > finished
    assert run(folder, tmp_path / "whole", "--processes=1") == 0
    assert content(data) == content(tmp_path / "whole")
    assert not list(data.glob(".staging-*")), "what was staged is removed in the end"


def test_a_picture_that_changed_since_is_read_again(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    data = tmp_path / "data"
    listed = build.list_corpus("manifest", "own", {"source": str(folder)})
    with pytest.raises(RuntimeError), build.staged(listed, data, 1) as make:
        make(str(data))
        raise RuntimeError("interrupted")
    assert list(data.glob(".staging-*/*/*.json"))
    changed = simplejpeg.encode_jpeg(np.full((12, 16, 3), 200, np.uint8), 90)
    old = (folder / "0.jpg").stat().st_size
    (folder / "0.jpg").write_bytes(changed.ljust(old, b"\0"))
    assert run(folder, data) == 0
    rows = itertools.chain(*corpora.records("manifest", data).values())
    found = {row["id"]: row["image"] for row in rows}
    assert found["0.jpg#2"] == (folder / "0.jpg").read_bytes()


def test_two_at_once_are_refused(folder: pathlib.Path, tmp_path: pathlib.Path, capsys) -> None:
    data = tmp_path / "data"
    with places.claimed(data / ".staging-manifest-own", "is building this data set"):
        assert run(folder, data) == 2
    error = capsys.readouterr().err
    assert "Another process is building" in error and error.count("\n") == 1
    assert run(folder, data) == 0


def test_what_was_staged_is_what_the_facts_say(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    listed = build.list_corpus("manifest", "own", {"source": str(folder)})
    stage = staging.Stage(listed.rows, listed.recipe, tmp_path)
    facts = stage.fill(1)
    missing = {i + 2 for i in range(7, ROWS, 50)}
    assert {row.number for row in listed.rows.skipped} == missing
    assert [fact.number for fact in facts] == sorted({*range(2, ROWS + 2)} - missing)
    assert all(fact.place >= 0 for fact in facts)
    chosen = [fact for fact in facts if fact.place >= 0][::3]
    for fact, record in stage.records(chosen):
        assert record["id"].decode() == f"{fact.number - 2}.jpg#{fact.number}"
        assert record["digests"][0].decode() == fact.digests[0]
        assert record["crop"].tolist() == [0, 0, 12, 16]
    stored = json.loads((tmp_path / "0000000.json").read_text())
    assert len(stored) == staging.CHUNK


def test_a_worker_of_a_pipeline_writes_the_chunk_that_a_process_writes(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    listed = build.list_corpus("manifest", "own", {"source": str(folder)})
    chunk = tuple(listed.rows.entries[: staging.CHUNK])
    line = json.dumps([1, list(map(entries.plain, chunk))])
    assert list(staging._write_line(tmp_path, listed.recipe, line)) == [staging.CHUNK]
    assert staging._write_chunk((tmp_path, 0, chunk, listed.recipe)) == staging.CHUNK
    for end in ("json", "array_record"):
        one, other = (tmp_path / f"{i:07d}.{end}" for i in range(2))
        assert one.read_bytes() == other.read_bytes()


def test_the_fingerprint_knows_options_rows_and_sizes(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def mark(**options: object) -> str:
        source = {"source": str(folder), **options}
        return build.list_corpus("manifest", "own", source).fingerprints.content

    first = mark()
    assert first == mark() != mark(modality="ffa")
    moved = folder.rename(tmp_path / "moved")
    assert mark(source=str(moved)) == first, "where the folder lies does not matter"
    (moved / "3.jpg").write_bytes((moved / "3.jpg").read_bytes() + b"\0")
    assert mark(source=str(moved)) != first


def test_the_fingerprint_stays_what_it_was(tmp_path: pathlib.Path) -> None:
    # With another one all data sets that are built would look changed.
    for name in ("a.jpg", "sub/b.jpg", "scan/1.png", "scan/2.png", "scan/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "link").symlink_to("sub")
    (tmp_path / "c.jpg").symlink_to("a.jpg")
    names = ("a.jpg", "sub/b.jpg", "sub\\b.jpg", "./link//b.jpg", "c.jpg", "scan", "SUB/B.JPG")
    rows = [f'{name},"Ödem, ""{k}""",dr;amd,p{k},left,{k}' for k, name in enumerate(names)]
    text = "\n".join(["image,caption,label,patient,eye,age", *rows, "../a.jpg,,,,right eye,"])
    (tmp_path / "manifest.csv").write_text(text, "utf-8")
    listed = build.list_corpus("manifest", "own", {"source": str(tmp_path)})
    assert listed.fingerprints.content == "08b774a72543503c6f592cf553ffed0b"


def test_base64_is_read_in_both_alphabets(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b"id\t+/+/\t-_-_\tAB!CD\n")
    assert entries.read(entries.Ref("t.tsv", 3, 4), tmp_path) == b"\xfb\xff\xbf"
    assert entries.read(entries.Ref("t.tsv", 8, 4), tmp_path) == b"\xfb\xff\xbf"
    with pytest.raises(InputError, match="byte 13 of t.tsv"):
        entries.read(entries.Ref("t.tsv", 13, 5), tmp_path)


@pytest.mark.parametrize(("total", "number", "expected"),
                         [(5, None, [0, 1, 2, 3, 4]), (3, 8, [0, 1, 2]), (9, 3, [1, 4, 7]),
                          (10, 1, [5]), (49, 4, [6, 18, 30, 42])])  # fmt: skip
def test_slices_are_evenly_spaced(total: int, number: int | None, expected: list[int]) -> None:
    assert pictures.evenly(total, number) == expected

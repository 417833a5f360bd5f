"""The script that tries mutated files counts what comes of them, whatever that is."""

import ctypes
import json
import os
import random
import time
from pathlib import Path

import pytest

from benchmarks import fuzz
from data_pipelines.errors import InputError


def read(path: Path) -> None:
    """Does with a file what its first byte says."""
    action = path.read_bytes()[:1]
    if action == b"r":
        raise InputError("It is no file of this kind.")
    if action == b"l":
        raise InputError("It is\nno file.")
    if action == b"t":
        raise KeyError(7)
    if action == b"c":
        os._exit(11)
    if action == b"h":
        time.sleep(60)
    if action == b"m":
        assert len(bytearray(40 << 20))


@pytest.mark.parametrize(("action", "outcome"), [("", "read"), ("m", "read"), ("r", "refused"),
                                                 ("l", "tracebacks"), ("t", "tracebacks"),
                                                 ("c", "crashes"), ("h", "hangs")])  # fmt: skip
def test_every_outcome_is_counted(tmp_path, monkeypatch, capsys, action, outcome):
    def write(folder: Path) -> None:
        (folder / "whole.bin").write_bytes(b"whole")

    monkeypatch.setattr(fuzz, "KINDS", {"any": fuzz.Kind(write, read)})
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    monkeypatch.setattr(fuzz, "mutated", lambda data, draw: action.encode() + data)
    options = ["--tries=2", "--kinds=any", f"--keep={tmp_path}", f"--output={tmp_path / 'lines'}"]
    assert fuzz.main(options) == (outcome not in ("read", "refused"))
    _, line, total = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["figure"] == "fuzz/any" and total["tried"] == line["tried"] == 2
    assert {name: line[name] for name in fuzz.OUTCOMES if line[name]} == {outcome: 2}
    assert len(list(tmp_path.glob("*.bin"))) == 2 * (outcome not in ("read", "refused"))
    assert (line["memory_mib"] > 30) == (line["memory_times_file"] > 30) == (action == "m")
    assert sum(line["found"].values()) == 2 * (outcome == "tracebacks")


def test_memory_that_was_free_before_counts_when_a_file_takes_it(monkeypatch, tmp_path):
    """The process that is forked has 150 MB in its heap that malloc may give out again."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    size = 100_000  # below what malloc maps by itself
    blocks = [libc.malloc(size) for _ in range(1500)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    last = libc.malloc(size)  # so that the others stay below the end of the heap
    for block in blocks:
        libc.free(block)
    monkeypatch.setattr(
        fuzz, "KINDS", {"any": fuzz.Kind(lambda at: (at / "m").write_bytes(b"m"), read)}
    )
    monkeypatch.setattr(fuzz, "mutated", lambda data, draw: data)
    (tmp_path / "m").write_bytes(b"m")
    line = fuzz.fuzz("any", [tmp_path / "m"], 2, 0, None)
    libc.free(last)
    assert line["memory_mib"] > 30


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_whole_files_of_every_kind_are_read(tmp_path, kind):
    fuzz.KINDS[kind].write(tmp_path)
    files = sorted(tmp_path.iterdir())
    for file in files:
        fuzz.KINDS[kind].read(file)
        once, again = (fuzz.mutated(file.read_bytes(), random.Random(3)) for _ in range(2))
        assert once == again != file.read_bytes()
    assert len(files) > 3

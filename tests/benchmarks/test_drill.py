"""The drill: real runs, a fault in each, and what is left of what was finished."""

import random

import pytest

from benchmarks import drill


def test_one_bit_is_flipped() -> None:
    whole = bytes(range(50))
    changed = drill.flipped(whole, random.Random(5))
    (before, after) = next(pair for pair in zip(whole, changed, strict=True) if pair[0] != pair[1])
    assert bin(before ^ after).count("1") == 1
    assert sum(a != b for a, b in zip(whole, changed, strict=True)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cut", "loader_killed_at_its_start"])
def test_a_fault_is_told_and_the_run_goes_on(name, tmp_path) -> None:
    (line,) = drill.faults(tmp_path, name)
    assert line["status"] == 2 and not line["traceback"], line
    assert line["finished"][:2] == ([5, 10] if name == "cut" else []) and line["whole"], line
    assert line["then"] == {"status": 0, "same bits": True} and line["as described"], line


@pytest.mark.slow
def test_what_is_not_as_described_is_told(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(drill, "FAULTS", ((drill.killed, 1, 137, "a word that nobody says"),))
    (line,) = drill.faults(tmp_path)
    assert line["status"] == 137 and line["whole"] and not line["as described"], line

"""Which records a value has: every item of a list, nothing for an empty one, and both are told."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from data_pipelines.errors import InputError
from data_pipelines.records import groups

pytestmark = pytest.mark.fast


class Table:
    """A source of one column."""

    def __init__(self, *values: Any) -> None:
        self._values = list(values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "manifest/a:train"

    def column(self, field: str) -> list[Any]:
        assert field == "f"
        return self._values


def test_a_record_belongs_to_each_of_its_labels(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "data_pipelines.records.groups"):
        found = groups.members(Table(["b", "a"], [], ["a", "a"], ["b", ""], [" "]), "f")
    assert [group.tolist() for group in found] == [[0, 2], [0, 3]]
    assert "2 values of 'f'; 2 of 5 records have none and are not drawn" in caplog.text
    assert [g.tolist() for g in groups.members(Table("y", "", "x"), "f")] == [[2], [0]]
    assert [g.tolist() for g in groups.members(Table(3, 0, 3), "f")] == [[1], [0, 2]]
    with pytest.raises(InputError, match="All 2 records of manifest/a:train have an empty 'f'"):
        groups.members(Table([], [""]), "f")


def test_empty_values_are_different_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "data_pipelines.records.groups"):
        codes = groups.distinct("s", Table("p", "", "q", " ", "p", "p ", "p"), "f", 3)
    assert np.array_equal(codes[[0, 4, 5, 6]], codes[[0]].repeat(4))
    assert len(set(codes.tolist())) == 4
    assert "1 batches of distinct 'f' and leaves out 4 of 7 records" in caplog.text
    assert "3 are too many for their group, 2 have an empty 'f'" in caplog.text


def test_what_cannot_be_distinct_is_refused() -> None:
    with pytest.raises(InputError, match="Stream 's': a batch of 3 rows .* has 2: lower"):
        groups.distinct("s", Table("p", "q", "p", "q"), "f", 3)
    with pytest.raises(InputError, match="'distinct' needs a field with one text"):
        groups.distinct("s", Table(["p"], ["q"]), "f", 1)

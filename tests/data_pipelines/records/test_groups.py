"""Which records a value has: every item of a list, nothing for an empty one, and both are told."""

import logging
from typing import Any

import numpy as np
import pytest

from data_pipelines.errors import InputError
from data_pipelines.records import groups

pytestmark = pytest.mark.fast


class Table:
    """A source of the column 'f', and of others by name."""

    def __init__(self, *values: Any, **others: list[Any]) -> None:
        self._columns = {"f": list(values), **others}

    def __len__(self) -> int:
        return len(self._columns["f"])

    def __repr__(self) -> str:
        return "manifest/a:train"

    def column(self, field: str) -> list[Any]:
        return self._columns[field]


def test_a_record_belongs_to_each_of_its_labels(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "data_pipelines.records.groups"):
        found = groups.members(Table(["b", "a"], [], ["a", "a"], ["b", ""], [" "]), "f")
    assert [group.tolist() for group in found] == [[0, 2], [0, 3]]
    assert "2 values of 'f'; 2 of 5 records have none and are not drawn" in caplog.text
    assert [g.tolist() for g in groups.members(Table("y", "", "x"), "f")] == [[2], [0]]
    assert [g.tolist() for g in groups.members(Table(3, 0, 3), "f")] == [[1], [0, 2]]
    with pytest.raises(InputError, match="All 2 records of manifest/a:train have an empty 'f'"):
        groups.members(Table([], [""]), "f")


def test_values_of_two_fields_are_pairs(caplog: pytest.LogCaptureFixture) -> None:
    """The 'normal' of two data sets are two values, and a record needs both fields."""
    labels = [["normal"], ["Normal"], ["normal", "cataract"], [], ["normal"]]
    table = Table("odir", "oct", "odir", "odir", "", labels=labels)
    with caplog.at_level(logging.INFO, "data_pipelines.records.groups"):
        found = groups.members(table, ("f", "labels"))
    # oct/Normal, odir/cataract, odir/normal
    assert [group.tolist() for group in found] == [[1], [2], [0, 2]]
    assert "3 values of 'f' and 'labels'; 2 of 5 records have none" in caplog.text
    with pytest.raises(InputError, match="empty 'f' and 'labels'"):
        groups.members(Table("a", "", labels=[[], ["b"]]), ("f", "labels"))
    with pytest.raises(InputError, match="'balance' names no field"):
        groups.members(Table("a"), ())


def test_case_does_not_count_and_joined_labels_are_each() -> None:
    found = groups.members(Table("glaucoma+other", "Glaucoma", "OTHER", "+", "DR  mild"), "f")
    # Values are in the order in which they are written first: DR, glaucoma, other.
    assert [group.tolist() for group in found] == [[4], [0, 1], [0, 2]]


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

"""No patient and no picture is in two splits."""

import dataclasses
import weakref
from collections.abc import Sequence

import pytest

from data_pipelines.builders.staging import RecordStatus
from data_pipelines.records import splits


def row(
    number: int, digest: str = "", patient: str = "", split: str = "", twin: str = ""
) -> RecordStatus:
    digests = (digest or f"d{number}",)
    return RecordStatus(
        number, f"images/{number}.jpg", digests, (), patient, split, twin, place=number
    )


def homes(parts: dict[str, Sequence[RecordStatus]]) -> dict[int, str]:
    return {one.number: name for name, rows in parts.items() for one in rows}


def test_shares_are_70_10_20_by_patient() -> None:
    rows = [row(i, patient=f"p{i // 3}") for i in range(6000)]
    parts, remarks = splits.divide(rows)
    assert "by patient" in remarks[0]
    where = homes(parts)
    assert all(where[i] == where[i - i % 3] for i in range(6000))
    shares = [len(parts[name]) / 6000 for name in ("train", "validation", "test")]
    assert all(abs(a - b) < 0.03 for a, b in zip(shares, (0.7, 0.1, 0.2), strict=True))


def test_a_patient_stays_where_it_is_when_others_come() -> None:
    few = homes(splits.divide([row(i, patient=f"p{i}") for i in range(50)])[0])
    many = homes(splits.divide([row(i, patient=f"p{i}") for i in range(500)])[0])
    assert all(many[i] == home for i, home in few.items())


def test_groups_join_by_patient_bytes_and_mark() -> None:
    rows = [row(1, "a", "p1"), row(2, "b", "p1"), row(3, "b", "p2"), row(4, "c"),
            row(5, "d", twin="images/4.jpg"), row(6, "e", "p2"), row(7, "f"),
            row(8, twin="no.jpg")]  # fmt: skip
    keys, backwards = (splits.group_keys(splits.columns(r)) for r in (rows, rows[::-1]))
    assert keys[0] == keys[1] == keys[2] == keys[5], "p1 and p2 share picture b"
    assert keys[3] == keys[4] and len({keys[0], keys[3], keys[6], keys[7]}) == 4
    assert keys[0] == backwards[-1], "the order of rows does not matter"


@pytest.mark.parametrize(
    ("told", "twins"),
    [
        ("A/x.png", [1]),
        ("a/X", [1]),
        ("x.png", [2]),
        ("x", [2]),
        ("z\\x.png", [3]),
        ("dr.1", [4]),
        ("y", []),
        ("left/x.png", [6]),
        ("w", [7, 8]),
        ("new.png", [9]),
        ("new", [9]),
        ("dr.2", [10]),
        ("b/x.tif", [2]),
    ],
)
def test_a_duplicate_is_of_the_picture_that_is_meant(told: str, twins: list[int]) -> None:
    names = ["b/new.png", "a/x.png", "b/x.png", "z/x.png", "b/dr.1.png", "b/new.2.png",
             "b/left/x.png", "c/w.png", "d/w.png", "c/new.png", "c/dr.2.png",
             "c/dr.png"]  # fmt: skip
    rows = [
        RecordStatus(i, name, (f"d{i}",), duplicate_of=told if i == 0 else "", place=i)
        for i, name in enumerate(names)
    ]
    keys = splits.group_keys(splits.columns(rows))
    assert [i for i in range(1, len(names)) if keys[i] == keys[0]] == twins


def test_a_column_of_splits_is_used_where_it_names_two() -> None:
    rows = [row(1, split="Training"), row(2, split="val"), row(3, split="TEST")]
    parts, remarks = splits.divide(rows)
    assert homes(parts) == {1: "train", 2: "validation", 3: "test"} and not remarks
    parts, remarks = splits.divide([row(i, split="test") for i in range(100)])
    assert set(parts) == {"train", "validation", "test"} and "only says 'test'" in remarks[0]


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        (("train", "test"), {"train", "test"}),  # no split that the table does not have
        (("test",), {"train", "validation"}),  # a test that was chosen stays as it is
        (("train",), {"train", "validation", "test"}),
        (("site_a", "site_b"), {"train", "validation", "test"}),
    ],
)
def test_rows_without_a_split_get_one_by_patient(given: tuple[str, ...], filled: set[str]) -> None:
    named = [row(i, patient=f"p{i}", split=given[i % len(given)]) for i in range(4)]
    # The first two follow a patient who has a split, two by two others are one patient's.
    rows = [row(10, patient="p0"), row(11, patient="p1")]
    rows += [row(i, patient=f"q{i // 2}") for i in range(12, 212)]
    parts, remarks = splits.divide([*named, *rows])
    where = homes(parts)
    assert len(where) == 206
    assert all(where[i] == given[i % len(given)] for i in range(4))
    assert (where[10], where[11]) == (where[0], where[1])
    assert all(where[i] == where[i + 1] for i in range(12, 212, 2))
    assert {where[i] for i in range(12, 212)} == filled
    assert "202 rows name no split and got one by patient" in remarks[0]
    assert "2 of them follow rows of the same patient" in remarks[0]


def test_a_row_without_a_split_stays_out_of_training_where_its_patient_is_tested() -> None:
    rows = [row(1, "a", "p", "test"), row(2, "b", "p", "train"), row(3, "c", "p")]
    assert homes(splits.divide(rows)[0])[3] == "test"


def test_given_splits_that_leak_are_told() -> None:
    rows = [row(1, "a", "p", "train"), row(2, "a", "p", "test"), row(3, "c", "q", "train")]
    _, remarks = splits.divide(rows)
    assert [remark[0] for remark in remarks] == ["1", "1"]
    assert "patients are in more than one split" in remarks[0]
    assert "byte-identical pictures" in remarks[1]


def test_names_are_safe() -> None:
    assert splits.split_name("Fold 1/2") == "fold_1_2"
    for name, spellings in {"train": ("training_set", "TrainImages", "train data", "Training"),
                            "validation": ("val-set", "valid_images", "dev"),
                            "test": ("testing_set", "TEST_SPLIT", "testset")}.items():  # fmt: skip
        assert {splits.split_name(text) for text in spellings} == {name}
    assert splits.split_name("off-site test set") == "off_site_test_set"
    assert splits.split_name("all") == "split_all" and splits.split_name("1") == "split_1"


def hashed(number: int, text: str, patient: str) -> RecordStatus:
    return dataclasses.replace(row(number, patient=patient), perceptual=(text,))


def test_the_same_eye_under_two_patients_stays_together(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [f"{i:0108x}" for i in (0, 2**300 - 1, 2**200 - 1)]
    rows = [hashed(1, codes[0], "p1"), hashed(2, codes[1], "p2"),
            hashed(3, f"{2**40 - 1:0108x}", "p3"), hashed(4, "", "p4"), hashed(5, "", "p5"),
            hashed(6, codes[1], "p2")]  # fmt: skip
    alike, told = splits.look_alikes(splits.columns(rows))
    assert alike == [(0, 2), (1, 5)], "40 bits of 426 are near; no hash is like no other"
    assert told == ["1 pairs of pictures look the same under other names; they stay together"]
    keys = splits.group_keys(splits.columns(rows), alike)
    assert keys[0] == keys[2] and len(set(keys)) == 4
    where = {
        n: homes(
            splits.divide(
                [
                    dataclasses.replace(rows[0], patient=f"a{n}"),
                    dataclasses.replace(rows[2], patient=f"b{n}"),
                ]
            )[0]
        )
        for n in range(30)
    }
    assert all(found[1] == found[3] for found in where.values())
    monkeypatch.setattr(splits, "MOST_COMPARED", 3)
    alike, told = splits.look_alikes(splits.columns(rows))
    assert alike == [] and "too many to look" in told[0]


class Made(Sequence[RecordStatus]):
    """Rows that are made when they are asked for, and counted as long as they are held."""

    def __init__(self, number: int) -> None:
        self.number, self.held, self.most = number, 0, 0

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index):
        if not 0 <= index < self.number:
            raise IndexError
        made = row(index, f"d{index // 3}", f"p{index // 2}", ("", "train", "test")[index % 3])
        self.held += 1
        self.most = max(self.most, self.held)
        weakref.finalize(made, self._gone)
        return made

    def _gone(self) -> None:
        self.held -= 1


def test_rows_are_columns_while_they_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, remarks = splits.divide(list(Made(2000)))
    monkeypatch.setattr(splits, "_BATCH", 100)
    rows = Made(2000)
    parts, other = splits.divide(rows)
    assert rows.most <= 201 and rows.held <= 1, "a batch, and the next one as it is read"
    assert homes(parts) == homes(whole) and list(parts) == list(whole) and other == remarks

"""Rows of one eye become records of one patient, and every row is accounted for."""

import pytest

from data_pipelines.builders import shapes
from data_pipelines.builders.entries import Entry, Listing, Ref

pytestmark = pytest.mark.fast


def eye(number: int, patient: str, side: str, **fields: object) -> Entry:
    known = {"patient": patient, "eye": side, "dataset": "d", "modality": "cfp", **fields}
    return Entry(number, {"image": (Ref(f"{number}.jpg"),)}, known)


def test_patients_have_both_eyes_under_one_report() -> None:
    rows = Listing((
        eye(2, "p1", "OD", caption="cataract", labels=["cataract"], age="60", split="train"),
        eye(3, "p1", "OS", caption="normal fundus", labels=["normal"], age="60"),
        eye(4, "p2", "OS", caption_zh="白内障", labels=["normal"]),
    ), extra=("age",))  # fmt: skip
    found = shapes.by_patient(rows)
    both, alone = found.entries
    assert both.pictures == {"left_image": (Ref("3.jpg"),), "right_image": (Ref("2.jpg"),)}
    assert both.fields["report"] == "left eye: normal fundus; right eye: cataract"
    assert both.fields["labels"] == ["cataract"] and both.fields["left_labels"] == ["normal"]
    assert (both.fields["left_age"], both.fields["right_age"]) == ("60", "60")
    assert (both.fields["id"], both.fields["split"]) == ("d/p1", "train")
    assert alone.pictures == {"left_image": (Ref("4.jpg"),)}
    assert alone.fields["report"] == "" and alone.fields["report_zh"] == "左眼：白内障"
    assert alone.fields["labels"] == ["normal"], "all that there is of this patient is normal"
    assert found.extra == ("left_age", "right_age") and "1 rows joined" in found.remarks[0]


def test_eyes_of_different_splits_are_left_out_and_counted() -> None:
    rows = Listing((
        eye(2, "p", "OS", split="train"), eye(3, "p", "OD", split="test"), eye(4, "q", "OD"),
        eye(5, "q", "OS", split="test"), eye(6, "r", "OS", split="val"),
        eye(7, "r", "OD", split="Validation"),
    ))  # fmt: skip
    found = shapes.by_patient(rows)
    assert [(made.fields["patient"], made.fields["split"]) for made in found.entries] == [
        ("q", "test"), ("r", "validation")
    ]  # fmt: skip
    assert [(row.number, row.reason) for row in found.skipped] == [
        (number, "the eyes of the patient are in different splits") for number in (2, 3)
    ]


def test_every_row_is_kept_joined_or_skipped() -> None:
    rows = Listing((
        eye(2, "p", "OD"), eye(3, "p", "OS"), eye(4, "p", "OD"), eye(5, "", "OD"), eye(6, "q", ""),
        eye(7, "q", "OS"), eye(8, "p", "OD", dataset="other"),
    ))  # fmt: skip
    found = shapes.by_patient(rows)
    assert {row.number: row.reason for row in found.skipped} == {
        4: "another picture of the same eye",
        5: "no patient named",
        6: "eye unknown",
    }
    assert [entry.number for entry in found.entries] == [2, 7, 8], "p of another set is another"
    assert "1 rows joined" in found.remarks[0]


@pytest.mark.parametrize(("captions", "expected"),
                         [(("Both eyes are normal.",) * 2, "Both eyes are normal."),
                          (("normal fundus",) * 2,
                           "left eye: normal fundus; right eye: normal fundus"),
                          (("OU: drusen",) * 2, "OU: drusen"),
                          (("", "drusen"), "right eye: drusen"), (("", ""), "")])  # fmt: skip
def test_reports(captions: tuple[str, str], expected: str) -> None:
    rows = Listing((eye(2, "p", "OS", caption=captions[0]), eye(3, "p", "OD", caption=captions[1])))
    assert shapes.by_patient(rows).entries[0].fields["report"] == expected

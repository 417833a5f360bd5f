"""What two sets have in common is found in every way, and named."""

import csv
import dataclasses

import numpy as np
import pytest

from data_pipelines import overlap
from data_pipelines.errors import InputError
from data_pipelines.images import likeness
from data_pipelines.records import sources

pytestmark = pytest.mark.fast


@dataclasses.dataclass(frozen=True)
class Table:
    """A source of which only columns are asked."""

    name: str
    columns: dict[str, list]
    split: str = "train"

    @property
    def fields(self):
        return tuple(self.columns)

    def column(self, field):
        return self.columns[field]

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __str__(self):
        return f"{self.name}:{self.split}"


def code(seed, flips=0):
    """A random perceptual hash, the last `flips` of whose 426 bits are changed."""
    drawn = np.random.default_rng(seed).integers(0, 2, 432, np.uint8)
    drawn[426:] = 0
    drawn[426 - flips : 426] ^= 1
    return np.packbits(drawn).tobytes().hex()


def kinds(train, test):
    return dict(overlap.check_overlap(train, test).pairs)


def test_sets_without_anything_in_common_are_clear():
    one, two = (
        Table(
            f"a/{n}",
            {
                "id": [f"{n}"],
                "patient": [f"p{n}"],
                "digests": [[f"d{n}"]],
                "perceptual": [[code(n)]],
            },
        )
        for n in (1, 2)
    )
    found = overlap.check_overlap(one, two)
    assert not found and found.records() == [] and found.size == 1


def test_ids_count_within_one_address_or_one_named_data_set():
    def table(name, ids, datasets):
        return Table(name, {"id": ids, "dataset": datasets})

    here = table("a/x", ["1", "2"], ["idrid", ""])
    assert kinds(here, table("a/x", ["2", "3"], ["", ""])) == {"id": (("2", "2"),)}
    assert kinds(here, table("a/x", ["1"], ["odir"])) == {"id": (("1", "1"),)}
    assert kinds(here, table("b/y", ["1", "2"], ["idrid", ""])) == {"id": (("1", "1"),)}
    assert kinds(here, table("b/y", ["1"], ["odir"])) == {}
    assert kinds(Table("a/x", {"id": ["1"]}), Table("b/y", {"id": ["1"]})) == {}


def test_patients_count_within_one_data_set():
    def table(name, ids, patients, datasets):
        return Table(name, {"id": ids, "patient": patients, "dataset": datasets})

    train = table("a/x", ["1", "2", "3", "4"], ["7", "7", "", "8"], ["idrid", "idrid", "idrid", ""])
    same = table("a/x", ["5", "6", "7", "8"], ["7", "7", "8", ""], ["odir", "idrid", "", "idrid"])
    assert kinds(train, same) == {"patient": (("6", "1"), ("7", "4"))}, "the first of the patient"
    other = table("b/y", ["5", "6", "7"], ["7", "8", ""], ["idrid", "", "idrid"])
    assert kinds(train, other) == {"patient": (("5", "1"),)}


def test_files_count_everywhere_and_once_a_record():
    train = Table("a/x", {"id": ["1", "2"], "digests": [["d", "e"], ["f"]]})
    test = Table("b/y", {"id": ["5", "6", "7"], "digests": [["f", "e"], [], ["", "g"]]}, "test")
    assert kinds(train, test) == {"digest": (("5", "2"),)}
    empty = Table("c/z", {"id": ["1"], "digests": [[""]]})
    assert kinds(empty, empty)["id"] and "digest" not in kinds(empty, empty)


def test_pictures_count_up_to_a_fifth_of_their_bits():
    assert likeness.NEAR == 426 // 5
    train = Table("a/x", {"id": ["1", "2"], "perceptual": [[code(0), ""], [code(1), code(2)]]})
    near, far = code(2, likeness.NEAR), code(2, likeness.NEAR + 1)
    test = Table("b/y", {"id": ["5", "6", "7"], "perceptual": [[far], [code(9), near], [""]]})
    assert kinds(train, test) == {"perceptual": (("6", "2"),)}
    nothing = Table("b/y", {"id": ["5"], "perceptual": [[]]})
    assert kinds(train, nothing) == kinds(nothing, train) == {}


def test_records_are_numbered_where_they_have_no_ids():
    train, test = (Table(name, {"digests": [["d"], ["e"]]}) for name in ("a/x", "b/y"))
    assert kinds(train, test)["digest"][1] == ("record 1", "record 1")


def test_the_nearest_of_many_is_the_one_that_a_plain_count_finds():
    test, train = ([code(seed) for seed in seeds] for seeds in (range(20), range(100, 400)))
    train[250] = code(3, 30)
    index, bits = likeness.nearest(test, train)

    def plain(one, other):
        return (int(one, 16) ^ int(other, 16)).bit_count()

    expected = np.array([[plain(one, other) for other in train] for one in test])
    np.testing.assert_array_equal(index, expected.argmin(axis=1))
    np.testing.assert_array_equal(bits, expected.min(axis=1))
    assert (index[3], bits[3]) == (250, 30)


def test_twins_are_all_pairs_within_a_set():
    hashes = [code(0), "", code(1), code(0, likeness.NEAR), code(1, 5), code(0, 100), code(1)]
    assert likeness.twins(hashes).tolist() == [[0, 3], [2, 4], [2, 6], [3, 5], [4, 6]]
    assert likeness.twins(["", ""]).shape == (0, 2) == likeness.twins([]).shape


@pytest.mark.parametrize("text", ["ff", "zz" * 54, code(0) + "00"])
def test_hashes_of_another_version_are_refused(text):
    with pytest.raises(InputError, match="hashes of another version in a data set: build it again"):
        likeness.nearest([code(0)], [text])


def test_the_sentence_names_the_first_of_each_kind_and_the_total():
    ids = [f"{i}" for i in range(5)]
    same = Table("a/x", {"id": ids, "digests": [["d"], *[[str(i)] for i in range(4)]]})
    test = Table("a/x", {"id": ids, "digests": [["d"], [], [], [], []]}, "test")
    assert overlap.check_overlap(same, test).sentence() == (
        "5 of the 5 records of a/x:test are in a/x:train: "
        "5 the same id (0 = 0, 1 = 1, 2 = 2, ...); 1 the same file (0 = 0)"
    )


def test_embedded_data_are_compared_without_hashes(data_dir):
    public, test = (
        sources.load("synthetic_retina/smoke", split, data_dir) for split in ("public", "test")
    )
    assert not overlap.check_overlap(public, test)
    found = overlap.check_overlap(test, test)
    assert set(found.pairs) == {"id", "patient"}
    assert found.records() == test.column("id")


def test_the_program_tells_by_table_by_file_and_by_status(data_dir, tmp_path, capsys):
    def run(train, test, *more):
        return overlap.main([f"--train=synthetic_retina/smoke:{train}",
                             f"--test=synthetic_retina/smoke:{test}", f"--data_dir={data_dir}",
                             *more])  # fmt: skip

    assert run("public", "test") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split() == ["the", "same", "id", "0"] and not printed.err
    written = tmp_path / "pairs.csv"
    assert run("test", "test[:3]", f"--csv={written}") == 2
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert ["any", "3", "of", "3"] in lines
    assert "3 of the 3 records of synthetic_retina/smoke:test[:3] are in" in printed.err
    rows = list(csv.DictReader(written.open()))
    assert [row["kind"] for row in rows] == ["id"] * 3 + ["patient"] * 3
    assert rows[0]["test"] == rows[0]["train"]
    assert overlap.main(["--train=synthetic_retina/smoke", "--test=a/b:c"]) == 2
    assert "Name a data set and its split" in capsys.readouterr().err


def test_the_program_says_in_one_sentence_what_is_missing(data_dir, capsys):
    for train, message in (
        ("nothing/here:train", "no builder 'nothing'"),
        ("synthetic_retina/smoke:tests", "no split 'tests'"),
    ):
        assert (overlap.main([f"--train={train}", "--test=synthetic_retina/smoke:test",
                              f"--data_dir={data_dir}"]) == 2)  # fmt: skip
        assert message in capsys.readouterr().err
    assert (overlap.main(["--train=synthetic_retina/smoke:test", f"--data_dir={data_dir}",
                          "--test=synthetic_retina/smoke:test",
                          "--csv=no/such/folder.csv"]) == 2)  # fmt: skip
    assert "No such file" in capsys.readouterr().err


def test_a_data_set_built_twice_is_one_whatever_it_is_called():
    columns = {"id": ["1"], "patient": ["p"]}
    one, two = Table("a/x", columns), Table("b/y", columns, "test")
    assert kinds(one, two) == {}
    for table in (one, two):
        object.__setattr__(table, "fingerprint", "the same")
    assert kinds(one, two) == {"id": (("1", "1"),), "patient": (("1", "1"),)}


def test_the_same_patient_under_two_ids_is_found_by_a_picture_of_both():
    train = Table("a/x", {"id": ["t"], "digests": [["d"]], "patient": ["1"]})
    columns = {
        "id": ["same", "of two", "of two too", "of three", "other"],
        "digests": [["d"], ["e"], ["f", "g"], ["g"], ["h"]],
        "patient": ["2", "2", "2", "3", "4"],
    }
    found = overlap.check_overlap(train, Table("b/y", columns))
    assert dict(found.pairs) == {
        "digest": (("same", "t"),),
        "linked": (("of two", "t"), ("of two too", "t"), ("of three", "t")),
    }
    assert "3 a patient of one of these (of two = t" in found.sentence()


def test_the_case_of_a_data_sets_name_does_not_count():
    one, two = (Table(f"{n}/x", {"id": ["1"], "dataset": [n]}) for n in ("ODIR", "odir"))
    assert kinds(one, two) == {"id": (("1", "1"),)}


def test_what_could_not_be_compared_is_said():
    train = Table("a/x", {"id": ["1"], "patient": ["p"], "digests": [["d"]], "dataset": ["idrid"]})
    test = Table("b/y", {"id": ["1"], "patient": ["p"], "digests": [[]], "dataset": ["odir"]})
    found = overlap.check_overlap(train, test)
    assert not found and found.compared == []
    assert "no data set in common (idrid; odir)" in found.skipped["patient"]
    assert found.skipped["digest"] == "no record of b/y:train has 'digests'"
    assert found.skipped["perceptual"] == "a/x:train has no field 'perceptual'"
    table = overlap._table(found)
    assert table.count("not compared by ") == 4 and "0 of 1" in table

"""REFUGE: generated samples of the challenge's archives and of a mirror."""

import pathlib

import corpora
import pytest

from data_pipelines import build
from data_pipelines.errors import InputError

pytestmark = pytest.mark.fast


def found(records: list[dict]) -> dict[str, str]:
    return {r["id"].rsplit("/", 1)[-1].split("#")[0]: r["labels"][0] for r in records}


def test_archives_of_the_challenge(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_refuge(folder)
    # The second challenge names its pictures in the same way.
    corpora.picture(folder / "2020" / "Images" / "V0001.jpg")
    records = corpora.built("refuge", folder, tmp_path / "data")
    assert found(records["train"]) == {
        **{f"g000{i}.jpg": "glaucoma" for i in (1, 2, 3)},
        **{f"n000{i}.jpg": "no glaucoma" for i in (1, 2, 3)},
    }
    assert found(records["validation"]) == {"V0001.jpg": "no glaucoma", "V0002.jpg": "glaucoma"}
    assert found(records["test"]) == {"T0001.jpg": "glaucoma", "T0002.jpg": "no glaucoma"}
    assert all("REFUGE-Validation400/" in record["id"] for record in records["validation"])
    left_out = {row["image"]: row["reason"] for row in corpora.skipped("refuge", tmp_path / "data")}
    assert left_out == {"REFUGE-Validation400/V0003.jpg": "no label",
                        "2020/Images/V0001.jpg": "another file of this name"}  # fmt: skip


def test_mirror(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpora.sample_refuge_mirror(folder)
    records = corpora.built("refuge", folder, tmp_path / "data")
    assert found(records["train"]) == {"g0001.jpg": "glaucoma", "n0001.jpg": "no glaucoma"}
    assert found(records["validation"]) == {"V0001.jpg": "no glaucoma", "V0002.jpg": "glaucoma"}
    assert all("/Images/" in row["id"] for rows in records.values() for row in rows)
    left_out = corpora.skipped("refuge", tmp_path / "data")
    assert [(row["image"], row["reason"]) for row in left_out] == [
        ("test/Images/T0001.jpg", "no label")
    ]


@pytest.mark.parametrize("text", ["[1]", '{"0": 1}', '{"0": {"Label": 1}}', "\xff", "{"])
def test_a_broken_index_is_one_sentence(
    folder: pathlib.Path, tmp_path: pathlib.Path, text: str
) -> None:
    corpora.sample_refuge_mirror(folder)
    (folder / "val" / "index.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="val/index.json is no index of pictures"):
        build.build("refuge", "own", str(tmp_path / "data"), source=str(folder))

"""Reading built data sets by index."""

import logging
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.errors import InputError
from data_pipelines.records import sources, storage
from data_pipelines.records.sources import Source


def test_records_are_plain_values(expert: Source) -> None:
    assert len(expert) == 32 and expert[-1]["id"] == expert[31]["id"]
    record = expert[3]
    assert set(record) == set(expert.fields)
    assert isinstance(record["image"], bytes) and record["image"][:2] == b"\xff\xd8"
    assert all(type(record[name]) is str for name in ("id", "caption", "caption_zh", "patient"))
    assert type(record["labels"]) is list and all(type(name) is str for name in record["labels"])
    assert any("眼" in expert[i]["caption_zh"] for i in range(4))
    with pytest.raises(IndexError):
        expert[32]


def test_a_cut_file_names_the_data_set(expert: Source, tmp_path: pathlib.Path) -> None:
    shutil.copytree(expert._folder, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.glob("*expert.array_record*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])
    cut = Source(expert.name, expert.split, tmp_path)
    with pytest.raises(InputError) as error:
        for i in range(len(cut)):
            assert cut[i] == expert[i]
    sentence = str(error.value)
    assert sentence.startswith("synthetic_retina/smoke:expert, record ")
    assert f"its file {file} is damaged (" in sentence and "--overwrite" in sentence


def test_pickles_and_reopens(expert: Source) -> None:
    half = expert.subset(np.arange(0, 32, 2))
    copy = pickle.loads(pickle.dumps(half))
    assert len(copy) == 16 and copy[3] == expert[6] and len(pickle.dumps(half)) < 2000
    assert half.subset([1, 3])[1] == expert[6]


def test_splits_and_their_parts(data_dir: pathlib.Path) -> None:
    def size(split: str) -> int:
        return len(sources.load("synthetic_retina/smoke", split, data_dir))

    assert size("public+expert") == size("public") + size("expert")
    assert size("public[:25%]") == size("public") // 4
    with pytest.raises(InputError, match="no split 'train'.*expert .32., public"):
        size("train")
    with pytest.raises(InputError, match="is no split"):
        size("public[:x%]")


def test_where_selects_and_reports(
    data_dir: pathlib.Path, expert: Source, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "data_pipelines.records.sources"):
        found = sources.load("synthetic_retina/smoke", "expert", data_dir,
                             where={"labels": ("normal", "glaucoma"), "eye": "OD"})  # fmt: skip
    expected = [
        r["id"]
        for r in map(expert.__getitem__, range(32))
        if {"normal", "glaucoma"} & set(r["labels"]) and r["eye"] == "OD"
    ]
    assert 0 < len(expected) < 32 and found.column("id") == expected
    assert f"kept {len(expected)} and dropped {32 - len(expected)} of 32" in caplog.text
    assert pickle.loads(pickle.dumps(found)).left_out == 32 - len(expected)
    assert found.select({"eye": "OS"}).left_out == 32 and found.subset([0]).left_out == 0
    shouted = expert.select({"labels": [" NORMAL", "Glaucoma"], "eye": "od"})
    assert shouted.column("id") == expected, "where and the transform `label` agree on case"
    with pytest.raises(InputError, match="no field 'label'; its fields are"):
        expert.select({"label": "normal"})


@pytest.mark.parametrize(("dataset", "words"),
                         [("manifest/absent", "--dataset=manifest --name=absent"),
                          ("nothing/odir", "no builder 'nothing'.*manifest,.* synthetic_retina"),
                          ("synthetic_retina/odir", "no config 'odir'.*smoke"),
                          ("odir", "builder/name"), ("../etc/passwd", "builder/name"),
                          ("manifest/../x", "builder/name")])  # fmt: skip
def test_addresses_that_lead_nowhere(dataset: str, words: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=words):
        sources.load(dataset, "train", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_newest_version_wins(tmp_path: pathlib.Path) -> None:
    for version in ("1.9.0", "1.10.0"):
        folder = tmp_path / "manifest" / "a" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
    assert storage.find("manifest/a", tmp_path).name == "1.10.0"
    assert storage.find("manifest/b", tmp_path) is None


def test_two_processes_build_at_once(tmp_path: pathlib.Path) -> None:
    program = (
        "import sys; from data_pipelines.records import sources\n"
        "if __name__ == '__main__':\n"
        "    s = sources.load('synthetic_retina/smoke', 'expert', sys.argv[1])\n"
        "    print(len(s), s[0]['id'])\n"
        "    assert 'tensorflow' not in sys.modules\n"
    )
    root = pathlib.Path(__file__).parents[3]
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root)
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], results
    assert results[0][0] == results[1][0] and results[0][0].startswith(b"32 ")
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic_retina"], "no leftovers"


def test_a_failed_build_leaves_nothing(tmp_path: pathlib.Path) -> None:
    def fail(root: str) -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        storage.publish(fail, tmp_path)
    assert not list(tmp_path.iterdir())


def test_reading_needs_no_other_framework(data_dir: pathlib.Path) -> None:
    """Grain imports JAX where it is installed; nothing here does, and nobody needs TensorFlow."""
    program = (
        "import sys\n"
        "sys.modules['jax'] = None\n"
        "from data_pipelines import batch, pipelines, transforms\n"
        "from data_pipelines.records import sources\n"
        "s = sources.load('synthetic_retina/smoke', 'expert', sys.argv[1])\n"
        "data = pipelines.evaluate(s, [transforms.Decode(16)], batch_size=8)\n"
        "with data.batches() as batches: print(sum(b['_mask'].sum() for b in batches))\n"
        "found = {name.split('.')[0] for name in sys.modules}\n"
        "assert not found & {'retina_jax', 'tensorflow', 'torch', 'flax'}, found\n"
    )
    root = pathlib.Path(__file__).parents[3]
    command = [sys.executable, "-c", program, str(data_dir)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)
    assert result.returncode == 0 and result.stdout.strip() == "32", result.stderr

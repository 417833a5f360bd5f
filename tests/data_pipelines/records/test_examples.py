"""Records read by us are those that TFDS reads, and tables hold what records hold."""

import logging
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from data_pipelines.errors import InputError
from data_pipelines.records import columns, examples, sources, storage

KNOWN = {
    "text": tfds.features.Text(),
    "texts": tfds.features.Sequence(tfds.features.Text()),
    "whole": np.int32, "long": np.int64, "byte": np.uint8, "yes": np.bool_,
    "real": np.float32, "double": np.float64, "scalar": tfds.features.Scalar(np.int16),
    "picture": tfds.features.Tensor(shape=(), dtype=np.object_),
    "pictures": tfds.features.Sequence(tfds.features.Tensor(shape=(), dtype=np.object_)),
    "box": tfds.features.Tensor(shape=(4,), dtype=np.int32),
    "curve": tfds.features.Tensor(shape=(None,), dtype=np.float32),
    "matrix": tfds.features.Tensor(shape=(2, 3), dtype=np.int32),
}  # fmt: skip
OTHER = {"grade": tfds.features.ClassLabel(names=["none", "mild"])}
PICTURES = {"picture", "pictures"}


def record(k: int) -> dict[str, Any]:
    """Record k: empty values, characters of several bytes, zero bytes, extreme numbers."""
    return {
        "text": ["", "naïve 眼底 \u2028 #1", " blank "][k % 3] + str(k // 3),
        "texts": [[], ["a"], ["a", "", "黄斑"]][k % 3],
        "whole": [-1, 0, 2**31 - 1][k % 3], "long": -(2**40) * k, "byte": 255, "yes": k % 2 == 1,
        "real": [np.nan, -np.inf, 0.1][k % 3], "double": 0.1, "scalar": -k,
        "picture": [b"", b"\x00\x00ab\x00", bytes(range(256)) * 40][k % 3],
        "pictures": [[], [b"a\x00"], [b"", b"bc"]][k % 3],
        "box": np.array([k, 0, -1, 7], np.int32), "curve": np.arange(k % 3, dtype=np.float32),
        "matrix": np.arange(6, dtype=np.int32).reshape(2, 3) - k,
    }  # fmt: skip


class Kinds(tfds.core.GeneratorBasedBuilder):
    """Every kind of feature that we read ourselves; or with one more, which TFDS reads."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("known", "other")]
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        extra = OTHER if self.builder_config.name == "other" else {}
        features = tfds.features.FeaturesDict({**KNOWN, **extra})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        return {"train": self._generate_examples(40), "test": self._generate_examples(7)}

    def _generate_examples(self, records: int) -> Iterator[tuple[int, dict[str, Any]]]:
        extra = {"grade": "mild"} if self.builder_config.name == "other" else {}
        for k in range(records):
            yield k, {**record(k), **extra}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A data folder with 'kinds/known' and 'kinds/other'."""
    root = tmp_path_factory.mktemp("kinds")
    for config in ("known", "other"):
        storage.publish(lambda place, config=config: Kinds(config=config, data_dir=place), root)
    return root


def test_a_data_set_is_built_at_an_address_and_read_from_a_copy(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    memory, bucket = fsspec.filesystem("memory"), f"memory://{uuid.uuid4().hex}/data/"
    assert storage.find("kinds/known", bucket) is None
    made = storage.publish(lambda root: Kinds(config="known", data_dir=root), bucket)
    there = memory.find(bucket)
    assert any(name.endswith("/data/kinds/known/1.0.0/dataset_info.json") for name in there)
    assert not [name for name in there if "/." in name]
    assert storage.find("kinds/known", bucket) == made and made.is_relative_to(tmp_path)
    source = sources.load("kinds/known", "train", bucket)
    assert sorted(r["long"] for r in source) == [-(2**40) * k for k in range(39, -1, -1)]
    memory.pipe(f"{bucket}kinds/known/1.0.0/of_before", b"")
    storage.publish(lambda root: Kinds(config="known", data_dir=root), bucket, replace=True)
    assert sorted(memory.find(bucket)) == sorted(there)
    with pytest.raises(InputError, match="is not in memory://.*/data: build it .*--data_dir=mem"):
        sources.load("manifest/mine", "train", bucket)


def assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right), (left, right)
    if isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    else:
        np.testing.assert_equal(left, right)


def decoded(value: Any, name: str) -> Any:
    """A value that TFDS read; it leaves texts as bytes."""
    if name == "text":
        return value.decode()
    return [text.decode() for text in value] if name == "texts" else value


@pytest.mark.parametrize("config", ["known", "other"])
def test_records_are_those_that_tfds_reads(built: pathlib.Path, config: str) -> None:
    source = sources.load(f"kinds/{config}", "train", built)
    theirs = tfds.builder_from_directory(storage.find(f"kinds/{config}", built)).as_data_source(
        "train"
    )
    assert len(source) == len(theirs) == 40
    for i in range(40):
        ours = source[i]
        assert set(ours) == set(theirs[i]) == set(source.fields)
        for name, value in theirs[i].items():
            assert_same(ours[name], decoded(value, name))
    texts = {source[i]["text"] for i in range(40)}
    assert texts == {record(k)["text"] for k in range(40)}


def test_only_known_features_are_read_by_us() -> None:
    assert set(examples.fields(tfds.features.FeaturesDict(KNOWN))) == set(KNOWN)
    for feature in (
        tfds.features.Image(), tfds.features.Sequence(np.float32), OTHER["grade"],
        tfds.features.Tensor(shape=(None, None), dtype=np.int32), {"nested": np.int32},
        tfds.features.Tensor(shape=(2,), dtype=np.int32, encoding="zlib"),
        tfds.features.Sequence(tfds.features.Sequence(tfds.features.Text())),
    ):  # fmt: skip
        known = examples.fields(tfds.features.FeaturesDict({"text": np.int32, "other": feature}))
        assert known is None, feature


@pytest.mark.parametrize(
    "split", ["train", "test", "train[10:30]", "train[50%:]", "test+train[:3]", "train[7:]+train"]
)
def test_columns_are_those_of_the_records(built: pathlib.Path, split: str) -> None:
    source = sources.load("kinds/known", split, built)
    folder = storage.find("kinds/known", built)
    records = [source[i] for i in range(len(source))]
    for name in KNOWN:
        table = columns.read(folder, split, name)
        assert (table is None) == (name in PICTURES)
        expected = [one[name] for one in records]
        assert_same(source.column(name), expected)
        if table is not None:
            assert_same(table, expected)


def test_several_files_of_a_split(tmp_path: pathlib.Path) -> None:
    """Parts of a split find their rows when its records lie in several files."""

    def make(root: str) -> tfds.core.DatasetBuilder:
        builder = Kinds(config="known", data_dir=root)
        prepare = builder.download_and_prepare
        config = tfds.download.DownloadConfig(num_shards=4)
        builder.download_and_prepare = lambda **given: prepare(download_config=config, **given)
        return builder

    folder = storage.publish(make, tmp_path)
    assert len(list(folder.glob("*train.array_record*"))) == 4
    for split in ("train[5:33]", "test[2:]+train[18:22]"):
        source = sources.Source("kinds/known", split, folder)
        expected = [source[i]["text"] for i in range(len(source))]
        assert columns.read(folder, split, "text") == expected == source.column("text")


def test_selections_follow_the_table(built: pathlib.Path) -> None:
    source = sources.load("kinds/known", "train", built, where={"texts": "黄斑"})
    assert len(source) == 13 == len(source.column("text"))
    assert source.column("text") == [source[i]["text"] for i in range(13)]


def test_the_table_has_no_pictures(built: pathlib.Path) -> None:
    table = pyarrow.parquet.read_table(storage.find("kinds/known", built) / "columns-train.parquet")
    assert set(table.column_names) == set(KNOWN) - PICTURES and table.num_rows == 40


def test_data_sets_without_a_table_still_work(built: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = storage.find("kinds/other", built)
    assert not list(other.glob("columns*")) and columns.read(other, "train", "text") is None
    source = sources.load("kinds/other", "train", built)
    assert source.column("text") == [source[i]["text"] for i in range(40)]
    folder = storage.publish(lambda root: Kinds(config="known", data_dir=root), tmp_path)
    (folder / "columns-train.parquet").unlink()
    old = sources.Source("kinds/known", "train+test[:2]", folder)
    assert old.column("whole") == [old[i]["whole"] for i in range(42)]


def test_a_damaged_table_is_told(tmp_path: pathlib.Path) -> None:
    folder = storage.publish(lambda root: Kinds(config="known", data_dir=root), tmp_path)
    place = folder / "columns-train.parquet"
    whole = pyarrow.parquet.read_table(place)
    pyarrow.parquet.write_table(whole.slice(1), place)
    with pytest.raises(InputError, match="columns-train.parquet .* 39 rows for 40 records"):
        columns.read(folder, "train", "text")
    pyarrow.parquet.write_table(whole.drop_columns("text"), place)
    with pytest.raises(InputError, match="damaged"):
        columns.read(folder, "train", "text")
    place.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="damaged .*delete it"):
        columns.read(folder, "train", "text")


def test_a_ban_is_logged(built: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"words": ["黄"], "mode": "substring", "field": "texts"}
    with caplog.at_level(logging.INFO, "data_pipelines.records.sources"):
        source = sources.load("kinds/known", "train", built, where={"yes": [True]}, ban=options)
    kept = [k for k in range(40) if k % 2 and k % 3 != 2]
    assert sorted(source.column("long")) == sorted(-(2**40) * k for k in kept)
    assert "kept 14 and dropped 6 of 20 records by ban mode 'substring' on 'texts'" in caplog.text
    assert len(sources.load("kinds/known", "train", built, ban={**options, "mode": "word"})) == 40
    with pytest.raises(InputError, match="no field 'labels'; its fields are"):
        sources.load("kinds/known", "train", built, ban={})

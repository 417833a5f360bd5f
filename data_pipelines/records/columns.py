"""The fields of a split without its pictures, in a table beside it that is read in a moment.

Selecting, balancing and grouping need one field of every record. Out of the records that means
reading every picture; out of a Parquet file, written once after the build, it does not.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import tensorflow_datasets as tfds
import tqdm

from data_pipelines.errors import InputError
from data_pipelines.records import examples

# Records that are in memory at once while a table is written.
_CHUNK = 4096


def write(builder: tfds.core.DatasetBuilder) -> None:
    """Writes the table of each split of a prepared builder into its folder.

    A data set with features that only TFDS can read gets none; its columns are read from records.
    """
    known = examples.fields(builder.info.features)
    if known is None:
        return
    kept = {name: field for name, field in known.items() if field.column is not None}
    schema = pyarrow.schema([(name, field.column) for name, field in sorted(kept.items())])
    for split, info in builder.info.splits.items():
        if info.num_examples:
            place = _place(pathlib.Path(builder.data_path), split)
            with pyarrow.parquet.ParquetWriter(place, schema) as writer:
                for rows in _chunks(builder, split, examples.Reader(kept)):
                    cells = {name: [_cell(row[name]) for row in rows] for name in schema.names}
                    writer.write_table(pyarrow.table(cells, schema))


def read(folder: pathlib.Path, split: str, name: str) -> list[Any] | None:
    """Returns one field of every record, or None where no table has it.

    Args:
        folder: the folder of a built version.
        split: a split in TFDS's syntax; parts and sums of splits are put together in the order of
            records.
        name: the name of the field.

    Raises:
        InputError: a table that is damaged or belongs to other records.
    """
    info = tfds.builder_from_directory(folder).info
    known = examples.fields(info.features)
    if known is None or known[name].column is None:
        return None
    columns: dict[str, list[Any]] = {}
    starts: dict[str, tuple[str, int]] = {}
    for whole, part in info.splits.items():
        offsets = np.cumsum([0, *part.shard_lengths])
        starts |= {str(path): (whole, offsets[i]) for i, path in enumerate(part.filepaths)}
    found: list[Any] = []
    for shard in info.splits[split].file_instructions:
        whole, start = starts[str(shard.filename)]
        if whole not in columns:
            if not _place(folder, whole).exists():
                return None
            columns[whole] = _column(_place(folder, whole), name, info.splits[whole].num_examples)
        found += columns[whole][start + shard.skip : start + shard.skip + shard.take]
    return [known[name].restore(cell) for cell in found]


def fingerprint(folder: pathlib.Path) -> str:
    """Returns a hash of the records of a built version: of their sizes and of all but the pixels.

    The hashes of pictures are columns too, so that other pictures are another content.
    """
    return _fingerprint(folder, (folder / "dataset_info.json").stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _fingerprint(folder: pathlib.Path, changed: int) -> str:
    del changed  # of another time the data set is another
    splits = json.loads((folder / "dataset_info.json").read_text("utf-8"))["splits"]
    sizes = sorted((s["name"], s.get("shardLengths"), s.get("numBytes")) for s in splits)
    found = hashlib.sha256(json.dumps(sizes).encode())
    for path in sorted(folder.glob("columns-*.parquet")):
        for rows in pyarrow.parquet.ParquetFile(path).iter_batches():
            found.update(rows.serialize())
    return found.hexdigest()[:32]


def _place(folder: pathlib.Path, split: str) -> pathlib.Path:
    return folder / f"columns-{split}.parquet"


def _chunks(
    builder: tfds.core.DatasetBuilder, split: str, reader: examples.Reader
) -> Iterator[list[dict[str, Any]]]:
    stored = examples.stored(builder, split)
    with tqdm.tqdm(
        total=len(stored), desc=f"columns of {split}", unit=" records", leave=False
    ) as bar:
        for start in range(0, len(stored), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(stored)))
            yield [reader(stored[i]) for i in rows]
            bar.update(len(rows))


def _cell(value: Any) -> Any:
    return value.ravel() if isinstance(value, np.ndarray) else value


def _column(path: pathlib.Path, name: str, records: int) -> list[Any]:
    try:
        column = pyarrow.parquet.read_table(path, columns=[name]).column(name).to_pylist()
    except (OSError, KeyError, pyarrow.ArrowException) as error:
        raise InputError(
            f"The table {path.name} of {path.parent} is damaged ({error}): delete it, and the "
            "columns are read from the records, or build the data set again."
        ) from error
    if len(column) != records:
        raise InputError(
            f"The table {path.name} of {path.parent} has {len(column)} rows for {records} records: "
            "delete it, and the columns are read from the records."
        )
    return column

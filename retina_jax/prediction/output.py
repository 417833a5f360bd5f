"""The files of a prediction: parts that are whole or not there, so that a retry goes on.

run.json            what was asked for; a folder of another run is refused
manifest.parquet    the entries as they were listed, which a retry reads again
part-00000.parquet  rows of a number of entries
predictions.csv     all rows; predictions.json what they depend on
errors.csv          what could not be read
summary.json        counts; written last
"""

from __future__ import annotations

import collections
import csv
import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tqdm
from pyarrow import compute

from data_pipelines import places, quality
from data_pipelines.errors import InputError
from retina_jax.prediction.answers import NO_NUMBER
from retina_jax.prediction.rows import Watch
from retina_jax.prediction.running import Job
from retina_jax.train.environment import STARTS
from retina_jax.train.preemption import Preempted

pc: Any = compute  # its functions are made when it is imported
RUN, MANIFEST, ERRORS, SUMMARY = "run.json", "manifest.parquet", "errors.csv", "summary.json"
PART_ENTRIES, _GROUP = 50_000, 4096
# Cells that a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Stopping:
    """`with Stopping() as stopping:` notices SIGTERM; `stopping.check()` then raises Preempted."""

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> Stopping:
        self._handles = threading.current_thread() is threading.main_thread()
        if self._handles:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def check(self) -> None:
        """Raises Preempted if the program was told to stop."""
        if self._asked:
            raise Preempted(
                "Stopped by SIGTERM: the parts that are written stay; the same command goes on."
            )


def answered(out: Path) -> bool:
    """Whether a folder holds rows: a run that was refused before it wrote any leaves nothing."""
    return any(out.glob("part-*.parquet"))


def claim(out: Path, identity: Mapping[str, Any], overwrite: bool) -> pa.Table | None:
    """Makes the folder of a run, or finds that of an earlier start of the same one.

    That of another run which wrote no row is begun anew.

    Args:
      out: the folder.
      identity: what was asked for, plain data.
      overwrite: replace another run there.

    Returns:
      The entries of the earlier start; None where there is none.

    Raises:
      InputError: for the folder of another run, or one with other files.
    """
    path = out / RUN
    wanted = json.loads(json.dumps(identity))
    if overwrite and path.is_file():
        _clear(out)
    if path.is_file():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise InputError(f"{path} is damaged; replace the run by --overwrite.") from None
        names = [name for name in {**known, **wanted} if known.get(name) != wanted.get(name)]
        if names and not answered(out):
            _clear(out)
        elif names:
            before, now = (_short(of.get(names[0])) for of in (known, wanted))
            raise InputError(
                f"{out} is of another run: {names[0]} is {now} instead of {before}; choose "
                "another --out, or replace that run by --overwrite."
            )
        if not names:
            return pq.read_table(out / MANIFEST) if (out / MANIFEST).is_file() else None
    if out.is_dir() and any(name != "lock" for name in os.listdir(out)):
        raise InputError(f"{out} exists and is no folder of predictions: choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    _write_text(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
    return None


def _clear(out: Path) -> None:
    for path in out.iterdir():
        if path.name.startswith(("part-", "predictions.", "embeddings.")) or path.name in (
            RUN, MANIFEST, ERRORS, SUMMARY, STARTS,
        ):  # fmt: skip
            path.unlink()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


def sharded(entries: pa.Table, shard: str | None) -> pa.Table:
    """The entries of a shard 'i/n', i from 1 to n; those of one unit are in the same one.

    Raises:
      InputError: for anything else.
    """
    if shard is None:
        return entries
    first, slash, last = shard.partition("/")
    if not (slash and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise InputError(f"--shard is i/n with i from 1 to n, '1/4' for instance, not '{shard}'.")
    units = entries["unit"].to_numpy()
    heads = np.flatnonzero(np.diff(units, prepend=-1))
    of = np.array(
        [_number(record.as_py()) % int(last) for record in entries["record"].take(pa.array(heads))]
    )
    kept = of[np.cumsum(np.diff(units, prepend=-1) != 0) - 1] == int(first) - 1
    return entries.filter(pa.array(kept))


def _number(record: str) -> int:
    return int.from_bytes(hashlib.blake2b(record.encode(), digest_size=8).digest(), "little")


def bounds(entries: pa.Table, each: int) -> list[tuple[int, int]]:
    """Where parts of about `each` entries begin and end; a unit is in one of them."""
    units = entries["unit"].to_numpy()
    heads = np.flatnonzero(np.diff(units, prepend=-1))
    wanted = np.searchsorted(heads, np.arange(0, len(entries), each))
    starts = np.unique(heads[wanted[wanted < len(heads)]]).tolist()
    return list(zip(starts, [*starts[1:], len(entries)], strict=True))


def run(
    job: Job, out: Path, entries: pa.Table, watch: Watch, each: int, quiet: bool = False
) -> list[Path]:
    """Writes the parts that are not there yet, each whole; returns all of them.

    Raises:
      Preempted: after a batch, if the program is told to stop.
      InputError: as `Watch.see`.
    """
    if not (out / MANIFEST).is_file():
        _replace(out / MANIFEST, lambda path: pq.write_table(entries, path))
    parts = []
    with (
        Stopping() as stopping,
        tqdm.tqdm(total=len(entries), unit=" entries", leave=False, disable=quiet or None) as bar,
    ):
        for number, (begin, end) in enumerate(bounds(entries, each)):
            path = out / f"part-{number:05d}.parquet"
            parts.append(path)
            if path.is_file():
                watch.rows += pq.read_metadata(path).num_rows  # which were looked at then
                bar.update(end - begin)
                bar.unpause()
                continue
            tables = _checked(job, entries.slice(begin, end - begin), watch, stopping, bar)
            _replace(path, lambda place, found=tables: _write_part(job, place, found))
            bar.update(end - bar.n)
    return parts


def _checked(
    job: Job, entries: pa.Table, watch: Watch, stopping: Stopping, bar: tqdm.tqdm
) -> Iterator[pa.Table]:
    failed = 0
    for table in job.tables(entries, watch):
        yield table
        failed += len(table) - table["error"].null_count
        bar.set_postfix({"failed": failed, "refused": watch.refused}, refresh=False)
        bar.update(min(len(table), bar.total - bar.n))
        stopping.check()


def _write_part(job: Job, path: Path, tables: Iterator[pa.Table]) -> None:
    """Row groups of one size, however many rows came at once."""
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(path, job.schema) as writer:
        for table in tables:
            waiting.append(table)
            if sum(map(len, waiting)) >= _GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def _replace(path: Path, write: Any) -> None:
    """Writes beside, makes sure it is on the disk, and moves it to its place."""
    with places.replaced(path) as partial:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    _replace(path, lambda place: place.write_text(text, encoding="utf-8"))


def finish(
    job: Job, out: Path, parts: Sequence[Path], watch: Watch, seconds: float, csv_too: bool
) -> dict[str, Any]:
    """Writes the table as CSV, the errors and the summary; returns the latter."""
    if csv_too:
        _replace(out / f"{job.name}.csv", lambda path: _write_csv(path, job.schema, parts))
        about = json.loads(job.schema.metadata[b"retina_jax"])
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        _write_text(out / f"{job.name}.json", text)
    found = _summary(job.schema, parts, out / ERRORS)
    found |= {
        "left_out_of_files": watch.skipped,
        "seconds": round(seconds, 1),
        "rows_per_second": round(watch.rows / seconds, 2) if seconds and watch.rows else None,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    _write_text(out / SUMMARY, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return found


def told(summary: Mapping[str, Any]) -> str:
    """The summary as lines for a terminal."""
    lines = [f"{summary['rows']:,} rows, {summary['failed']:,} failed"]
    lines += [f"  {number:8,} {kind}" for kind, number in list(summary["failures"].items())[:3]]
    states = [f"{number:,} {state}" for state, number in (summary["quality"] or {}).items()]
    odd = summary["out_of_distribution"]
    lines.append(f"quality: {', '.join(states) or 'not judged'}")
    lines.append(f"out of distribution: {'not judged' if odd is None else f'{odd:,}'}")
    means = [*summary.get("mean", {}).items()]
    predicted = [*summary.get("predicted", {}).items()]
    if predicted:
        lines.append("predicted   mean  class")
    rows = [(f"{n:9,}", mean, name) for (name, n), (_, mean) in zip(predicted, means, strict=False)]
    rows = rows or [(" " * 9, mean, name) for name, mean in means]
    lines += [
        f"{n}  {'-' if m is None else format(m, '.3f'):>5}  {name}" for n, m, name in rows[:20]
    ]
    if len(rows) > 20:
        lines.append(f"and {len(rows) - 20} more in {SUMMARY}")
    for word, number in summary.get("call", {}).items():
        lines.append(f"{number:9,} {word}")
    return "\n".join(lines)


def _summary(schema: pa.Schema, parts: Sequence[Path], errors: Path) -> dict[str, Any]:
    """Counts over all parts; what could not be read goes to `errors`."""
    names = [name for name in schema.names if name != "embedding"]
    numbers = [
        name for name in names if name.startswith(("p_", "value_")) and name != "p_predicted"
    ]
    counts = {name: collections.Counter() for name in ("quality", "predicted", "call", "error")}
    total, answered = np.zeros(len(numbers)), np.zeros(len(numbers), int)
    rows = odd = looked_at = 0
    with errors.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("record", "stage", "error"))
        for part in parts:
            table = pq.read_table(part, columns=names)
            rows += len(table)
            odd += pc.sum(table["ood"]).as_py() or 0
            looked_at += len(table) - table["ood"].null_count
            for name, counter in counts.items():
                if name in names:
                    for pair in pc.value_counts(table[name].drop_null()).to_pylist():
                        # Sentences that differ in numbers only are of one kind.
                        kind = re.sub(r"\d[\d,.]*", "#", pair["values"])
                        counter[kind if name == "error" else pair["values"]] += pair["counts"]
            for i, name in enumerate(numbers):
                total[i] += pc.sum(table[name]).as_py() or 0.0
                answered[i] += len(table) - table[name].null_count
            broken = table.filter(pc.is_valid(table["error"]))
            for record, error in zip(*(broken[n].to_pylist() for n in ("record", "error")),
                                     strict=True):  # fmt: skip
                stage = "model" if error == NO_NUMBER else "read"
                writer.writerow((_safe(record), stage, _safe(error)))
    failed = sum(counts["error"].values())
    found: dict[str, Any] = {"rows": rows, "failed": failed,
             "failures": dict(counts["error"].most_common(20)),
             "quality": {state: counts["quality"][state] for state in quality.STATES}
             if counts["quality"] else None,
             "out_of_distribution": odd if looked_at else None}  # fmt: skip
    if numbers:
        found["answered"] = int(answered.max())
        found["mean"] = {
            name: total[i] / answered[i] if answered[i] else None for i, name in enumerate(numbers)
        }
        if numbers[0].startswith("p_"):  # of a quantity none is
            classes = json.loads(schema.metadata[b"retina_jax"])["classes"]
            found["predicted"] = _of_each(classes, counts["predicted"])
        found["call"] = dict(counts["call"])
    return found


def _of_each(classes: Sequence[str], predicted: Mapping[str, int]) -> dict[str, int]:
    """How often each class is predicted, by itself or joined with those of other parts."""
    found = dict.fromkeys(classes, 0)
    for answer, count in predicted.items():
        for name in [answer] if answer in found else filter(None, answer.split("|")):
            found[name] += count
    return found


def _write_csv(path: Path, schema: pa.Schema, parts: Sequence[Path]) -> None:
    """RFC 4180, UTF-8, numbers of six digits, texts that no spreadsheet takes for formulas."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(schema.names)
        for part in parts:
            with pq.ParquetFile(part) as stored:
                for batch in stored.iter_batches(4096):
                    columns = [[_cell(v) for v in column.to_pylist()] for column in batch.columns]
                    writer.writerows(zip(*columns, strict=True))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    return _safe(str(value))


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text

"""What a run writes for people and programs: metrics.jsonl, TensorBoard, results.json, records."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import queue
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import places
from retina_jax.scoring import examples, predictions, records, summary, thumbnails
from retina_jax.types import Card, Results


class Writer:
    """Appends metrics to `metrics.jsonl` and TensorBoard; does nothing where `active` is false."""

    def __init__(self, workdir: Path, start: int = 0, active: bool = True):
        """Opens the files of a run that goes on after step `start`.

        Args:
          workdir: the run's directory.
          start: lines of later steps are dropped: an interrupted run writes them again.
          active: false on all processes but the first.
        """
        self._active = active
        if not active:
            return
        from tensorboardX import SummaryWriter  # imports PyTorch where that is installed

        self._path = Path(workdir) / "metrics.jsonl"
        self._drop_after(start)
        self._file = self._path.open("ab", buffering=0)
        self._summary = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=start + 1)

    def _drop_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # the half-written last line of a killed process
        places.write_whole(self._path, "".join(kept))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of scalars at `step`; a value that is not finite becomes null."""
        if not self._active:
            return
        scalars = {name: float(value) for name, value in values.items()}
        finite = {k: v if math.isfinite(v) else None for k, v in scalars.items()}
        self._append(json.dumps({"step": step, "time": time.time(), **finite}) + "\n")
        if self._tensorboard():
            for name, value in scalars.items():
                self._summary.add_scalar(name, value, step)

    def _append(self, line: str) -> None:
        """Writes a line whole or, on a full disk, not at all."""
        data, end = line.encode("utf-8"), self._file.seek(0, io.SEEK_END)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(end)
            raise

    def _tensorboard(self) -> bool:
        """Whether its thread still writes: a full disk ends it, and what it is given waits then."""
        writer: Any = self._summary.file_writer
        return writer.event_writer._worker.is_alive()

    def close(self) -> None:
        """Flushes and closes the files; that TensorBoard's is not whole is no loss."""
        if not self._active:
            return
        self._file.close()
        file_writer: Any = self._summary.file_writer
        events = file_writer.event_writer
        try:
            if self._tensorboard():
                self._summary.close()
        except OSError:
            with contextlib.suppress(queue.Full):
                events._event_queue.put_nowait(events._worker._shutdown_signal)
            events._worker.join(10)
        events._closed = True  # else it is tried again as the program ends


def _data_uri(image: np.ndarray | None) -> str | None:
    if image is None:
        return None
    return "data:image/jpeg;base64," + base64.b64encode(thumbnails.encoded(image)).decode("ascii")


def _card(card: Card) -> dict[str, Any]:
    described: dict[str, Any] = {"image": _data_uri(card.image), "text": card.text}
    if card.score is not None:
        described |= {"score": round(float(card.score), 4), "correct": bool(card.correct)}
    return described


def write_results(
    workdir: Path,
    name: str,
    step: int,
    results: Mapping[str, Results],
    overlaps: Mapping[str, str] | None = None,
    of: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    prepared: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Writes `results.json`, which the report page is made from; returns its rows of scores.

    What classifiers said of each record goes to `records/EVALUATOR.parquet` beside it, and small
    pictures of the records that a page may show to `records/pictures`.

    Args:
      workdir: the run's directory.
      name: the experiment.
      step: the step of the parameters that were evaluated.
      results: evaluator name -> what it returned.
      overlaps: evaluator name -> what of its test records was trained on.
      of: what they belong to (`run_directory.identity`).
      provenance: how they came about (`provenance.of`).
      prepared: address of a data set of the evaluators -> how its pictures were prepared, or None.
    """
    scores = score_rows(results)
    gallery = [
        {
            "evaluator": evaluator,
            "query": _card(query),
            "answers": [_card(answer) for answer in answers],
        }
        for evaluator, result in results.items()
        for query, answers in result.gallery
    ]
    found = {
        "schema": "retina_jax.results/2",
        "name": name,
        "step": step,
        "of": of,
        "overlaps": dict(overlaps or {}),
        "provenance": dict(provenance or {}),
        "evaluations": _write_records(workdir, results, dict(provenance or {}), prepared or {}),
        "scores": scores,
    }
    path = Path(workdir) / "results.json"
    _keep_verdicts(path, found)
    places.write_whole(path, json.dumps({**found, "gallery": gallery}, indent=1))
    return scores


def _keep_verdicts(path: Path, found: Mapping[str, Any]) -> None:
    """Leaves what a study of maps said of these weights where they are evaluated again."""
    with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
        before = json.loads(path.read_text(encoding="utf-8"))
        weights = before["provenance"]["model"]["weights_hash"]
        if weights is None or found["provenance"]["model"]["weights_hash"] != weights:
            return
        for name, entry in before["evaluations"].items():
            if summary.SALIENCY in entry and name in found["evaluations"]:
                found["evaluations"][name][summary.SALIENCY] = entry[summary.SALIENCY]


def score_rows(results: Mapping[str, Results]) -> list[dict[str, Any]]:
    """Evaluator name -> what it returned, as the rows that `results.json` has of its scores."""
    return [
        records.score_row(evaluator, metric, score)
        for evaluator, result in results.items()
        for metric, score in result.scores.items()
    ]


def _write_records(
    workdir: Path,
    results: Mapping[str, Results],
    how: Mapping[str, Any],
    prepared: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the records of evaluators that classify; name -> what is said of them."""
    made: dict[str, Any] = {}
    pictures: set[str] = set()
    for name, result in results.items():
        if result.predictions is not None:
            sources, found = result.predictions.source or (), result.predictions.hashed()
            found = found.told(preparation=prepared.get(found.about.get("data")))
            file = f"{records.FOLDER}/{name}.parquet"
            entry = summary.evaluation(found)
            # Another model, the start of a run for instance, is not the one that has this hash.
            own = None if found.about.get("of") else how.get("model", {}).get("model_hash")
            records.write(Path(workdir) / file, found, entry, own)
            pictures |= examples.write_pictures(workdir, found, sources, entry)
            made[name] = {**entry, "records_file": file, "seconds": result.seconds}
        elif result.tested is not None:
            data = predictions.hashes_of(result.tested)
            made[name] = {"data": {**data, "preparation": prepared.get(data["name"])},
                          "size": predictions.sizes_of(result.tested),
                          "seconds": result.seconds}  # fmt: skip
    examples.keep_only(workdir, pictures)
    return made

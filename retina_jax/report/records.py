"""Reads what a run left in its work directory: config.json, metrics.jsonl and results.json.

A run may have been interrupted at any moment, so every file may be missing and the last line of
metrics.jsonl may be half a line. What cannot be read is left out and becomes a notice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError
from retina_jax import record
from retina_jax.convert import folder_config
from retina_jax.report import gallery
from retina_jax.types import Score

FILES = ("config.json", "metrics.jsonl", "results.json")
_OF_TRAINING = FILES[:2]

# A gap this much longer than the usual interval between two log lines is a pause: the run was
# stopped and started again. An evaluation may take as long as it likes.
_PAUSE_FACTOR = 20.0
_PAUSE_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class ScoreRow:
    """One line of a results table."""

    evaluator: str
    metric: str
    score: Score


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """What one stage of a run left.

    Attributes:
      name: the sub-directory, '' for a run without stages.
      title: the name in results.json, '' where there is none.
      config: its settings (see `record.flat`), {} where the file is missing.
      rows: what was logged, one mapping a step, by increasing step; of a metric that was logged
        twice at a step the last value counts.
      entries: the scores of results.json.
      gallery: its retrieval examples.
      step: the last step known, None where nothing was logged.
      seconds: wall time between the first and the last log line, without pauses.
      notices: sentences about what is missing or was left out.
      evaluations: what results.json says of each evaluation beside its scores.
      overlaps: names of evaluations that were scored on training data.
      provenance: how its results came about, {} in older files.
      beside: rows of 'comparisons' (models of a bench) and 'reproduction' (a published table).
      folder: where the files are.
    """

    name: str
    title: str
    config: Mapping[str, Any]
    rows: tuple[Mapping[str, float], ...]
    entries: tuple[ScoreRow, ...]
    gallery: tuple[gallery.Example, ...]
    step: int | None
    seconds: float
    notices: tuple[str, ...]
    evaluations: Mapping[str, Any]
    overlaps: tuple[str, ...]
    provenance: Mapping[str, Any]
    beside: Mapping[str, Sequence[Mapping[str, Any]]]
    folder: Path

    @property
    def model(self) -> Mapping[str, Any]:
        """What `provenance` says of the model."""
        found = self.provenance.get("model")
        return found if isinstance(found, Mapping) else {}

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and finite values of the metric `key`, both of the same length."""
        pairs = [(row["step"], row[key]) for row in self.rows if key in row]
        finite = [pair for pair in pairs if math.isfinite(pair[1])]
        return [pair[0] for pair in finite], [pair[1] for pair in finite]

    def keys(self, prefix: str) -> list[str]:
        """Sorted names of the metrics that start with `prefix`."""
        return sorted({key for row in self.rows for key in row if key.startswith(prefix)})


@dataclasses.dataclass(frozen=True)
class Run:
    """A work directory: its stages in the order in which they ran (at least one)."""

    name: str
    path: Path
    stages: tuple[StageRecord, ...]


def load(workdir: Path) -> Run:
    """Reads a work directory.

    Args:
      workdir: a directory with the files of a run, or with one such sub-directory per stage.

    Returns:
      The run; a directory above stages counts as a stage itself only if it has metrics or results.

    Raises:
      InputError: if neither the directory nor a sub-directory holds any of the files, or it is
        the folder of a model.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise InputError(f"There is no work directory {workdir}: name one that a run has written.")
    # An evaluation of the run keeps its results.json in a folder of its own: that is no stage.
    below = sorted(
        path
        for path in workdir.iterdir()
        if path.is_dir() and _holds(path, _OF_TRAINING) and not _of_a_model(path / FILES[0])
    )
    stages = [_stage(path, path.name) for path in below]
    stages.sort(key=_beginning)
    if _holds(workdir, FILES[1:]) or (not stages and _holds(workdir, FILES)):
        stages.append(_stage(workdir, ""))
        if _of_a_model(workdir / FILES[0]):
            raise InputError(
                f"{workdir} is the folder of a model and holds no results: name the --workdir of "
                "the run that it was converted from."
            )
    if not stages:
        raise InputError(
            f"{workdir} holds no {', '.join(FILES)}, nor does a folder in it: "
            "name the --workdir of a run."
        )
    titles = [stage.title for stage in stages if stage.title not in ("", stage.name)]
    return Run((titles or [workdir.resolve().name])[0], workdir, tuple(stages))


def _of_a_model(path: Path) -> bool:
    """Whether a config.json is that of a model's folder, not of a run."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return json.loads(path.read_text(encoding="utf-8")).get("format") == folder_config.FORMAT
    return False


def scores(workdir: Path) -> list[dict[str, Any]]:
    """The scores of a run's results.json, of all its stages in their order.

    Args:
      workdir: the same as for `load`.

    Returns:
      Objects with stage ('' for a run without stages), evaluator, metric, and the attributes of a
      `Score`.

    Raises:
      InputError: if no run has written there.
    """
    return [
        {
            "stage": stage.name,
            "evaluator": entry.evaluator,
            "metric": entry.metric,
            **dataclasses.asdict(entry.score),
        }
        for stage in load(workdir).stages
        for entry in stage.entries
    ]


def entries(raw: Sequence[Mapping[str, Any]]) -> tuple[list[ScoreRow], int]:
    """Checks the list 'scores' of a results.json.

    Args:
      raw: objects with evaluator, metric, value and optionally low, high, chance, count and
        deviation.

    Returns:
      The readable entries, and how many were left out.
    """
    found = []
    for score in raw:
        try:
            numbers: dict[str, Any] = {
                key: gallery.number(score.get(key))
                for key in ("low", "high", "chance", "deviation")
            }
            whole = ("count", "groups", "positives", "resamples", "undefined_resamples")
            counts: dict[str, Any] = {
                k: None if score.get(k) is None else int(score[k]) for k in whole
            }
            told: dict[str, Any] = {
                k: None if score.get(k) is None else str(score[k]) for k in ("method", "reason")
            }
            tags = tuple(str(tag) for tag in score.get("tags") or ())
            value = math.nan if score["value"] is None else float(score["value"])
            found.append(
                ScoreRow(
                    str(score["evaluator"]),
                    str(score["metric"]),
                    Score(value=value, **counts, **numbers, **told, tags=tags),
                )
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            continue
    return found, len(raw) - len(found)


def _beginning(stage: StageRecord) -> float:
    return min((row["time"] for row in stage.rows if "time" in row), default=math.inf)


def _holds(path: Path, names: Sequence[str]) -> bool:
    return any((path / name).is_file() for name in names)


def _stage(path: Path, name: str) -> StageRecord:
    where = f"{name}/" if name else ""
    missing = [file for file in FILES if not (path / file).is_file()]
    # Results alone are what an evaluation leaves: there is nothing to wait for.
    expected = [file for file in missing if _holds(path, _OF_TRAINING)]
    notices = [f"{where}{file} is not there yet." for file in expected]
    config = record.flat(_read_object(path / "config.json", notices, where))
    rows = _read_rows(path / "metrics.jsonl", notices, where)
    results = _read_object(path / "results.json", notices, where)
    found, bad = entries(_list(results.get("scores")))
    if bad:
        notices.append(f"{where}results.json: {bad} of the scores could not be read.")
    overlaps = results.get("overlaps")
    for scored, found_of in overlaps.items() if isinstance(overlaps, dict) else ():
        notices.append(f"{where}'{scored}' was scored on training data, as allowed: {found_of}.")
    evaluations = _mapping(results.get("evaluations"))
    examples = gallery.read(_list(results.get("gallery")), notices, where)
    steps = [row["step"] for row in rows] + [_number_or(results.get("step"), -1)]
    last = int(max(steps))
    title = results["name"] if isinstance(results.get("name"), str) else ""
    merged: dict[float, dict[str, float]] = {}
    for row in rows:  # an evaluation is logged on a line of its own
        merged.setdefault(row["step"], {}).update(row)
    return StageRecord(
        name=name,
        title=title,
        config=config,
        rows=tuple(merged[step] for step in sorted(merged)),
        entries=tuple(found),
        gallery=tuple(examples),
        step=last if last >= 0 else None,
        seconds=_active_seconds(rows, notices, where),
        notices=tuple(notices),
        evaluations={k: v for k, v in evaluations.items() if isinstance(v, dict)},
        overlaps=tuple(overlaps) if isinstance(overlaps, dict) else (),
        provenance=_mapping(results.get("provenance")),
        beside={
            name: [row for row in _list(results.get(name)) if isinstance(row, dict)]
            for name in ("comparisons", "reproduction")
        },
        folder=path,
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number_or(value: Any, default: float) -> float:
    usable = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if usable else default


def _read_object(path: Path, notices: list[str], where: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError):
        notices.append(f"{where}{path.name} is not readable JSON and was left out.")
        return {}
    if not isinstance(value, dict):
        notices.append(f"{where}{path.name} is not a JSON object and was left out.")
        return {}
    return value


def _read_rows(path: Path, notices: list[str], where: str) -> list[dict[str, float]]:
    """The readable lines in the order of the file; keys whose value is no number are dropped."""
    if not path.is_file():
        return []
    rows, broken, infinite = [], 0, 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            row = {
                key: math.nan if value is None else float(value)
                for key, value in raw.items()
                if value is None or isinstance(value, int | float)
            }
        except (ValueError, AttributeError, OverflowError, RecursionError):
            broken += 1
            continue
        if not math.isfinite(row.get("step", math.nan)):
            broken += 1
            continue
        infinite += sum(not math.isfinite(value) for value in row.values())
        rows.append(row)
    if broken:
        notices.append(
            f"{where}{path.name}: {broken} unreadable "
            f"{'line was' if broken == 1 else 'lines were'} left out."
        )
    if infinite:
        notices.append(
            f"{where}{path.name}: {infinite} logged "
            f"{'value is' if infinite == 1 else 'values are'} not finite "
            "and missing in the curves."
        )
    return rows


def _active_seconds(rows: Sequence[Mapping[str, float]], notices: list[str], where: str) -> float:
    timed = [row for row in rows if math.isfinite(row.get("time", math.nan))]
    gaps = [
        (max(0.0, row["time"] - before["time"]), any(key.startswith("eval/") for key in row))
        for before, row in zip(timed, timed[1:], strict=False)
    ]
    if not gaps:
        return 0.0
    longest = max(_PAUSE_SECONDS, _PAUSE_FACTOR * statistics.median(gap for gap, _ in gaps))
    working = [gap for gap, evaluated in gaps if gap <= longest or evaluated]
    pauses = len(gaps) - len(working)
    if pauses:
        notices.append(
            f"{where}metrics.jsonl: the run was interrupted {pauses} "
            f"{'time' if pauses == 1 else 'times'}; "
            "the wall time leaves the pauses out."
        )
    return sum(working)

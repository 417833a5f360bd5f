"""Reads entries in threads, judges and prepares their pictures, and fills batches of one size."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipelines import quality
from data_pipelines.cases.listing import FACTS
from data_pipelines.cases.reading import Frame, Opener
from data_pipelines.errors import InputError
from data_pipelines.images.single import Preprocessing
from data_pipelines.records import storage
from data_pipelines.transforms.volumes import Volume
from retina_jax.types import Batch

QUALITIES = ("flag", "skip", "off")
_FIRST, _MOST_REFUSED = 200, 0.5


@dataclasses.dataclass
class Row:
    """What is known of a picture before a model has seen it.

    Attributes:
      record, sha256: its id, and the hash of its bytes.
      facts: `listing.FACTS` -> text, '' where it is not known.
      quality: the state, '' where it was not judged.
      reasons: the codes of its reasons.
      error: why it could not be read, '' where it could.
      arrays: its part of a batch, {key: array[1 ...]}; None where the model is not asked.
      images: pictures it is made of.
      kept: columns of the table of inputs that are passed through.
      unit: the number of what it is merged into, on the level of eyes or patients.
    """

    record: str
    sha256: str = ""
    facts: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict.fromkeys(FACTS, ""))
    quality: str = ""
    reasons: tuple[str, ...] = ()
    error: str = ""
    arrays: Mapping[str, np.ndarray] | None = None
    images: int = 1
    kept: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unit: int = -1


@dataclasses.dataclass(frozen=True)
class Preparer:
    """Makes rows of entries; safe to use in several threads.

    Attributes:
      preprocessing: what makes the model's input.
      key: the input of the model that is filled.
      opener: reads entries.
      quality: 'flag' keeps what is ungradable from the model, 'skip' what is to be checked too,
        'off' judges nothing.
      limits: the usual figures of training pictures, or None.
      force: ask the model about everything in which anything is.
      both_eyes: entries of a unit are the eyes of a patient, in one row.
      one_eye: whether a patient of one photograph may be asked about.
    """

    preprocessing: Preprocessing
    key: str
    opener: Opener
    quality: str = "flag"
    limits: Mapping[str, Sequence[float]] | None = None
    force: bool = False
    both_eyes: bool = False
    one_eye: bool = False

    def rows(self, unit: Sequence[Mapping[str, Any]]) -> tuple[list[Row], int]:
        """The rows of a unit of entries, and the frames of files that were left out.

        A file that cannot be read is a row with the error.
        """
        if self.both_eyes and unit[0]["number"] < 0:
            return [self._patient(unit)], 0
        found: list[Row] = []
        skipped = 0
        for entry in unit:
            try:
                frames, more = self.opener.frames(entry)
            except InputError as error:
                facts = {name: entry[name] or "" for name in FACTS}
                found.append(
                    Row(entry["record"], "", facts, error=_one_line(error), **_kept(entry))
                )
                continue
            found += [self._row(frame, entry) for frame in frames]
            skipped += more
        return found, skipped

    def _row(self, frame: Frame, entry: Mapping[str, Any]) -> Row:
        row = Row(frame.record, frame.sha256, frame.facts, **_kept(entry))
        try:
            if isinstance(frame.pictures, tuple):  # both eyes, of a built data set
                row.images = sum(one is not None for one in frame.pictures)
                self._check_eyes(row.images)
            self._judge(row, [frame])
            if self._asked(row):
                row.arrays = self._arrays(frame.pictures, frame)
        except InputError as error:
            return Row(frame.record, "", frame.facts, error=_one_line(error), kept=row.kept,
                       unit=row.unit)  # fmt: skip
        return row

    def _patient(self, unit: Sequence[Mapping[str, Any]]) -> Row:
        """Both eyes of a patient as one row, whose id is the patient's."""
        row = Row(unit[0]["patient"] or unit[0]["record"], **_kept(unit[0]))
        try:
            frames = [frame for entry in unit for frame in self.opener.frames(entry)[0]]
            sides: dict[str, Frame] = {}
            for frame in frames:
                side = frame.facts["eye"]
                if side not in ("OD", "OS") or side in sides:
                    what = f"two pictures of {side}" if side in sides else "a picture of no side"
                    raise InputError(f"The patient has {what}: the model sees one of each eye.")
                sides[side] = frame
            self._check_eyes(len(sides))
            row.images = len(sides)
            row.sha256 = ",".join(sorted(frame.sha256 for frame in frames))
            row.facts = {**frames[0].facts, "eye": ""}
            self._judge(row, frames)
            if self._asked(row):
                both = tuple(sides[s].pictures if s in sides else None for s in ("OS", "OD"))
                row.arrays = self._arrays(both, dataclasses.replace(frames[0], facts=row.facts))
        except InputError as error:
            return Row(row.record, error=_one_line(error), kept=row.kept, unit=row.unit)
        return row

    def _check_eyes(self, count: int) -> None:
        if count < 2 and not self.one_eye:
            raise InputError(
                "The model sees both eyes of a patient, and there is one: --missing_eye=allowed "
                "asks it about that."
            )

    def _judge(self, row: Row, frames: Sequence[Frame]) -> None:
        """Sets the worst state of the frames, with all reasons."""
        if self.quality == "off":
            return
        found = [self._judged(frame) for frame in frames]
        row.quality = max((one.state for one in found), key=quality.STATES.index)
        row.reasons = tuple(dict.fromkeys(code for one in found for code in one.reasons))

    def _asked(self, row: Row) -> bool:
        """Whether a model is asked about a row; of a picture with nothing in it never."""
        if quality.BLANK in row.reasons:
            return False
        refused = {"flag": (quality.UNGRADABLE,), "skip": (quality.UNGRADABLE, quality.CHECK)}
        return self.force or row.quality not in refused.get(self.quality, ())

    def _judged(self, frame: Frame) -> quality.Quality:
        """By the rules as it came; by the limits of training pictures as these were stored."""
        kind = frame.facts["modality"] or self.opener.modality
        found = _by_rules(frame, kind)
        if not self.limits or quality.BLANK in found.reasons:
            return found
        figures = found.figures
        if self._prepares(frame):
            figures = quality.of_bytes(self.preprocessing.prepared(frame.shown, kind), kind).figures
        unusual = tuple(quality.unusual(figures, self.limits))
        state = quality.CHECK if unusual and found.state == quality.OK else found.state
        return quality.Quality(state, (*found.reasons, *unusual), figures)

    def _prepares(self, frame: Frame) -> bool:
        """Whether the model's input is made of another picture than that which came."""
        known = self.preprocessing.preparation is not None and frame.prepared is None
        return known and not isinstance(self.opener.reader, Volume)

    def _arrays(self, pictures: Any, frame: Frame) -> Batch:
        ways = self.preprocessing if frame.prepared is None else self.preprocessing.of_stored()
        modality = frame.facts["modality"] or self.opener.modality
        return ways({self.key: pictures}, eye=frame.facts["eye"], modality=modality)


def _kept(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in entry.items() if name.startswith("in_")}
    return {"kept": kept, "unit": entry.get("unit", -1)}


def _by_rules(frame: Frame, kind: str) -> quality.Quality:
    if isinstance(frame.shown, bytes):
        return quality.of_bytes(frame.shown, kind, prepared=frame.prepared)
    image = frame.shown if frame.shown.ndim == 3 else np.dstack([frame.shown] * 3)
    return quality.judge(image, kind)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def read(
    preparer: Preparer, units: Iterator[Sequence[Mapping[str, Any]]], threads: int | None = None
) -> Iterator[tuple[list[Row], int]]:
    """What `preparer.rows` makes of each unit, in order; a few are read ahead in threads."""
    number = threads or storage.cores()
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    executor = concurrent.futures.ThreadPoolExecutor(number)
    try:
        for unit in units:
            waiting.append(executor.submit(preparer.rows, unit))
            if len(waiting) > 2 * number:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


@dataclasses.dataclass
class Watch:
    """Counts rows as they come, and refuses to go on where most of the first are not for the model.

    Attributes:
      force: refuse nothing.
      rows, ungradable, unlike, skipped: rows; those of them that are ungradable; others that are
        out of distribution; frames of files that were left out.
    """

    force: bool = False
    rows: int = 0
    ungradable: int = 0
    unlike: int = 0
    skipped: int = 0

    @property
    def refused(self) -> int:
        """Rows that the model is not to be trusted about."""
        return self.ungradable + self.unlike

    def see(self, ungradable: Sequence[bool], unlike: Sequence[bool]) -> None:
        """Counts rows, of which one may be both.

        Raises:
          InputError: if more than half of the first 200 are ungradable or out of distribution.
        """
        before = self.rows
        self.rows += len(ungradable)
        self.ungradable += sum(ungradable)
        self.unlike += sum(odd and not bad for bad, odd in zip(ungradable, unlike, strict=True))
        most = before < _FIRST <= self.rows and self.refused > _MOST_REFUSED * self.rows
        if most and not self.force:
            raise InputError(
                f"Of the first {self.rows} pictures {self.ungradable} are ungradable and "
                f"{self.unlike} others unlike those the model was trained on: it may be of another "
                "kind of picture or camera; --force asks it all the same, and says why of each."
            )


def batches(
    found: Iterator[tuple[list[Row], int]], size: int, watch: Watch
) -> Iterator[tuple[list[Row], Batch | None]]:
    """Rows in order, with the batch of those of them that a model is asked about.

    Each batch has `size` rows, the last ones of the last batch repeat its first; None where no row
    of the group is to be asked about. Rows of another shape than the first have an error.
    """
    group: list[Row] = []
    asked: list[Mapping[str, np.ndarray]] = []
    shapes: dict[str, tuple[int, ...]] | None = None
    for rows, skipped in found:
        watch.skipped += skipped
        for row in rows:
            if row.arrays is not None:
                own = {key: array.shape for key, array in row.arrays.items()}
                shapes = shapes or own
                if own != shapes:
                    row.error, row.arrays = f"Its arrays are {own}, others are {shapes}.", None
                else:
                    asked.append(row.arrays)
            group.append(row)
            if len(asked) == size or len(group) == 4 * size:
                yield group, _stacked(asked, size)
                group, asked = [], []
    if group:
        yield group, _stacked(asked, size)


def _stacked(asked: Sequence[Mapping[str, np.ndarray]], size: int) -> Batch | None:
    if not asked:
        return None
    filled = [*asked, *[asked[0]] * (size - len(asked))]
    return {key: np.concatenate([one[key] for one in filled]) for key in asked[0]}


def units(entries: pa.Table, grouped: bool) -> Iterator[list[dict[str, Any]]]:
    """The entries one by one, or where they are `grouped` those of equal `unit` together."""
    waiting: list[dict[str, Any]] = []
    for part in entries.to_batches(max_chunksize=256):
        for entry in part.to_pylist():
            if waiting and not (grouped and entry["unit"] == waiting[0]["unit"]):
                yield waiting
                waiting = []
            waiting.append(entry)
    if waiting:
        yield waiting


Asked = Callable[[Batch], tuple[np.ndarray, np.ndarray | None]]

"""What all builders of a user's files share; a corpus adds how its rows are listed."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import places
from data_pipelines.builders import (
    account,
    entries,
    fingerprints,
    labels,
    lookup,
    shapes,
    staging,
    tree,
)
from data_pipelines.builders.compact import Chosen
from data_pipelines.builders.entries import Entry, Listing, Skipped
from data_pipelines.builders.fingerprints import Fingerprints
from data_pipelines.builders.shapes import Shape
from data_pipelines.builders.staging import RecordStatus
from data_pipelines.errors import InputError
from data_pipelines.images import preparation
from data_pipelines.records import splits, storage
from data_pipelines.text.texts import named_eye, shown

REPORT, SKIPPED = "build.json", "skipped.csv"


@dataclasses.dataclass(eq=False, kw_only=True)
class CorpusConfig(tfds.core.BuilderConfig):
    """What to build.

    Attributes:
        source: folder of the corpus; nothing outside it is read.
        preparation: the preparation of photographs, before they are stored; None keeps their bytes.
        unit: what a record is, one of the corpus's `SHAPES`; None is the first of them.
        follow_links: read what lies behind links out of `source`, too.
    """

    source: str
    preparation: preparation.Preparation | None = None
    unit: str | None = None
    follow_links: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise InputError(f"A data set's name is letters, digits, _ . -; got '{self.name}'.")
        if not pathlib.Path(self.source).is_dir():
            raise InputError(f"The source folder {self.source} does not exist.")

    @property
    def root(self) -> pathlib.Path:
        """The source folder."""
        return pathlib.Path(self.source)


@dataclasses.dataclass(eq=False, kw_only=True)
class TableConfig(CorpusConfig):
    """What to build of tables that people have made.

    Attributes:
        columns: {field: column} where the usual names do not fit, e.g. {'caption': 'keywords'};
            labels may be several columns, 'normal,dr,amd'.
        label_separator: between labels of one cell; '' splits at ';' and '|'.
        label_names: names of the classes that labels are codes of: '0:normal,1:mild', or the name
            of a scale, 'icdr5'.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_separator: str = ""
    label_names: str = ""

    @property
    def label_options(self) -> labels.LabelOptions:
        """How cells of labels are read."""
        return labels.LabelOptions(self.label_separator, labels.class_names(self.label_names))


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """Which record goes where, decided before any is written.

    Attributes:
        rows: {split: what is known of its records}.
        facts: what became of each entry of the listing, in its order.
        skipped: rows that cannot be used, by line.
        remarks: sentences for the user.
    """

    rows: Mapping[str, Sequence[RecordStatus]]
    facts: staging.Statuses
    skipped: tuple[Skipped, ...]
    remarks: tuple[str, ...]

    @property
    def kept(self) -> int:
        """Number of usable rows."""
        return sum(len(rows) for rows in self.rows.values())


class Corpus(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of a corpus in a folder of the user's; one record is one row of its listing.

    Broken rows are left out, counted, and listed by `finish`. Splits are those that the corpus
    names if it names two or more, else 70 / 10 / 20 % by patient.

    A corpus overrides `listing` and, where its records are no single photographs, `SHAPES`.

    Attributes:
        SHAPES: what its records can be, and how they look; the first one is the default. Of single
            pictures whose rows name patient and eye, those of a patient are joined.
        SPLIT: the one split of a corpus that is not divided, or None.
        KEEPS_ONE: whether a split is kept that all of its rows name.
    """

    embedded = False
    # Nothing is downloaded, so there is no file of checksums to look for.
    url_infos = None
    VERSION = tfds.core.Version("1.1.0")
    config_class = CorpusConfig
    SHAPES: ClassVar[Mapping[str, Shape]] = {"image": shapes.PICTURE, "patient": shapes.PATIENT}
    SPLIT: ClassVar[str | None] = None
    KEEPS_ONE: ClassVar[bool] = False

    def __init__(
        self,
        *,
        config: CorpusConfig,
        data_dir: str | None = None,
        listed: Corpus | None = None,
        stage: str | None = None,
        processes: int | None = None,
        beam: Any | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the builder.

        Args:
            config: what to build.
            data_dir: where the data set is to lie.
            listed: a builder of the same config, whose rows and fingerprints are known.
            stage: folder that keeps the records of a build that is interrupted; None for a
                temporary one.
            processes: how many read the pictures; None is one for each core. It does not change
                the result.
            beam: options of the Apache Beam pipeline that reads the pictures and writes the records
                instead, see `beams`.
            **kwargs: arguments of TFDS.
        """
        self.config, self._stage_folder = config, stage
        self._unit = config.unit or next(iter(self.SHAPES))
        if self._unit not in self.SHAPES:
            raise InputError(
                f"unit of {type(self).name} is {' or '.join(self.SHAPES)}, not '{self._unit}'."
            )
        if listed is not None:
            self.rows, self.fingerprints = listed.rows, listed.fingerprints
        self._processes = processes or storage.cores()
        self._beam = beam
        kwargs.setdefault("file_format", "array_record")
        super().__init__(config=config, data_dir=data_dir, **kwargs)

    def listing(self, config: CorpusConfig) -> Listing:
        """Returns an entry for every row of the corpus, without opening a picture.

        The field `eye` is as the corpus writes it; `rows` names eyes alike.

        Raises:
            InputError: the folder or its table are not those of this corpus.
        """
        raise TypeError(f"{type(self).__name__} lists no rows")

    @functools.cached_property
    def rows(self) -> Listing:
        """The rows of the corpus."""
        config = self.config
        found = self.listing(config)
        eyes = NamedEyes()
        located = lookup.located(found, config.root, config.follow_links)
        found = entries.checked(found, [entries.writable, eyes, located])
        found = dataclasses.replace(found, remarks=(*found.remarks, *eyes.remarks()))
        left = tree.ignored(config.root)
        if left:
            names = ", ".join(f"{number} {name}" for name, number in sorted(left.items())[:5])
            told = f"{left.total()} files that are hidden or left by systems are ignored: {names}"
            told += ", ..." if len(left) > 5 else ""
            found = dataclasses.replace(found, remarks=(*found.remarks, shown(told)))
        if self._unit == "patient" and "image" in self.SHAPES:
            found = shapes.by_patient(found)
        if not found.entries:
            raise _nothing_usable(config, found.skipped)
        return found

    @functools.cached_property
    def recipe(self) -> staging.StagingOptions:
        """How a row becomes a record."""
        config = self.config
        shape = self.SHAPES[self._unit]
        return staging.StagingOptions(
            source=config.source,
            pictures=dict(shape.pictures),
            texts=(*shape.texts, *self.rows.extra),
            lists=shape.lists,
            preparation=config.preparation,
            slices=getattr(config, "slices", None),
            follow_links=config.follow_links,
        )

    @functools.cached_property
    def fingerprints(self) -> Fingerprints:
        """What tells this corpus from another, as it was before anything was read."""
        return fingerprints.fingerprints(self.rows, self.recipe)

    @functools.cached_property
    def plan(self) -> SplitPlan:
        """Reads every row once; raises `InputError` if none is usable."""
        folder = pathlib.Path(self._stage_folder or tempfile.mkdtemp(prefix="stage-"))
        self._stage = staging.Stage(self.rows, self.recipe, folder, self._beam)
        facts = self._stage.fill(self._processes)
        usable = Chosen(facts, np.flatnonzero(facts.kept))
        left = Chosen(facts, np.flatnonzero(~facts.kept))
        skipped = [*self.rows.skipped, *staging.skipped_of(left)]
        if self.SPLIT is None:
            parts, remarks = splits.divide(usable, self.KEEPS_ONE)
        else:
            parts, remarks = {self.SPLIT: usable}, []
        plan = SplitPlan(
            parts,
            facts,
            tuple(sorted(skipped, key=lambda row: row.number)),
            (*self.rows.remarks, *remarks),
        )
        if not plan.kept:
            raise _nothing_usable(self.config, plan.skipped)
        return plan

    @property
    def sizes(self) -> dict[str, int]:
        """Number of records of each split, known before they are written."""
        return {name: len(rows) for name, rows in self.plan.rows.items()}

    def summary(self) -> list[str]:
        """Lines for the user: how many rows were read, kept and skipped, and why."""
        plan = self.plan
        skipped = len(plan.skipped)
        lines = [
            f"{plan.kept + skipped:8d} rows read",
            f"{plan.kept:8d} kept",
            f"{skipped:8d} skipped" + (f", listed in {SKIPPED}" if skipped else ""),
        ]
        lines += [
            f"{number:12d} {reason}" for reason, number in entries.reasons(plan.skipped).items()
        ]
        remarks = filter(None, (*plan.remarks, *self._said.lines, self._prepared[1]))
        lines += [f"note: {remark}" for remark in remarks]
        return lines + account.lines(self.rows, plan.facts.kept)

    @functools.cached_property
    def _said(self) -> account.Said:
        """What is to be said of the pictures, of all together and of each."""
        facts = self.plan.facts
        return account.said(self.rows, Chosen(facts, np.flatnonzero(facts.kept)))

    @functools.cached_property
    def _prepared(self) -> tuple[dict[str, Any] | None, str]:
        """What `preparation.stored` returns."""
        facts = self.plan.facts
        kept = Chosen(facts, np.flatnonzero(facts.kept))
        names = (row.name for row in kept)
        return preparation.stored(self.config.root, names, self.config.preparation)

    def records(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (number, record) of a split, as stored: texts and pictures are bytes."""
        for fact, record in self._stage.records(self.plan.rows[split]):
            yield fact.number, record

    def finish(self, folder: pathlib.Path) -> None:
        """Writes what was skipped, the summary and the preparation beside the data set."""
        names = [field.name for field in dataclasses.fields(Skipped)]
        skipped = (dataclasses.astuple(row) for row in self.plan.skipped)
        places.write_csv(folder / SKIPPED, names, skipped)
        if remarks := self._said.remarks:
            places.write_csv(folder / account.REMARKS, ("number", "image", "remark"), remarks)
        report = {"fingerprint": self.fingerprints.content, "lines": self.summary()}
        (folder / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")
        if self._prepared[0] is not None:
            text = json.dumps(self._prepared[0], indent=1)
            (folder / preparation.FILE).write_text(text, encoding="utf-8")
        if self._stage_folder is None:
            shutil.rmtree(self._stage.folder, ignore_errors=True)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=self.recipe.features())

    @property
    def download_config(self) -> tfds.download.DownloadConfig | None:
        """What TFDS has to know to write the records by a pipeline; None where there is none."""
        if self._beam is None:
            return None
        return tfds.download.DownloadConfig(beam_options=self._beam)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        if self._beam is not None:
            return {name: self._stage.transform(name, f) for name, f in self.plan.rows.items()}
        return {name: self._generate_examples(name) for name in self.plan.rows}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from self.records(split)


class NamedEyes:
    """A check of `entries.checked` by which eyes are named 'OD', 'OS' or ''.

    An eye that is not named is unknown; nothing is guessed from a file name.
    """

    def __init__(self) -> None:
        self._named = functools.lru_cache(2**10)(named_eye)
        self._odd: collections.Counter[str] = collections.Counter()

    def __call__(self, entry: Entry) -> Entry:
        """Returns the entry with its eye named so."""
        eye = entry.fields.get("eye", "")
        known = self._named(eye)
        if known is None:
            self._odd[eye] += 1
        if eye == (known or ""):
            return entry
        return dataclasses.replace(entry, fields={**entry.fields, "eye": known or ""})

    def remarks(self) -> list[str]:
        """Returns a sentence on the eyes of other names that came by."""
        if not self._odd:
            return []
        return [
            f"{self._odd.total()} rows name an eye that is neither left nor right, "
            f"such as '{self._odd.most_common(1)[0][0]}'; it is stored as unknown"
        ]


def _nothing_usable(config: CorpusConfig, skipped: Sequence[Skipped]) -> InputError:
    reasons = entries.reasons(skipped).items()
    why = ", ".join(f"{number} x {reason}" for reason, number in reasons) or "it has no rows"
    first = next((shown(row.detail).rstrip(".") for row in skipped if row.detail), "")
    told = f"; the first: {first}" if first else ""
    return InputError(f"No row of {config.source} can be used: {why}{told}.")

"""A data set out of a folder of texts, for language modelling.

    python -m data_pipelines.build --dataset=text_corpus --name=NAME --source=FOLDER

FOLDER holds .txt files in UTF-8, at any depth; paragraphs separated by blank lines are the
records, in one split 'train'. Equal paragraphs are kept once. The licence is that of your texts.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import pathlib
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from data_pipelines.builders import table
from data_pipelines.builders.plan import Plan
from data_pipelines.errors import InputError

FIELDS = ("id", "text", "language", "patient", "dataset")


@dataclasses.dataclass(eq=False, kw_only=True)
class TextCorpusConfig(tfds.core.BuilderConfig):
    """What to build.

    Attributes:
        source: folder of the .txt files; nothing outside it is read.
    """

    source: str

    def files(self) -> list[pathlib.Path]:
        """The files, sorted; raises `InputError` if there are none."""
        root = pathlib.Path(self.source)
        found = sorted(path for path in root.rglob("*.txt") if path.is_file())
        if not found:
            raise InputError(f"There is no .txt file in {self.source}; give another --source.")
        return found

    def fingerprint(self) -> str:
        """Returns a hash of the names and contents of the files."""
        content = hashlib.blake2b(digest_size=16)
        for path in self.files():
            content.update(path.relative_to(self.source).as_posix().encode())
            content.update(hashlib.blake2b(path.read_bytes()).digest())
        return content.hexdigest()


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """One paragraph: the file it is from, its number there from 1, and its text on one line."""

    file: str
    number: int
    text: str


class TextCorpus(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of a `TextCorpusConfig`; one record is one paragraph."""

    embedded = False
    config_class = TextCorpusConfig
    url_infos = None
    VERSION = tfds.core.Version("1.0.0")

    @functools.cached_property
    def plan(self) -> Plan:
        """Reads all files; a file that is not UTF-8, or leads out of the folder, is skipped."""
        root = pathlib.Path(self.builder_config.source).resolve()
        kept: dict[str, Paragraph] = {}
        skipped: list[table.Skipped] = []
        for path in self.builder_config.files():
            name = path.relative_to(self.builder_config.source).as_posix()
            try:
                text = table.confine(name, root).read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                skipped.append(table.Skipped(0, name, "not UTF-8", str(error)))
                continue
            except (OSError, ValueError) as error:
                skipped.append(table.Skipped(0, name, "not readable", str(error)))
                continue
            for number, block in enumerate(re.split(r"\n\s*\n", text), start=1):
                words = " ".join(block.split())
                if not words:
                    skipped.append(table.Skipped(number, name, "empty paragraph", ""))
                elif words in kept:
                    skipped.append(table.Skipped(number, name, "repeated paragraph", ""))
                else:
                    kept[words] = Paragraph(name, number, words)
        plan = Plan({"train": list(kept.values())}, tuple(skipped), ())
        if not plan.kept:
            raise InputError(f"No paragraph in {self.builder_config.source} can be used.")
        return plan

    @property
    def sizes(self) -> dict[str, int]:
        """Number of records of each split, known before they are written."""
        return {name: len(rows) for name, rows in self.plan.rows.items()}

    def write_skipped(self, path: pathlib.Path) -> None:
        """Writes what was skipped as CSV: paragraph, file, reason, detail."""
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["paragraph", "file", "reason", "detail"])
            writer.writerows(dataclasses.astuple(row) for row in self.plan.skipped)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in FIELDS})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        return {name: self._generate_examples(name) for name in self.plan.rows}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        for i, paragraph in enumerate(self.plan.rows[split]):
            yield (
                i,
                {
                    "id": f"{paragraph.file}#{paragraph.number}",
                    "text": paragraph.text,
                    "language": "",
                    "patient": "",
                    "dataset": self.builder_config.name,
                },
            )

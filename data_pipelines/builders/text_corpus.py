"""A data set out of a folder of texts, for language modelling.

    python -m data_pipelines.build --dataset=text_corpus --name=NAME --source=FOLDER

FOLDER holds .txt files in UTF-8, at any depth; paragraphs separated by blank lines are the
records, in one split 'train'. Equal paragraphs are kept once. The licence is that of your texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from data_pipelines.builders import corpus, shapes, tree
from data_pipelines.builders.entries import Entry, Listing, Skipped, confine
from data_pipelines.builders.shapes import Shape
from data_pipelines.errors import InputError


class TextCorpus(corpus.Corpus):
    """TFDS builder of a folder of texts; one record is one paragraph."""

    SHAPES: ClassVar[Mapping[str, Shape]] = {"text": shapes.TEXT}
    SPLIT: ClassVar[str | None] = "train"

    def listing(self, config: corpus.CorpusConfig) -> Listing:
        """Reads all files; one that is not UTF-8, or leads out of the folder, is skipped."""
        root = config.root.resolve()
        files = sorted(
            config.root / place / name
            for place, _, names in tree.walk(config.root, config.follow_links)
            for name in names
            if name.lower().endswith(".txt")
        )
        if not files:
            raise InputError(f"There is no .txt file in {config.source}; give another --source.")
        kept: dict[str, Entry] = {}
        skipped: list[Skipped] = []
        number = 0
        for path in files:
            name = path.relative_to(config.root).as_posix()
            try:
                text = confine(name, root, config.follow_links).read_text(encoding="utf-8-sig")
            except (OSError, ValueError) as error:
                number += 1
                kind = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not readable"
                skipped.append(Skipped(number, name, kind, str(error)))
                continue
            for place, block in enumerate(re.split(r"\n\s*\n", text), start=1):
                number += 1
                words = " ".join(block.split())
                if not words or words in kept:
                    kind = "repeated paragraph" if words else "empty paragraph"
                    skipped.append(Skipped(number, f"{name}#{place}", kind))
                    continue
                fields = {"id": f"{name}#{place}", "text": words, "dataset": config.name}
                kept[words] = Entry(number, {}, fields)
        return Listing(tuple(kept.values()), tuple(skipped))
